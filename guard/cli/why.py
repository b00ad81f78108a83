"""``rag-guard why``: why a past query took its route, from the audit."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guard.cli.extent import extent
from guard.cli.text import one_line, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guard.audit_file import Record
    from guard.outcomes import Outcome

    Texts = tuple[str, tuple[str, ...]]


def why(
    id: Annotated[str, typer.Argument(metavar="ID", help="Of the decision, or how it begins.")],
    audit: Annotated[Path, typer.Option(metavar="FILE", help="The audit that holds it.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record as JSON and nothing else.")
    ] = False,
) -> None:
    """Says why a past query was answered, sent back or refused.

    By what the audit holds: probability and bounds, how much of the contexts was judged, which
    passages speak to the judge, thresholds, judge, profile, what was not measured, and what was
    said of it later. Question and contexts are shown where the audit was
    told to keep texts, and still has them, with [suspect] beside what speaks to the judge; else
    their hashes are.

    The exit code is 0; 2 for misuse.
    """
    from guard.audit_file import Audit

    kept = Audit(audit)
    record = kept.find(id)
    outcome, texts = kept.outcomes().get(record.id), kept.texts([record.id]).get(record.id)
    if as_json:
        typer.echo(json.dumps(_as_json(record, outcome, texts), allow_nan=False))
        return
    for line in _lines(record, outcome, texts):
        typer.echo(plain(line))


def _as_json(
    record: "Record", outcome: "Outcome | None", texts: "Texts | None"
) -> dict[str, object]:
    return {
        **asdict(record),
        "time": record.time.isoformat(),
        "outcome": None if outcome is None else asdict(outcome),
        "question": texts and texts[0],
        "contexts": texts and list(texts[1]),
    }


def _lines(record: "Record", outcome: "Outcome | None", texts: "Texts | None") -> "Iterator[str]":
    """Name and value, a line each."""
    facts = {
        "decision": record.id,
        "time": f"{record.time:%Y-%m-%d %H:%M:%S %Z}",
        "route": f"{record.route or 'undecided: the error was raised'}, {_acted(record)}",
        "reason": f"{record.reason}: {one_line(record.detail)}",
        "P(sufficient)": _probability(record),
        **dict(extent(record.verdict, record.reason) if record.verdict else ()),
        "thresholds": f"answer at {record.answer_at:g}, refuse below {record.refuse_below:g}",
        "judge": f"{record.fingerprint}{', from the cache' if record.cached else ''}",
        "profile": record.profile or "none",
        "deployment": record.deployment or "none",
        "took": f"{record.elapsed_seconds:.3f} s{_attempts(record)}",
        "said later": _said(outcome),
        "question": one_line(texts[0]) if texts else f"SHA-256 {record.question_hash}",
    }
    if texts and record.verdict and record.verdict.suspect_turns:
        facts["earlier turns"] = "kept by no audit"
    if not texts:
        facts["contexts"] = f"SHA-256 {record.contexts_hash}"
    for name, value in facts.items():
        yield f"{name:14} {value}"
    suspects = record.verdict.suspects if record.verdict else ()
    for place, context in enumerate(texts[1] if texts else ()):
        mark = " [suspect]" if place in suspects else ""
        yield f"{f'context {place + 1}{mark}':14} {one_line(context)}"


def _acted(record: "Record") -> str:
    return "acted on" if record.enforced else "in shadow: recorded, not acted on"


def _probability(record: "Record") -> str:
    if record.probability is None:
        return "not measured"
    how = "calibrated" if record.calibrated else "not calibrated"
    return f"{record.probability:.4f} in [{record.low:.4f}, {record.high:.4f}], {how}"


def _attempts(record: "Record") -> str:
    if record.attempts is None:
        return ""
    breaker = f", breaker {record.breaker.replace('_', '-')}" if record.breaker else ""
    return f", judge asked {record.attempts} {'time' if record.attempts == 1 else 'times'}{breaker}"


def _said(outcome: "Outcome | None") -> str:
    if outcome is None:
        return "nothing"
    words = {
        "sufficient": outcome.sufficient is True,
        "insufficient": outcome.sufficient is False,
        "helpful": outcome.helpful is True,
        "wrong": outcome.helpful is False,
    }
    return ", ".join(word for word, holds in words.items() if holds)
