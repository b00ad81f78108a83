"""Measurement: one query put to one judge, within a limit, again where that helps, in windows where
its contexts are too long."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from guard._aside import worked_aside
from guard.ask import aask, ask
from guard.breaker import breaker_of, one_query
from guard.decision import BreakerState
from guard.errors import JudgeError, JudgeUnavailable, NotAsked, Tried, Unmeasured, out_of_time
from guard.judge import Judge
from guard.limit import Limit
from guard.loop import shared_loop
from guard.query import Query
from guard.retry import Retry
from guard.room import Room, tightest_prompt
from guard.verdict import Verdict
from guard.windows import Replies, Trip, Windows
from guard.worker import Workers


@dataclass(slots=True)
class Notes:
    """What happens on the way to a verdict, or to none.

    Attributes:
        breaker: the state of its breaker before the last attempt.
        failure: what became of the last attempt.
        parts: the notes of windows. They are there from the beginning, so that what was asked
            counts even where nobody waits any more.
    """

    breaker: BreakerState | None = None
    failure: JudgeUnavailable | None = None
    parts: list["Notes"] = field(default_factory=list["Notes"])
    _begun: int = 0
    _left: list[Tried] = field(default_factory=list[Tried])

    @property
    def attempts(self) -> int:
        """How often the judge was asked."""
        return self._begun + sum(part.attempts for part in [*self.parts])

    @property
    def left(self) -> list[Tried]:
        """The judges of a chain that gave no verdict in the rounds that failed."""
        return [*self._left, *(one for part in [*self.parts] for one in part.left)]

    def begin(self, judge: Judge) -> None:
        """Notes an attempt."""
        breaker = breaker_of(judge)
        self._begun += 1
        self.breaker = None if breaker is None else breaker.state

    def failed(self, error: JudgeError) -> None:
        """Notes what became of it."""
        if isinstance(error, NotAsked):
            self._begun -= 1
            self.breaker = "open" if self.breaker else None
        elif isinstance(error, JudgeUnavailable):
            self.failure = error
        elif not error.answered:
            self._begun -= 1  # Nothing was sent.
        self._left.extend(error.tried)

    def cause(self, error: NotAsked) -> JudgeError:
        """Why there is no verdict, where an attempt was made before the breaker opened."""
        return self.failure or error

    def part(self) -> "Notes":
        """Notes of a window, which several at once could not share."""
        own = Notes()
        self.parts.append(own)
        return own

    def forget_left(self) -> None:
        """A smaller window follows: no judge was left for another."""
        self._left.clear()

    def settle(self) -> None:
        """The last window's breaker is that of the query."""
        for part in self.parts:
            self.breaker = part.breaker or self.breaker


class _Step(NamedTuple):
    """What a trip through windows wants asked next, or its verdict."""

    queries: list[Query]
    verdict: Verdict | None


class Measurement:
    """How a gate has its judge measure.

    Args:
        judge: is asked.
        retry: which failures are tried again.
        limit: how many queries at once.
        windows: what to do with contexts that are too long.
        workers: threads for a ``judge`` that cannot be interrupted.
    """

    def __init__(
        self, judge: Judge, retry: Retry, limit: Limit, windows: Windows, workers: Workers
    ) -> None:
        self.judge, self.retry, self.limit, self.windows = judge, retry, limit, windows
        self._workers = workers
        self._room = Room()

    def with_limit(self, limit: Limit) -> "Measurement":
        """The same with another limit."""
        other = copy(self)
        other.limit = limit
        return other

    def verdict(self, query: Query, seconds: float, notes: Notes) -> Verdict:
        """The judge's verdict within so many seconds, waiting for a turn included.

        Raises:
            JudgeError: it gave none.
        """
        with self.limit.held(seconds) as left, one_query():
            end = time.monotonic() + left
            whole = self._whole(query, left, notes)
            if isinstance(whole, Verdict) and whole.coverage == 1:
                self._room.took(query)
                return whole
            if self.windows.at_most == 1:
                return _unasked(self._trip(query, whole))
            # On a loop of ours, so that windows can be judged at once.
            work = self._in_windows(self._trip(query, whole), query.is_long, end, notes)
            return shared_loop.run(work, max(0.0, end - time.monotonic()))

    async def averdict(self, query: Query, seconds: float, notes: Notes) -> Verdict:
        """As `verdict`."""
        async with self.limit.aheld(seconds) as left:
            end = time.monotonic() + left
            with one_query():
                whole = await self._awhole(query, left, notes)
                if isinstance(whole, Verdict) and whole.coverage == 1:
                    self._room.took(query)
                    return whole
                trip = self._trip(query, whole)
                return await self._in_windows(trip, query.is_long, end, notes)

    def _trip(self, query: Query, whole: Verdict | JudgeError) -> Trip:
        return self.windows.trip(query, whole, self._room, tightest_prompt(self.judge))

    def _whole(self, query: Query, seconds: float, notes: Notes) -> Verdict | JudgeError:
        """A verdict on all contexts, or the error that says that they are too long."""
        if (known := self._known_too_long(query)) is not None:
            return known
        try:
            return self.retry.call(partial(self._attempt, query, notes), seconds)
        except NotAsked as error:
            raise notes.cause(error) from None
        except JudgeError as error:
            if error.kind != "context_too_long":
                raise
            return error

    async def _awhole(self, query: Query, seconds: float, notes: Notes) -> Verdict | JudgeError:
        if (known := self._known_too_long(query)) is not None:
            return known
        try:
            return await self.retry.acall(partial(self._aattempt, query, notes), seconds)
        except NotAsked as error:
            raise notes.cause(error) from None
        except JudgeError as error:
            if error.kind != "context_too_long":
                raise
            return error

    def _known_too_long(self, query: Query) -> JudgeError | None:
        if self.windows.at_most == 1 or not self._room.is_too_small_for(query):
            return None
        return Unmeasured(
            "The query is longer than what the judge was found to take.",
            kind="context_too_long",
            hint="Retrieve fewer passages.",
        )

    async def _in_windows(self, trip: Trip, is_long: bool, end: float, notes: Notes) -> Verdict:
        replies: Replies | None = None
        while True:
            advance = partial(_advanced, trip, replies)
            step = await _worked_out(advance, end) if is_long else advance()
            if step.verdict is not None:
                return step.verdict
            calls = [self._reply(each, end, notes) for each in step.queries]
            replies = await _Round(calls, self.limit).replies()

    async def _reply(self, query: Query, end: float, notes: Notes) -> Verdict | JudgeError:
        left, own = max(0.0, end - time.monotonic()), notes.part()
        try:
            return await self.retry.acall(partial(self._aattempt, query, own), left)
        except NotAsked as error:
            return own.cause(error)
        except JudgeError as error:
            if error.kind == "context_too_long":
                own.forget_left()
            return error
        finally:
            notes.settle()

    def _attempt(self, query: Query, notes: Notes, seconds: float) -> Verdict:
        notes.begin(self.judge)
        try:
            return ask(self.judge, query, seconds, self._workers)
        except JudgeError as error:
            notes.failed(error)
            raise

    async def _aattempt(self, query: Query, notes: Notes, seconds: float) -> Verdict:
        notes.begin(self.judge)
        try:
            return await aask(self.judge, query, seconds)
        except JudgeError as error:
            notes.failed(error)
            raise


def _advanced(trip: Trip, replies: Replies | None) -> _Step:
    try:
        # A generator's first step takes nothing.
        return _Step(next(trip) if replies is None else trip.send(replies), None)
    except StopIteration as stop:
        return _Step([], stop.value)


def _unasked(trip: Trip) -> Verdict:
    """Of a trip that asks nothing more."""
    verdict = _advanced(trip, None).verdict
    assert verdict is not None
    return verdict


async def _worked_out(advance: Callable[[], _Step], end: float) -> _Step:
    """Long texts are divided on a thread, which is left behind where that takes too long."""
    future = await worked_aside(advance, max(0.0, end - time.monotonic()))
    if future.cancel() or not future.done():
        raise out_of_time()
    return future.result()


class _Round:
    """What a trip wants asked next: in its order, on the query's own place and on spare ones."""

    def __init__(self, calls: "Sequence[_Call]", limit: Limit) -> None:
        self._waiting = deque(enumerate(calls))
        self._limit = limit
        # Each with its place among the replies, and its spare place; `None` = the query's own.
        self._running = dict[_Task, tuple[int, ExitStack | None]]()
        self._replies = dict[int, Verdict | JudgeError]()

    async def replies(self) -> Replies:
        """All of them; a bug in a judge ends the others."""
        try:
            while self._waiting or self._running:
                self._begin()
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._replies[self._leave(task)] = task.result()
            return [self._replies[at] for at in sorted(self._replies)]
        finally:
            for _, call in self._waiting:
                call.close()
            for task in [*self._running]:
                task.cancel()
                self._leave(task)

    def _begin(self) -> None:
        """As many as there are places for."""
        while self._waiting:
            place = None
            if not all(spare for _, spare in self._running.values()):
                place = _spare(self._limit)
                if place is None:
                    return
            at, call = self._waiting.popleft()
            self._running[asyncio.ensure_future(call)] = at, place

    def _leave(self, task: "_Task") -> int:
        at, place = self._running.pop(task)
        if place is not None:
            place.close()
        return at


_Call = Coroutine[Any, Any, Verdict | JudgeError]
_Task = asyncio.Future[Verdict | JudgeError]


def _spare(limit: Limit) -> ExitStack | None:
    with ExitStack() as stack:
        return stack.pop_all() if stack.enter_context(limit.spare(1)) else None
