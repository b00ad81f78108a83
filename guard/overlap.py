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


# Marks, and what else is neither letter, digit, space nor ASCII.
_MARKS = re.compile(r"[^\w\s\x00-\x7f]{31,}")
_HIGHEST = 30


def normalized(text: str) -> str:
    """``text`` in Unicode's form NFKC, of each stack of marks the first thirty; in linear time."""
    return text if text.isascii() else unicodedata.normalize("NFKC", unstacked(text))


def unstacked(text: str) -> str:
    """``text`` with at most thirty marks upon one letter.

    To put the marks of one letter in their order takes time that grows with their square, and no
    writing has more (Unicode Standard Annex #15, "Stream-Safe Text Format").
    """
    return _MARKS.sub(lambda found: "".join(_lowest(found[0])), text)


def _lowest(marks: str) -> Iterator[str]:
    height = 0
    for mark in marks:
        height = height + 1 if unicodedata.combining(mark) else 0
        if height <= _HIGHEST:
            yield mark


def words(text: str) -> Iterator[str]:
    """The words of a text, in their order, however often they come."""
    # One code point or two, full width or half: the same letter.
    for run in _RUNS.finditer(normalized(text).casefold()):
        yield from _pairs(run[0]) if run[1] else [run[0]]


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(max(1, len(run) - 1))]
