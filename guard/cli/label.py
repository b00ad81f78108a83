"""``rag-guard label``: from queries without labels to labels, a key each; and how two people agree.

Without labels there is nothing to evaluate, calibrate or certify, so this comes before all of them.
"""

import getpass
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guard import judges
from guard._json import as_text
from guard.cli.options import (
    ApiKeyEnv,
    ApiVersion,
    BaseUrl,
    Config,
    DeploymentName,
    ModelFamily,
    given,
)
from guard.cli.paths import is_same, looked_at, require_place
from guard.cli.surveying import say, surveyed
from guard.cli.text import one_line
from guard.errors import ConfigError
from guard.judge import Fitted
from guard.policy import DEFAULT_THRESHOLDS
from guard.thresholds import Thresholds
from guard.verdict import Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from guard.agreement import Agreement, Interval, Mark
    from guard.cli.label_session import LabelSession, Screen
    from guard.dataset import Dataset, Row
    from guard.gate import Gate
    from guard.judgement import Judgement
    from guard.label_file import LabelFile
    from guard.labelling import Pick

INTERRUPTED = 130


def label(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help='JSON lines: {"question": "…", "contexts": ["…"]}.',
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where the labels go, one a line."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Measures what to label, and is asked about every row of the file for that: "
            f"{', '.join(judges.KNOWN)}, or your own.",
        ),
    ] = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    model_family: ModelFamily = None,
    api_version: ApiVersion = None,
    config: Config = None,
    deployment: DeploymentName = None,
    verdicts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Keeps the judge's verdicts, so that they are asked for once."
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many rows to label.")] = 300,
    random_share: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share drawn by lot alone; only these rows may be certified on."
        ),
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the draw; the same one picks the same rows.")] = 0,
    annotator: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who labels; else your user name.")
    ] = None,
    agreement: Annotated[
        bool,
        typer.Option(
            "--agreement",
            help="Compare labels instead: of two files, or of the two people in one file.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --agreement: print it as JSON and nothing else.")
    ] = False,
) -> None:
    """Asks you, row after row, whether the passages hold the answer.

    With a judge half of the rows are drawn by lot and the others where a label tells most: over the
    whole scale, and more near the thresholds. Each line says which ("sampling"). Without one, all
    are drawn by lot. The judge is asked about every row of the file, not only about those that you
    will label; with --verdicts, once. What it said is hidden until you have answered. A
    deployment's profile is left aside: labels are what the next one is made of.

    Only rows drawn by lot are certified on, and calibrate keeps 30 % of these for the calibrator:
    of 300 rows with a judge, 105 are left. To certify a leak bound of 5 % plan 450 to 700 of them,
    in different groups, and a good judge: --n 700 --random-share 1.

    Each label is on disk before the next row is shown. q and Ctrl-C lose nothing; the same command
    goes on. Skipped rows are noted next to the labels, in NAME.skipped.jsonl, and not asked again.
    One file for each person keeps their labels apart: eval and calibrate take one label a row.

    The exit code is 0, also after q; 2 for misuse; 130 after Ctrl-C.
    """
    if agreement:
        _compare(files, as_json=as_json)
        return
    if as_json:
        raise ConfigError("--json goes with --agreement only.", hint="Labels are JSON lines.")
    options = given(
        judge=judge,
        base_url=base_url,
        api_key_env=api_key_env,
        model_family=model_family,
        api_version=api_version,
    )
    from guard.labelling import pick

    file, who = _label_file(output, files), _who(annotator)
    with file.sitting(who):
        measured = _measured(files, _Named(config, deployment, options), verdicts)
        every = measured.every()
        picks = pick(every, n, thresholds=measured.thresholds, random_share=random_share, seed=seed)
        for line in _plan(every, picks):
            typer.echo(line)
        _sit(measured, picks, file, who)


ENOUGH = 450
"""Rows drawn by lot, a group each, of which a good judge's leaks may be bounded by 5 %, if all goes
well: see docs/thresholds.md, "How many labels"."""


def _plan(every: "Sequence[Judgement]", picks: "Sequence[Pick]") -> Iterator[str]:
    """What these labels will do for a certificate: after hours of work it is late to hear it."""
    from guard.calibrating import FIT_SHARE

    random = {one.id for one in picks if one.sampling == "random"}
    groups = len({each.group for each in every if each.id in random})
    left = groups - round(FIT_SHARE * groups)
    yield (
        f"{len(picks):,} rows to label; {len(random):,} of them, in {groups:,} groups, are drawn "
        f"by lot. calibrate keeps {FIT_SHARE:.0%} of these for the calibrator and certifies on "
        f"{left:,}."
    )
    if groups < ENOUGH:
        yield (
            "To certify a leak bound of 5 % plan 450 to 700 drawn by lot, in different groups, and "
            "a good judge: --n 700 --random-share 1."
        )
    yield ""


def _who(annotator: str | None) -> str:
    try:
        name = getpass.getuser() if annotator is None else annotator
    except (OSError, KeyError, ImportError):
        name = ""  # A container's user may have no name.
    if not name.strip():
        raise ConfigError("--annotator is missing.", hint="Name who labels: --annotator anna.")
    return name


def _label_file(output: str | None, files: Sequence[str]) -> "LabelFile":
    from guard.label_file import LabelFile

    if output is None:
        raise ConfigError("--output is missing.", hint="Name a file for labels: -o labels.jsonl.")
    path = Path(output)
    if any(is_same("--output", path, file) for file in files):
        raise ConfigError("--output is the input itself.", hint="Name another file with -o.")
    require_place("--output", path)
    with looked_at("--output", path):
        if path.is_file():
            path.open("ab").close()
    return LabelFile(path)


# ── Measuring ────────────────────────────────────────────────────────────────────────────────────

_NAMING = ("RAG_GUARD_CONFIG", "RAG_GUARD_DEPLOYMENT", "RAG_GUARD_JUDGE")


@dataclass(frozen=True, slots=True)
class _Measured:
    """The rows, what is known of those that a judge was asked about, and the thresholds in use."""

    dataset: "Dataset"
    judgements: "Mapping[str, Judgement]"
    thresholds: Thresholds

    def every(self) -> "list[Judgement]":
        """One judgement a row, in the order of the file."""
        return [self.judgements.get(row.id) or _unmeasured(row) for row in self.dataset.rows]


def _measured(files: Sequence[str], named: "_Named", verdicts: str | None) -> _Measured:
    from guard import dataset as datasets

    records: list[tuple[Row, Mapping[str, object]]] = []
    dataset = datasets.read(
        files, labelled=False, seen=lambda row, record: records.append((row, record))
    )
    known = {row.id: recorded(row, record) for row, record in records if "probability" in record}
    rest = [row for row in dataset.rows if row.id not in known]
    if named.explicitly or (rest and any(name in os.environ for name in _NAMING)):
        judged, thresholds = _judged(named, rest, verdicts)
        return _Measured(dataset, known | judged, thresholds)
    if verdicts is not None:
        raise ConfigError("--verdicts needs a judge.", hint="Name one with --judge or --config.")
    return _Measured(dataset, known, _thresholds_of([record for _, record in records]))


@dataclass(frozen=True, slots=True)
class _Named:
    """Which judge the command line names."""

    config: str | None
    deployment: str | None
    options: Mapping[str, object]

    @property
    def explicitly(self) -> bool:
        """Whether it names one at all."""
        return bool(self.options) or self.config is not None or self.deployment is not None


def _judged(
    named: _Named, rows: "Sequence[Row]", verdicts: str | None
) -> "tuple[dict[str, Judgement], Thresholds]":
    """What the judge says of rows, by id, and its deployment's thresholds, or its own.

    Without its profile: labels are what the next one is made of, so a stale or missing one must
    not be in the way. Probabilities and thresholds are then on the judge's own scale, both.
    """
    from guard.config import load_gate

    gate = load_gate(
        named.config,
        deployment=named.deployment,
        options=named.options,
        profiles=False,
        audit=False,
    )
    thresholds = _thresholds_in_use(named, gate)
    if not rows:
        judges.close(gate.judge)
        return {}, thresholds
    found = _surveyed(gate, rows, None if verdicts is None else Path(verdicts))
    return {each.id: each for each in found}, thresholds


def _thresholds_in_use(named: _Named, gate: "Gate") -> Thresholds:
    """Those that somebody has set; else those that the judge brings, if they are on its scale."""
    from guard.config import resolve

    _, keys = resolve(named.config, named.deployment, options=named.options)
    cuts, judge = keys.thresholds(), gate.judge
    brought = judge.default_profile if isinstance(judge, Fitted) else None
    if cuts is not DEFAULT_THRESHOLDS or brought is None or brought.calibrator is not None:
        return cuts
    return brought.thresholds


def _surveyed(gate: "Gate", rows: "Sequence[Row]", path: Path | None) -> "list[Judgement]":
    """What the judge says of rows; closes it.

    Raises:
        ConfigError: it says nothing of any, since the endpoint is dead, or key or model are wrong.
    """
    from guard.dataset import Dataset
    from guard.survey import require_any

    def starting(asked: "Sequence[Row]") -> None:
        if asked:
            again = "" if path else " Without --verdicts FILE the next sitting asks them again."
            say(f"asking the judge about {len(asked):,} rows, a request each at least.{again}")

    with surveyed(gate, Dataset.of(rows), path, starting=starting) as judgements:
        require_any(judgements)
        return judgements


def recorded(row: "Row", record: Mapping[str, object]) -> "Judgement":
    """A row's judgement as its decision record has it, on the scale of the thresholds.

    Raises:
        ConfigError: the probability or its bounds are not what a record holds.
    """
    p = record["probability"]
    if p is None:
        return _unmeasured(row, as_text(record.get("reason")) or "no reason recorded")
    bounds = [p if record.get(key) is None else record[key] for key in ("low", "high")]
    try:
        probability, low, high = (_number(value) for value in (p, *bounds))
        verdict = Verdict(
            p_true=probability,
            low=low,
            high=high,
            mass=1.0,
            emitted=None,
            signal=as_text(record.get("signal")) or "recorded",
            fingerprint=as_text(record.get("fingerprint")) or "recorded",
        )
    except ValueError:
        raise ConfigError(
            f"{row.place}: not 0 <= `low` <= `probability` <= `high` <= 1.",
            hint="Write decision records as they are, or leave these three out.",
        ) from None
    return replace(_unmeasured(row), verdict=verdict, reason=None, fingerprint=verdict.fingerprint)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    if not 0 <= value <= 1:  # A whole number may be too large for a float.
        raise ValueError("not a probability")
    return float(value)


def _unmeasured(row: "Row", reason: str = "no judge was asked") -> "Judgement":
    from guard.judgement import Judgement

    return Judgement(
        id=row.id,
        group=row.group,
        sufficient=row.sufficient,
        lang=row.query.lang,
        verdict=None,
        reason=reason,
        detail="",
        elapsed_seconds=0.0,
        characters=sum(map(len, row.query.contexts)),
        overlap=0.0,
        fingerprint="",
    )


def _thresholds_of(records: Sequence[Mapping[str, object]]) -> Thresholds:
    """Those that most of the records were decided by; else the defaults."""
    pairs = Counter(
        (answer, refuse)
        for record in records
        for answer, refuse in [(record.get("answer_at"), record.get("refuse_below"))]
        if isinstance(answer, float | int) and isinstance(refuse, float | int)
    )
    return Thresholds(*pairs.most_common(1)[0][0]) if pairs else DEFAULT_THRESHOLDS


# ── Asking ───────────────────────────────────────────────────────────────────────────────────────


def _sit(measured: _Measured, picks: "Sequence[Pick]", file: "LabelFile", annotator: str) -> None:
    """One sitting; however it ends, it says where things stand."""
    from guard.cli.label_session import Asked, LabelSession

    rows = {row.id: row for row in measured.dataset.rows}
    asked = [Asked(rows[one.id], one, measured.judgements.get(one.id)) for one in picks]
    session = LabelSession(asked, file, annotator, _screen())
    try:
        session.run()
    except KeyboardInterrupt:
        _sum_up(session, file, annotator)
        raise typer.Exit(INTERRUPTED) from None
    _sum_up(session, file, annotator)


def _screen() -> "Screen":
    from rich.console import Console

    from guard.cli.label_session import Screen

    console = Console()
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return Screen(
        read_key=_terminal_key if sys.stdin.isatty() else _piped_key,
        show=typer.echo,
        width=min(console.width, 100),
        height=console.height if on_terminal else None,
        wrap=_wrapper(console),
    )


def _wrapper(console: "Console") -> Callable[[str, int], list[str]]:
    """Wraps by what a character takes on the screen: two cells for many an Asian one."""
    from rich.text import Text

    def wrap(text: str, width: int) -> list[str]:
        return [line.plain.rstrip() for line in Text(text).wrap(console, width)] or [""]

    return wrap


def _terminal_key() -> str:
    """The key pressed; of several at once the first: the others were meant for no row yet seen."""
    try:
        typed = typer.getchar()
    except EOFError:
        return ""
    # An arrow key, say, comes as several characters after an escape.
    return typed if typed.startswith("\x1b") else typed[:1]


def _piped_key() -> str:
    return sys.stdin.read(1)


def _sum_up(session: "LabelSession", file: "LabelFile", annotator: str) -> None:
    entries = file.entries()
    own = [each for each in entries if each.annotator == annotator and each.id in session.ids]
    said = Counter(each.sufficient for each in own)
    labels = sum(each.sufficient is not None for each in entries)
    typer.echo(
        f"{session.done} of these {session.total} done: {said[True]} sufficient, {said[False]} "
        f"insufficient, {said[None]} skipped; {labels} labels in {one_line(str(file.path))} in all."
    )
    if session.done < session.total:
        typer.echo("The same command goes on from here.")
    if {entry.annotator for entry in entries} != {annotator} and entries:
        typer.echo("Others labelled in this file too; eval and calibrate take one label a row.")


# ── Agreement ────────────────────────────────────────────────────────────────────────────────────


def _compare(files: Sequence[str], *, as_json: bool) -> None:
    from guard.agreement import agreement

    (first, one), (second, two) = _two(files)
    found = agreement(one, two)
    if as_json:
        typer.echo(json.dumps({"first": first, "second": second, **found.to_dict()}))
        return
    for line in _told(found, first, second):
        typer.echo(one_line(line))


_PersonsMarks = tuple[str, "dict[str, Mark]"]


def _two(files: Sequence[str]) -> tuple[_PersonsMarks, _PersonsMarks]:
    """Two people's labels, each with a name: their files', or their own in one file."""
    if len(files) == 1:
        return _two_in(files[0])
    if len(files) != 2:
        raise ConfigError(f"--agreement: {len(files)} files.", hint="Name two, one for each.")
    return (files[0], _marks(files[0])), (files[1], _marks(files[1]))


def _marks(file: str) -> "dict[str, Mark]":
    from guard import dataset as datasets
    from guard.agreement import Mark

    rows = datasets.read(file).rows
    return {row.id: Mark(bool(row.sufficient), row.place) for row in rows}


def _two_in(file: str) -> tuple[_PersonsMarks, _PersonsMarks]:
    from guard.agreement import Mark
    from guard.label_file import LabelFile

    with looked_at("--agreement", file):
        is_there = Path(file).exists()
    if not is_there:
        raise ConfigError(f"{file} is not there.", hint="Name a file of labels, or two.")
    marks = dict[str, dict[str, Mark]]()
    for entry in LabelFile(Path(file)).entries():
        if entry.sufficient is not None:
            marks.setdefault(entry.annotator, {})[entry.id] = Mark(entry.sufficient, entry.place)
    if len(marks) != 2:
        raise ConfigError(
            f"--agreement: {file} holds the labels of {len(marks)} people, not of two.",
            hint="Name two files, one for each person, or one with the labels of two.",
        )
    first, second = marks.items()
    return first, second


def _told(found: "Agreement", first: str, second: str) -> Iterator[str]:
    """The figures, a line each, for people."""
    yield f"first: {first}; second: {second}"
    only = f"{found.only_first} only by the first, {found.only_second} only by the second"
    yield f"{found.common} rows labelled by both; {only}"
    if found.raw is not None:
        same = f"{found.agreed}/{found.common}"
        yield f"agreement {found.raw:.3f}{_interval(found.raw_interval)}: the same label on {same}"
    kappa = "undefined" if found.kappa is None else f"{found.kappa:.3f}"
    yield f"Cohen's kappa {kappa}{_interval(found.kappa_interval)}"
    if found.reason is not None:
        yield found.reason
    for each in found.differences:
        says = "insufficient, sufficient" if each.second.sufficient else "sufficient, insufficient"
        yield f"differ on {each.id}: {says} ({each.first.place}; {each.second.place})"


def _interval(interval: "Interval | None") -> str:
    return "" if interval is None else f" (95 % from {interval.low:.3f} to {interval.high:.3f})"
