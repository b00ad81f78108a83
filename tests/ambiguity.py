"""How often a backtracking matcher may go over one text, told from the regular expression alone.

The expression becomes an automaton whose states are its characters. The time in which a matcher
fails grows as the number of paths for one text does: exponentially where a state has two ways back
to itself for one text, else as a power (Weber and Seidl, "On the degree of ambiguity of finite
automata", 1991; tests for both in Allauzen, Mohri and Rastogi, "General algorithms for testing the
ambiguity of finite automata", 2008).

It is an upper bound: a lookahead is taken both to fail and to hold, ``\\b`` and a lookbehind to
hold, and more than 64 repetitions for any number.
"""

import importlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

N = TypeVar("N", bound=Hashable)

EXPONENTIAL = 100
_UNROLLED = 64
# Private to Python, and the same from 3.11 on; the public names of both are deprecated.
_parser, _compiler = (importlib.import_module(f"re.{name}") for name in ("_parser", "_compiler"))
_SAMPLE = "aZ_09 \n\t.-!<>[]{}'\"\\/\u00a0\u00e9\u0130\u0660\u2028\u3000\u4e00\ud800\U0001f600"


def power(
    pattern: str | bytes, flags: int = 0, *, searches: bool = True, ends: bool = False
) -> int:
    """The power of the text's length that bounds the time of one search: 1 = linear, 2, 3 …

    Args:
        pattern: the regular expression.
        flags: as `re.compile` takes them.
        searches: whether a match may begin anywhere (`re.search`), or only at the beginning.
        ends: whether it must end with the text (`re.fullmatch`).

    Returns:
        the power; `EXPONENTIAL` where there is none.
    """
    graph = _Builder(pattern, flags).graph(searches=searches, ends=ends)
    rooms = [room for room in _rooms(graph.next) if _is_loop(room, graph)]
    if any(_doubles(room, graph) for room in rooms):
        return EXPONENTIAL
    return 1 + _longest_chain(rooms, graph)


class _Graph(NamedTuple):
    """States by number; ``next`` counts the ways from one to the next, ``takes`` is a bit set."""

    next: Mapping[int, Mapping[int, int]]
    takes: Mapping[int, int]


# ── From the expression to the graph ─────────────────────────────────────────────────────────────


class _Move(NamedTuple):
    """A move that takes no character; one that is not sure may also be barred."""

    to: int
    sure: bool = True
    only_at_start: bool = False


class _Builder:
    """Places joined by moves; at some a character is taken, which leads on to another."""

    def __init__(self, pattern: str | bytes, flags: int) -> None:
        self._tree = _parser.parse(pattern, flags)
        self._flags: int = self._tree.state.flags
        self._sample = _sample(self._tree, isinstance(pattern, bytes))
        self._moves = list[list[_Move]]()
        self._takes, self._leads = dict[int, int](), dict[int, int]()

    def graph(self, *, searches: bool, ends: bool) -> _Graph:
        start, accept = self._place(), self._place()
        self._join(self._sequence(self._tree, start, self._flags), accept, sure=not ends)
        if searches:
            skipped, begin = self._place(), self._place()
            self._takes[skipped], self._leads[skipped] = -1, begin
            self._join(begin, start)
            self._join(begin, skipped)
        reach = {place: list(self._reached(at)) for place, at in self._leads.items()}
        # Where a match may end for sure nothing is tried again.
        states = [place for place in reach if (accept, True) not in reach[place]]
        known = set(states)
        ways = {place: Counter(to for to, _ in reach[place] if to in known) for place in states}
        return _Graph(ways, self._takes)

    def _reached(self, place: int) -> Iterator[tuple[int, bool]]:
        """Each way without a character to what takes one, or to an end; and whether it is sure."""
        left = [(place, True, frozenset({place}))]
        while left:
            here, sure, been = left.pop()
            if here in self._takes or not self._moves[here]:
                yield here, sure
            for move in self._moves[here]:
                if move.to not in been and not move.only_at_start:
                    left.append((move.to, sure and move.sure, been | {move.to}))

    def _place(self) -> int:
        self._moves.append([])
        return len(self._moves) - 1

    def _join(self, place: int, to: int, *, sure: bool = True, only_at_start: bool = False) -> None:
        self._moves[place].append(_Move(to, sure, only_at_start))

    def _after(self, place: int) -> int:
        new = self._place()
        self._join(place, new)
        return new

    def _sequence(self, items: Iterable[tuple[Any, Any]], place: int, flags: int) -> int:
        for item in items:
            place = self._item(item, place, flags)
        return place

    def _item(self, item: tuple[Any, Any], place: int, flags: int) -> int:
        value, start, end = item[1], self._after(place), self._place()
        match str(item[0]):
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                self._takes[start], self._leads[start] = self._taken(item, flags), end
            case "BRANCH":
                for way in value[1]:
                    self._join(self._sequence(way, self._after(start), flags), end)
            case "SUBPATTERN":
                inner = (flags | value[1]) & ~value[2]
                self._join(self._sequence(value[3], start, inner), end)
            case "ATOMIC_GROUP":
                self._join(self._sequence(value, start, flags), end)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                self._repeat(value, start, end, flags)
            case "ASSERT" | "ASSERT_NOT":
                if value[0] > 0:
                    self._sequence(value[1], self._after(start), flags)  # It leads nowhere.
                self._join(start, end, sure=False)
            case "AT":
                first = "BEGINNING" in str(value)
                at_start = first and not flags & re.MULTILINE
                self._join(start, end, sure=False, only_at_start=at_start)
            case name:
                raise NotImplementedError(f"{name} cannot be judged: look at it yourself.")
        return end

    def _repeat(self, value: tuple[int, int, Any], start: int, end: int, flags: int) -> None:
        least, most, inner = value
        for _ in range(min(least, _UNROLLED)):
            start = self._sequence(inner, start, flags)
        if most > _UNROLLED:
            self._loop(inner, start, end, flags)
            return
        for _ in range(most - min(least, _UNROLLED)):
            self._join(start, end)
            start = self._sequence(inner, self._after(start), flags)
        self._join(start, end)

    def _loop(self, inner: Any, start: int, end: int, flags: int) -> None:
        # Two places, since two ways lead into a loop within a loop: round the one, or the other.
        body, again = self._after(start), self._place()
        self._join(self._sequence(inner, body, flags), again)
        self._join(again, body)
        self._join(start, end)
        self._join(again, end)

    def _taken(self, item: tuple[Any, Any], flags: int) -> int:
        """Which characters of the sample one place takes, as bits."""
        one = _compiler.compile(_parser.SubPattern(self._tree.state, [item]), flags)
        return sum(1 << bit for bit, text in enumerate(self._sample) if one.fullmatch(text))


def _sample(tree: Any, is_bytes: bool) -> list[str] | list[bytes]:
    """Characters that the expression may treat unlike their neighbours, and some of any kind."""
    if is_bytes:
        return [bytes([byte]) for byte in range(256)]
    found = set(_SAMPLE)
    for code in _numbers(tree):
        for near in (code - 1, code, code + 1):
            if 0 <= near <= 0x10FFFF:
                found |= {chr(near), *chr(near).swapcase()[:1]}
    return sorted(found)


def _numbers(tree: Any) -> Iterator[int]:
    if isinstance(tree, int):
        yield int(tree)
    elif not isinstance(tree, str | bytes) and hasattr(tree, "__getitem__"):
        for index in range(len(tree)):
            yield from _numbers(tree[index])


# ── What the graph tells ─────────────────────────────────────────────────────────────────────────


def _is_loop(room: frozenset[int], graph: _Graph) -> bool:
    return any(to in room for place in room for to in graph.next[place])


def _doubles(room: frozenset[int], graph: _Graph) -> bool:
    """Whether a state has two ways back to itself for one text."""
    if any(graph.next[place].get(to, 0) > 1 for place in room for to in room):
        return True

    def both(pair: tuple[int, int]) -> Iterator[tuple[int, int]]:
        for one in graph.next[pair[0]]:
            for other in graph.next[pair[1]]:
                if one in room and other in room and graph.takes[one] & graph.takes[other]:
                    yield one, other

    pairs = _walked([(place, place) for place in room], both)
    return any(
        any(one == other for one, other in together) and any(a != b for a, b in together)
        for together in _rooms({pair: dict.fromkeys(both(pair), 1) for pair in pairs})
    )


def _longest_chain(rooms: list[frozenset[int]], graph: _Graph) -> int:
    """How many loops in a row can share one text in as many ways as it has characters."""
    found = dict[frozenset[int], int]()

    def chain(room: frozenset[int]) -> int:
        if room not in found:
            beyond = _walked(room, lambda place: graph.next[place])
            found[room] = max(
                (
                    chain(other) + _share(room, other, beyond, graph)
                    for other in rooms
                    if other != room and other <= beyond
                ),
                default=0,
            )
        return found[room]

    return max(map(chain, rooms), default=0)


def _share(first: frozenset[int], last: frozenset[int], beyond: set[int], graph: _Graph) -> bool:
    """Whether one text leads round the first loop, from it to the last, and round the last."""

    def all_three(three: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
        a, b, c = three
        if b == c and a in first:
            yield a, a, c  # Only to close the circle: the same text once more.
        for one in graph.next[a].keys() & first:
            for two in graph.next[b].keys() & beyond:
                for three_ in graph.next[c].keys() & last:
                    if graph.takes[one] & graph.takes[two] & graph.takes[three_]:
                        yield one, two, three_

    states = _walked([(a, a, c) for a in first for c in last], all_three)
    return any(
        (a, c, c) in together
        for together in _rooms({state: dict.fromkeys(all_three(state), 1) for state in states})
        for a, b, c in together
        if a == b
    )


def _walked(start: Iterable[N], steps: Callable[[N], Iterable[N]]) -> set[N]:
    found = set(start)
    left = list(found)
    while left:
        new = set(steps(left.pop())) - found
        found |= new
        left += new
    return found


def _rooms(graph: Mapping[N, Mapping[N, int]]) -> Iterator[frozenset[N]]:
    """The strongly connected components (Kosaraju)."""
    back, order = defaultdict[N, list[N]](list), list[N]()
    for state, ways in graph.items():
        for to in ways:
            back[to].append(state)
    seen, done = set[N](), set[N]()
    for first in graph:
        trail = [] if first in seen else [(first, iter(graph[first]))]
        seen.add(first)
        while trail:
            state, left = trail[-1]
            for to in left:
                if to not in seen:
                    seen.add(to)
                    trail.append((to, iter(graph[to])))
                    break
            else:
                order.append(state)
                trail.pop()
    for state in reversed(order):
        if state not in done:
            room = _walked([state], partial(_left, back, done))
            done |= room
            yield frozenset(room)


def _left(back: Mapping[N, list[N]], done: set[N], state: N) -> set[N]:
    return {*back.get(state, ())} - done
