"""Measurement: one query put to one judge, within a limit, again where that helps, in windows where
its contexts are too long."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from guard._aside import aside
from guard.ask import aask, ask
from guard.breaker import breaker_of, one_query
from guard.decision import BreakerState
from guard.errors import JudgeError, JudgeUnavailable, NotAsked, Tried, Unmeasured
from guard.judge import Judge
from guard.limit import Limit
from guard.loop import shared_loop
from guard.query import Query
from guard.retry import Retry
from guard.verdict import Verdict
from guard.windows import Replies, Room, Trip, Windows
from guard.worker import Workers


@dataclass(slots=True)
class Notes:
    """What happens on the way to a verdict, or to none.

    Attributes:
        left: the judges of a chain that gave no verdict in the rounds that failed.
        attempts: how often the judge was asked.
        breaker: the state of its breaker before the last time.
        failure: what became of the last attempt.
    """

    left: list[Tried] = field(default_factory=list[Tried])
    attempts: int = 0
    breaker: BreakerState | None = None
    failure: JudgeUnavailable | None = None

    def begin(self, judge: Judge) -> None:
        """Notes an attempt."""
        breaker = breaker_of(judge)
        self.attempts += 1
        self.breaker = None if breaker is None else breaker.state

    def failed(self, error: JudgeError) -> None:
        """Notes what became of it."""
        if isinstance(error, NotAsked):
            self.attempts -= 1
            self.breaker = "open" if self.breaker else None
        elif isinstance(error, JudgeUnavailable):
            self.failure = error
        elif not error.answered:
            self.attempts -= 1  # Nothing was sent.
        self.left.extend(error.tried)

    def cause(self, error: NotAsked) -> JudgeError:
        """Why there is no verdict, where an attempt was made before the breaker opened."""
        return self.failure or error

    def add(self, others: "Notes") -> None:
        """Notes what happened to a window, which several at once cannot tell apart."""
        self.attempts += others.attempts
        self.breaker = others.breaker or self.breaker
        self.left += others.left


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
            if isinstance(whole, Verdict) and not self._too_long(whole):
                return whole
            # On a loop of ours, so that windows can be judged at once.
            work = self._in_windows(query, whole, end, notes)
            return shared_loop.run(work, max(0.0, end - time.monotonic()))

    async def averdict(self, query: Query, seconds: float, notes: Notes) -> Verdict:
        """As `verdict`."""
        async with self.limit.aheld(seconds) as left:
            end = time.monotonic() + left
            with one_query():
                whole = await self._awhole(query, left, notes)
                if isinstance(whole, Verdict) and not self._too_long(whole):
                    return whole
                return await self._in_windows(query, whole, end, notes)

    def _whole(self, query: Query, seconds: float, notes: Notes) -> Verdict | JudgeError:
        """A verdict on all contexts, or the error that says that they are too long."""
        if (known := self._known_too_long(query)) is not None:
            return known
        try:
            return self.retry.call(partial(self._attempt, query, notes), seconds)
        except NotAsked as error:
            raise notes.cause(error) from None
        except JudgeError as error:
            if not self._too_long(error):
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
            if not self._too_long(error):
                raise
            return error

    def _known_too_long(self, query: Query) -> JudgeError | None:
        if self.windows.at_most == 1 or not self._room.is_too_small_for(query):
            return None
        return Unmeasured(
            "The contexts are longer than what the judge was found to take.",
            kind="context_too_long",
            hint="Retrieve fewer passages.",
        )

    def _too_long(self, whole: Verdict | JudgeError) -> bool:
        """Whether windows would show the judge more."""
        if self.windows.at_most == 1:
            return False
        if isinstance(whole, Verdict):
            return whole.coverage < 1
        return whole.kind == "context_too_long"

    async def _in_windows(
        self, query: Query, whole: Verdict | JudgeError, end: float, notes: Notes
    ) -> Verdict:
        trip = self.windows.trip(query, whole, self._room)
        replies: Replies | None = None
        while True:
            advance = partial(_advanced, trip, replies)
            step = (await aside(advance, None)).result() if query.is_long else advance()
            if step.verdict is not None:
                return step.verdict
            replies = await _all([self._reply(each, end, notes) for each in step.queries])

    async def _reply(self, query: Query, end: float, notes: Notes) -> Verdict | JudgeError:
        left, own = max(0.0, end - time.monotonic()), Notes()
        try:
            return await self.retry.acall(partial(self._aattempt, query, own), left)
        except NotAsked as error:
            return own.cause(error)
        except JudgeError as error:
            if error.kind == "context_too_long":
                own.left.clear()  # A smaller window follows, and no judge was left for another.
            return error
        finally:
            notes.add(own)

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


async def _all(calls: Sequence[Coroutine[Any, Any, Verdict | JudgeError]]) -> Replies:
    """All replies; a bug in a judge ends the others."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return [*await asyncio.gather(*tasks)]
    finally:
        for task in tasks:
            task.cancel()
