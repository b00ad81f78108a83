"""A report: what a judge and its thresholds do, as one HTML file that people open.

Made of an evaluation here, of an audit in `guard.audit_report`. Its words and figures are worked
out in Python; the page draws them, and works out again, for whatever thresholds are chosen in it,
what `guard.points.Points.shares` does.
"""

import errno
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import cast

from guard import page
from guard.certificate import Certified
from guard.dataset import Dataset
from guard.decision import Reason, Route
from guard.errors import ConfigError
from guard.evaluation import SMALL_GROUPS, Evaluation, Figure, percent
from guard.judgement import Judgement
from guard.metrics import Scored, best_cut
from guard.points import Point, Points
from guard.policy import Policy
from guard.profile import Profile
from guard.query import Query
from guard.rate import Rate
from guard.report_parts import (
    ROUTES,
    WILSON,
    Extents,
    Parts,
    Row,
    Table,
    are,
    between,
    certificate_words,
    certified_by,
    counted,
    cuts,
    fixed,
    interval,
    moment,
    other_routes,
    queries,
    share,
    texts_told,
)
from guard.routing import ProfileOf, Routed, route_unmeasured, route_verdict
from guard.thresholds import Thresholds

_SHOWN = ("leak", "false_refusal", "clarify_rate", "coverage")
_NAMES = {
    "leak": "leaks (insufficient | answered)",
    "false_refusal": "false refusals (refused | sufficient)",
    "clarify_rate": "asked back",
    "coverage": "answered",
    "undecided": "undecided",
}


@dataclass(frozen=True, slots=True)
class Report:
    """A report, ready to be written.

    Attributes:
        title: its heading.
        points: the rows, as the thresholds in the page move them.
        thresholds: at which the page begins.
        content: what the page draws, JSON-ready.
        tables: what it shows without JavaScript.
    """

    title: str
    points: Points
    thresholds: Thresholds
    content: Mapping[str, object] = field(repr=False)
    tables: Sequence[Table] = field(repr=False)

    def shares(self, thresholds: Thresholds | None = None) -> dict[str, Rate]:
        """What the page shows for two thresholds; ``None`` = those it begins at."""
        return self.points.shares(thresholds or self.thresholds)

    def html(self) -> str:
        """The whole file."""
        data = {
            **self.content,
            "title": self.title,
            "thresholds": cuts(self.thresholds),
            "rows": self.points.packed(),
        }
        tables = "".join(page.table(*each) for each in self.tables if each[2])
        return page.rendered(self.title, data, page.paragraphs(self._texts()) + tables)

    def _texts(self) -> Iterable[str]:
        """What is said without JavaScript."""
        parts = cast("Mapping[str, list[str]]", self.content)
        yield from [*parts["alerts"], *parts["headline"]]
        definitions = cast("Iterable[tuple[str, str]]", self.content["definitions"])
        yield from (f"{term}: {meaning}" for term, meaning in definitions)
        yield f"Next: {self.content['next']}"
        yield from parts["certificate"]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes it, whole or not at all, for this user alone; only a report is replaced.

        Raises:
            ConfigError: the file cannot be written, or something else is there.
        """
        require_writable(path)
        _write(Path(os.path.realpath(path)), self.html())


# ── The file ─────────────────────────────────────────────────────────────────────────────────────

_FOLDER_HINT = "Name a file in a folder that exists and that this user may write to."


def require_writable(path: str | os.PathLike[str]) -> None:
    """Raises `ConfigError` where no report can be written, before there is one."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise ConfigError(f"There is no folder {str(target.parent)!r}.", hint="Make it first.")
    if target.exists() and not _is_report(target):
        raise ConfigError(
            f"{str(path)!r} is there and is no report of rag-guard: it is left as it is.",
            hint="Name another file with -o.",
        )


def _is_report(target: Path) -> bool:
    mark = page.MARK.encode()
    try:
        if not target.is_file():
            return False
        with target.open("rb") as file:
            return file.read(len(mark)) == mark
    except OSError as error:
        raise _not_written(target, error) from error


def _write(target: Path, text: str) -> None:
    """Puts a new file in the old one's place, which its owner alone can read."""
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
        try:
            with open(handle, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise _not_written(target, error) from error


def _not_written(target: Path, error: OSError) -> ConfigError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ConfigError(
        f"{str(target)!r} cannot be written: {error.strerror}.",
        hint="Make room, or name another file." if full else _FOLDER_HINT,
    )


# ── Of an evaluation ─────────────────────────────────────────────────────────────────────────────


def of_evaluation(
    evaluation: Evaluation,
    judgements: Sequence[Judgement],
    dataset: Dataset,
    policy: Policy,
    profile: Profile | None = None,
    *,
    profile_of: ProfileOf | None = None,
    name: str | None = None,
    texts: bool = False,
    left_aside: str | None = None,
    made: datetime | None = None,
) -> Report:
    """A report of an evaluation.

    Args:
        evaluation: of the judgements.
        judgements, policy, profile, profile_of: as `guard.evaluation.evaluate` was given them.
        dataset: the rows that were judged.
        name: what it is called: the deployment, say.
        texts: whether the worst mistakes are shown with questions and contexts; else with hashes.
        left_aside: why a profile was left aside, if one was.
        made: when; ``None`` = now.
    """
    asked = {row.id: row.query for row in dataset.rows}
    rows = list(_rows(judgements, asked, policy, profile, profile_of))
    several = profile_of is not None
    certified = None if several else certified_by(profile)
    void = _void(certified, policy)
    parts = Parts(rows, certified, void)
    content = parts.content(asked if texts else None)
    curve = {**cast("dict[str, object]", content["curve"]), "overlap": _overlap(judgements, rows)}
    return Report(
        title=f"{name or 'Evaluation'}: what is answered, and what leaks",
        points=parts.points,
        thresholds=evaluation.thresholds,
        content={
            **content,
            "curve": curve,
            "subtitle": "Evaluation on "
            + counted(evaluation.rows, "labelled query", "labelled queries"),
            "alerts": [
                *parts.alerts(evaluation.calibrated),
                *_alerts(evaluation, left_aside, several=several),
            ],
            "headline": list(_headline(evaluation, parts)),
            "next": _next(evaluation, parts, several=several),
            "would": False,
            "certificate": (
                _why_none(left_aside, several=several)
                if certified is None
                else certificate_words(certified, void)
            ),
            "baselines": _baselines(evaluation),
            "interval_note": _interval_note(evaluation),
            "about": [
                *_about(evaluation, dataset, profile, made),
                *Extents.of(one.verdict for one in judgements).about(),
                texts_told(texts),
            ],
        },
        tables=[_figure_table(evaluation), _baseline_table(evaluation), parts.unmeasured_table()],
    )


def _void(certified: Certified | None, policy: Policy) -> list[str]:
    """Why what was promised does not hold with this policy."""
    if certified is None:
        return []
    kinds = certified.certificate.broken_by(policy.routes_unmeasured())
    return [other_routes(kinds)] if kinds else []


def _rows(
    judgements: Sequence[Judgement],
    queries: Mapping[str, Query],
    policy: Policy,
    profile: Profile | None,
    profile_of: ProfileOf | None,
) -> Iterable[Row]:
    for judgement in judgements:
        verdict = judgement.verdict
        if verdict is None:
            routed = route_unmeasured(policy, Reason(str(judgement.reason)))
        else:
            own = profile if profile_of is None else profile_of(verdict)
            routed = route_verdict(policy, own, verdict, judgement.lang)
        row = _row(judgement, routed)
        query = queries.get(judgement.id)
        yield row if query is None else replace(row, hashes=_hashes(query))


def _row(judgement: Judgement, routed: Routed) -> Row:
    verdict, found, label = judgement.verdict, routed.probability, judgement.sufficient
    measured = verdict is not None and found is not None and not routed.stale
    if verdict is not None and found is not None and not routed.stale:
        partial = verdict.coverage < 1
        point = Point(found.low, found.high, partial=partial, sufficient=label)
    else:
        point = Point(fixed=fixed(routed.route), sufficient=label)
    return Row(
        id=judgement.id,
        point=point,
        p=found.p if measured and found is not None else None,
        missing=None if measured else routed.reason.value,
        route=routed.route,
        group=judgement.group,
        lang=judgement.lang,
    )


def _hashes(query: Query) -> tuple[str, str]:
    return query.question_hash, query.contexts_hash


# ── In words ─────────────────────────────────────────────────────────────────────────────────────


def _alerts(evaluation: Evaluation, left_aside: str | None, *, several: bool) -> Iterable[str]:
    if left_aside is not None:
        yield f"The deployment's profile was left aside: {left_aside}"
    if several:
        yield (
            "Several judges take turns here, each with thresholds of its own; the sliders apply "
            "one pair to all of them."
        )
    if evaluation.groups < SMALL_GROUPS:
        few = counted(evaluation.groups, "group")
        yield f"{few} {are(evaluation.groups)} too few for any figure here to be trusted."


def _next(evaluation: Evaluation, parts: Parts, *, several: bool) -> str:
    if several and parts.measured:
        return "Report on each judge by itself, with its own profile, to see what is promised."
    return parts.next_step(evaluation.calibrated) or (
        "Enforce the gate for a few with canary = 0.1 in its configuration, then for all."
    )


def _headline(evaluation: Evaluation, parts: Parts) -> Iterable[str]:
    figures, thresholds = evaluation.figures, evaluation.thresholds
    leak, refusal = figures["leak"], figures["false_refusal"]
    yield (
        f"Of {queries(evaluation.rows)}, {', '.join(_routed(evaluation, parts))} "
        f"(answer at {thresholds.answer_at:.4g}, refuse below {thresholds.refuse_below:.4g})."
    )
    if leak.value is None:
        yield "Nothing is answered, so nothing leaks."
    else:
        yield (
            f"Of the {leak.n:,} answered, {percent(leak.value)} lack the evidence for it"
            f"{between(leak)}: answers that may be made up."
        )
    if refusal.value is None:
        yield "No query is labelled sufficient, so no refusal can be called false."
    else:
        yield (
            f"Of the {refusal.n:,} that could have been answered, {percent(refusal.value)} are "
            f"refused{between(refusal)}."
        )


def _routed(evaluation: Evaluation, parts: Parts) -> Iterable[str]:
    for name, words in {**ROUTES, "undecided": "raised as errors"}.items():
        count = evaluation.routes[name]
        if not count and name == "undecided":
            continue
        missing = parts.not_measured(Route(name)) if name in ROUTES else ""
        verb = f"{are(count)} " if name == "answer" else ""
        yield f"{count:,} {verb}{words}" + (f" ({missing})" if missing else "")


def _why_none(left_aside: str | None, *, several: bool) -> list[str]:
    if several:
        return [
            "There is none for all of this: several judges take turns, each with thresholds of its "
            "own, and what is certified of one says nothing about the others."
        ]
    aside = "" if left_aside is None else " Its profile was left aside, see above."
    return [
        f"There is none: nothing is promised of these thresholds.{aside} The rates on this page "
        "are what was seen on these queries, no more. rag-guard calibrate looks for thresholds "
        "that can be certified."
    ]


def _interval_note(evaluation: Evaluation) -> str:
    if evaluation.groups == evaluation.rows:
        return WILSON
    return (
        f"{WILSON} These {queries(evaluation.rows)} are of {counted(evaluation.groups, 'group')}, "
        "so they are too narrow; those at the top of the page and beside the baselines are over "
        "groups."
    )


def _about(
    evaluation: Evaluation,
    dataset: Dataset,
    profile: Profile | None,
    made: datetime | None,
) -> list[tuple[str, str]]:
    thresholds = evaluation.thresholds
    return [
        ("Made", moment(made)),
        ("Judge", evaluation.fingerprint),
        ("Profile", "none" if profile is None else profile.name or "without a name"),
        ("Calibrated", "yes" if evaluation.calibrated else "no (calibrated: false)"),
        ("Answer at", repr(thresholds.answer_at)),
        ("Refuse below", repr(thresholds.refuse_below)),
        (
            "Queries",
            f"{evaluation.rows:,} in {counted(evaluation.groups, 'group')}: "
            f"{evaluation.sufficient:,} sufficient, {evaluation.insufficient:,} insufficient; "
            f"{evaluation.measured:,} measured, {evaluation.no_contexts:,} with nothing retrieved",
        ),
        ("Data", f"version {dataset.version}"),
        (
            "Intervals",
            f"At the top and beside the baselines of {evaluation.resamples:,} resamples of groups, "
            f"seed {evaluation.seed}; else Wilson's",
        ),
    ]


# ── Tables ───────────────────────────────────────────────────────────────────────────────────────


def _figure_table(evaluation: Evaluation) -> Table:
    rows = [
        [_NAMES[name], share(figure.value), interval(figure) or "–", f"{figure.n:,}"]
        for name in _NAMES
        for figure in [evaluation.figures[name]]
    ]
    return "At the thresholds in use", ["figure", "value", "95 % interval", "of queries"], rows


def _baselines(evaluation: Evaluation) -> dict[str, object]:
    caption, heads, rows = _baseline_table(evaluation)
    words = [
        "A judge must beat what costs nothing. Word overlap answers from the share of words on "
        "that suits these very queries best, so it is favoured."
    ]
    return {"words": words, "table": {"caption": caption, "heads": heads, "rows": rows}}


def _baseline_table(evaluation: Evaluation) -> Table:
    sides = {"this judge": evaluation.figures, **evaluation.baselines}
    rows = [
        [name, *(_with_interval(figures[each]) for each in _SHOWN), _number(figures["auroc"])]
        for name, figures in sides.items()
    ]
    heads = ["who decides", "leaks", "false refusals", "asked back", "answered", "AUROC"]
    return "With 95 % intervals over groups, in percent", heads, rows


def _with_interval(figure: Figure) -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return share(figure.value)
    return f"{percent(figure.value)} [{figure.low * 100:.0f}, {figure.high * 100:.0f}]"


def _number(figure: Figure) -> str:
    return "–" if figure.value is None else f"{figure.value:.3f}"


def _overlap(judgements: Sequence[Judgement], rows: Sequence[Row]) -> tuple[float, float] | None:
    """Where word overlap lies beside the curve: coverage and risk of the same, measured rows.

    It answers from where it does as a baseline (`guard.evaluation.BASELINES`), over all rows.
    """
    truth = [bool(one.sufficient) for one in judgements]
    cut = best_cut(Scored([one.overlap for one in judgements], truth))
    measured = [one for one, row in zip(judgements, rows, strict=True) if row.p is not None]
    answered = [not one.sufficient for one in measured if one.overlap >= cut]
    if not answered:
        return None
    return len(answered) / len(measured), sum(answered) / len(answered)
