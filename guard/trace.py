"""A trace of every query: spans and metrics through OpenTelemetry, or lines in the log without it.

    gate = Gate(judge, observers=[Trace()])

One span a query, named ``rag_guard.check``, with OpenInference's kind GUARDRAIL: whatever ends the
query, a decision, an error, a cancellation or a bug, ends its span and says so. Inside stands a
span for each request to a judge. Names and meanings: docs/observability.md.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

from guard.decision import Decision
from guard.errors import UNMEASURED_KINDS, ConfigError, JudgeError
from guard.judge import Judge, Profiled
from guard.query import Query

logger = logging.getLogger("guard.trace")

CHECK, ASK = "rag_guard.check", "rag_guard.ask"
"""Names of the spans: one query; one request to one judge."""

MAX_DOCUMENTS = 64
"""Contexts whose texts a span holds at most. OpenTelemetry keeps 128 attributes unless told
otherwise, and drops those that were set first: what the query was and where it went."""

Value = str | bool | int | float
Attributes = Mapping[str, Value]


class Span(Protocol):
    """One stretch of time, with attributes."""

    def set(self, attributes: Attributes) -> None:
        """Adds attributes."""
        ...

    def fail(self, kind: str) -> None:
        """Marks it as failed, and with what."""
        ...


class Sink(Protocol):
    """Where spans and measurements go."""

    @contextmanager
    def span(
        self, name: str, attributes: Attributes, inside: Span | None = None
    ) -> Generator[Span]:
        """A span, the current one for as long as the block runs.

        ``inside`` tells those that know of no current span which one it is in.
        """
        ...

    def asked(self, seconds: float, attributes: Attributes) -> None:
        """One request to a judge has ended."""
        ...

    def in_flight(self, change: int, attributes: Attributes) -> None:
        """So many more queries are in flight."""
        ...

    def decided(self, decision: Decision) -> None:
        """One decision, once."""
        ...

    def undecided(self, attributes: Attributes) -> None:
        """One query has ended without a decision."""
        ...


class Trace:
    """Watches every query of a gate, and counts its decisions.

    It goes where the application's OpenTelemetry set-up sends it; without one it costs next to
    nothing. Where ``opentelemetry-api`` is not installed, each span is a line of JSON in the log
    ``guard.trace``, at level INFO, and there are no metrics.

    Args:
        texts: whether spans hold question, contexts and message. Off, they hold no text of a user,
            an index or a model.
        tracer_provider, meter_provider: OpenTelemetry's; ``None`` = the global ones, also where
            they are set later.

    Raises:
        ConfigError: ``texts`` is not a bool.
    """

    blocks = False

    def __init__(
        self, *, texts: bool = False, tracer_provider: Any = None, meter_provider: Any = None
    ) -> None:
        _require_flag(texts)
        self.texts = texts
        self._sink = _sink(tracer_provider, meter_provider)

    def observe(self, decision: Decision) -> None:
        """Counts one decision: the one that its user was shown, where a turn took several."""
        self._sink.decided(decision)

    @contextmanager
    def watching(self, query: Query, deployment: str | None) -> Generator["QuerySpan"]:
        """Around one query; see `guard.watch.Watcher`."""
        where: Attributes = {} if deployment is None else {"rag_guard.deployment": deployment}
        self._sink.in_flight(+1, where)
        try:
            with self._sink.span(CHECK, {**_KIND, **where, **_asked(query, self.texts)}) as span:
                with self._counting(where), _ending(span):
                    yield QuerySpan(span, self._sink, self.texts)
        finally:
            self._sink.in_flight(-1, where)

    @contextmanager
    def _counting(self, where: Attributes) -> Generator[None]:
        """Counts a query that ends without a decision; no other metric would show it."""
        try:
            yield
        except BaseException as error:
            self._sink.undecided({**where, "error.type": _kind_of(error)})
            raise


class QuerySpan:
    """The span of one query; see `guard.watch.Watch`."""

    def __init__(self, span: Span, sink: Sink, texts: bool) -> None:
        self._span, self._sink, self._texts = span, sink, texts

    @contextmanager
    def asking(self, judge: Judge) -> Generator[None]:
        """Around one request to one judge; a chain or a mean is none, its judges are asked."""
        if isinstance(judge, Profiled) or hasattr(judge, "judges"):
            yield
            return
        about = {"openinference.span.kind": "EVALUATOR", "rag_guard.fingerprint": judge.fingerprint}
        model: Attributes = {"llm.model_name": judge.model or type(judge).__name__}
        with self._sink.span(ASK, {**about, **model}, self._span) as span:
            with self._timed(model), _ending(span):
                yield

    @contextmanager
    def _timed(self, model: Attributes) -> Generator[None]:
        started, outcome = time.perf_counter(), "verdict"
        try:
            yield
        except BaseException as error:
            outcome = _kind_of(error)
            raise
        finally:
            seconds = time.perf_counter() - started
            self._sink.asked(seconds, {**model, "rag_guard.outcome": outcome})

    def decided(self, decision: Decision) -> None:
        """Writes the decision into the span; one that was not measured is a failure of it."""
        self._span.set(attributes_of(decision))
        if self._texts and decision.message is not None and not decision.passes:
            self._span.set({"output.value": decision.message})
        if decision.unmeasured:
            self._span.fail(decision.reason.value)


_KIND: Attributes = {"openinference.span.kind": "GUARDRAIL"}


def _require_flag(texts: object) -> None:
    if not isinstance(texts, bool):
        raise ConfigError(
            f"`texts` is {texts!r:.40}, not True or False.",
            hint="It decides whether spans hold your users' texts.",
        )


def _asked(query: Query, texts: bool) -> Attributes:
    """What is known before anything is asked."""
    known: dict[str, Value] = {
        "rag_guard.question_hash": query.question_hash,
        "rag_guard.contexts": len(query.contexts),
    }
    if texts:
        known["input.value"] = query.question
        for number, text in enumerate(query.contexts[:MAX_DOCUMENTS]):
            known[f"input.documents.{number}.document.content"] = text
    return known


def attributes_of(decision: Decision) -> dict[str, Value]:
    """A decision as attributes of its span; what is not known is left out.

    Names that begin with ``rag_guard.`` mean what they mean in `guard.Decision.to_dict`, and of
    suspects there is the number; the others are OpenInference's and OpenTelemetry's (semantic
    conventions for generative AI).
    """
    record, verdict = decision.to_dict(), decision.verdict
    known: dict[str, object] = {f"rag_guard.{name}": record[name] for name in _FIELDS}
    known["rag_guard.decision_id"] = decision.id
    known["rag_guard.measured"] = decision.measured
    known["rag_guard.tried"] = len(decision.tried)
    if verdict is not None:
        known["rag_guard.suspects"] = len(verdict.suspects)
        known["rag_guard.suspect_turns"] = len(verdict.suspect_turns)
    # "raise" where the caller got an error in place of a route.
    known["rag_guard.route"] = "raise" if decision.route is None else decision.route.value
    known["gen_ai.evaluation.name"] = "has_sufficient_context"
    if decision.measured:
        known["gen_ai.evaluation.score.value"] = decision.probability
        known["gen_ai.evaluation.score.label"] = known["rag_guard.route"]
    known["gen_ai.evaluation.explanation"] = decision.detail
    known["llm.model_name"] = record["model"]
    usage = None if verdict is None else verdict.usage
    if usage is not None and not decision.cached:  # What is in the cache was paid for before.
        known["llm.token_count.prompt"] = usage.input_tokens
        known["llm.token_count.completion"] = usage.output_tokens
    return {name: value for name, value in known.items() if isinstance(value, Value)}


_FIELDS = (
    "reason",
    "enforced",
    "mode",
    "probability",
    "low",
    "high",
    "mass",
    "answer_at",
    "refuse_below",
    "calibrated",
    "profile",
    "signal",
    "fingerprint",
    "system_fingerprint",
    "coverage",
    "windows",
    "seen",
    "p_without",
    "cached",
    "attempts",
    "breaker",
    "elapsed_seconds",
    "cost",
    "currency",
)


@contextmanager
def _ending(span: Span) -> Generator[None]:
    """Says in the span what else than a decision has ended it. The error's own text is not told: it
    may be of a server, or of a judge that is not ours."""
    try:
        yield
    except BaseException as error:
        span.fail(_kind_of(error))
        raise


def _kind_of(error: BaseException) -> str:
    # A judge that is not ours may put any text where the kind belongs.
    if isinstance(error, JudgeError) and error.kind in UNMEASURED_KINDS:
        return error.kind
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    return type(error).__name__


def _sink(tracer_provider: Any, meter_provider: Any) -> Sink:
    try:
        from guard._otel import OtelSink
    except ImportError:
        _warn_of_log()
        return LogSink()
    return OtelSink(tracer_provider, meter_provider)


@cache
def _warn_of_log() -> None:
    """Once a process, however many gates there are."""
    logger.warning(
        "OpenTelemetry is not installed: spans are written to this log, and there are no "
        'metrics. pip install "rag-guard[otel]"'
    )


class LogSink:
    """Spans as lines of JSON in the log ``guard.trace``."""

    @contextmanager
    def span(
        self, name: str, attributes: Attributes, inside: Span | None = None
    ) -> Generator["LogSpan"]:
        """As `Sink.span`."""
        span, started = LogSpan(dict(attributes)), time.perf_counter()
        about = {"span": name, "id": span.id}
        if isinstance(inside, LogSpan):
            about["parent"] = inside.id
        try:
            yield span
        finally:
            seconds = round(time.perf_counter() - started, 6)
            logger.info("%s", json.dumps({**about, "seconds": seconds, **span.attributes}))

    def asked(self, seconds: float, attributes: Attributes) -> None:
        """Nothing: its span says it."""

    def in_flight(self, change: int, attributes: Attributes) -> None:
        """Nothing: a log has no gauges."""

    def decided(self, decision: Decision) -> None:
        """Nothing: its span says it."""

    def undecided(self, attributes: Attributes) -> None:
        """Nothing: its span says it."""


class LogSpan:
    """What one line will hold."""

    def __init__(self, attributes: dict[str, Value]) -> None:
        self.id = uuid.uuid4().hex[:16]
        self.attributes = attributes

    def set(self, attributes: Attributes) -> None:
        """Adds attributes."""
        self.attributes.update(attributes)

    def fail(self, kind: str) -> None:
        """Marks it as failed."""
        self.attributes["error.type"] = kind
