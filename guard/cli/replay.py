"""``rag-guard replay``: what another policy would have done with past queries."""

import json
import os
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from guard._json import as_map
from guard.cli.options import (
    AnswerAt,
    Config,
    DeploymentName,
    OnStale,
    OnUnmeasured,
    ProfileFile,
    RefuseBelow,
    given,
    time_of,
)
from guard.cli.paths import looked_at, require_place
from guard.cli.text import one_line
from guard.errors import ConfigError
from guard.policy import Policy
from guard.profile import Profile

if TYPE_CHECKING:
    from rich.table import Table

    from guard.audit_file import Audit
    from guard.rate import Change, Rate, Shift
    from guard.replay import Replayed, Router, Tally

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
        str | None,
        typer.Option(metavar="NAME", help="Only this deployment's records; else --deployment's."),
    ] = None,
    changes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write every query that changes sides, as JSON lines; replaces such a list only.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the counts as JSON and nothing else.")
    ] = False,
) -> None:
    """Routes past queries anew, by other thresholds, a profile or a whole deployment.

    No judge is asked, and no key is needed: verdicts are those that the audit holds. With --config,
    one threshold may be given alone. Without it, queries that could not be measured stay where they
    went, unless --on-unmeasured says otherwise. With the policy that ran, nothing changes.

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
    if changes is not None:
        _require_replaceable(changes)
    policy, route, as_recorded = _policy(config, deployment, options)
    only = deployment if only is None else only
    kept = Audit(
        audit, since=time_of("--since", since), until=time_of("--until", until), deployment=only
    )
    outcomes, tally, moved = kept.outcomes(), Tally(), list["Replayed"]()
    with _lines(changes) as lines:
        found = replayed(kept.records(), policy, route, as_recorded=as_recorded)
        for one in _watched(found):
            tally.add(one, outcomes.get(one.record.id))
            if one.changed and lines is not None:
                lines.write(json.dumps(one.to_dict()) + "\n")
            if one.changed and len(moved) < SHOWN:
                moved.append(one)
        if tally.n == 0:
            raise _nothing(audit, asked=(since, until, only) != (None, None, None))
    if as_json:
        about = {"audit": str(audit), "broken": kept.broken, "changes": changes and str(changes)}
        typer.echo(json.dumps({**about, **tally.to_dict()}, allow_nan=False))
    else:
        _show(tally, moved, kept, changes)


# ── What is asked for ────────────────────────────────────────────────────────────────────────────


def _policy(
    config: str | None, deployment: str | None, options: Mapping[str, object]
) -> "tuple[Policy, Router, bool]":
    """The policy, what routes by it, and whether what was not measured stays where it went."""
    from guard.config import load_gate
    from guard.routing import route_verdict

    if config is not None or os.environ.get("RAG_GUARD_CONFIG"):
        gate = load_gate(config, deployment=deployment, options=options, audit=False, asks=False)
        return gate.policy, gate.route, False
    if deployment is not None:
        raise ConfigError(
            "--deployment is for a policy of a configuration, and none is named.",
            hint="Name it with --config; for one deployment's records alone there is --only.",
        )
    _require_cuts(options)
    policy, profile = _bare(options)
    return policy, partial(route_verdict, policy, profile), "on_unmeasured" not in options


def _require_cuts(options: Mapping[str, object]) -> None:
    cuts = ("answer_at", "refuse_below")
    missing = [f"--{cut.replace('_', '-')}" for cut in cuts if cut not in options]
    if len(missing) == 1:
        raise ConfigError(
            f"{missing[0]} is missing: one threshold is half a pair.",
            hint="Give both; or --config FILE, whose other threshold is then kept.",
        )
    if missing and "profile" not in options:
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


# ── Work ─────────────────────────────────────────────────────────────────────────────────────────


def _require_replaceable(path: Path) -> None:
    """Raises `ConfigError` where something else than a list of changes stands there."""
    require_place("--changes", path)
    with looked_at("--changes", path):
        if path.exists() and not _is_list_of_changes(path):
            raise ConfigError(
                f"--changes: {str(path)!r} is there and holds no changes of a replay.",
                hint="It is left as it is; name another file.",
            )


def _is_list_of_changes(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.readline(10_000)
    with suppress(ValueError, RecursionError):
        return {"id", "before", "after"} <= as_map(json.loads(first)).keys()
    return False


@contextmanager
def _lines(path: Path | None) -> "Generator[TextIO | None]":
    """A draft, private as the audit is, that takes the file's place once all is written."""
    if path is None:
        yield None
        return
    with looked_at("--changes", path):
        target = Path(os.path.realpath(path))
        number, draft = tempfile.mkstemp(dir=target.parent, prefix=".changes-")
        try:
            with open(number, "w", encoding="utf-8") as file:
                yield file
            os.replace(draft, target)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft)


def _nothing(audit: Path, *, asked: bool) -> ConfigError:
    if asked:
        return ConfigError(
            f"{str(audit)!r} holds no decision that is asked for.",
            hint="See --since, --until, --only and --deployment.",
        )
    return ConfigError(
        f"{str(audit)!r} is empty: no decision has been recorded yet.",
        hint="Ask the deployment that writes it something.",
    )


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
    for line in _remarks(tally, kept):
        console.print(line)
    console.print(_routes(tally))
    console.print(*_outcomes(tally), sep="\n")
    if moved:
        console.print(_moved(moved))
    if tally.changed > len(moved):
        where = f"in {one_line(str(changes))}" if changes else "with --changes FILE"
        console.print(f"… and {tally.changed - len(moved):,} more: {where}.")


def _remarks(tally: "Tally", kept: "Audit") -> "Iterator[str]":
    if kept.broken:
        places = f" ({', '.join(map(one_line, kept.broken_at))})"
        yield f"Lines cut off by a crash, left out: {kept.broken}{places}."
    if len(tally.deployments) > 1:
        listed = ", ".join(
            f"{one_line(name or 'none')} {n:,}"
            for name, n in sorted(tally.deployments.items(), key=lambda item: item[0] or "")
        )
        yield f"They are of {len(tally.deployments)} deployments: {listed}; see --only."
    if len(tally.judges) > 1:
        yield f"Their verdicts are of {len(tally.judges)} judges; see --since and --only."
    if unknown := tally.without_unknown:
        yield _without_unknown(unknown)


def _without_unknown(unknown: int) -> str:
    if unknown == 1:
        return "1 query holds suspects and was not judged without them: counted as asked back."
    return (
        f"{unknown:,} queries hold suspects and were not judged without them: counted as asked "
        "back."
    )


def _routes(tally: "Tally") -> "Table":
    from rich.table import Table

    from guard.replay import ROUTES

    table = Table("route", "before", "after", "change", "95 % interval")
    for route in ROUTES:
        before, after, change = tally.share(route)
        if before.events or after.events:
            # Where nothing moves there is nothing to be unsure of.
            moved = change if tally.changed else None
            table.add_row(route, _share(before), _share(after), _points(moved), _span(moved))
    return table


def _outcomes(tally: "Tally") -> "Iterator[Table | str]":
    """What people said, before and after; and what nobody did."""
    from rich.table import Table

    answers = tally.helpful.total() + tally.wrong.total()
    contexts = tally.sufficient.total() + tally.insufficient.total()
    if contexts or answers:
        table = Table("by outcomes", "before", "after", "change", "95 % interval")
        for name, (before, after, change) in _labelled(tally).items():
            if before.n or after.n:
                cells = _share(before), _share(after), _points(change), _span(change)
                table.add_row(name, *cells)
        yield table
    if not contexts:
        known = "No outcome is known"
        if answers:
            are = "outcome is about an answer" if answers == 1 else "outcomes are about answers"
            known = f"{answers:,} {are}, none about contexts"
        yield f"{known}: leaks and false refusals need sufficient or insufficient."


def _labelled(tally: "Tally") -> "dict[str, tuple[Rate, Rate, Change | Shift]]":
    return {
        "leaks, of answered": tally.leak(),
        "false refusals, of sufficient": tally.false_refusal(),
        "wrong, of answered": tally.wrong_answers(),
        "withheld, of helpful": tally.helpful_lost(),
    }


def _moved(moved: "list[Replayed]") -> "Table":
    from rich.table import Table

    table = Table()
    for name in ("query", "UTC", "P", "before", "after", "because"):
        table.add_column(name, no_wrap=name != "because")
    for one in moved:
        found = one.routed.probability
        table.add_row(
            one.record.id[:12],
            f"{one.record.time.astimezone(UTC):%m-%d %H:%M}",
            "–" if found is None else f"{found.p:.3f}",
            one.before,
            one.after,
            one.routed.reason.value,
        )
    return table


def _share(rate: "Rate") -> str:
    return "–" if rate.value is None else f"{rate.value:.1%} ({rate.events:,} of {rate.n:,})"


def _points(change: "Change | Shift | None") -> str:
    if change is None or change.value is None:
        return "–"
    return f"{change.value * 100:+.1f} points"


def _span(change: "Change | Shift | None") -> str:
    if change is None or change.interval is None:
        return "–"
    low, high = (100 * end for end in change.interval)
    return f"{low:+.1f} to {high:+.1f}"
