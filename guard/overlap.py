"""Overlap: how many of the question's words a context holds; a baseline that needs no judge."""

import re
import unicodedata
from collections.abc import Iterable, Iterator

# Han, kana, Thai, Lao, Burmese and Khmer put no space between words; Hangul does.
_UNSPACED = (
    "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
)
_RUNS = re.compile(rf"([{_UNSPACED}]+)|[^\W{_UNSPACED}]+")


def overlap(question: str, contexts: Iterable[str]) -> float:
    """The share in [0, 1] of the question's words that the best context holds.

    Words are compared without regard to case. Where a script puts no space between them, each two
    characters in a row count as a word. A question without any word has a share of 0.
    """
    asked = {*words(question)}
    if not asked:
        return 0.0
    return max((len(asked & {*words(text)}) / len(asked) for text in contexts), default=0.0)


def words(text: str) -> Iterator[str]:
    """The words of a text, in their order, however often they come."""
    # One code point or two, full width or half: the same letter.
    for run in _RUNS.finditer(unicodedata.normalize("NFKC", text).casefold()):
        yield from _pairs(run[0]) if run[1] else [run[0]]


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(max(1, len(run) - 1))]
