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


# Marks upon one letter: to put them in their order takes time that grows with their square, and no
# writing has more than thirty (Unicode Standard Annex #15, "Stream-Safe Text Format").
_STACK = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u0711\u0730-\u074a\u07eb-\u07f3\u0816-\u082d\u08d3-\u08ff\u093c\u094d\u0e38-\u0e3a"
    "\u0e48-\u0e4b\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\u302a-\u302f\u3099\u309a\ufe20-\ufe2f"
    "\U0001d165-\U0001d1ad\U0001e000-\U0001e02a\U0001e8d0-\U0001e94a]{30})"
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u0711\u0730-\u074a\u07eb-\u07f3\u0816-\u082d\u08d3-\u08ff\u093c\u094d\u0e38-\u0e3a"
    "\u0e48-\u0e4b\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\u302a-\u302f\u3099\u309a\ufe20-\ufe2f"
    "\U0001d165-\U0001d1ad\U0001e000-\U0001e02a\U0001e8d0-\U0001e94a]+"
)


def normalized(text: str) -> str:
    """``text`` in Unicode's form NFKC, of stacks of marks the first thirty."""
    return unicodedata.normalize("NFKC", _STACK.sub(r"\1", text))


def words(text: str) -> Iterator[str]:
    """The words of a text, in their order, however often they come."""
    # One code point or two, full width or half: the same letter.
    for run in _RUNS.finditer(normalized(text).casefold()):
        yield from _pairs(run[0]) if run[1] else [run[0]]


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(max(1, len(run) - 1))]
