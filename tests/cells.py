"""Cells of the fault matrix: one fault under one policy, what must come of it, and who counts."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from faulty import GOOD, Fault, Server, always, http, raw
from openai import AsyncOpenAI, OpenAI

from guard import Decision, Gate, JudgeError, Policy, Retry, Route
from guard.judges import ChatJudge
from guard.observer import Observer
from guard.policy import OnUnmeasured

KEY = "sk-canary-0123456789"
QUESTION = "In the canary-question, when did it open?"
CONTEXTS = ["canary-first: the bridge opened in 1932.", "The canary-second one is long."]
OVERRUN = 2.0  # Seconds after the deadline at which a query counts as hanging.
HURRIED = {"first_wait": 0.01, "max_wait": 0.02}


@dataclass
class Cell:
    """One fault under one policy.

    Attributes:
        caught: the error that the caller got, if any.
        seconds: how long the caller waited.
    """

    fault: Fault
    choice: str
    attempts: int
    server: Server = field(init=False)
    gate: Gate = field(init=False)
    decision: Decision | None = None
    caught: JudgeError | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"on_unmeasured = {self.choice}, attempts = {self.attempts}"

    def open(
        self, client: Callable[[str], OpenAI | AsyncOpenAI], observers: list[Observer]
    ) -> None:
        self.server = self.fault.serve()
        judge = ChatJudge(client(self.server.url), model="wire-model", close_clients=True)
        choice = cast("OnUnmeasured", self.choice)
        self.gate = Gate(
            judge,
            Policy(deadline=self.fault.deadline, on_unmeasured=choice),
            retry=Retry(self.attempts, **HURRIED),
            observers=observers,
        )

    def close(self) -> None:
        self.server.close()
        cast("ChatJudge", self.gate.judge).close()

    def check(self) -> None:
        started = time.monotonic()
        try:
            self.decision = self.gate.check(QUESTION, CONTEXTS)
        except JudgeError as error:
            self._note(error)
        self.seconds = time.monotonic() - started

    async def acheck(self) -> None:
        started = time.monotonic()
        try:
            self.decision = await self.gate.acheck(QUESTION, CONTEXTS)
        except JudgeError as error:
            self._note(error)
        self.seconds = time.monotonic() - started

    def _note(self, error: JudgeError) -> None:
        assert isinstance(error.decision, Decision)
        self.caught, self.decision = error, error.decision

    def complaints(self) -> Generator[str]:
        """What is not as it must be."""
        if self.decision is None:
            yield "there is no record"
            return
        for name, (found, wanted) in self._compared(self.decision).items():
            if found != wanted:
                yield f"{name}: {found!r}, not {wanted!r} ({self.decision.detail})"
        if self.seconds > self.fault.deadline + OVERRUN:
            yield f"{self.seconds:.2f} s, where the deadline is {self.fault.deadline} s"
        if "canary" in self.decision.detail or not self.decision.detail:
            yield f"detail: {self.decision.detail!r}"

    def _compared(self, made: Decision) -> dict[str, tuple[object, object]]:
        raises, answers = self.choice == "raise", self.choice == "answer"
        record = made.to_dict()
        return {
            "reason": (made.reason, self.fault.reason),
            "route": (made.route, None if raises else Route(self.choice)),
            "raised": (self.caught and self.caught.kind, self.fault.reason if raises else None),
            "measured": ((made.measured, made.unmeasured), (False, True)),
            "numbers": ([record[one] for one in ("probability", "low", "high")], [None] * 3),
            "verdict": (made.verdict, None),
            "passes": (made.passes, answers),
            "message": (made.message is None, answers or raises),
            "attempts": (made.attempts, self.fault.attempts(self.attempts)),
            "requests": (self.server.requests, self.fault.requests(self.attempts)),
            "breaker": (made.breaker, "closed"),
        }


def warm_up() -> None:
    """One good query in each way: what is imported and made at the first one would take a cell
    whose deadline is short all of its time."""
    with raw(always(http(GOOD))) as server:
        for kind in (OpenAI, AsyncOpenAI):
            client = kind(base_url=server.url, api_key=KEY)
            judge = ChatJudge(client, model="wire-model", close_clients=True)
            assert Gate(judge).check(QUESTION, CONTEXTS).measured
            judge.close()


class Judged(Protocol):
    """Whatever is counted: a cell of either matrix."""

    @property
    def choice(self) -> str: ...

    @property
    def fault(self) -> Fault: ...


class Tally:
    """Counts what an operator's dashboard would: passes, and what was measured."""

    blocks = False

    def __init__(self) -> None:
        self.counts = Counter[str]()

    def observe(self, decision: Decision) -> None:
        self.counts["decisions"] += 1
        self.counts["measured"] += decision.measured
        self.counts["unmeasured"] += decision.unmeasured
        self.counts["passes"] += decision.passes
        self.counts["passes that were measured"] += decision.passes and decision.measured


def metrics() -> tuple[list[Observer], Callable[[], dict[str, float]]]:
    """An observer that counts with OpenTelemetry, and what it has counted; none without its SDK."""
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    except ImportError:
        return [], dict[str, float]
    from guard.trace import Trace

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)

    def counted() -> dict[str, float]:
        found = dict[str, float]()
        data: Any = reader.get_metrics_data()
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.data.data_points:
                found[metric.name] = found.get(metric.name, 0) + _amount(point)
                reason = point.attributes.get("rag_guard.reason")
                if reason is not None:
                    found[f"{metric.name}, {reason}"] = _amount(point)
        provider.shutdown()
        return found

    return [Trace(meter_provider=provider)], counted


def _amount(point: Any) -> float:
    return float(point.count if hasattr(point, "count") else point.value)


def require_nothing_passed(
    cells: Sequence[Judged], counts: Counter[str], metered: dict[str, float]
) -> None:
    """No counter of measured decisions, or of passes with a measurement behind them, has moved."""
    assert counts["decisions"] == counts["unmeasured"] == len(cells)
    assert counts["measured"] == counts["passes that were measured"] == 0
    assert counts["passes"] == sum(cell.choice == "answer" for cell in cells)
    if not metered:
        return
    reason = cells[0].fault.reason.value
    assert metered["rag_guard.decisions"] == metered["rag_guard.unmeasured"] == len(cells)
    assert metered[f"rag_guard.decisions, {reason}"] > 0
    assert "rag_guard.decisions, sufficient" not in metered
    assert "rag_guard.probability" not in metered
    assert metered["rag_guard.in_flight"] == 0
