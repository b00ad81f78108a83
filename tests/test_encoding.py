"""From texts to tokens: nothing in a text can pass for what stands between texts."""

import json
import sys

import pytest
from tiny_judge import letters

from guard import ConfigError
from guard.encoding import Encoding, foreign_share

FIRST, BETWEEN, UNKNOWN = 2, 3, 1


@pytest.fixture(scope="module")
def encoding() -> Encoding:
    """One that reads letters."""
    return Encoding(letters())


def test_one_input(encoding: Encoding) -> None:
    """[CLS] question [SEP] passage [SEP] passage [SEP], and which of it is the question."""
    [question], [one], [two] = map(encoding.piece, "abc")
    tokens = encoding.encode("a", ["b", "c"])
    assert tokens.ids == [FIRST, question, BETWEEN, one, BETWEEN, two, BETWEEN]
    assert tokens.types == [0, 0, 0, 1, 1, 1, 1]
    assert len({question, one, two, FIRST, BETWEEN, UNKNOWN}) == 6


def test_what_has_no_token_leaves_no_gap(encoding: Encoding) -> None:
    """Blank and invisible passages are as if they were not there."""
    texts = ["b", "", " \n", "\u200b", "\x00", "c"]
    assert encoding.encode("a", texts) == encoding.encode("a", ["b", "c"])


@pytest.mark.parametrize("word", ["[SEP]", "[CLS]", "[PAD]", "[UNK]", "x[SEP]y", "[SEP][SEP]"])
def test_a_text_cannot_write_a_special_token(encoding: Encoding, word: str) -> None:
    """It spells brackets and letters."""
    piece = encoding.piece(word)
    assert len(piece) == len(word)
    assert not {0, FIRST, BETWEEN, UNKNOWN}.intersection(piece)


def test_a_passage_cannot_pass_for_two(encoding: Encoding) -> None:
    """The same without the bracketed words would be the same tokens, if it could."""
    assert encoding.encode("a", ["b [SEP] c"]) != encoding.encode("a", ["b", "c"])


@pytest.mark.parametrize("text", ["a\ud800", "\udfff a", "a \ud83d\ude00"])
def test_halves_of_pairs_are_read(encoding: Encoding, text: str) -> None:
    """Lone surrogates, which no UTF-8 holds, crash nothing; the words around them are read."""
    piece, word = encoding.piece(text), encoding.piece("a")
    assert set(word) < set(piece)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a", 0.0),
        ("1", 0.0),
        ("a 😀", 0.5),
        ("😀", 1.0),
        ("a" * 101, 1.0),
        ("\u200b", 0.0),
    ],
)
def test_what_is_not_known(encoding: Encoding, text: str, share: float) -> None:
    """Of the tokens; of none, nothing."""
    assert encoding.unknown_share(encoding.piece(text)) == share


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0.0), ("a", 0.0), ("a 😀", 0.0), ("ab 桥", 1 / 3), ("b " + "a" * 199, 199 / 200)],
)
def test_unknown_words(encoding: Encoding, text: str, share: float) -> None:
    """Of the letters and digits, however few tokens they are."""
    assert encoding.unknown_words(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("1932!", 0.0),
        ("Überfuhr, Đà", 0.0),
        ("Мост", 1.0),
        ("ab мо", 0.5),
        ("桥a 2", 0.5),
    ],
)
def test_letters_of_other_scripts(text: str, share: float) -> None:
    """Digits and marks belong to none."""
    assert foreign_share(text) == share


@pytest.mark.parametrize("positions", [16, 64])
def test_the_longest_input(encoding: Encoding, positions: int) -> None:
    """As long as it is asked for."""
    tokens = encoding.longest(positions)
    assert len(tokens.ids) == len(tokens.types) == positions


def test_what_the_description_says_of_lengths_is_not_obeyed() -> None:
    """A tokenizer that was saved with padding and cuts neither pads nor cuts here."""
    padding: dict[str, object] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
    }
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    changed = json.loads(letters()) | {"padding": padding, "truncation": cut}
    short, long = map(Encoding(json.dumps(changed)).piece, ["a", "a b c d e"])
    assert (len(short), len(long)) == (1, 5)


@pytest.mark.parametrize("token", ["[CLS]", "[SEP]", "[UNK]"])
def test_a_vocabulary_without_what_stands_between(token: str) -> None:
    """It is named."""
    with pytest.raises(ValueError, match="no token ") as caught:
        Encoding(letters().replace(token, "[XXX]"))
    assert token in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"version": "1.0"}', "[" * 50_000])
def test_what_is_no_description(text: str) -> None:
    """One clear error; the judge says which file."""
    with pytest.raises(ValueError, match="no description of a tokenizer"):
        Encoding(text)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """One says how to get it."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match="tokenizers is not installed") as caught:
        Encoding(letters())
    assert caught.value.hint == 'pip install "rag-guard[embedded]"'
