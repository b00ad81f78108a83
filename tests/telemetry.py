"""OpenTelemetry's own SDK, with exporters that keep everything in memory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from guard.trace import ASK, CHECK, Trace

Labels = frozenset[tuple[str, Any]]


@dataclass
class Telemetry:
    """Providers of one test, and what they were told."""

    spans: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    tracers: TracerProvider = field(default_factory=TracerProvider)

    def __post_init__(self) -> None:
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.meters = MeterProvider([self.reader])

    def trace(self, *, texts: bool = False) -> Trace:
        """A trace that goes here."""
        return Trace(texts=texts, tracer_provider=self.tracers, meter_provider=self.meters)

    def of(self, name: str) -> list[ReadableSpan]:
        """The ended spans of a name, in the order of their ends."""
        return [span for span in self.spans.get_finished_spans() if span.name == name]

    @property
    def checks(self) -> list[ReadableSpan]:
        """One a query."""
        return self.of(CHECK)

    @property
    def asks(self) -> list[ReadableSpan]:
        """One a request."""
        return self.of(ASK)

    def points(self, metric: str) -> dict[Labels, float]:
        """Each series of a metric: its value, or how many values a histogram holds."""
        found: dict[Labels, float] = {}
        for one in self.metrics():
            if one.name == metric:
                for point in one.data.data_points:
                    series: Labels = frozenset(dict[str, Any](point.attributes or {}).items())
                    assert series not in found
                    histogram = isinstance(point, HistogramDataPoint)
                    found[series] = point.count if histogram else point.value
        return found

    def metrics(self) -> list[Any]:
        """All metrics that have a value."""
        data = self.reader.get_metrics_data()
        if data is None:
            return []
        scopes = [scope for group in data.resource_metrics for scope in group.scope_metrics]
        return [one for scope in scopes for one in scope.metrics]

    def total(self, metric: str, **wanted: Any) -> float:
        """The sum of the series whose labels have these values, named without their prefix."""
        asked = {(f"rag_guard.{name}", value) for name, value in wanted.items()}
        return sum(value for series, value in self.points(metric).items() if asked <= series)

    def everything(self) -> str:
        """All that was told, as text: names, attributes, events, statuses, points."""
        spans = [span.to_json() for span in self.spans.get_finished_spans()]
        points = [one.to_json() for one in self.metrics()]
        return "\n".join([*spans, *points])


def labels(**values: Any) -> Labels:
    """The labels of a series, named without their prefix."""
    return frozenset((f"rag_guard.{name}", value) for name, value in values.items())


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    """A span's attributes."""
    return dict(span.attributes or {})


def parent_id(span: ReadableSpan) -> int | None:
    """The id of the span that it stands in."""
    return None if span.parent is None else span.parent.span_id


def span_id(span: ReadableSpan) -> int:
    """Its own."""
    context: SpanContext | None = span.context
    assert context is not None
    return context.span_id


def problem(span: ReadableSpan) -> tuple[str, Any]:
    """The name of a span's status, and its ``error.type``."""
    assert span.events == () and span.end_time is not None
    kind = attributes(span).get("error.type")
    assert span.status.description == kind  # And nothing that an exception said.
    return span.status.status_code.name, kind


def logged(lines: list[str]) -> list[dict[str, Any]]:
    """Lines of JSON."""
    return [json.loads(line) for line in lines]
