"""Relevance: the passages that share most with a question come first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.overlap import words
from guard.relevance import Passages

LIGHT = "The keeper of the lighthouse retired in 1968."
MILL = "The mill of the valley ground rye in 1968, and rye again in 1969."
LONG = f"{LIGHT} " + "The weather of that year was fine, and nobody wrote anything down. " * 30
HAN = "\u706f\u5854\u7684\u5b88\u62a4\u8005\u4e8e1968\u5e74\u9000\u4f11\u3002"


def best(asked: str, *texts: str) -> int:
    scores = Passages(texts).scores(words(asked))
    return max(range(len(texts)), key=lambda at: scores[at])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("When did the KEEPER retire?", 0),
        ("Who ground the rye?", 1),
        ("\u706f\u5854\u7684\u5b88\u62a4\u8005", 3),
        ("\uff4b\uff45\uff45\uff50\uff45\uff52", 0),
    ],
)
def test_the_best_passage(asked: str, expected: int) -> None:
    assert best(asked, LIGHT, MILL, LONG, HAN) == expected


def test_a_rare_word_counts_for_more_than_a_common_one() -> None:
    passages = Passages([LIGHT, MILL, "The rye.", "The oats."])
    assert passages.rarity("keeper") > passages.rarity("rye") > passages.rarity("the") > 0


def test_words_of_passages_link_them() -> None:
    """What the question does not name is found through what names it."""
    texts = ["The keeper was Hanna Wold.", "Wold left in 1968.", "A mill ground rye."]
    passages = Passages(texts)
    first = passages.scores(words("Who was the keeper?"))
    linked = passages.scores(passages.words_of([first.index(max(first))]))
    assert linked[1] > linked[2]


@given(st.lists(st.text(max_size=60), max_size=8), st.text(max_size=60))
def test_any_texts_have_scores(texts: list[str], asked: str) -> None:
    scores = Passages(texts).scores(words(asked))
    assert len(scores) == len(texts)
    assert all(score >= 0 for score in scores)
    shared = [bool({*words(asked)} & {*words(text)}) for text in texts]
    assert [score > 0 for score in scores] == shared
