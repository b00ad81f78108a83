"""``rag-guard eval``: how well a judge and its thresholds do on labelled rows, and a bar for CI."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guard.cli.measuring import deployed_gate, evaluated, rows_of
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
    OnStale,
    OnUnmeasured,
    ProfileFile,
    RefuseBelow,
    RetryUnmeasured,
    Verdicts,
    Workers,
    given,
)
from guard.cli.surveying import closed_if_wrong, default_path, share, surveyed
from guard.cli.text import one_line, plain
from guard.decision import Reason

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from guard.dataset import Dataset, Row
    from guard.evaluation import Cost, Evaluation, Figure, Figures, Slice
    from guard.gate import Gate
    from guard.judgement import Judgement

NOTHING_MEASURED, BAR_NOT_MET = 5, 6
"""Exit codes."""

_SHARES = {
    "leak": "leaks (insufficient | answered)",
    "leaked_share": "leaked (answered | insufficient)",
    "false_refusal": "false refusals (refused | sufficient)",
    "clarify_rate": "clarified",
    "coverage": "answered",
    "undecided": "undecided",
}
_NUMBERS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "accuracy": "accuracy at .5",
    "f1": "F1 at .5",
    "weighted_f1": "weighted F1 at .5",
    "brier": "Brier",
    "ece": "ECE, bins of equal mass",
    "log_loss": "log loss, nats",
    "aurc": "AURC",
    "coverage_at_5_risk": "coverage at 5 % risk",
    "coverage_at_10_risk": "coverage at 10 % risk",
}
_COMPARED = ("leak", "false_refusal", "coverage", "auroc", "aurc", "accuracy", "weighted_f1")


def evaluate_files(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA",
            help="JSON lines: question, contexts, sufficient; optionally group, lang, id.",
        ),
    ],
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
    on_unmeasured: OnUnmeasured = None,
    on_stale: OnStale = None,
    verdicts: Verdicts = None,
    retry_unmeasured: RetryUnmeasured = False,
    workers: Workers = 8,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N rows.")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=2**63 - 1, help="Of the intervals' resamples."),
    ] = 0,
    resamples: Annotated[
        int, typer.Option(metavar="N", min=1, max=100_000, help="For the intervals.")
    ] = 1000,
    max_leak: Annotated[
        float | None,
        typer.Option(metavar="P", parser=share, help="A bar: P(insufficient | answered) at most."),
    ] = None,
    max_false_refusal: Annotated[
        float | None,
        typer.Option(metavar="P", parser=share, help="A bar: P(refused | sufficient) at most."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")
    ] = False,
) -> None:
    """Measures a judge and its thresholds on labelled rows.

    Every figure has a 95 % interval, from resamples of groups: rows on the same contexts, or of the
    same `group`, are not independent. Rows without a verdict are counted, and routed as the policy
    routes them. Verdicts are kept as they come: after Ctrl-C, a crash, or with other thresholds,
    the same command asks only what it has not asked, and what failed by the endpoint or the key
    (timeout, unavailable, rate_limited, rejected). Where the first ten rows are all unavailable, or
    all rejected, it stops.

    A bar is met where the upper end of the interval is within it. Nothing answered, everything
    answered, or (for --max-false-refusal) nothing refused meets none, and neither do rows of fewer
    than ten groups. Ten are the least that is looked at, not enough: a bar of .05 takes 72 groups
    even with 0 leaks. Where no row is insufficient nothing can leak, which meets no bar. Rows that
    were picked because of their probability (`sampling` is "targeted") are counted in and told of:
    rates with them are not those of the traffic.

    Rows are routed as the deployment would route them, through its profile. Where that is missing,
    broken or for another judge, it is left aside with a warning, and what is measured is the judge
    with the deployment's thresholds or the usual ones. With a bar, or with --profile, that is
    misuse: a bar is about what is deployed. --answer-at with --refuse-below leaves a profile aside.

    The exit code is 0; 6 if a bar is not met; 5 if there is no bar and no row could be measured;
    130 after Ctrl-C; 2 for misuse.
    """
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
        on_unmeasured=on_unmeasured,
        on_stale=on_stale,
    )
    dataset = rows_of(data, limit)
    barred = max_leak is not None or max_false_refusal is not None
    as_deployed = barred or profile is not None
    gate, left_aside = deployed_gate(config, deployment, options, as_deployed=as_deployed)
    with closed_if_wrong(gate):
        path = verdicts or default_path(data, gate.judge.fingerprint)
    asked: list[Row] = []
    survey = surveyed(
        gate,
        dataset,
        path,
        workers=workers,
        retry_unmeasured=retry_unmeasured,
        starting=asked.extend,
    )
    with survey as judgements:
        evaluation = evaluated(gate, judgements, seed, resamples)
    found = _Found(dataset, gate, judgements, evaluation, {row.id for row in asked})
    missed, held = found.bars(max_leak, max_false_refusal)
    if as_json:
        about = {"data": data, "verdicts": str(path), "profile_left_aside": left_aside}
        record = {**about, **found.about(), "unmet": missed, **evaluation.to_dict()}
        typer.echo(json.dumps(record, allow_nan=False))
    else:
        _show(found, held, path)
    _end(evaluation, missed, barred=barred)


# ── Work ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Found:
    """What came of it.

    Attributes:
        asked: ids of the rows that were asked about now; the others' verdicts were kept.
    """

    dataset: "Dataset"
    gate: "Gate"
    judgements: "Sequence[Judgement]"
    evaluation: "Evaluation"
    asked: set[str]

    @property
    def sampling(self) -> dict[str, int]:
        """Rows by how they were picked; ``unknown`` = the data does not say."""
        return dict(Counter(row.sampling or "unknown" for row in self.dataset.rows))

    @property
    def stale(self) -> dict[str, int]:
        """Rows that the profile is not for, by what differs, most frequent first."""
        found = Counter[str]()
        for one in self.judgements:
            profile = None if one.verdict is None else self.gate.profile_of(one.verdict)
            if one.verdict is not None and profile is not None:
                found[profile.difference(one.verdict, one.lang) or ""] += 1
        del found[""]
        return dict(found.most_common())

    @property
    def cost_now(self) -> "Cost":
        """What the rows took that were asked about now."""
        from guard.evaluation import cost_of

        return cost_of([one for one in self.judgements if one.id in self.asked])

    def bars(
        self, max_leak: float | None, max_false_refusal: float | None
    ) -> tuple[list[str], list[str]]:
        """What bars are not met, and what bars are, a sentence each."""
        from guard.evaluation import met, unmet

        targeted = self.sampling.get("targeted")
        note = f" {targeted:,} of all rows are targeted, not random." if targeted else ""
        missed, held = (
            [
                line + note
                for line in each(
                    self.evaluation, max_leak=max_leak, max_false_refusal=max_false_refusal
                )
            ]
            for each in (unmet, met)
        )
        return missed, held

    def about(self) -> dict[str, object]:
        """What `Evaluation` does not know, as JSON-ready values."""
        profile = self.gate.profile
        return {
            "version": self.dataset.version,
            "sampling": self.sampling,
            "profile": None if profile is None else profile.name,
            "stale": self.stale,
            "asked_now": {"rows": len(self.asked), **asdict(self.cost_now)},
        }


def _end(evaluation: "Evaluation", missed: Sequence[str], *, barred: bool) -> None:
    for line in missed:
        typer.echo(f"rag-guard: bar not met: {one_line(line)}", err=True)
    if missed:
        raise typer.Exit(BAR_NOT_MET)
    if not barred and not evaluation.measured:
        typer.echo("rag-guard: no row could be measured; these figures are no judge's.", err=True)
        raise typer.Exit(NOTHING_MEASURED)


# ── Output ───────────────────────────────────────────────────────────────────────────────────────


def _show(found: _Found, held: Sequence[str], path: Path) -> None:
    """Prints an evaluation for people, at any width from 60 on."""
    from rich.console import Console

    console = Console(emoji=False, highlight=False, markup=False)
    for line in (*_about(found), *_reasons(found)):
        console.print(line)
    if found.evaluation.measured:
        _show_figures(found.evaluation, console)
        for line in _costs(found):
            console.print(line)
    for line in held:
        console.print(f"Bar met: {line}", style="green")
    console.print(plain(f"The verdicts are kept in {path}."), soft_wrap=True)


def _show_figures(evaluation: "Evaluation", console: "Console") -> None:
    console.print(_histogram(evaluation, console))
    console.print(_figures(evaluation))
    console.print(_baselines(evaluation))
    console.print("Word overlap answers from the share of words on that suits these rows best.\n")
    console.print(_slices(evaluation.slices))
    if any(part.small for part in evaluation.slices):
        console.print("* too few rows or groups for its intervals to be trusted\n")
    if evaluation.worst_groups:
        console.print(_worst_groups(evaluation))


def _about(found: _Found) -> Iterable[str]:
    evaluation = found.evaluation
    yield (
        f"{evaluation.rows:,} rows in {evaluation.groups:,} groups: "
        f"{evaluation.sufficient:,} sufficient, {evaluation.insufficient:,} insufficient; "
        f"{evaluation.measured:,} measured."
    )
    taken = ", ".join(f"{count:,} {name}" for name, count in evaluation.routes.items() if count)
    yield f"{_applied(found)} Routes: {taken}."
    if evaluation.no_contexts:
        yield f"{evaluation.no_contexts:,} without contexts: refused, the judge was not asked."
    if targeted := found.sampling.get("targeted"):
        yield (
            f"{targeted:,} of these rows were targeted, which picks hard ones: rates with them are "
            "not the rates of the traffic."
        )


def _applied(found: _Found) -> str:
    """Which thresholds were applied, and to what."""
    evaluation, stale = found.evaluation, sum(found.stale.values())
    if stale and not evaluation.measured:
        return "The profile is stale: none of its thresholds were applied."
    cuts = evaluation.thresholds
    state = "calibrated" if evaluation.calibrated else "uncalibrated"
    but = f", but not to {stale:,} rows for which the profile is stale" if stale else ""
    return f"Answer at {cuts.answer_at:g}, refuse below {cuts.refuse_below:g}, {state}{but}."


def _reasons(found: _Found) -> "Iterable[Text]":
    """Why rows have no verdict, with the first one's detail for each reason."""
    from rich.text import Text

    unmeasured = found.evaluation.unmeasured
    total = sum(unmeasured.values())
    yield Text(f"{total:,} unmeasured{', routed as the policy says:' if total else '.'}")
    details: dict[str | None, str] = {}
    for judgement in found.judgements:
        details.setdefault(judgement.reason, judgement.detail)
    for reason, count in unmeasured.items():
        if reason != Reason.STALE_PROFILE:
            yield Text(one_line(f"  {count:,} {reason}, e.g. {details.get(reason)}"), "yellow")
    for why, count in found.stale.items():
        yield Text(one_line(f"  {count:,} {Reason.STALE_PROFILE.value}: {why}"), "yellow")
    if found.stale:
        yield Text(
            "Nothing of the profile was applied to these; they go where on_stale sends them. Fit "
            "one for what is judged now: rag-guard calibrate."
        )


_LEFT_OF_BAR = 38
_MAX_BAR = 50


def _histogram(evaluation: "Evaluation", console: "Console") -> "Table":
    """Rows by tenth of P(sufficient): how many, and which part of them is sufficient."""
    from rich.text import Text

    ascii_only = console.options.ascii_only
    bad_mark, good_mark = ("-", "#") if ascii_only else ("░", "█")
    table = _table("P(sufficient)", "rows", "sufficient", f"{bad_mark} not, {good_mark} sufficient")
    cells = max(10, min(_MAX_BAR, console.width - _LEFT_OF_BAR))
    most = max(1, *(bad + good for bad, good in evaluation.histogram))
    tenths = len(evaluation.histogram)
    for number, (bad, good) in enumerate(evaluation.histogram):
        total = bad + good
        # Any row at all is at least one cell.
        long = -(-total * cells // most)
        green = round(long * good / total) if total else 0
        bar = Text.assemble((bad_mark * (long - green), "red"), (good_mark * green, "green"))
        name = f"{number / tenths:.1f} to {(number + 1) / tenths:.1f}"
        table.add_row(name, f"{total:,}", _share(good / total) if total else "", bar)
    return table


def _figures(evaluation: "Evaluation") -> "Table":
    table = _table("figure", "value", "95 % interval", "n")
    for names, form in ((_SHARES, _share), (_NUMBERS, _number)):
        for name, title in names.items():
            figure = evaluation.figures[name]
            value = "undefined" if figure.value is None else form(figure.value)
            table.add_row(title, value, _interval(figure, form), f"{figure.n:,}")
    return table


def _baselines(evaluation: "Evaluation") -> "Table":
    table = _table("beside", "judge", *evaluation.baselines)
    for name in _COMPARED:
        title = (_SHARES.get(name) or _NUMBERS[name]).partition(" (")[0]
        form = _share if name in _SHARES else _number
        sides: list[Figures] = [evaluation.figures, *evaluation.baselines.values()]
        table.add_row(title, *(_value(side[name], form) for side in sides))
    return table


def _slices(slices: "Sequence[Slice]") -> "Table":
    table = _table("part", "rows", "AUROC", "leaks", "false refusals")
    for part in slices:
        figures, name = part.figures, one_line(f"{part.name}{' *' if part.small else ''}")
        rates = (_with_interval(figures[name]) for name in ("leak", "false_refusal"))
        table.add_row(name, f"{part.rows:,}", _value(figures["auroc"], _number), *rates)
    return table


def _worst_groups(evaluation: "Evaluation") -> "Table":
    table = _table("worst groups", "rows", "leaks", "false refusals")
    for one in evaluation.worst_groups:
        counts = (one.rows, one.leaks, one.false_refusals)
        table.add_row(one_line(one.group)[:60], *map(str, counts))
    return table


def _table(first: str, *others: str) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(Text(first), overflow="fold")
    for name in others:
        table.add_column(Text(name), justify="left")
    return table


def _costs(found: _Found) -> Iterable[str]:
    """What all rows took, and what was asked about now."""
    yield _cost(found.evaluation.cost)
    kept = len(found.judgements) - len(found.asked)
    if kept:
        now = _cost(found.cost_now) if found.asked else "nothing."
        yield f"Of that, now: {now} The verdicts on {kept:,} rows were kept from before."


def _cost(cost: "Cost") -> str:
    if cost.p50_seconds is None or cost.p95_seconds is None:
        return "The judge was not asked about any row."
    parts = [f"p50 {_time(cost.p50_seconds)}, p95 {_time(cost.p95_seconds)} for a row"]
    tokens: Mapping[str, int | None] = {
        "in": cost.input_tokens,
        "of them cached": cost.cached_tokens,
        "out": cost.output_tokens,
    }
    known = [f"{count:,} {what}" for what, count in tokens.items() if count is not None]
    if known:
        parts.append(f"tokens: {', '.join(known)} ({cost.counted:,} of {cost.verdicts:,} verdicts)")
    if cost.requests:
        parts.append(f"{cost.requests:,} requests")
    return "; ".join(parts) + "."


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1000:.3g} ms"


def _value(figure: "Figure", form: Callable[[float], str]) -> str:
    return "–" if figure.value is None else form(figure.value)


def _interval(figure: "Figure", form: Callable[[float], str]) -> str:
    if figure.low is None or figure.high is None:
        return "–"
    return f"{form(figure.low)} to {form(figure.high)}"


def _with_interval(figure: "Figure") -> str:
    """A share and its interval in percent, as short as can be."""
    if figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return _share(figure.value)
    return f"{_share(figure.value)} [{figure.low * 100:.0f}, {figure.high * 100:.0f}]"


def _share(value: float) -> str:
    return f"{value * 100:.1f} %"


def _number(value: float) -> str:
    return f"{value:.3f}"
