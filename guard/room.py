"""Room: how much of a query one judge takes at once, as far as is known."""

from collections.abc import Generator, Iterable

from guard.pieces import LEAST_SIZE, size_of, total_size
from guard.prompt import DEFAULT_PROMPT, Prompt
from guard.query import Query

# Bytes of UTF-8. Rooms are powers of two, so that one judge divides a set alike in every process.
SMALLEST_ROOM = 512
# A token of one text has eight times as many bytes as one of another, at most; and rooms, being
# powers of two that were tried by halving, may be a quarter of what was taken.
_DENSER = 32
_TRIES_MORE = 16  # One in so many queries.
# What a prompt writes around an earlier turn.
_TURN = 40


class Room:
    """How many bytes of question, history and contexts one judge takes at once.

    What one query taught is where the next one begins. Texts differ in how many tokens they have
    for their bytes, so the most that was ever taken counts, and now and then more is tried: one
    dense text, hostile or not, does not make the room small for all that follow.
    """

    def __init__(self) -> None:
        self._fits: int | None = None
        self._divided = 0

    @property
    def known(self) -> int | None:
        """Bytes that were taken once, where a query had to be divided; ``None`` = none ever had."""
        return self._fits

    def fits(self, room: int) -> None:
        """A query was judged in windows of so many bytes."""
        # The smallest room says more of the query than of the judge.
        if room > SMALLEST_ROOM:
            self._fits = max(room, self._fits or 0)

    def took(self, query: Query) -> None:
        """A query was judged as a whole; it says nothing of how much would be too much."""
        if self._fits is not None and (size := request_size(query)) > self._fits:
            self._fits = max(self._fits, 1 << (size.bit_length() - 1))

    def is_too_small_for(self, query: Query) -> bool:
        """Whether a query need not be tried as a whole: no text has so few tokens for its bytes."""
        if self._fits is None:
            return False
        # Characters first: for most queries they decide, and nothing is encoded.
        most = _DENSER * self._fits
        return sum(map(len, query.contexts)) >= most or request_size(query) >= most

    def rooms(self, size: int, least: int) -> Generator[int]:
        """What to try for a request of so many bytes, each half of the one before.

        Args:
            size: more than the judge takes.
            least: what question and history take, and room for any context at all.
        """
        room = room_below(size)
        if self._fits is not None:
            self._divided += 1
            known = self._fits << (self._divided % _TRIES_MORE == 0)
            # A question that leaves no room in what is known may fit in more.
            room = min(room, max(known, room_above(least)))
        while room >= max(least, SMALLEST_ROOM):
            yield room
            room //= 2


def room_below(size: int) -> int:
    """The next smaller room, in bytes."""
    return max(SMALLEST_ROOM, 1 << max(0, (size - 1).bit_length() - 1))


def room_above(size: int) -> int:
    """The smallest room of at least so many bytes."""
    return max(SMALLEST_ROOM, 1 << (size - 1).bit_length())


def request_size(query: Query) -> int:
    """Bytes of everything in a query that a judge is shown."""
    return own_size(query) + total_size(query.contexts)


def own_size(query: Query) -> int:
    """Bytes of question and history: what every window of a query holds besides its contexts."""
    return size_of(query.question) + sum(size_of(text) + _TURN for text in latest_turns(query))


def least_size(query: Query) -> int:
    """Bytes of a request that has room for any context."""
    return own_size(query) + LEAST_SIZE


def latest_turns(query: Query) -> list[str]:
    """The earlier turns that a prompt keeps, the latest first."""
    room, found = DEFAULT_PROMPT.max_history_chars, list[str]()
    for turn in reversed(query.history):
        if room <= 0:
            break
        found.append(turn.text[-room:])
        room -= len(turn.text) + _TURN
    return found


def tightest_prompt(judge: object) -> Prompt | None:
    """The prompt with the smallest ``max_context_chars`` of a judge, or of those that it is made
    of; ``None`` = none has any."""
    prompt: object = getattr(judge, "prompt", None)
    if isinstance(prompt, Prompt):
        return prompt if prompt.max_context_chars is not None else None
    found = [each for one in _members(judge) if (each := tightest_prompt(one)) is not None]
    return min(found, key=lambda each: each.max_context_chars or 0, default=None)


def _members(judge: object) -> Iterable[object]:
    links: Iterable[object] = getattr(judge, "links", ())
    judges: Iterable[object] = getattr(judge, "judges", ())
    return [*(getattr(link, "judge", None) for link in links), *judges]
