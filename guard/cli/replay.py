"""``rag-guard replay``: what another policy would have done with past queries."""

import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from guard.cli.options import (
    AnswerAt,
    Config,
    DeploymentName,
    OnStale,
    OnUnmeasured,
    ProfileFile,
    RefuseBelow,
    given,
)
from guard.cli.text import one_line
from guard.errors import ConfigError
from guard.policy import Policy
from guard.profile import Profile

if TYPE_CHECKING:
    from rich.table import Table

    from guard.audit_file import Audit
    from guard.rate import Change, Rate
    from guard.replay import Replayed, Tally
    from guard.routing import ProfileOf

SHOWN = 20
"""Changed queries that are shown to people; --changes keeps all."""


def replay(
    audit: Annotated[Path, typer.Argument(metavar="AUDIT", help="The audit's file.")],
    config: Config = None,
    deployment: DeploymentName = None,
    answer_at: AnswerAt = None,
    refuse_below: RefuseBelow = None,
    profile: ProfileFile = None,
    on_unmeasured: OnUnmeasured = None,
    on_stale: OnStale = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From then on, e.g. 2026-11-01 (UTC).")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Before then, e.g. 2026-12-01 (UTC).")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this deployment's records.")
    ] = None,
    changes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write every query that changes sides, as JSON lines."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the counts as JSON and nothing else.")
    ] = False,
) -> None:
    """Routes past queries anew, by other thresholds, a profile or a whole deployment.

    No judge is asked, and no key is needed: verdicts are those that the audit holds. Without
    --config, queries that could not be measured stay where they went, unless --on-unmeasured says
    otherwise. With the policy that ran, nothing changes.

    With outcomes (rag-guard outcome) it also shows leaks and false refusals, before and after.
    Intervals are of 95 % and take queries to be independent of each other.

    The exit code is 0; 2 for misuse.
    """
    from guard.audit_file import Audit
    from guard.replay import Tally
    from guard.replay import replay as replayed

    options = given(
        answer_at=answer_at,
        refuse_below=refuse_below,
        profile=profile,
        on_unmeasured=on_unmeasured,
        on_stale=on_stale,
    )
    if changes is not None and changes.resolve() == audit.resolve():
        raise ConfigError("--changes names the audit itself.", hint="Name another file.")
    policy, profile_of, as_recorded = _policy(config, deployment, options)
    kept = Audit(
        audit, since=_time("--since", since), until=_time("--until", until), deployment=only
    )
    outcomes, tally, moved = kept.outcomes(), Tally(), list["Replayed"]()
    with _lines(changes) as lines:
        found = replayed(kept.records(), policy, profile_of, as_recorded=as_recorded)
        for one in _watched(found):
            tally.add(one, outcomes.get(one.record.id))
            if one.changed and lines is not None:
                lines.write(json.dumps(one.to_dict()) + "\n")
            if one.changed and len(moved) < SHOWN:
                moved.append(one)
    if tally.n == 0:
        raise ConfigError(
            f"{str(audit)!r} holds no decision that is asked for.",
            hint="See --since, --until and --only.",
        )
    if as_json:
        about = {"audit": str(audit), "broken": kept.broken, "changes": changes and str(changes)}
        typer.echo(json.dumps({**about, **tally.to_dict()}, allow_nan=False))
    else:
        _show(tally, moved, kept, changes)


# ── What is asked for ────────────────────────────────────────────────────────────────────────────


def _policy(
    config: str | None, deployment: str | None, options: Mapping[str, object]
) -> "tuple[Policy, ProfileOf, bool]":
    """The policy, the profiles, and whether what was not measured stays where it went."""
    from guard.config import load_gate

    if config is not None or os.environ.get("RAG_GUARD_CONFIG"):
        gate = load_gate(config, deployment=deployment, options=options, audit=False, asks=False)
        return gate.policy, gate.profile_of, False
    _require_cuts(options)
    policy, profile = _bare(options)
    return policy, lambda verdict: profile, "on_unmeasured" not in options


def _require_cuts(options: Mapping[str, object]) -> None:
    cuts = {"answer_at", "refuse_below"} & options.keys()
    if len(cuts) == 1 or not (cuts or "profile" in options):
        raise ConfigError(
            "It is not said by what to route.",
            hint="Give --answer-at and --refuse-below, or --profile FILE, or --config FILE.",
        )


def _bare(options: Mapping[str, object]) -> tuple[Policy, Profile | None]:
    """Of options alone; a profile is for whichever of the verdicts it fits."""
    from guard.config import resolve

    _, keys = resolve(options=options)
    if keys.profile is None:
        return keys.policy(), None
    return keys.policy(), Profile.load(keys.profile)


def _time(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        why = f"{option}: {one_line(text)[:40]!r} is no time."
        raise ConfigError(why, hint="Write 2026-11-01 or 2026-11-01T08:30 (UTC).") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


# ── Work ─────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _lines(path: Path | None) -> "Generator[TextIO | None]":
    if path is None:
        yield None
        return
    try:
        # Private, as the audit is.
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        why = f"--changes: {str(path)!r} cannot be written: {error.strerror}."
        raise ConfigError(why, hint="Name a file in a folder that is yours.") from error
    with open(number, "w", encoding="utf-8") as file:
        yield file


def _watched(found: "Iterator[Replayed]") -> "Iterator[Replayed]":
    """The same, with a count on a terminal: a year of records takes a while."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.completed:,} queries")
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("replay", total=None)
        for number, one in enumerate(found, start=1):
            yield one
            if number % 1000 == 0:
                bar.update(task, completed=number)


# ── For people ───────────────────────────────────────────────────────────────────────────────────


def _show(tally: "Tally", moved: "list[Replayed]", kept: "Audit", changes: Path | None) -> None:
    from rich.console import Console

    console = Console(emoji=False, highlight=False, markup=False)
    console.print(
        f"{tally.n:,} queries, {tally.unmeasured:,} of them not measured; "
        f"{tally.changed:,} would have gone elsewhere."
    )
    if kept.broken:
        console.print(f"{kept.broken} broken lines of the audit were left out.")
    if len(tally.judges) > 1:
        console.print(f"Their verdicts are of {len(tally.judges)} judges; see --since and --only.")
    console.print(_routes(tally))
    if any(pair[0].n or pair[1].n for pair in _labelled(tally).values()):
        console.print(_rates(tally))
    else:
        console.print("No outcome is known: whether this leaks more or less cannot be said.")
    if moved:
        console.print(_moved(moved))
    if tally.changed > len(moved):
        where = f"in {one_line(str(changes))}" if changes else "with --changes FILE"
        console.print(f"… and {tally.changed - len(moved):,} more: {where}.")


def _routes(tally: "Tally") -> "Table":
    from rich.table import Table

    from guard.replay import ROUTES

    table = Table("route", "before", "after", "change", "95 % interval")
    for route in ROUTES:
        before, after, change = tally.share(route)
        if before.events or after.events:
            table.add_row(route, _share(before), _share(after), _points(change), _span(change))
    return table


def _rates(tally: "Tally") -> "Table":
    from rich.table import Table

    table = Table("by outcomes", "before", "95 % interval", "after", "95 % interval")
    for name, (before, after) in _labelled(tally).items():
        if before.n or after.n:
            cells = (_share(before), _span(before), _share(after), _span(after))
            table.add_row(name, *cells)
    return table


def _labelled(tally: "Tally") -> "dict[str, tuple[Rate, Rate]]":
    return {
        "leaks, of answered": tally.leak(),
        "false refusals, of sufficient": tally.false_refusal(),
        "wrong, of answers written": tally.wrong_answers(),
    }


def _moved(moved: "list[Replayed]") -> "Table":
    from rich.table import Table

    table = Table("query", "time", "P(sufficient)", "before", "after", "because")
    for one in moved:
        found = one.routed.probability
        table.add_row(
            one.record.id[:12],
            f"{one.record.time:%Y-%m-%d %H:%M}",
            "–" if found is None else f"{found.p:.3f}",
            one.before,
            one.after,
            one.routed.reason.value,
        )
    return table


def _share(rate: "Rate") -> str:
    return "–" if rate.value is None else f"{rate.value:.1%} ({rate.events:,} of {rate.n:,})"


def _points(change: "Change") -> str:
    return "–" if change.value is None else f"{change.value * 100:+.1f} points"


def _span(of: "Rate | Change") -> str:
    from guard.rate import Change

    if of.interval is None:
        return "–"
    low, high = (100 * end for end in of.interval)
    return f"{low:+.1f} to {high:+.1f}" if isinstance(of, Change) else f"{low:.1f} to {high:.1f} %"
