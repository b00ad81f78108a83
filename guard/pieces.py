"""Pieces: contexts as parts that fit into one request, and how much of them was seen."""

import math
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import NamedTuple

from guard.prompt import clean

# What a prompt writes around each passage. Thousands of short ones are mostly that.
_FRAME = 80
# A piece of a passage repeats the end of the one before it: evidence may stand on the border.
_OVERLAP = 8  # An eighth of a room.
_BREAKS = (
    re.compile(r"\n\s{0,60}\n"),
    re.compile(r"\n"),
    re.compile(r"[.!?。！？؟।]\s*"),
    re.compile(r"\s"),
)

Runs = tuple[tuple[int, int], ...]
"""First and last place of each run, counted from 0."""


class Space(NamedTuple):
    """What the contexts of one request may take at most.

    Attributes:
        size: bytes of UTF-8, with what a prompt writes around each passage.
        chars: characters, as a prompt counts them against its ``max_context_chars``.
    """

    size: float = math.inf
    chars: float = math.inf

    def half(self) -> "Space":
        """Half as much of both."""
        return Space(self.size // 2, self.chars // 2)


LEAST_SIZE = 256
"""Bytes: less, and nothing but frames would be shown."""


class Piece(NamedTuple):
    """A passage, or a part of one that is longer than a window.

    Attributes:
        place: the passage's, among the contexts.
        start: where in the passage it begins, in characters.
        text: what it says.
        size: in bytes of UTF-8, which grow with tokens in any script; of the delimiters too.
        chars: how many characters of it a prompt shows.
    """

    place: int
    start: int
    text: str
    size: int
    chars: int

    def load(self, space: Space) -> float:
        """The share in [0, 1] of a space that it takes."""
        return max(self.size / space.size, self.chars / space.chars)


def pieces(contexts: Iterable[str], space: Space) -> list[Piece]:
    """The contexts that say anything; those that are larger than ``space``, in parts."""
    found = list[Piece]()
    for place, text in enumerate(contexts):
        if text.strip():
            found += [_piece(place, start, part, space) for start, part in _parts(text, space)]
    return found


def _piece(place: int, start: int, text: str, space: Space) -> Piece:
    return Piece(place, start, text, size_of(text) + _FRAME, _shown(text, space))


def _shown(text: str, space: Space) -> int:
    """As the prompt counts; where it does not, nobody asks."""
    return len(text) if math.isinf(space.chars) else len(clean(text))


def _parts(text: str, space: Space) -> Generator[tuple[int, str]]:
    """Parts of a text and where they begin, none of them larger than ``space``."""
    at = 0
    while True:
        end = _break(text, at, _end(text, at, space))
        yield at, text[at:end]
        if end >= len(text):
            return
        at = max(at + 1, end - (end - at) // _OVERLAP)


def _end(text: str, at: int, space: Space) -> int:
    """How far a part that begins at ``at`` can go."""
    end = len(text)
    if not math.isinf(space.size):
        room = int(space.size) - _FRAME
        end = at + len(_bytes(text[at : at + room])[:room].decode(errors="ignore"))
    if not math.isinf(space.chars):
        room = int(space.chars)
        end = min(end, at + room)
        # What a prompt breaks becomes longer.
        while (over := len(clean(text[at:end])) - room) > 0:
            end -= over
    return end


def _break(text: str, start: int, end: int) -> int:
    """Where to cut, at ``end`` at the latest: after a paragraph, a line, a sentence, a word."""
    if end >= len(text):
        return len(text)
    earliest = start + (end - start) // 2
    for rule in _BREAKS:
        ends = [found.end() for found in rule.finditer(text, earliest, end)]
        if ends:
            return ends[-1]
    return end


def filled(every: Iterable[Piece], space: Space) -> list[list[Piece]]:
    """All pieces in their order, in as few windows as that allows."""
    windows, size, chars = list[list[Piece]](), 0, 0
    for piece in every:
        size, chars = size + piece.size, chars + piece.chars
        if not windows or size > space.size or chars > space.chars:
            windows.append([])
            size, chars = piece.size, piece.chars
        windows[-1].append(piece)
    return windows


def within(every: Sequence[Piece], ranked: Iterable[int], space: Space) -> list[Piece]:
    """Of a ranking of places in ``every``, whatever fits into one window, in its own order."""
    taken, size, chars = set[int](), 0, 0
    for at in ranked:
        piece = every[at]
        if size + piece.size <= space.size and chars + piece.chars <= space.chars:
            taken.add(at)
            size, chars = size + piece.size, chars + piece.chars
    return [every[at] for at in sorted(taken)]


def seen_of(contexts: Sequence[str], seen: Iterable[Piece]) -> tuple[float, Runs]:
    """The share of the contexts' characters that pieces hold, what overlaps counted once; and which
    passages do not stand in them whole."""
    held = _held(seen)
    total, missing = 0, list[int]()
    for place, text in enumerate(contexts):
        if text.strip():
            total += len(text)
            if held.get(place, 0) < len(text):
                missing.append(place)
    return (sum(held.values()) / total if missing else 1.0), runs(missing)


def _held(seen: Iterable[Piece]) -> Mapping[int, int]:
    """How many characters of each place."""
    held, end, last = dict[int, int](), 0, -1
    for piece in sorted(seen, key=lambda piece: (piece.place, piece.start)):
        end = end if piece.place == last else 0
        last, stop = piece.place, piece.start + len(piece.text)
        held[last] = held.get(last, 0) + max(0, stop - max(end, piece.start))
        end = max(end, stop)
    return held


def runs(places: Iterable[int]) -> Runs:
    """Places in ascending order, as runs."""
    found = list[tuple[int, int]]()
    for place in places:
        if found and found[-1][1] == place - 1:
            found[-1] = (found[-1][0], place)
        else:
            found.append((place, place))
    return tuple(found)


def total_size(contexts: Iterable[str]) -> int:
    """Bytes of the contexts that say anything, with what a prompt writes around each."""
    return sum(size_of(text) + _FRAME for text in contexts if text.strip())


def size_of(text: str) -> int:
    """Bytes of UTF-8."""
    return len(_bytes(text))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
