"""Traces a few queries into two files of OTLP JSON lines, and shows what is in them.

    python examples/observability/collect.py

The files, spans.jsonl and metrics.jsonl in the current folder, are what a collector would be sent.
The judge follows a script: no model, no key, no network. It needs the packages opentelemetry-sdk
and opentelemetry-exporter-otlp-json-file.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.json.file import FileMetricExporter, FileSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from guard import Gate, JudgeUnavailable, Profile, Retry, Thresholds
from guard.cache import MemoryCache
from guard.judges.several import Chain, Link
from guard.limit import Limit
from guard.testing import ScriptedJudge
from guard.trace import Trace

SPANS, METRICS = Path("spans.jsonl"), Path("metrics.jsonl")
CONTEXTS = ["The mill was opened in 1932.", "It stands by the river."]
KNOWN = {"When was the mill opened?": 0.97, "Is the mill old?": 0.6, "Who built the mill?": 0.04}


def main() -> None:
    """Sets OpenTelemetry up, asks, and shows what was written."""
    for file in (SPANS, METRICS):
        file.unlink(missing_ok=True)
    # What your application does once; Trace() goes wherever these go.
    about = Resource.create({"service.name": "support-bot"})
    tracers = TracerProvider(resource=about)
    tracers.add_span_processor(BatchSpanProcessor(FileSpanExporter(SPANS)))
    meters = MeterProvider(
        [PeriodicExportingMetricReader(FileMetricExporter(METRICS))], resource=about
    )
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)

    ask_some()
    tracers.shutdown()  # Writes what is still in memory.
    meters.shutdown()
    show_spans()
    show_metrics()


def ask_some() -> None:
    """Queries that end in different ways."""
    watch = Trace()
    gate = Gate(
        ScriptedJudge(lambda query: KNOWN[query.question]),
        observers=[watch],
        cache=MemoryCache(),
        deployment="support-bot",
    )
    for question in (*KNOWN, "When was the mill opened?"):  # The last one is in the cache.
        gate.check(question, CONTEXTS)
    gate.check("Is there a museum?", [])

    broken = ScriptedJudge(JudgeUnavailable("The judge is down."), name="hosted")
    Gate(broken, retry=Retry(2, 0, 0), observers=[watch], deployment="outage").check(
        "When was the mill opened?", CONTEXTS
    )
    local = Link(ScriptedJudge(0.95, name="local"), Profile(Thresholds(0.9, 0.2)))
    chain = Gate(Chain([broken, local]), observers=[watch], deployment="fallback")
    chain.check("When was the mill opened?", CONTEXTS)

    limit = Limit(in_flight=1, wait=0)
    full = Gate(ScriptedJudge(0.95), limit=limit, observers=[watch], deployment="full")
    with limit.held(1.0):  # Somebody else is being judged.
        full.check("When was the mill opened?", CONTEXTS)

    slow = Gate(ScriptedJudge(0.95, delay=5), observers=[watch], deployment="impatient")
    asyncio.run(leave(slow))


async def leave(gate: Gate) -> None:
    """A user who goes away: the query is cancelled."""
    try:
        async with asyncio.timeout(0.05):
            await gate.acheck("When was the mill opened?", CONTEXTS)
    except TimeoutError:
        pass


def show_spans() -> None:
    """How many queries and requests ended in which way."""
    counts = Counter[tuple[str, ...]]()
    for span in parts(SPANS, "resourceSpans", "scopeSpans", "spans"):
        known = named(span["attributes"])
        where = known.get("rag_guard.deployment") or known["llm.model_name"]
        rest = (known.get(name, "-") for name in ("rag_guard.route", "rag_guard.reason"))
        counts[span["name"], where, *rest, known.get("error.type", "-")] += 1
    print(f"\n{SPANS}")
    print_row("span", "of", "route", "reason", "error.type", "number")
    for row, number in sorted(counts.items()):
        print_row(*row, str(number))


def show_metrics() -> None:
    """Each metric, summed over its series."""
    print(f"\n{METRICS}")
    print_row("metric", "series", "values")
    for metric in parts(METRICS, "resourceMetrics", "scopeMetrics", "metrics"):
        kind = next(kind for kind in ("sum", "gauge", "histogram") if kind in metric)
        points = metric[kind]["dataPoints"]
        print_row(metric["name"], str(len(points)), f"{sum(map(value, points)):g}")


def parts(file: Path, *path: str) -> Iterator[Any]:
    """What lies at the end of a path of lists, in each line of a file."""
    for line in file.read_text("utf-8").splitlines():
        found: list[Any] = [json.loads(line)]
        for name in path:
            found = [inner for outer in found for inner in outer.get(name, [])]
        yield from found


def named(attributes: list[Any]) -> dict[str, str]:
    """Attributes as OTLP writes them, as a dictionary of texts."""
    return {one["key"]: str(next(iter(one["value"].values()))) for one in attributes}


def value(point: Any) -> float:
    """A number, or how many numbers a histogram has taken."""
    return float(point.get("count") or point.get("asDouble") or point.get("asInt") or 0)


def print_row(first: str, *rest: str) -> None:
    """A line of a table."""
    print(f"{first:<28}" + "".join(f"{cell:<14}" for cell in rest).rstrip())


if __name__ == "__main__":
    main()
