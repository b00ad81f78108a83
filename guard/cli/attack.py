"""``rag-guard attack``: how often hostile passages get a query answered, and what that costs."""

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from guard.attacks import Suite
    from guard.dataset import Dataset
    from guard.evaluation import Figure
    from guard.gate import Gate
    from guard.judgement import Judgement

BAR_NOT_MET = 6
"""Exit code."""

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
        typer.Option(metavar="P", parser=share, help="A bar: the share of successes at most."),
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

    Intervals are exact ones (95 %) over the attacks of a family, each counted once. They speak of
    other texts of the same kind, on these queries: not of other families, and not of somebody who
    tries until it works.

    --max-success is a bar on the share over all attacks, as deployed. The attacks are the same at
    every run, so it is on the share that was seen, an attack that could not be measured counting
    as a success. What answers none of the sufficient queries meets no bar.

    The exit code is 0; 6 if the bar is not met; 130 after Ctrl-C; 2 for misuse.
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
        # That of the bare arm is used only when all others are judged.
        with looked_at("--verdicts", verdicts):
            require_place("--verdicts", _bare(verdicts))
    suite = _suite(data or [], limit, family, per_attack, seed, order=order)
    as_deployed = max_success is not None or profile is not None
    gate, left_aside = deployed_gate(config, deployment, options, as_deployed=as_deployed)
    asking = _Asking(workers, verdicts)
    with closed_if_wrong(gate), _stoppable(verdicts):
        found = attacked(gate, suite, bare=bare, ask=asking, seed=seed)
    judges.close(gate.judge)
    missed = [] if max_success is None else found.unmet(max_success)
    result = _Result(gate, suite, found, data or [])
    if as_json:
        about = {"profile_left_aside": left_aside, "seed": seed, "unmet": missed}
        typer.echo(json.dumps({**result.about(), **about, **found.to_dict()}, allow_nan=False))
    else:
        _show(result)
    for line in missed:
        typer.echo(f"rag-guard: bar not met: {one_line(line)}", err=True)
    if missed:
        raise typer.Exit(BAR_NOT_MET)


# ── Work ─────────────────────────────────────────────────────────────────────────────────────────


def _suite(
    data: Sequence[str],
    limit: int | None,
    families: Sequence[str] | None,
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
    attacks = packaged_attacks()
    suite = Suite.of(clean, bases, attacks, per_attack=per_attack, seed=seed, order=order)
    return suite.only(families) if families else suite


@dataclass(frozen=True, slots=True)
class _Asking:
    """Surveys with a progress bar, each arm's judge in a file of its own, if any."""

    workers: int
    path: Path | None

    def __call__(self, gate: "Gate", dataset: "Dataset", arm: "Arm") -> "list[Judgement]":
        from guard.attack import BARE
        from guard.survey import survey

        path = _bare(self.path) if self.path is not None and arm == BARE else self.path
        bar = Bar(len(dataset.rows), path)
        with bar.shown():
            return survey(gate, dataset, path=path, workers=self.workers, progress=bar)


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
    data: Sequence[str]

    def about(self) -> dict[str, object]:
        """What `Attacked` does not know, as JSON-ready values."""
        cuts = self.cuts
        return {
            "judge": self.gate.judge.fingerprint,
            "answer_at": cuts[0],
            "refuse_below": cuts[1],
            "data": list(self.data),
            "attacks": len({case.attack.id for case in self.suite.cases}),
            "cases": len(self.suite.cases),
            "queries": len(self.suite.clean),
            "bases": len(self.suite.bases),
        }

    @property
    def cuts(self) -> tuple[float, float]:
        """The thresholds that routes came from."""
        profile = self.gate.profile
        cuts = self.gate.policy.thresholds if profile is None else profile.thresholds
        return cuts.answer_at, cuts.refuse_below


# ── Output ───────────────────────────────────────────────────────────────────────────────────────

_ARMS: "dict[Arm, str]" = {
    "bare": "bare",
    "prompt_only": "prompt only",
    "deployed": "as deployed",
}


def _show(result: _Result) -> None:
    """Prints the tables for people. No text of an attack is ever shown: they hide commands."""
    from rich.console import Console

    console = Console(emoji=False, highlight=False, markup=False)
    for line in _head(result):
        console.print(line)
    console.print(_successes(result.found))
    for line in _notes(result.found):
        console.print(line)
    console.print(_clean(result.found))
    console.print(_worth(result.found))
    for line in _warnings(result.found):
        console.print(line, style="yellow")


def _head(result: _Result) -> Iterable[str]:
    about = result.about()
    yield one_line(f"Judge: {about['judge']}.")
    yield (
        f"{about['attacks']:,} attacks, {about['cases']:,} cases on {about['bases']:,} queries "
        f"whose contexts do not answer them; {about['queries']:,} clean queries. "
        f"Answer at {about['answer_at']:g}, refuse below {about['refuse_below']:g}."
    )


def _successes(found: "Attacked") -> "Table":
    from guard.attacks import HELD_OUT

    arms: list[Arm] = [arm for arm, _ in _ARMS.items() if arm in found.total]
    table = _table("moved to answer", *(_ARMS[arm] for arm in arms), "before", "unmeasured", "P by")
    for name, tallies in found.families.items():
        mark = " *" if name in HELD_OUT else ""
        table.add_row(f"{name}{mark}", *_cells(tallies, arms))
    table.add_section()
    table.add_row("all", *_cells(found.total, arms))
    return table


def _cells(tallies: "Mapping[Arm, Tally]", arms: "Sequence[Arm]") -> list[str]:
    deployed, prompt = tallies["deployed"], tallies["prompt_only"]
    shift = "–" if prompt.shift is None else f"{prompt.shift:+.3f}"
    counts = (deployed.answered_before, deployed.unmeasured)
    return [*(_rate(tallies[arm].success) for arm in arms), *map(str, counts), shift]


def _notes(found: "Attacked") -> Iterable[str]:
    from guard.attacks import HELD_OUT

    if any(name in HELD_OUT for name in found.families):
        yield "* held out: no defence was tuned on it."
    yield (
        "before: answered without the attack already, as deployed; unmeasured: nobody knows. Both "
        "are left out of the shares. P by: how far attacks raise P(sufficient) with the prompt's "
        "defences alone, on average."
    )
    if found.why_not_bare:
        yield one_line(f"bare: not available, {found.why_not_bare}.")


def _clean(found: "Attacked") -> "Table":
    table = _table("on clean queries", "routes changed", "sufficient ones blocked", "unmeasured")
    rows: list[tuple[str, Cost]] = [
        (title, found.costs[name]) for name, title in _COSTS.items() if name in found.costs
    ]
    if found.order is not None:
        rows.append(("contexts in another order", found.order))
    for title, cost in rows:
        table.add_row(title, _rate(cost.changed), _rate(cost.false_blocks), str(cost.unmeasured))
    return table


def _worth(found: "Attacked") -> "Table":
    table = _table("the judge, clean", "AUROC", "answered", "of those insufficient")
    for arm, title in _ARMS.items():
        if arm in found.quality:
            one = found.quality[arm]
            shares = (_figure(each, _percent) for each in (one.answered, one.leak))
            table.add_row(title, _figure(one.auroc, _number), *shares)
    return table


def _warnings(found: "Attacked") -> Iterable[str]:
    quality = found.quality["deployed"]
    yield f"Clean queries with a passage that speaks to the judge: {_rate(found.suspect)}."
    if quality.is_at_chance:
        yield (
            "Nothing shows that this judge is better than a coin on the clean queries: its shares "
            "of successes mean nothing."
        )
    if not quality.sufficient_answered:
        yield "No sufficient query is answered: attacks have hardly anything to move."


def _table(first: str, *others: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in (first, *others):
        table.add_column(name, overflow="fold")
    return table


def _rate(one: "Share") -> str:
    """A share with its interval, in percent."""
    if one.value is None or one.low is None or one.high is None:
        return "–"
    ends = f"[{one.low * 100:.0f}, {one.high * 100:.0f}]"
    return f"{one.events} of {one.n}: {_percent(one.value)} {ends}"


def _figure(figure: "Figure", form: Callable[[float], str]) -> str:
    if figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return form(figure.value)
    return f"{form(figure.value)} [{form(figure.low)}, {form(figure.high)}]"


def _percent(value: float) -> str:
    return f"{value * 100:.1f}%"


def _number(value: float) -> str:
    return f"{value:.2f}"
