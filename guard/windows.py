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
# What a prompt writes around each passage. Thousands of short ones are mostly that.
_FRAME = 80
# Characters of earlier turns that count in the choice of passages, the latest first.
_MEMORY = 4000
# How many times as many bytes a token of one text has as one of another, at most.
_DENSER = 8
_TRIES_MORE = 16  # One in so many queries.
# A piece of a passage repeats the end of the one before it: evidence may stand on the border.
_OVERLAP = 8  # An eighth of a room.
_BREAKS = (
    re.compile(r"\n\s{0,60}\n"),
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
        start: where in the passage it begins, in characters.
        text: what it says.
        size: in bytes of UTF-8, which grow with tokens in any script; of the delimiters too.
    """

    place: int
    start: int
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
        spent = [whole] if isinstance(whole, Verdict) else []
        for room in known.rooms(_at_first(query, whole)):
            parts = divided(query, room, self.at_most)
            if len(parts) == 1 and _query(query, parts[0]) == query:
                continue  # That was asked.
            replies = yield from _replies(query, parts)
            spent += [reply for reply in replies if isinstance(reply, Verdict)]
            if not any(map(_is_too_long, replies)):
                known.fits(room)
                judged = [*zip(parts, _verdicts(replies), strict=True)]
                return (yield from _together(query, judged, room, spent))
        [verdict] = _verdicts([whole])
        return replace(verdict, usage=Usage.total(each.usage for each in spent))


def _replies(
    query: Query, parts: "Sequence[list[Piece]]"
) -> Generator[list[Query], Replies, Replies]:
    """Of all windows, in their order; or what is wrong with the largest one.

    That is asked alone first: what is too long is known before all are asked in vain.
    """
    largest = max(range(len(parts)), key=lambda at: sum(piece.size for piece in parts[at]))
    first = yield [_query(query, parts[largest])]
    others = [*parts[:largest], *parts[largest + 1 :]]
    if not others or isinstance(first[0], JudgeError) or _is_too_long(first[0]):
        return first
    rest = yield [_query(query, part) for part in others]
    return [*rest[:largest], *first, *rest[largest:]]


def _together(
    query: Query, judged: "list[tuple[list[Piece], Verdict]]", room: int, spent: list[Verdict]
) -> Trip:
    """The verdict of the best of all requests, the last of which holds the best passages."""
    windows = len(judged)
    if windows > 1:
        best, last = yield from _last(query, judged, room)
        judged.append((best, last))
        spent.append(last)
    part, verdict = max(judged, key=lambda one: (one[1].low, one[1].p_true))
    return replace(
        verdict,
        coverage=max(_LEAST, verdict.coverage * _share(part, query)),
        usage=Usage.total(each.usage for each in spent),
        windows=windows,
    )


def _last(
    query: Query, judged: "Sequence[tuple[list[Piece], Verdict]]", room: int
) -> Generator[list[Query], Replies, tuple[list[Piece], Verdict]]:
    """The best passages, and what the judge says of them."""
    best = chosen(query, judged, room)
    replies = yield [_query(query, best)]
    if _is_too_long(replies[0]):
        # Of one size, but more tokens than any window.
        best = chosen(query, judged, room // 2)
        replies = yield [_query(query, best)]
    return best, _verdicts(replies)[0]


class Room:
    """How many bytes of contexts one judge takes at once, as far as is known.

    What one query taught is where the next one begins. Texts differ in how many tokens they have
    for their bytes, so the most that was ever taken counts, and now and then more is tried: one
    dense text, hostile or not, does not make the room small for all that follow.
    """

    def __init__(self) -> None:
        self._fits: int | None = None
        self._divided = 0

    def fits(self, room: int) -> None:
        """So much was taken."""
        self._fits = max(room, self._fits or 0)

    def is_too_small_for(self, query: Query) -> bool:
        """Whether a query need not be tried as a whole: no text has so few tokens for its bytes."""
        return self._fits is not None and _total(query) >= _DENSER * self._fits

    def rooms(self, size: int) -> Generator[int]:
        """What to try for contexts of so many bytes, each half of the one before."""
        room = room_below(size)
        if self._fits is not None:
            self._divided += 1
            room = min(room, self._fits << (self._divided % _TRIES_MORE == 0))
        while room > _SMALLEST_ROOM:
            yield room
            room //= 2
        yield room


def _at_first(query: Query, whole: Verdict | JudgeError) -> int:
    """Below how many bytes to begin: of a verdict on a part it is known how much that was."""
    total = _total(query)
    return total if isinstance(whole, JudgeError) else min(total, round(2 * whole.coverage * total))


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
    for tenths in range(10, 5, -1):
        found = _filled(_within(every, ranked, at_most * room * tenths // 10), room)
        if len(found) <= at_most:
            return found
    # However badly they fit, two windows in a row hold more than one room.
    return _filled(_within(every, ranked, at_most * room // 2), room)


def _within(every: Sequence[Piece], ranked: Iterable[int], room: int) -> list[Piece]:
    """The first of a ranking that there is room for, in their own order."""
    kept, used = set[int](), 0
    for at in ranked:
        used += every[at].size
        if used > room:
            break
        kept.add(at)
    return [every[at] for at in sorted(kept)]


def pieces(contexts: Iterable[str], room: int) -> list[Piece]:
    """The contexts that say anything; those that are larger than ``room``, in parts."""
    found = list[Piece]()
    for place, text in enumerate(contexts):
        if text.strip():
            parts = _parts(text, room - _FRAME)
            found += [Piece(place, start, part, _size(part) + _FRAME) for start, part in parts]
    return found


def _parts(text: str, room: int) -> Generator[tuple[int, str]]:
    """Parts of a text and where they begin, each of at most so many bytes."""
    at = 0
    while True:
        end = _break(text, at, at + _characters(text[at : at + room], room))
        yield at, text[at:end]
        if end >= len(text):
            return
        at = max(at + 1, end - (end - at) // _OVERLAP)


def _characters(text: str, room: int) -> int:
    """How many characters of a text take so many bytes."""
    return len(_bytes(text)[:room].decode(errors="ignore"))


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
    """The pieces to judge together: the best two, the best of each window, then whatever fits.

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
    then = _best_of_each([len(part) for part, _ in judged], total)
    rest = sorted(range(len(every)), key=lambda at: (-total[at], at))
    taken, used = set[int](), 0
    for at in dict.fromkeys([*firsts[:2], *then, *rest]):
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
    """The words of the question, and of the latest turns before it."""
    earlier = "\n".join(turn.text[-_MEMORY:] for turn in query.history[-_MEMORY:])[-_MEMORY:]
    return {*words(query.question), *words(earlier)}


def _query(query: Query, part: Iterable[Piece]) -> Query:
    return replace(query, contexts=tuple(piece.text for piece in part))


def _share(part: Iterable[Piece], query: Query) -> float:
    """The share of the contexts' characters that a part holds, what overlaps counted once."""
    seen, place, end = 0, -1, 0
    for piece in part:  # In their order.
        end = end if piece.place == place else 0
        place, stop = piece.place, piece.start + len(piece.text)
        seen += max(0, stop - max(end, piece.start))
        end = max(end, stop)
    return seen / sum(len(text) for text in query.contexts if text.strip())


def _is_too_long(reply: Verdict | JudgeError) -> bool:
    if isinstance(reply, JudgeError):
        return reply.kind == "context_too_long"
    return reply.coverage < 1  # The prompt left some of it out.


def _total(query: Query) -> int:
    return sum(map(_size, query.contexts))


def _size(text: str) -> int:
    return len(_bytes(text))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
