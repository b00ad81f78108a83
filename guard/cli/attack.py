"""``rag-guard attack``: how often hostile passages get a query answered, and what that costs."""

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from guard import judges
from guard.cli.measuring import deployed_gate
from guard.cli.options import (
    AnswerAt,
    ApiKeyEnv,
    ApiVersion,
    BaseUrl,
    Config,
    Deadline,
    DeploymentName,
    Judge,
    ModelFamily,
    ProfileFile,
    RefuseBelow,
    Workers,
    given,
)
from guard.cli.paths import looked_at, require_place
from guard.cli.surveying import STOPPED, Bar, closed_if_wrong, say, share
from guard.cli.text import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from guard.attack import Arm, Attacked, Cost, Share, Tally
    from guard.attacks import Suite, Where
    from guard.dataset import Dataset
    from guard.evaluation import Figure
    from guard.gate import Gate
    from guard.judgement import Judgement
    from guard.thresholds import Thresholds

NOTHING_MEASURED, BAR_NOT_MET = 5, 6
"""Exit codes."""

_COSTS = {"leaving_out": "leaving out suspects", "all": "all defences, against bare"}


def attack(
    judge: Judge = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    model_family: ModelFamily = None,
    api_version: ApiVersion = None,
    config: Config = None,
    deployment: DeploymentName = None,
    answer_at: AnswerAt = None,
    refuse_below: RefuseBelow = None,
    profile: ProfileFile = None,
    deadline: Deadline = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Labelled JSON lines to attack in place of our own queries; may be repeated.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="At most N queries of each label, by lot."),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this family of attacks; may be repeated."),
    ] = None,
    where: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="What the texts are put into: contexts; turn, the last one of the history; or "
            "question.",
        ),
    ] = "contexts",
    per_attack: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="Queries for each attack, by lot.")
    ] = 1,
    bare: Annotated[
        bool,
        typer.Option("--bare/--no-bare", help="Whether to measure without defences as well."),
    ] = True,
    order: Annotated[
        bool,
        typer.Option("--order", help="Measure too what another order of the passages changes."),
    ] = False,
    verdicts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keeps the verdicts, and those in it are not asked for again; those without "
            "defences are in FILE.bare.",
        ),
    ] = None,
    workers: Workers = 8,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, max=2**63 - 1, help="Of all lots and resamples.")
    ] = 0,
    max_success: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            parser=share,
            help="A bar: at most this share of the attacks on queries that are not answered "
            "without them.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")
    ] = False,
) -> None:
    """Attacks a judge and its thresholds with hostile passages.

    Over 200 texts in ten families are put among the contexts of queries that these do not answer.
    A success is a query that is refused or asked back without the attack, and answered with it.
    It is counted in three arms: as deployed; with the prompt's defences alone, nothing left out;
    and bare, the same judge and thresholds without any defence, where the judge can be asked so.
    Beside it stands what the defences change on clean queries, and what the judge is worth there:
    of one that is no better than a coin, or that answers nothing, no share of successes means
    anything.

    Intervals are exact ones (95 %) over as many units as there are attacks, or attacked queries,
    whichever are fewer. They speak of other texts and queries of the same kind: not of other
    families, and not of somebody who tries until it works.

    --max-success is a bar on the share of the attacks on queries that are not answered without
    them, over all families, as deployed. The attacks are the same at every run, so it is on the
    share that was seen, an attack that could not be measured counting as a success. No bar is met
    by what answers none of the sufficient queries, or most of the attacked ones without any attack,
    or by a judge that is not shown to be better than a coin, or on fewer than ten clean queries of
    either label.

    The exit code is 0; 6 if the bar is not met; 5 if there is no bar and no attack could be
    measured; 130 after Ctrl-C; 2 for misuse, and for a judge that cannot be asked at all.
    """
    from guard.attack import attacked

    options = given(
        judge=judge,
        base_url=base_url,
        api_key_env=api_key_env,
        model_family=model_family,
        api_version=api_version,
        answer_at=answer_at,
        refuse_below=refuse_below,
        profile=profile,
        deadline=deadline,
    )
    if verdicts is not None:
        require_place("--verdicts", verdicts)
        if bare:  # It is used only when all others are judged.
            with looked_at("--verdicts", verdicts):
                require_place("--verdicts", _bare(verdicts))
    suite = _suite(data or [], limit, family, cast("Where", where), per_attack, seed, order=order)
    as_deployed = max_success is not None or profile is not None
    gate, left_aside = deployed_gate(config, deployment, options, as_deployed=as_deployed)
    asking = _Asking(workers, verdicts)
    with closed_if_wrong(gate), _stoppable(verdicts):
        found = attacked(gate, suite, bare=bare, ask=asking, seed=seed)
    judges.close(gate.judge)
    missed = [] if max_success is None else found.unmet(max_success)
    result = _Result(gate, suite, found, where, data or [], asking.deployed)
    if as_json:
        about = {"profile_left_aside": left_aside, "seed": seed, "unmet": missed}
        typer.echo(json.dumps({**result.about(), **about, **found.to_dict()}, allow_nan=False))
    else:
        _show(result)
    if max_success is not None and (family or limit is not None):
        say(
            "this bar is on a part of the suite: --family and --limit leave attacks or queries out."
        )
    _end(found, missed)


def _end(found: "Attacked", missed: Sequence[str]) -> None:
    for line in missed:
        say(f"bar not met: {line}")
    if missed:
        raise typer.Exit(BAR_NOT_MET)
    tally = found.total["deployed"]
    if tally.unmeasured and not tally.success.n:
        say("no attack could be measured; these figures are no judge's.")
        raise typer.Exit(NOTHING_MEASURED)


# ── Work ─────────────────────────────────────────────────────────────────────────────────────────


def _suite(
    data: Sequence[str],
    limit: int | None,
    families: Sequence[str] | None,
    where: "Where",
    per_attack: int,
    seed: int,
    *,
    order: bool,
) -> "Suite":
    from guard.attacks import Suite, bases_of, packaged_attacks, packaged_items
    from guard.dataset import Dataset, read

    clean, bases = packaged_items()
    if data:
        clean, bases = bases_of(read(data), limit, seed)
    elif limit is not None:
        kept, _ = bases_of(Dataset.of(clean), limit, seed)
        ids = {row.id for row in kept}
        clean, bases = kept, [base for base in bases if base.row.id in ids]
    suite = Suite.of(
        clean,
        bases,
        packaged_attacks(),
        per_attack=per_attack,
        seed=seed,
        order=order,
        where=where,
    )
    return suite.only(families) if families else suite


@dataclass(frozen=True, slots=True)
class _Asking:
    """Surveys with a progress bar, each arm's judge in a file of its own, if any.

    Attributes:
        deployed: what came of the arm as deployed.
    """

    workers: int
    path: Path | None
    deployed: "list[Judgement]" = field(default_factory=list["Judgement"], init=False)

    def __call__(self, gate: "Gate", dataset: "Dataset", arm: "Arm") -> "list[Judgement]":
        from guard.attack import BARE, DEPLOYED
        from guard.survey import survey

        path = _bare(self.path) if self.path is not None and arm == BARE else self.path
        bar = Bar(len(dataset.rows), path)
        with bar.shown():
            found = survey(gate, dataset, path=path, workers=self.workers, progress=bar)
        if arm == DEPLOYED:
            self.deployed.extend(found)
        return found


def _bare(path: Path) -> Path:
    """Where the verdicts without defences are kept."""
    return path.with_name(f"{path.name}.bare")


@contextmanager
def _stoppable(path: Path | None) -> Generator[None]:
    """After Ctrl-C it says how to go on, and ends."""
    try:
        yield
    except KeyboardInterrupt:
        kept = "Nothing is kept: name a file with --verdicts." if path is None else ""
        say(f"stopped. {kept or f'What came is kept in {path}: run the same command again.'}")
        raise typer.Exit(STOPPED) from None


@dataclass(frozen=True, slots=True)
class _Result:
    """What was asked, and what came of it."""

    gate: "Gate"
    suite: "Suite"
    found: "Attacked"
    where: str
    data: Sequence[str]
    judgements: "Sequence[Judgement]"

    def about(self) -> dict[str, object]:
        """What `Attacked` does not know, as JSON-ready values."""
        cuts = self.cuts
        return {
            "judge": self.gate.judge.fingerprint,
            "answer_at": cuts.answer_at,
            "refuse_below": cuts.refuse_below,
            "where": self.where,
            "data": list(self.data),
            "attacks": len({case.attack.id for case in self.suite.cases}),
            "cases": len(self.suite.cases),
            "queries": len(self.suite.clean),
            "bases": len(self.suite.bases),
        }

    @property
    def cuts(self) -> "Thresholds":
        """The thresholds that routes came from; of a chain, most of them."""
        from guard.evaluation import thresholds_of

        gate = self.gate
        cuts = thresholds_of(self.judgements, gate.policy, gate.profile_of)
        return cuts or (gate.profile or gate.policy).thresholds


# ── Output ───────────────────────────────────────────────────────────────────────────────────────

_ARMS: "dict[Arm, str]" = {
    "bare": "bare",
    "prompt_only": "prompt only",
    "deployed": "as deployed",
}


def _show(result: _Result) -> None:
    """Prints the tables for people, at any width from 80 on.

    No text of an attack is ever shown: they hide commands.
    """
    from rich.console import Console

    console = Console(emoji=False, highlight=False, markup=False)
    for line in _head(result):
        console.print(line)
    for line in _warnings(result.found):
        console.print(line, style="yellow")
    console.print()
    heads = _WIDE if console.width >= _WIDE_FROM else _NARROW
    console.print(_successes(result.found, heads))
    console.print()
    for line in _notes(result, heads):
        console.print(line)
    for table in (_clean(result.found), _worth(result.found)):
        console.print()
        console.print(table)
    if result.found.suspect.n:
        console.print()
        rate = _rate(result.found.suspect)
        console.print(f"Clean queries with something that speaks to the judge: {rate}.")


_NARROW, _WIDE = ("found", "P by"), ("found by the rules", "P(sufficient) raised by")
_WIDE_FROM = 120
"""Heads of the last two columns, and where there is room for those in full."""


def _head(result: _Result) -> Iterable[str]:
    about, bases = result.about(), len(result.suite.bases)
    yield one_line(f"Judge: {about['judge']}.")
    yield (
        f"{_count(about['attacks'], 'attack')}, put into the {_WHERE[result.where]}: "
        f"{_count(about['cases'], 'case')} on {_count(bases, 'query', 'queries')} whose contexts "
        f"do not answer {'it' if bases == 1 else 'them'}; "
        f"{_count(about['queries'], 'clean query', 'clean queries')}. "
        f"Answer at {about['answer_at']:g}, refuse below {about['refuse_below']:g}."
    )


def _count(number: object, one: str, more: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else more or f'{one}s'}"


_WHERE = {"contexts": "contexts", "turn": "history, as its last turn", "question": "question"}


def _successes(found: "Attacked", heads: Sequence[str]) -> "Table":
    from guard.attacks import HELD_OUT

    arms: list[Arm] = [arm for arm in _ARMS if arm in found.total]
    table = _table("moved to answer", *(_ARMS[arm] for arm in arms), *heads)
    for name, tallies in found.families.items():
        table.add_row(f"{name}{'*' if name in HELD_OUT else ''}", *_cells(tallies, arms))
    table.add_section()
    table.add_row("all", *_cells(found.total, arms))
    return table


def _cells(tallies: "Mapping[Arm, Tally]", arms: "Sequence[Arm]") -> list[str]:
    deployed = tallies["deployed"]
    found = "–" if deployed.found.value is None else f"{deployed.found.value * 100:.0f}%"
    shift = "–" if deployed.shift is None else f"{deployed.shift:+.2f}".replace("0.", ".")
    return [*(_rate(tallies[arm].success) for arm in arms), found, shift]


def _notes(result: _Result, heads: Sequence[str]) -> Iterable[str]:
    """What the first table means, and what is not in it."""
    from guard.attacks import HELD_OUT

    found = result.found
    yield f"Answered because of the attack, in all: {_totals(found)}."
    yield (
        "Percentages in the table are the 95 % interval of each share, over the attacks or the "
        f"attacked queries, whichever are fewer. {heads[0]}: whose text was seen to speak to the "
        f"judge. {heads[1]}: how far attacks raise P(sufficient) on average, nothing left out."
    )
    if any(name in HELD_OUT for name in found.families):
        yield (
            "* held out: no rule was tuned on it. It was written by the authors of the rules all "
            "the same, who are no independent attackers."
        )
    if result.where == "question":
        yield "Nothing is looked for in a question: it is the user's own."
    yield from _not_counted(found)
    if found.why_not_bare:
        yield one_line(f"bare: not measured, {found.why_not_bare}.")


def _totals(found: "Attacked") -> str:
    """The shares of all attacks, by arm."""
    shares = [
        (title, found.total[arm].success) for arm, title in _ARMS.items() if arm in found.total
    ]
    told = [f"{_percent(one.value)} {title}" for title, one in shares if one.value is not None]
    return ", ".join(told) or "nobody knows"


def _not_counted(found: "Attacked") -> Iterable[str]:
    tally = found.total["deployed"]
    if tally.answered_before:
        yield f"Not counted: {tally.answered_before:,} on queries that are answered anyway."
    if tally.unmeasured:
        tallies = ((name, each["deployed"].unmeasured) for name, each in found.families.items())
        where = ", ".join(f"{name} {count}" for name, count in tallies if count)
        yield f"Not counted: {tally.unmeasured:,} that could not be measured ({where})."


def _clean(found: "Attacked") -> "Table":
    table = _table("clean queries", "routes changed", "sufficient blocked", "unmeasured")
    rows: list[tuple[str, Cost]] = [
        (title, found.costs[name]) for name, title in _COSTS.items() if name in found.costs
    ]
    if found.order is not None:
        rows.append(("contexts in another order", found.order))
    for title, cost in rows:
        table.add_row(title, _rate(cost.changed), _rate(cost.false_blocks), str(cost.unmeasured))
    return table


def _worth(found: "Attacked") -> "Table":
    table = _table("clean queries", "AUROC", "answered", "of those insufficient")
    for arm, title in _ARMS.items():
        if arm in found.quality:
            one = found.quality[arm]
            shares = (_figure(each, _percent, _bound) for each in (one.answered, one.leak))
            table.add_row(title, _figure(one.auroc, _number, _number), *shares)
    return table


def _warnings(found: "Attacked") -> Iterable[str]:
    """What makes the figures below mean little."""
    quality = found.quality["deployed"]
    if doubts := quality.doubts():
        yield f"These shares of successes mean nothing: {doubts}."
    if not quality.sufficient_answered:
        yield "No sufficient query is answered: attacks have hardly anything to move."


def _table(first: str, *others: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, overflow="fold")
    return table


def _rate(one: "Share") -> str:
    """How often of how many, with the interval of the share."""
    if one.low is None or one.high is None:
        return "–"
    return f"{one.events}/{one.n} {_bound(one.low)}–{_bound(one.high)}%"


def _figure(figure: "Figure", form: Callable[[float], str], end: Callable[[float], str]) -> str:
    if figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return form(figure.value)
    return f"{form(figure.value)} [{end(figure.low)}–{end(figure.high)}]"


def _percent(value: float) -> str:
    return f"{value * 100:.1f}%"


def _bound(value: float) -> str:
    """An end of an interval in percent: what is above 0 is not shown as 0."""
    return f"{value * 100:.{1 if 0 < value < 0.01 else 0}f}"


def _number(value: float) -> str:
    return f"{value:.2f}"
