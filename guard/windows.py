"""Windows: contexts that a judge cannot take at once, judged part by part, and the best together.

    40 passages ─► windows that fit ─► each judged ─► the best passages of each, judged together
                                                       └─► the verdict of the best request

A part that suffices by itself is found in its window. Evidence that is split between windows is
found where the last request holds all of it; which passages that one holds is chosen by the words
they share with the question, and with each other. That choice can be wrong, so ``coverage`` of such
a verdict is the share of the contexts in the one request that it is from: below 1, a query can be
answered, since what was seen suffices, but not refused.
"""

import re
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from guard._require import require_number
from guard.errors import JudgeError
from guard.overlap import words
from guard.query import Query
from guard.relevance import Passages
from guard.verdict import Usage, Verdict

MAX_WINDOWS = 1000
AT_MOST = 8
"""Windows of a query, unless set otherwise."""

# Bytes of UTF-8. Rooms are powers of two, so that one judge divides a set alike in every process.
_SMALLEST_ROOM = 512
_LEAST = 1e-9  # A share is above 0.
# A piece of a passage repeats the end of the one before it: evidence may stand on the border.
_OVERLAP = 8  # An eighth of a room.
_BREAKS = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(r"[.!?。！？؟।]\s*"),
    re.compile(r"\s"),
)

Replies = list[Verdict | JudgeError]
Trip = Generator[list[Query], Replies, Verdict]
"""Queries to be asked at once, their replies, and the verdict in the end."""


class Piece(NamedTuple):
    """A passage, or a part of one that is longer than a window.

    Attributes:
        place: the passage's, among the contexts.
        text: what it says.
        size: in bytes of UTF-8, which grow with tokens in any script.
    """

    place: int
    text: str
    size: int


@dataclass(frozen=True, slots=True)
class Windows:
    """How a query is judged whose contexts are too long for its judge.

    Attributes:
        at_most: windows of one query. 1 = none: it is `Unmeasured`, ``context_too_long``. Of a set
            that needs more, the passages that share most with the question are judged, and
            ``coverage`` says how little that was.

    Raises:
        ConfigError: out of range.
    """

    at_most: int = AT_MOST

    def __post_init__(self) -> None:
        require_number("windows", self.at_most, 1, MAX_WINDOWS, whole=True)

    def trip(self, query: Query, whole: Verdict | JudgeError, known: "Room") -> Trip:
        """Judges ``query`` in windows; yields queries to be asked at once, is sent their replies.

        Args:
            query: too long as a whole.
            whole: what came of asking it so: an error, or a verdict on a part; raised or returned
                where no window does better.
            known: how much the judge takes, if that was found out before; is told what is found.

        Raises:
            JudgeError: what became of a window, or ``whole``.
        """
        for room in known.rooms(_total(query)):
            parts = divided(query, room, self.at_most)
            # One alone first: what is too long is known before all are asked in vain.
            largest = max(range(len(parts)), key=lambda at: sum(each.size for each in parts[at]))
            first = yield [_query(query, parts[largest])]
            if any(map(_is_too_long, first)):
                continue
            others = [part for at, part in enumerate(parts) if at != largest]
            replies = (yield [_query(query, part) for part in others]) if others else []
            if any(map(_is_too_long, replies)):
                continue
            known.fits(room)
            judged = [*zip([parts[largest], *others], _verdicts([*first, *replies]), strict=True)]
            return (yield from _together(query, judged, room))
        return _verdicts([whole])[0]


def _together(query: Query, judged: "list[tuple[list[Piece], Verdict]]", room: int) -> Trip:
    """The verdict of the best of all requests, the last of which holds the best passages."""
    windows = len(judged)
    if windows > 1:
        best = chosen(query, judged, room)
        [last] = _verdicts((yield [_query(query, best)]))
        judged.append((best, last))
    part, verdict = max(judged, key=lambda one: (one[1].low, one[1].p_true))
    return replace(
        verdict,
        coverage=max(_LEAST, verdict.coverage * _share(part, query)),
        usage=Usage.total(one.usage for _, one in judged),
        windows=windows,
    )


class Room:
    """How many bytes of contexts one judge takes at once, as far as is known.

    What one query taught is where the next one begins.
    """

    def __init__(self) -> None:
        self._fits: int | None = None

    def fits(self, room: int) -> None:
        """So much was taken, and twice as much was not, or was not needed."""
        self._fits = room

    def is_too_small_for(self, query: Query) -> bool:
        """Whether a query need not be tried as a whole: twice what fits did not, and tokens take
        more bytes in one script than in another."""
        return self._fits is not None and _total(query) >= 4 * self._fits

    def rooms(self, size: int) -> Generator[int]:
        """What to try for contexts of so many bytes, each half of the one before."""
        room = room_below(size)
        if self._fits is not None:
            room = min(room, self._fits)
        while room > _SMALLEST_ROOM:
            yield room
            room //= 2
        yield room


def _verdicts(replies: Iterable[Verdict | JudgeError]) -> list[Verdict]:
    """All of them are needed: a window that nobody has judged may hold the evidence."""
    found = list[Verdict]()
    for reply in replies:
        if isinstance(reply, JudgeError):
            raise reply
        found.append(reply)
    return found


def room_below(size: int) -> int:
    """The next smaller room, in bytes."""
    return max(_SMALLEST_ROOM, 1 << max(0, (size - 1).bit_length() - 1))


def divided(query: Query, room: int, at_most: int) -> list[list[Piece]]:
    """All pieces in their order, in windows; if they need too many, the most relevant ones."""
    every = pieces(query.contexts, room)
    windows = _filled(every, room)
    if len(windows) <= at_most:
        return windows
    scores = Passages(piece.text for piece in every).scores(_asked(query))
    ranked = sorted(range(len(every)), key=lambda at: (-scores[at], at))
    kept, used = set[int](), 0
    for at in ranked:
        # Windows are not filled to the brim: half a room each is always used.
        if used + every[at].size > at_most * room // 2:
            break
        kept.add(at)
        used += every[at].size
    return _filled([piece for at, piece in enumerate(every) if at in kept], room)[:at_most]


def pieces(contexts: Iterable[str], room: int) -> list[Piece]:
    """The contexts that say anything; those that are larger than ``room``, in parts."""
    found = list[Piece]()
    for place, text in enumerate(contexts):
        if text.strip():
            found += [Piece(place, part, _size(part)) for part in _parts(text, room)]
    return found


def _parts(text: str, room: int) -> Generator[str]:
    if _size(text) <= room:
        yield text
        return
    # Characters for which there is room for certain: none takes more than four bytes.
    at, step = 0, max(1, room // max(1, -(-_size(text) // len(text))))
    while at < len(text):
        end = _break(text, at, at + step)
        yield text[at:end]
        if end >= len(text):
            return
        at = max(at + 1, end - step // _OVERLAP)


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


def _filled(every: Sequence[Piece], room: int) -> list[list[Piece]]:
    windows, used = list[list[Piece]](), 0
    for piece in every:
        if not windows or used + piece.size > room:
            windows.append([])
            used = 0
        windows[-1].append(piece)
        used += piece.size
    return windows


def chosen(
    query: Query, judged: Sequence[tuple[Sequence[Piece], Verdict]], room: int
) -> list[Piece]:
    """The pieces to judge together: the best of each window first, then whatever fits.

    A piece counts by the words that it shares with the question, and, since the second half of an
    answer may not speak of the question at all, with the best pieces found so far; and by what the
    judge said of its window.
    """
    every = [piece for part, _ in judged for piece in part]
    # One half of the evidence alone is judged insufficient: a window is never worth nothing.
    weights = [1 + verdict.p_true for part, verdict in judged for _ in part]
    passages = Passages(piece.text for piece in every)
    scores = _weighted(passages.scores(_asked(query)), weights)
    firsts = _best_of_each([len(part) for part, _ in judged], scores)
    linked = _weighted(passages.scores(passages.words_of(firsts[:2])), weights)
    total = [one + two / 2 for one, two in zip(scores, linked, strict=True)]
    rest = sorted(range(len(every)), key=lambda at: (-total[at], at))
    taken, used = set[int](), 0
    for at in dict.fromkeys([*firsts, *rest]):
        if used + every[at].size <= room:
            taken.add(at)
            used += every[at].size
    return [piece for at, piece in enumerate(every) if at in taken]


def _best_of_each(lengths: Iterable[int], scores: Sequence[float]) -> list[int]:
    firsts, start = list[int](), 0
    for length in lengths:
        firsts.append(max(range(start, start + length), key=lambda at: (scores[at], -at)))
        start += length
    return sorted(firsts, key=lambda at: -scores[at])


def _weighted(scores: Iterable[float], weights: Iterable[float]) -> list[float]:
    return [score * weight for score, weight in zip(scores, weights, strict=True)]


def _asked(query: Query) -> set[str]:
    return {*words(query.question), *(word for turn in query.history for word in words(turn.text))}


def _query(query: Query, part: Iterable[Piece]) -> Query:
    return replace(query, contexts=tuple(piece.text for piece in part))


def _share(part: Iterable[Piece], query: Query) -> float:
    """The share of the contexts' characters that a part holds, what overlaps counted once."""
    held = dict[int, int]()
    for piece in part:
        held[piece.place] = held.get(piece.place, 0) + len(piece.text)
    seen = sum(min(length, len(query.contexts[place])) for place, length in held.items())
    return min(1.0, seen / sum(map(len, query.contexts)))


def _is_too_long(reply: Verdict | JudgeError) -> bool:
    if isinstance(reply, JudgeError):
        return reply.kind == "context_too_long"
    return reply.coverage < 1  # The prompt left some of it out.


def _total(query: Query) -> int:
    return sum(map(_size, query.contexts))


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
