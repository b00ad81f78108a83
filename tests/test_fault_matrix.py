"""Every fault × every policy × every way to ask, through real sockets: never measured, never late,
and exactly as many requests as configured. Streams: tests/integrations/test_fault_matrix_stream.py.
"""

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from cells import (
    CONTEXTS,
    HURRIED,
    KEY,
    QUESTION,
    Cell,
    Tally,
    metrics,
    require_nothing_passed,
    warm_up,
)
from faulty import FAULTS, GOOD, POLICIES, WAITED_FOR, Line, Play, http, raw
from openai import AsyncOpenAI, OpenAI

from guard import Decision, Gate, Policy, Retry
from guard.judges import ChatJudge
from guard.worker import shared_workers

pytestmark = pytest.mark.wire


@pytest.fixture(autouse=True, scope="module")
def _warm() -> None:
    warm_up()


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Generator[None]:
    """Calls that a cell abandons end with its server."""
    yield
    end = time.monotonic() + 10
    while shared_workers.abandoned:
        assert time.monotonic() < end, f"{shared_workers.abandoned} calls never ended."
        time.sleep(0.005)


def blocking(url: str) -> OpenAI:
    return OpenAI(base_url=url, api_key=KEY)


def awaiting(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=url, api_key=KEY)


def from_threads(cells: Sequence[Cell]) -> None:
    with ThreadPoolExecutor(len(cells)) as pool:
        list(pool.map(Cell.check, cells))


def from_a_loop(cells: Sequence[Cell]) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(cell.acheck() for cell in cells))

    asyncio.run(all_at_once())


Way = tuple[Callable[[str], OpenAI | AsyncOpenAI], Callable[[Sequence[Cell]], None]]
WAYS: dict[str, Way] = {
    "sync": (blocking, from_threads),  # On a worker, and left behind there.
    "sync, cancellable": (awaiting, from_threads),  # On the loop of this process.
    "async": (awaiting, from_a_loop),
    "async, blocking client": (blocking, from_a_loop),
}


def require_failed(cells: Sequence[Cell], way: Way) -> None:
    """Runs all cells at once, and fails with every one that is not as it must be, by its name."""
    client, ask = way
    tally, (traces, counted) = Tally(), metrics()
    for cell in cells:
        cell.open(client, [tally, *traces])
    try:
        ask(cells)
        wrong = [f"{cell}: {one}" for cell in cells for one in cell.complaints()]
        assert not wrong, "\n".join(wrong)
        require_nothing_passed(cells, tally.counts, counted())
    finally:
        for cell in cells:
            with suppress(RuntimeError):
                cell.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str, way: str) -> None:
    """Not measured, the reason, the policy's route, the configured requests, and in time."""
    cells = [Cell(FAULTS[name], choice, attempts) for choice in POLICIES for attempts in (1, 3)]
    require_failed(cells, WAYS[way])


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WAITED_FOR)
def test_fault_with_a_wait_that_fits(name: str, way: str) -> None:
    """A Retry-After that fits is waited for, as often as configured; and not one second more."""
    fault = WAITED_FOR[name]
    cells = [Cell(fault, choice, attempts) for choice in POLICIES for attempts in (1, 3)]
    require_failed(cells, WAYS[way])
    for cell in cells:
        assert cell.seconds >= cell.attempts - 1


# ── Connections that are kept ────────────────────────────────────────────────────────────────────


def _closes_after_each(line: Line) -> None:
    """Keeps the connection, it says, and closes it all the same."""
    line.request()
    line.say(http(GOOD))


def _later() -> list[str]:
    """The contexts, once the other side has had the time to close."""
    time.sleep(0.1)
    return CONTEXTS


def _closes_at_the_second(line: Line) -> None:
    """As a load balancer whose patience ends just as the next request is on its way."""
    line.request()
    line.say(http(GOOD))
    line.request()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("play", "attempts"), [(_closes_after_each, [1, 1, 1]), (_closes_at_the_second, [1, 2, 2])]
)
def test_a_kept_connection_that_was_closed(play: Play, attempts: list[int], way: str) -> None:
    """A stale pool costs one more attempt at most, and no verdict."""
    client, ask = WAYS[way]
    with raw(play) as server:
        judge = ChatJudge(client(server.url), model="wire-model", close_clients=True)
        gate = Gate(judge, Policy(deadline=6.0), retry=Retry(2, **HURRIED))

        async def in_a_row() -> list[Decision]:
            made = [await gate.acheck(QUESTION, _later()) for _ in range(3)]
            await judge.aclose()
            return made

        if ask is from_a_loop:
            made = asyncio.run(in_a_row())
        else:
            made = [gate.check(QUESTION, _later()) for _ in range(3)]
            judge.close()
    assert [decision.measured for decision in made] == [True] * 3
    assert [decision.attempts for decision in made] == attempts
    assert server.requests == sum(attempts)
