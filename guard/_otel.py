"""Spans and metrics through the OpenTelemetry API; `guard.trace` says what goes into them."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Status, StatusCode

from guard.breaker import State, all_breakers
from guard.decision import Decision
from guard.trace import Attributes, Span, Value
from guard.worker import fan_out_workers, shared_workers

_NAME = "rag_guard"
_STATES: dict[State, int] = {"closed": 0, "half_open": 1, "open": 2}
# Seconds: a local encoder takes milliseconds, a hosted model seconds.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TENTHS = tuple(number / 20 for number in range(1, 20))


class OtelSpan:
    """One span of OpenTelemetry's."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, attributes: Attributes) -> None:
        """Adds attributes."""
        self._span.set_attributes(_sayable(attributes))

    def fail(self, kind: str) -> None:
        """Marks it as failed."""
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, kind))


class OtelSink:
    """Where spans and measurements go: to the application's providers."""

    def __init__(self, tracer_provider: Any, meter_provider: Any) -> None:
        from guard import __version__

        self._tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
        meter = metrics.get_meter(_NAME, __version__, meter_provider)
        self._decisions = meter.create_counter(
            "rag_guard.decisions", "{decision}", "Decisions, by route and reason."
        )
        self._unmeasured = meter.create_counter(
            "rag_guard.unmeasured", "{decision}", "Decisions without a verdict, by kind."
        )
        self._undecided = meter.create_counter(
            "rag_guard.undecided",
            "{query}",
            "Queries that ended without a decision: cancelled, or by a bug.",
        )
        self._cache_hits = meter.create_counter(
            "rag_guard.cache.hits", "{decision}", "Decisions whose verdict came from the cache."
        )
        self._in_flight = meter.create_up_down_counter(
            "rag_guard.in_flight", "{query}", "Queries in flight."
        )
        self._decision_seconds = meter.create_histogram(
            "rag_guard.decision.duration",
            "s",
            "From the question to the decision.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._judge_seconds = meter.create_histogram(
            "rag_guard.judge.duration",
            "s",
            "One request to one judge.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._probability = meter.create_histogram(
            "rag_guard.probability",
            "1",
            "P(sufficient context) of measured decisions.",
            explicit_bucket_boundaries_advisory=_TENTHS,
        )
        meter.create_observable_gauge(
            "rag_guard.breaker.state",
            [_breakers],
            "{state}",  # Not "1": a collector would add "_ratio" to the name.
            "Of each endpoint's breaker: 0 closed, 1 half-open, 2 open.",
        )
        meter.create_observable_gauge(
            "rag_guard.abandoned",
            [_abandoned],
            "{call}",
            "Calls past their deadline that could not be interrupted and still run.",
        )

    @contextmanager
    def span(
        self, name: str, attributes: Attributes, inside: Span | None = None
    ) -> Generator[OtelSpan]:
        """As `guard.trace.Sink.span`; its parent is the current span, whoever's that is."""
        # Exceptions are told by kind, in `fail`: their text may hold what no trace is to hold.
        with self._tracer.start_as_current_span(
            name,
            attributes=_sayable(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield OtelSpan(span)

    def asked(self, seconds: float, attributes: Attributes) -> None:
        """As `guard.trace.Sink.asked`."""
        self._judge_seconds.record(seconds, _sayable(attributes))

    def in_flight(self, change: int, attributes: Attributes) -> None:
        """As `guard.trace.Sink.in_flight`."""
        self._in_flight.add(change, _sayable(attributes))

    def undecided(self, attributes: Attributes) -> None:
        """As `guard.trace.Sink.undecided`."""
        self._undecided.add(1, _sayable(attributes))

    def decided(self, decision: Decision) -> None:
        """As `guard.trace.Sink.decided`."""
        where: dict[str, Value] = {}
        if decision.deployment is not None:
            where = _sayable({"rag_guard.deployment": decision.deployment})
        route = "raise" if decision.route is None else decision.route.value
        self._decisions.add(
            1,
            {
                **where,
                "rag_guard.route": route,
                "rag_guard.reason": decision.reason.value,
                "rag_guard.enforced": decision.enforced,
            },
        )
        self._decision_seconds.record(
            decision.elapsed_seconds,
            {**where, "rag_guard.measured": decision.measured, "rag_guard.cached": decision.cached},
        )
        if decision.unmeasured:
            self._unmeasured.add(1, {**where, "rag_guard.kind": decision.reason.value})
        if decision.cached:
            self._cache_hits.add(1, where)
        if decision.measured and decision.probability is not None:
            calibrated = {**where, "rag_guard.calibrated": decision.calibrated}
            self._probability.record(decision.probability, calibrated)


def _breakers(_options: CallbackOptions) -> Iterable[Observation]:
    worst = dict[str, int]()
    for breaker in all_breakers():
        # One endpoint has several where several keys ask there.
        worst[breaker.name] = max(worst.get(breaker.name, 0), _STATES[breaker.state])
    return [
        Observation(state, _sayable({"rag_guard.endpoint": name})) for name, state in worst.items()
    ]


def _abandoned(_options: CallbackOptions) -> Iterable[Observation]:
    return [Observation(shared_workers.abandoned + fan_out_workers.abandoned)]


def _sayable(attributes: Attributes) -> dict[str, Value]:
    """Texts without lone surrogates, which no exporter can encode."""
    return {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in attributes.items()
    }
