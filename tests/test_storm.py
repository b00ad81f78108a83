"""A storm of faults: each query has one decision and one line in the audit, and nothing is left.

The server is `storm_server.py`, in a process of its own. About half of the requests that it is sent
get a verdict; outages open the breaker, a limit turns queries away, some tasks are cancelled. The
openai SDK takes some four milliseconds of processor time a request, ten times what the gate does:
it, not the gate, sets the pace.
"""

import asyncio
import ctypes
import gc
import http.client
import json
import logging
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import types
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from openai import AsyncOpenAI, OpenAI

from guard import Decision, Gate, JudgeError, Policy, Reason, Retry
from guard.audit import AuditLog
from guard.audit_file import Audit
from guard.breaker import Breaker
from guard.cache import Cache, MemoryCache
from guard.errors import JudgeUnavailable, Unmeasured
from guard.judges import ChatJudge
from guard.limit import Limit
from guard.loop import shared_loop
from guard.observer import Observer
from guard.policy import OnUnmeasured
from guard.query import Query
from guard.sqlite_cache import SqliteCache
from guard.testing import ScriptedJudge
from guard.verdict import Verdict
from guard.worker import shared_workers

HERE = Path(__file__).parent
SEED = 20260

ROUTES: dict[str, OnUnmeasured] = {
    "timeout": "clarify",
    "malformed": "raise",
    "rate_limited": "answer",
}
ANSWER_AT, REFUSE_BELOW = 0.85, 0.30
IN_FLIGHT, CROWD = 200, 240
"""Judgements at once; tasks that ask, so that some wait and some are turned away."""
PATIENT = Policy(deadline=2.5, on_unmeasured=ROUTES)
"""Two hundred at once take the SDK two seconds on a busy machine."""
HURRIED = Policy(deadline=1.0, on_unmeasured=ROUTES)
RETRY = Retry(attempts=3, first_wait=0.05, max_wait=0.2)
CANCELLED = 0.03
"""The share of tasks that are cancelled, or whose end comes before that."""

pytestmark = [
    pytest.mark.slow,
    # A task that is cancelled while httpcore (1.0.9) closes several connections that the server has
    # ended interrupts that: anyio's shields hold off its own cancellations, not asyncio's. What was
    # not closed is out of the pool, and the collector closes it. The census counts what stays open.
    pytest.mark.filterwarnings("ignore:unclosed (<socket|transport):ResourceWarning"),
]


# ── Queries ──────────────────────────────────────────────────────────────────────────────────────


def query_of(number: int) -> Query:
    """The query with a number, which stands in its language tag: one in seven repeats another's
    words, so that the cache has it."""
    words = f"one of {number % 20}" if number % 7 == 0 else f"number {number}"
    passage = f"The bridge {words} opened late. " * 100
    return Query.of(f"When did {words} open?", [passage, "It is long."], lang=f"x-{number}")


def number_of(lang: str | None) -> int:
    """The number of a query."""
    return int((lang or "").removeprefix("x-"))


def complaint(decision: Decision) -> str | None:
    """What is wrong with a decision, by the rules as the documentation has them."""
    low, high = decision.low, decision.high
    if decision.unmeasured:
        choice = ROUTES.get(decision.reason.value, "refuse")
        right = None if choice == "raise" else choice
        if (decision.probability, low, high, decision.verdict) != (None, None, None, None):
            return f"{decision.id} is not measured and has a number"
    elif low is None or high is None:
        return f"{decision.id} is measured and has no bounds"
    else:
        right = "answer" if low >= ANSWER_AT else "refuse" if high < REFUSE_BELOW else "clarify"
    if decision.route != right or decision.passes is not (right == "answer"):
        return f"{decision.id}, {decision.reason}: {decision.route}, not {right}"
    return None


class Ledger:
    """An observer that writes down who was decided; it keeps no decision.

    Attributes:
        ids: of the decisions, by the query's number.
        reasons: how often each was given.
        wrong: what should not be.
    """

    blocks = False

    def __init__(self) -> None:
        self.ids = dict[int, str]()
        self.reasons = Counter[str]()
        self.wrong = list[str]()
        self._lock = threading.Lock()

    def observe(self, decision: Decision) -> None:
        number, wrong = number_of(decision.query.lang), complaint(decision)
        with self._lock:
            if number in self.ids:
                self.wrong.append(f"{decision.id} is the second decision of query {number}")
            if wrong is not None:
                self.wrong.append(wrong)
            self.ids[number] = decision.id
            self.reasons[decision.reason.value] += 1


def require_one_line_each(path: Path, ledger: Ledger) -> None:
    """Each decision has one line in the audit, which is that of its query; no line has none."""
    audit = Audit(path)
    lines = Counter[str]()
    for record in audit.records():
        lines[record.id] += 1
        number = number_of(record.lang)
        query = query_of(number)
        assert record.id == ledger.ids.get(number)
        assert record.question_hash == query.question_hash
        assert record.contexts_hash == query.contexts_hash
    assert audit.broken == 0
    assert lines == Counter(ledger.ids.values())
    assert set(lines.values()) == {1}


# ── The server's process ─────────────────────────────────────────────────────────────────────────


class Server:
    """The weather, from here."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/v1"

    def counts(self) -> dict[str, Any]:
        """What it has done; see `storm_server.Counts`."""
        return self._get("/counts")

    def weather(self, weather: str) -> None:
        """``storm`` or ``well``."""
        self._get(f"/weather/{weather}")

    def _get(self, path: str) -> dict[str, Any]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            line.request("GET", path)
            return cast("dict[str, Any]", json.loads(line.getresponse().read()))
        finally:
            line.close()


@pytest.fixture
def server() -> Generator[Server]:
    """A server in a process of its own, at first in good weather."""
    shared_loop.loop()  # It stays, once it is there: closing a judge may start it.
    command = [sys.executable, str(HERE / "storm_server.py"), str(SEED)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        one = Server(int(process.stdout.readline()))
        one.weather("well")
        yield one
        bugs = one.counts()["bugs"]
        process.stdin.close()
        process.wait(10)
    assert (bugs, process.returncode) == (0, 0)


@pytest.fixture(autouse=True)
def quiet() -> Generator[None]:
    """Thousands of warnings would be kept by the test runner, and look like a leak."""
    logger = logging.getLogger("guard")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)
    gc.collect()  # What `pytestmark` is about is not left to another module.


# ── What there is at one moment ──────────────────────────────────────────────────────────────────

KEPT = (Decision, Query, Verdict, JudgeError, Gate, Future, asyncio.Future, asyncio.Task)
RUNNING = {
    types.CoroutineType: "cr_code",
    types.GeneratorType: "gi_code",
    types.AsyncGeneratorType: "ag_code",
}
"""Where each keeps the code that it runs."""


@dataclass(frozen=True)
class Census:
    """Threads by name, open files by kind, and objects of ours by type.

    Attributes:
        threads: by name.
        files: by kind, e.g. ``socket``; regular ones by path.
        objects: those that stand for a query, and pieces of our code that have not ended.
    """

    threads: Counter[str]
    files: Counter[str]
    objects: Counter[str]

    @classmethod
    def now(cls) -> "Census":
        for _ in range(3):
            gc.collect()
        names = (thread.name for thread in threading.enumerate())
        # A gate's eight threads for caches and observers stay; they start as they are needed.
        threads = Counter(name for name in names if not name.startswith("rag-guard-aside"))
        return cls(threads, open_files(), Counter(filter(None, map(_ours, gc.get_objects()))))

    def require_no_more_than(self, before: "Census") -> None:
        """Nothing is here that was not here before."""
        for name in ("threads", "files", "objects"):
            assert getattr(self, name) - getattr(before, name) == Counter(), name


def open_files() -> Counter[str]:
    """This process's, by kind."""
    found = Counter[str]()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # That of the listing itself.
            target = os.readlink(f"/proc/self/fd/{number}")
            found[target if target.startswith("/") else target.partition(":[")[0]] += 1
    return found


def _ours(one: object) -> str | None:
    kind = type(one)  # Not `isinstance`, which asks proxies what they stand for.
    if issubclass(kind, KEPT):
        return kind.__name__
    for running, where in RUNNING.items():
        if kind is running and "/guard/" in getattr(one, where).co_filename:
            return f"{kind.__name__} {getattr(one, where).co_qualname}"
    return None


def resident() -> int:
    """Bytes of memory that this process has, garbage and what was freed aside."""
    gc.collect()
    with suppress(AttributeError):  # Not in every C library.
        # Or what leaks would first fill what earlier tests have freed, and not be seen.
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits for what must come."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# ── OpenTelemetry ────────────────────────────────────────────────────────────────────────────────


@dataclass
class Spans:
    """How many began and ended, by name; a span processor that keeps none."""

    begun: Counter[str] = field(default_factory=Counter[str])
    ended: Counter[str] = field(default_factory=Counter[str])

    def on_start(self, span: Any, parent_context: object = None) -> None:
        self.begun[span.name] += 1

    def _on_ending(self, span: Any) -> None:
        """Nothing yet."""

    def on_end(self, span: Any) -> None:
        self.ended[span.name] += 1

    def shutdown(self) -> None:
        """Nothing to do."""

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


@contextmanager
def traced() -> Generator[tuple[list[Observer], Callable[[], dict[str, float]] | None, Spans]]:
    """A trace, what it has measured, and its spans; no trace where there is no SDK."""
    spans = Spans()
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError:
        yield [], None, spans
        return
    from guard.trace import Trace

    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(cast("Any", spans))
    yield [Trace(tracer_provider=tracers, meter_provider=meters)], lambda: _sums(reader), spans
    meters.shutdown()
    tracers.shutdown()


def _sums(reader: Any) -> dict[str, float]:
    """Each metric's sum over all its attributes; of a histogram, how much was recorded."""
    found = dict[str, float]()
    for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics:
        points = metric.data.data_points
        amounts = (point.count if hasattr(point, "count") else point.value for point in points)
        found[metric.name] = float(sum(amounts))
    return found


# ── Tasks in a storm ─────────────────────────────────────────────────────────────────────────────


@dataclass
class Crowd:
    """Tasks that ask one query after another, and some that are cancelled.

    Attributes:
        gate: whom they ask.
        chance: who is cancelled, and when.
        at_once: tasks.
        patience: seconds at most before one that was turned away comes again with another query.
        returned: the decision's id as its caller got it, by the query's number.
        cancelled: numbers of queries whose caller got `CancelledError`.
        keeps_ids: whether it fills ``returned`` and ``cancelled``, which take memory themselves.
    """

    gate: Gate
    chance: random.Random
    at_once: int = CROWD
    patience: float = 1.2
    returned: dict[int, str] = field(default_factory=dict[int, str])
    cancelled: set[int] = field(default_factory=set[int])
    keeps_ids: bool = True

    async def ask(self, numbers: Iterator[int]) -> None:
        """All of them, by as many tasks at once."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.at_once):
                group.create_task(self._ask_each(numbers))

    async def _ask_each(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            decision = await self.one(number)
            if decision is not None and decision.reason in (
                Reason.CIRCUIT_OPEN,
                Reason.OVERLOADED,
            ):
                await asyncio.sleep(self.chance.uniform(0.4, 1.0) * self.patience)

    async def one(self, number: int) -> Decision | None:
        """One query's decision; ``None`` = it was cancelled."""
        query = query_of(number)
        asking = self.gate.acheck(query.question, query.contexts, lang=query.lang)
        task = asyncio.create_task(asking)
        if self.chance.random() < CANCELLED:
            _cancel_in(self.chance.uniform(0, self.gate.policy.deadline / 5), task)
        try:
            decision = await task
        except asyncio.CancelledError:
            decision = None
        except JudgeError as error:
            decision = cast("Decision", error.decision)
        self._note(number, decision)
        return decision

    def _note(self, number: int, decision: Decision | None) -> None:
        if self.keeps_ids and decision is None:
            self.cancelled.add(number)
        elif self.keeps_ids and decision is not None:
            self.returned[number] = decision.id


def _cancel_in(seconds: float, task: "asyncio.Task[Decision]") -> None:
    timer = asyncio.get_running_loop().call_later(seconds, task.cancel)
    # Or the timer would keep what has ended.
    task.add_done_callback(lambda _task: timer.cancel())


def require_all_accounted(crowd: Crowd, ledger: Ledger, asked: int) -> None:
    """Who was not cancelled has the decision that was told; who was has none, unless it was made
    before, and then it was told as well."""
    assert ledger.wrong == []
    assert len(crowd.returned) + len(crowd.cancelled) == asked
    assert crowd.returned.items() <= ledger.ids.items()
    assert ledger.ids.keys() - crowd.returned.keys() <= crowd.cancelled
    assert len(set(ledger.ids.values())) == len(ledger.ids)


@dataclass
class Seen:
    """What was there at some moment of a storm.

    Attributes:
        states: of the breaker.
        sockets: most at once.
        in_flight: judgements, most at once.
        growth: bytes of memory more after the last query than after the first fifth of them, when
            nothing was in flight.
    """

    states: set[str] = field(default_factory=set[str])
    sockets: int = 0
    in_flight: int = 0
    growth: int = 0


async def _watch(gate: Gate, breaker: Breaker, seen: Seen) -> None:
    while True:
        seen.states.add(breaker.state)
        seen.in_flight = max(seen.in_flight, gate.limit.in_flight)
        seen.sockets = max(seen.sockets, open_files()["socket"])
        await asyncio.sleep(0.05)


def numbered(first: int, count: int) -> Iterator[int]:
    """An iterator for many."""
    return iter(range(first, first + count))


async def _recover(crowd: Crowd, breaker: Breaker, first: int) -> int:
    """Queries, one after another, until the breaker is closed; the next number."""
    numbers = numbered(first, 1000)
    for number in numbers:
        await crowd.one(number)
        if breaker.state == "closed":
            return number + 1
        await asyncio.sleep(0.05)
    raise AssertionError("The breaker stays open.")


async def _storm(server: Server, crowd: Crowd, judge: ChatJudge, checks: int) -> Seen:
    """Good weather, a storm, and good weather again, in which every query is measured."""
    assert judge.breaker is not None
    sockets, seen = open_files()["socket"], Seen()
    first = await crowd.one(0)
    server.weather("storm")
    watching = asyncio.create_task(_watch(crowd.gate, judge.breaker, seen))
    await crowd.ask(numbered(1, checks // 5))
    early = resident()
    await crowd.ask(numbered(1 + checks // 5, checks - checks // 5 - 1))
    seen.growth = resident() - early
    watching.cancel()
    server.weather("well")
    following = await _recover(crowd, judge.breaker, checks)
    decided = [await crowd.one(number) for number in numbered(following, 200)]
    assert all(one is None or one.measured for one in (first, *decided))
    assert sum(one is None for one in decided) < 50
    await judge.aclose()
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert open_files()["socket"] <= sockets
    # The pool keeps a hundred that are idle; the rest is the loop's own, and what is being closed.
    assert seen.sockets <= sockets + IN_FLIGHT + 100 + 50
    return seen


@dataclass
class Outcome:
    """What came of a storm; short in a failed test, which would print every id."""

    ledger: Ledger = field(repr=False)
    crowd: Crowd = field(repr=False)
    seen: Seen


def run_storm(server: Server, folder: Path, checks: int, cache: Cache) -> Outcome:
    """A storm with everything that a gate can have, and what must hold of it."""
    folder.mkdir()
    ledger, path = Ledger(), folder / "audit.jsonl"
    judge = ChatJudge(
        AsyncOpenAI(base_url=server.url, api_key="storm"), model="wire-model", close_clients=True
    )
    judge.use_breaker(failures=10, seconds=0.2)
    with AuditLog(path) as audit, traced() as (trace, sums, spans):
        gate = Gate(
            judge,
            PATIENT,
            retry=RETRY,
            cache=cache,
            observers=[ledger, audit, *trace],
            limit=Limit(IN_FLIGHT, wait=0.1),
        )
        crowd = Crowd(gate, random.Random(SEED))
        seen = asyncio.run(_storm(server, crowd, judge, checks))
        assert (audit.lost, audit.waiting) == (0, 0)
        asked = len(crowd.returned) + len(crowd.cancelled)
        if sums is not None:
            require_metrics(sums(), ledger, spans, asked)
    assert (gate.limit.in_flight, gate.limit.waiting) == (0, 0)
    require_all_accounted(crowd, ledger, asked)
    require_one_line_each(path, ledger)
    return Outcome(ledger, crowd, seen)


def require_metrics(sums: dict[str, float], ledger: Ledger, spans: Spans, asked: int) -> None:
    """Metrics and spans tell of the same decisions, and of nothing that goes on."""
    kinds = ledger.reasons.copy()
    for measured in (Reason.SUFFICIENT, Reason.INSUFFICIENT, Reason.UNCERTAIN):
        del kinds[measured.value]
    assert sums["rag_guard.decisions"] == len(ledger.ids)
    assert sums["rag_guard.unmeasured"] == kinds.total()
    assert sums["rag_guard.probability"] == len(ledger.ids) - kinds.total()
    assert sums["rag_guard.in_flight"] == 0
    assert spans.begun == spans.ended
    assert spans.begun["rag_guard.check"] == asked
    assert sums["rag_guard.judge.duration"] == spans.begun["rag_guard.ask"]


# Not "unavailable": what fails thrice in a row has the breaker open by then.
ENDS = ("sufficient", "insufficient", "uncertain", "timeout", "rate_limited")
ODD_ENDS = ("malformed", "content_filter", "refusal", "no_logprobs", "circuit_open", "overloaded")
EACH = 2_000
"""Bytes of memory that one decision may leave: two thirds of what its query's passages alone take,
and a third of what a decision does that is kept."""


@pytest.mark.wire
def test_ten_thousand_decisions_in_a_storm(server: Server, tmp_path: Path) -> None:
    """One decision and one line each; no task, thread, socket or file is left; memory is flat."""
    run_storm(server, tmp_path / "first", 500, SqliteCache(tmp_path / "cache"))
    wait_until(lambda: server.counts()["open"] == 0)
    before = Census.now()
    outcome = run_storm(server, tmp_path / "then", 10_000, MemoryCache(100))
    wait_until(lambda: server.counts()["open"] == 0)
    seen, reasons = outcome.seen, outcome.ledger.reasons
    cancelled = len(outcome.crowd.cancelled)
    assert reasons.keys() >= {*ENDS, *ODD_ENDS}
    assert {"closed", "open", "half_open"} <= seen.states
    assert 0.9 * IN_FLIGHT < seen.in_flight <= IN_FLIGHT
    assert cancelled > 50
    assert seen.growth < 8_000 * EACH
    del outcome
    Census.now().require_no_more_than(before)


# ── Threads in a storm ───────────────────────────────────────────────────────────────────────────


def _check_each(gate: Gate, numbers: Iterator[int], returned: dict[int, str]) -> None:
    while (number := next(numbers, None)) is not None:
        query = query_of(number)
        try:
            decision = gate.check(query.question, query.contexts, lang=query.lang)
        except JudgeError as error:
            decision = cast("Decision", error.decision)
        returned[number] = decision.id
        if decision.reason in (Reason.CIRCUIT_OPEN, Reason.OVERLOADED):
            time.sleep(0.1)


def run_threads(server: Server, path: Path, judge: ChatJudge, checks: int) -> Ledger:
    """A storm that threads go through, and what must hold of it."""
    judge.use_breaker(failures=10, seconds=0.2)
    ledger, returned = Ledger(), dict[int, str]()
    with AuditLog(path) as audit:
        gate = Gate(judge, HURRIED, retry=RETRY, observers=[ledger, audit], limit=Limit(40, 0.2))
        _check_each(gate, numbered(0, 1), returned)
        server.weather("storm")
        numbers = numbered(1, checks - 1)
        with ThreadPoolExecutor(48) as pool:
            for _ in range(48):
                pool.submit(_check_each, gate, numbers, returned)
        server.weather("well")
        most = shared_workers.abandoned
        wait_until(lambda: shared_workers.abandoned == 0)
        assert most <= shared_workers.limit
    judge.close()
    assert ledger.wrong == []
    assert returned == ledger.ids and len(returned) == checks
    assert (gate.limit.in_flight, gate.limit.waiting) == (0, 0)
    require_one_line_each(path, ledger)
    return ledger


@pytest.mark.wire
@pytest.mark.parametrize("kind", [OpenAI, AsyncOpenAI], ids=["blocking", "asynchronous"])
def test_threads_in_a_storm(
    server: Server, tmp_path: Path, kind: type[OpenAI] | type[AsyncOpenAI]
) -> None:
    """The same for threads: calls left behind end, and so do the threads that they are on."""

    def judge() -> ChatJudge:
        client = kind(base_url=server.url, api_key="storm")
        return ChatJudge(client, model="wire-model", close_clients=True)

    run_threads(server, tmp_path / "first", judge(), 200)
    wait_until(lambda: server.counts()["open"] == 0)
    before = Census.now()
    ledger = run_threads(server, tmp_path / "then", judge(), 2_000)
    wait_until(lambda: server.counts()["open"] == 0)
    wait_until(lambda: Census.now().threads - before.threads == Counter())
    assert ledger.reasons.keys() >= {"sufficient", "timeout", "malformed", "circuit_open"}
    Census.now().require_no_more_than(before)


# ── Memory, with nobody else's in it ─────────────────────────────────────────────────────────────


class StormJudge:
    """A judge in this process, whose weather is as bad; ten thousand of its verdicts take seconds.

    It keeps nothing, so that all that grows is the gate's.
    """

    cancellable = True
    fingerprint = "storm"

    def __init__(self, seed: int) -> None:
        self.model: str | None = "storm"
        self.breaker = Breaker("storm", failures=10, seconds=0.02, longest=0.1)
        self._chance = random.Random(seed)

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        raise TypeError("Nobody asks it so.")

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        lot = self._chance.random()
        await asyncio.sleep(60.0 if lot < 0.02 else self._chance.uniform(0, 0.05))
        if lot < 0.2:
            raise JudgeUnavailable("Down.", kind="rate_limited" if lot < 0.1 else None)
        if lot < 0.3:
            raise Unmeasured("Odd.", kind="malformed")
        p = self._chance.random()
        return Verdict(p, p, p, 1.0, "True", "scripted", self.fingerprint, self.model)


class Hoard:
    """An observer that keeps what it is told: a leak, for the sake of the tests of leaks."""

    blocks = False

    def __init__(self) -> None:
        self.decisions = list[Decision]()

    def observe(self, decision: Decision) -> None:
        self.decisions.append(decision)


TRACED = 50
"""Bytes of Python's own allocator that one decision may leave; its id alone takes more."""


def growth(path: Path, checks: int, *others: Observer) -> float:
    """Bytes that each of so many decisions leaves in Python's allocator, after 1,000 others."""
    with AuditLog(path) as audit, traced() as (trace, _, _):
        gate = Gate(
            StormJudge(SEED),
            Policy(deadline=0.2, on_unmeasured=ROUTES),
            retry=Retry(attempts=3, first_wait=0.01, max_wait=0.02),
            cache=MemoryCache(100),
            observers=[audit, *trace, *others],
            limit=Limit(IN_FLIGHT, wait=0.05),
        )
        crowd = Crowd(gate, random.Random(SEED), patience=0.02, keeps_ids=False)
        tracemalloc.start()
        try:
            asyncio.run(crowd.ask(numbered(0, 1_000)))
            early = allocated()
            asyncio.run(crowd.ask(numbered(1_000, checks)))
            return (allocated() - early) / checks
        finally:
            tracemalloc.stop()


def allocated() -> int:
    """Bytes that Python's allocator has given out since it is traced, garbage aside."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_memory_is_flat(tmp_path: Path) -> None:
    """Thousands of decisions leave nothing behind, not even fifty bytes each."""
    assert growth(tmp_path / "audit.jsonl", 3_000) < TRACED


def test_a_leak_would_be_seen_by_the_allocator(tmp_path: Path) -> None:
    """An observer that keeps decisions is seen, so that the test above can fail."""
    assert growth(tmp_path / "audit.jsonl", 1_000, Hoard()) > 2 * EACH > TRACED


def test_a_leak_would_be_seen_by_the_process() -> None:
    """As many kept decisions as the storm has are seen in the memory of the process too."""
    hoard, early = Hoard(), resident()
    gate = Gate(ScriptedJudge(0.9), observers=[hoard])
    for number in range(8_000):
        query = query_of(number)
        gate.check(query.question, query.contexts, lang=query.lang)
    assert len(hoard.decisions) == 8_000
    assert resident() - early > 8_000 * EACH


def test_the_census_would_see_what_is_left() -> None:
    """A decision, a thread, a socket and an open generator of ours are each told of."""
    before = Census.now()
    Census.now().require_no_more_than(before)
    over = threading.Event()
    hoard, left = Hoard(), threading.Thread(target=over.wait, name="left")
    Gate(ScriptedJudge(0.9), observers=[hoard]).check("Is it left?", ["It is."])
    left.start()
    with socket.socket(), Limit(1).held(1.0):
        after = Census.now()
    over.set()
    left.join()
    assert after.threads - before.threads == Counter({"left": 1})
    assert after.files - before.files == Counter({"socket": 1})
    assert {"Decision", "Query", "Verdict", "generator Limit.held"} <= {
        *(after.objects - before.objects)
    }


# ── Cancelled too late ───────────────────────────────────────────────────────────────────────────


class Listener:
    """An observer that counts; with ``until``, one that takes its time."""

    def __init__(self, until: threading.Event | None = None) -> None:
        self.blocks = until is not None
        self.until = until
        self.heard = 0

    def observe(self, decision: Decision) -> None:
        if self.until is not None:
            assert self.until.wait(30)
        self.heard += 1


def test_a_decision_is_told_to_all_although_its_task_is_cancelled() -> None:
    """Once it is made, every observer hears of it, or metrics and audit would never agree: also one
    whose turn had not come when the query was cancelled."""
    over = threading.Event()
    listeners = [Listener(), Listener(over), Listener(over), Listener()]
    gate = Gate(ScriptedJudge(0.9), observers=listeners)

    async def cancelled() -> None:
        task = asyncio.create_task(gate.acheck("Is it told?", ["It is."]))
        while not listeners[-1].heard:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    try:
        asyncio.run(cancelled())
    finally:
        over.set()
    end = time.monotonic() + 10
    while not all(each.heard for each in listeners) and time.monotonic() < end:
        time.sleep(0.005)
    assert [each.heard for each in listeners] == [1, 1, 1, 1]


def test_a_busy_application_delays_no_decision() -> None:
    """Where all threads of the loop's executor are taken, caches and observers have others."""
    over, listener = threading.Event(), Listener(threading.Event())
    assert listener.until is not None
    listener.until.set()

    async def decided() -> Decision:
        loop = asyncio.get_running_loop()
        busy = [loop.run_in_executor(None, over.wait, 30) for _ in range(64)]
        try:
            return await asyncio.wait_for(gate.acheck("Is it told?", ["It is."]), 5)
        finally:
            over.set()
            await asyncio.gather(*busy)

    with tempfile.TemporaryDirectory() as folder:
        cache = SqliteCache(Path(folder) / "cache")
        gate = Gate(ScriptedJudge(0.9), cache=cache, observers=[listener])
        assert asyncio.run(decided()).measured
        cache.close()
    assert listener.heard == 1


# ── What stays of the last failure ───────────────────────────────────────────────────────────────


class DownJudge(StormJudge):
    """Nobody answers."""

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        raise JudgeUnavailable("Down.")


def test_an_open_breaker_keeps_no_query_alive() -> None:
    """It may stay open for good, and by its traceback the error that opened it leads to a whole
    query: to its texts, and to a request with a key."""
    judge, before = DownJudge(SEED), Census.now()
    for number in range(judge.breaker.failures):
        Gate(judge, retry=Retry(attempts=1)).check(f"Is {number} kept?", ["It is."])
    assert judge.breaker.state != "closed"
    Census.now().require_no_more_than(before)
