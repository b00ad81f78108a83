"""The limit on judgements in flight: who goes first, who waits, who is turned away."""

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from guard import ConfigError, Decision, Gate, JudgeError, Policy, Query, Reason, Retry, Verdict
from guard.errors import NotAsked
from guard.limit import MAX_IN_FLIGHT, MAX_WAIT, Limit
from guard.testing import ScriptedJudge

PATIENCE = 10.0  # Seconds until something that must happen counts as missing.


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "It did not happen."
        time.sleep(0.002)


async def auntil(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "It did not happen."
        await asyncio.sleep(0.002)


def idle(limit: Limit) -> bool:
    return (limit.in_flight, limit.waiting) == (0, 0)


def turned_away(limit: Limit, budget: float = 10.0) -> tuple[NotAsked, float]:
    """The error, and the seconds it took; fails where there is a place."""
    started = time.monotonic()
    with pytest.raises(NotAsked) as caught, limit.held(budget):
        pytest.fail("There was a place.")
    assert caught.value.kind == "overloaded" and not caught.value.retryable
    return caught.value, time.monotonic() - started


class Waiter(threading.Thread):
    """Waits for a place on a thread of its own, and holds it until it is told to let go."""

    def __init__(self, limit: Limit, order: list[int], number: int = 0) -> None:
        super().__init__(daemon=True)
        self._limit, self._order, self._number = limit, order, number
        self.let_go = threading.Event()
        self.start()

    def run(self) -> None:
        with self._limit.held(PATIENCE):
            self._order.append(self._number)
            self.let_go.wait(PATIENCE)


def _so_many_wait(limit: Limit, number: int) -> bool:
    return limit.waiting == number


def _a_waiter(limit: Limit, order: list[int], number: int) -> threading.Thread:
    """Every other one is a task on an event loop of its own."""

    async def awaited() -> None:
        async with limit.aheld(PATIENCE):
            order.append(number)

    def blocking() -> None:
        with limit.held(PATIENCE):
            order.append(number)

    target = blocking if number % 2 else (lambda: asyncio.run(awaited()))
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def test_a_place_is_passed_on_in_order_of_arrival() -> None:
    """Where one leaves, the one that has waited longest comes, be it a thread or a task."""
    limit, order = Limit(6, wait=PATIENCE), list[int]()
    holders = [limit.held(PATIENCE) for _ in range(6)]
    for one in holders:
        one.__enter__()
    waiters = list[threading.Thread]()
    for number in range(6):
        waiters.append(_a_waiter(limit, order, number))
        until(partial(_so_many_wait, limit, number + 1))
    holders[0].__exit__(None, None, None)
    for waiter in waiters:
        waiter.join(PATIENCE)
    assert order == list(range(6))
    for one in holders[1:]:
        one.__exit__(None, None, None)
    assert idle(limit)


@pytest.mark.parametrize(("wait", "queued"), [(PATIENCE, 2), (0.0, 0)])
def test_beyond_the_queue_it_is_shed_at_once(wait: float, queued: int) -> None:
    """As many may wait as may be in flight, or none with a wait of 0; others are told at once."""
    limit, order = Limit(2, wait=wait), list[int]()
    waiters = [Waiter(limit, order) for _ in range(2)]
    until(lambda: limit.in_flight == 2)
    waiters += [Waiter(limit, order) for _ in range(queued)]
    until(lambda: limit.waiting == queued)
    error, seconds = turned_away(limit)
    assert seconds < 0.2
    assert error.message == (
        "The judge was not asked: 2 judgements were in flight, "
        f"and {queued} others waited for their end."
    )
    assert error.retry_after == wait
    for one in waiters:
        one.let_go.set()
    until(lambda: idle(limit))


@pytest.mark.parametrize(("wait", "budget"), [(0.1, 10.0), (10.0, 0.1)])
def test_who_waits_too_long_is_turned_away(wait: float, budget: float) -> None:
    """After the wait, or the budget where that ends before; and no longer stands in the queue."""
    limit = Limit(1, wait=wait)
    with limit.held(10):
        error, seconds = turned_away(limit, budget)
        assert 0.1 <= seconds < 1
        assert "none of them ended within 0.1 s" in error.message
        assert limit.waiting == 0

        async def awaited() -> float:
            started = time.monotonic()
            with pytest.raises(NotAsked, match="none of them ended within 0.1 s"):
                async with limit.aheld(budget):
                    pytest.fail("There was a place.")
            return time.monotonic() - started

        assert 0.1 <= asyncio.run(awaited()) < 1
        assert (limit.in_flight, limit.waiting) == (1, 0)
    assert idle(limit)


def test_what_is_left_of_the_budget() -> None:
    """Waiting for a turn is part of it."""
    limit = Limit(1, wait=PATIENCE)
    with limit.held(5.0) as seconds:
        assert seconds == pytest.approx(5.0, abs=0.1)
    holder = Waiter(limit, [])
    until(lambda: limit.in_flight == 1)
    threading.Timer(0.3, holder.let_go.set).start()
    with limit.held(5.0) as seconds:
        assert 3.0 < seconds < 4.8


def test_the_wait_is_part_of_a_query_s_deadline() -> None:
    """The judge is given what is left, and the decision comes by the deadline."""
    given = list[float]()

    class Slow(ScriptedJudge):
        async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
            given.append(timeout)
            return await super().ajudge(query, timeout=timeout)

    gate = Gate(
        Slow([0.9, 0.9], delay=0.2), Policy(deadline=0.3), retry=Retry(1), limit=Limit(1, wait=5)
    )

    async def two() -> list[Decision]:
        return await asyncio.gather(*(gate.acheck("When?", ["In 1932."]) for _ in range(2)))

    started = time.monotonic()
    first, second = asyncio.run(two())
    assert time.monotonic() - started < 1.5
    assert first.measured and second.reason in (Reason.TIMEOUT, Reason.OVERLOADED)
    assert given[0] > 0.25 and all(one < 0.15 for one in given[1:])
    assert idle(gate.limit)


# ── Spare places ─────────────────────────────────────────────────────────────────────────────────


def test_spare_places_are_those_that_are_free() -> None:
    limit = Limit(4)
    with limit.held(1):
        with limit.spare(2) as first, limit.spare(5) as second, limit.spare(1) as third:
            assert (first, second, third, limit.in_flight) == (2, 1, 0, 4)
        with limit.spare(0) as none:
            assert (none, limit.in_flight) == (0, 1)
    assert idle(limit)


def test_spare_places_are_given_back_to_who_waits() -> None:
    """And who waits is not overtaken."""
    limit, order = Limit(2, wait=PATIENCE), list[int]()
    with limit.held(1):
        with limit.spare(1) as found:
            assert found == 1
            waiter = Waiter(limit, order)
            until(lambda: limit.waiting == 1)
            with limit.spare(1) as more:
                assert more == 0
        until(lambda: order)
        with limit.spare(1) as more:
            assert more == 0
        waiter.let_go.set()
        until(lambda: limit.in_flight == 1)
    assert idle(limit)


@pytest.mark.parametrize("end", [ValueError(), KeyboardInterrupt()])
def test_an_exception_frees_spare_places(end: BaseException) -> None:
    limit = Limit(3)
    with pytest.raises(type(end)), limit.spare(3):
        raise end
    assert idle(limit)


# ── However it ends ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "end", [ValueError(), JudgeError("no"), KeyboardInterrupt(), asyncio.CancelledError()]
)
def test_an_exception_frees_the_place(end: BaseException) -> None:
    limit = Limit(1)
    with pytest.raises(type(end)), limit.held(1):
        raise end

    async def awaited() -> None:
        async with limit.aheld(1):
            raise end

    with pytest.raises(type(end)):
        asyncio.run(awaited())
    assert idle(limit)


def test_a_cancelled_waiter_leaves_the_queue() -> None:
    """The next one is not kept waiting for somebody who has gone."""
    limit, reached = Limit(2, wait=PATIENCE), list[int]()

    async def wait(number: int) -> None:
        async with limit.aheld(PATIENCE):
            reached.append(number)

    async def story() -> None:
        async with limit.aheld(PATIENCE), limit.aheld(PATIENCE):
            first, second = (asyncio.create_task(wait(number)) for number in (1, 2))
            await auntil(lambda: limit.waiting == 2)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert limit.waiting == 1
        await second

    asyncio.run(story())
    assert reached == [2] and idle(limit)


def test_who_is_cancelled_with_a_turn_passes_it_on() -> None:
    """Given a place and cancelled in the same moment: the place is not lost."""
    limit = Limit(1, wait=PATIENCE)

    async def wait() -> None:
        async with limit.aheld(PATIENCE):
            pytest.fail("It was cancelled.")

    async def story() -> None:
        for _ in range(50):
            async with limit.aheld(PATIENCE):
                task = asyncio.create_task(wait())
                await auntil(lambda: limit.waiting == 1)
            # The place is its own by now, though it has not run since.
            assert limit.in_flight == 1 and limit.waiting == 0
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert idle(limit)

    asyncio.run(story())


def test_a_loop_that_ends_in_the_middle_gives_its_places_back() -> None:
    """Those that it held and those that it waited for: asyncio cancels what still runs."""
    limit = Limit(1, wait=PATIENCE)

    async def hold() -> None:
        async with limit.aheld(PATIENCE):
            await asyncio.sleep(PATIENCE)

    async def story() -> None:
        tasks = [asyncio.create_task(hold()) for _ in range(2)]
        await auntil(lambda: limit.waiting == 1)
        assert not any(task.done() for task in tasks)

    asyncio.run(story())
    assert idle(limit)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("locked", [False, True])
def test_a_forked_child_begins_anew(locked: bool) -> None:
    """It holds none of its parent's places, and does not wait for a lock that nobody will free."""
    limit = Limit(1, wait=0.0)

    def child() -> int:
        if not idle(limit):
            return 1
        with limit.held(1):
            turned_away(limit)
        return 0 if idle(limit) else 2

    with limit.held(1):
        with limit._lock if locked else nullcontext():  # pyright: ignore[reportPrivateUsage]
            pid = os.fork()
            if pid == 0:
                status = 3
                with suppress(BaseException):
                    status = child()
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert limit.in_flight == 1
    assert idle(limit)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_leaves_no_place_that_its_parent_took() -> None:
    """Forked by a judge in the middle of a judgement, which then ends in both processes."""
    limit = Limit(1)
    with limit.held(1):
        pid = os.fork()
    if pid == 0:
        os._exit(0 if idle(limit) else 1)
    assert idle(limit)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"in_flight": 0}, "in_flight"),
        ({"in_flight": 1.5}, "in_flight"),
        ({"in_flight": MAX_IN_FLIGHT + 1}, "in_flight"),
        ({"wait": -0.1}, "wait"),
        ({"wait": float("nan")}, "wait"),
        ({"wait": MAX_WAIT + 1}, "wait"),
    ],
)
def test_numbers_out_of_range(options: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Limit(**options)  # type: ignore[arg-type]


# ── Many at once ─────────────────────────────────────────────────────────────────────────────────


class Gauge:
    """Counts who is inside, and the most that ever were."""

    def __init__(self) -> None:
        self._lock, self._inside, self.most, self.entered = threading.Lock(), 0, 0, 0

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            self.entered += 1
            self.most = max(self.most, self._inside)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.0, 0.05, 5.0])
def test_two_thousand_queries_never_exceed_it(wait: float) -> None:
    """Threads and three event loops at once, some cancelled, some failing: never one too many, each
    is served or turned away, and in the end all places are free."""
    limit, gauge, shed = Limit(16, wait=wait), Gauge(), list[int]()
    rng = random.Random(20260101)
    naps = [rng.choice([0.0, 0.001, 0.004]) for _ in range(2000)]
    gone = list[int]()

    def blocking(number: int) -> None:
        try:
            with suppress(ZeroDivisionError), limit.held(PATIENCE):
                gauge.enter()
                try:
                    time.sleep(naps[number])
                    if number % 7 == 0:
                        raise ZeroDivisionError
                finally:
                    gauge.leave()
        except NotAsked:
            shed.append(number)

    async def awaited(number: int) -> None:
        try:
            with suppress(ZeroDivisionError):
                async with limit.aheld(PATIENCE):
                    gauge.enter()
                    try:
                        await asyncio.sleep(naps[number])
                        if number % 7 == 0:
                            raise ZeroDivisionError
                    finally:
                        gauge.leave()
        except NotAsked:
            shed.append(number)

    async def crowd(numbers: range) -> None:
        tasks = [asyncio.create_task(awaited(number)) for number in numbers]
        await asyncio.sleep(0.01)
        for task in tasks[::5]:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        gone.extend(1 for one in ended if isinstance(one, asyncio.CancelledError))
        assert all(one is None or isinstance(one, asyncio.CancelledError) for one in ended)

    with ThreadPoolExecutor(43) as pool:
        runs = [
            pool.submit(asyncio.run, crowd(range(first, first + 400))) for first in (0, 400, 800)
        ]
        runs += [pool.submit(blocking, number) for number in range(1200, 2000)]
        for run in runs:
            run.result(60)
    assert gauge.most <= 16
    assert gauge.entered + len(shed) + len(gone) >= 2000  # Cancelled ones may have been inside.
    assert gauge.entered > 30
    assert idle(limit)


class Places(RuleBasedStateMachine):
    """Comes, leaves, gives up, in any order: as a list of who waits would say."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = Limit(3, wait=60.0)
        self.inside = list[object]()
        self.queue = list[object]()

    @rule()
    def come(self) -> None:
        join = self.limit._join  # pyright: ignore[reportPrivateUsage]
        if len(self.inside) < 3:
            turn = Future[None]()
            join(turn)
            assert turn.done()
            self.inside.append(turn)
        elif len(self.queue) < 3:
            turn = Future[None]()
            join(turn)
            assert not turn.done()
            self.queue.append(turn)
        else:
            with pytest.raises(NotAsked, match="3 others waited"):
                join(Future[None]())

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        turn = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        self.limit._leave(turn)  # type: ignore[arg-type] # pyright: ignore
        if self.queue:
            self.inside.append(self.queue.pop(0))

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        turn = self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))
        self.limit._leave(turn)  # type: ignore[arg-type] # pyright: ignore

    @invariant()
    def as_listed(self) -> None:
        assert (self.limit.in_flight, self.limit.waiting) == (len(self.inside), len(self.queue))
        assert all(turn.done() for turn in self.inside)  # type: ignore[attr-defined] # pyright: ignore
        assert not any(turn.done() for turn in self.queue)  # type: ignore[attr-defined] # pyright: ignore


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
