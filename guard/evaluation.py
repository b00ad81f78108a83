"""An evaluation: what a judge and a policy did to a labelled data set, in figures."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from guard import metrics
from guard.bootstrap import Bootstrap, Interval, Statistics, exact
from guard.calibration_error import calibration_error
from guard.decision import Reason, Route
from guard.errors import ConfigError
from guard.judgement import Judgement
from guard.metrics import Bin, Bools, Floats, Scored
from guard.policy import Policy
from guard.profile import Profile
from guard.routing import ProfileOf, route_unmeasured, route_verdict
from guard.thresholds import Thresholds
from guard.verdict import Verdict

SMALL_ROWS, SMALL_GROUPS = 50, 10
"""Below either, a slice is marked as small: its intervals are too narrow to be trusted."""
WORST_GROUPS = 10
HISTOGRAM_BINS = 10
RISKS = {"coverage_at_5_risk": 0.05, "coverage_at_10_risk": 0.10}
BASELINES = ("always answer", "always refuse", "word overlap")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its 95 % interval.

    Attributes:
        value: ``None`` = undefined on these rows, e.g. AUROC of one class, leak of no answer.
        low, high: the interval's ends; ``None`` where none can be given.
        n: rows that it is about, e.g. those answered.
        groups: groups that they are of.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    groups: int


Figures = Mapping[str, Figure]
"""By name. Of measured rows alone: ``auroc``, ``average_precision``, ``aurc``,
``coverage_at_5_risk``, ``coverage_at_10_risk``, ``brier``, ``ece``, ``log_loss``.

Of all rows, those not measured as the policy routes them: ``accuracy``, ``f1`` and ``weighted_f1``
of P >= .5 (not measured: right only where the route is answer or refuse, and the right one);
``leak`` = P(insufficient | answered), ``leaked_share`` = P(answered | insufficient),
``false_refusal`` = P(refused | sufficient), ``clarify_rate``, ``coverage`` (the share answered)
and ``undecided`` (not measured, and the policy is to raise).
"""


@dataclass(frozen=True, slots=True)
class Slice:
    """The figures of a part of the rows.

    Attributes:
        by: what they have in common: ``language`` or ``length``.
        name: which of them, e.g. ``"de"`` or ``"up to 812 characters"``.
        rows, groups: how many.
        unmeasured: how many of the rows were not measured.
        small: whether they are too few for their intervals to be trusted.
        figures: as of all rows.
    """

    by: str
    name: str
    rows: int
    groups: int
    unmeasured: int
    small: bool
    figures: Figures


@dataclass(frozen=True, slots=True)
class WrongGroup:
    """A group in which something went wrong."""

    group: str
    rows: int
    leaks: int
    false_refusals: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What measuring took.

    Attributes:
        asked: rows that the judge was asked about; the times are theirs.
        p50_seconds, p95_seconds: percentiles of the time for one row; ``None`` = none was asked.
        input_tokens, output_tokens, cached_tokens: over the verdicts that say; ``None`` = none did.
        requests: over all verdicts; what failed rows took is not known.
        counted: verdicts whose tokens are known, of all verdicts.
        verdicts: all of them.
    """

    asked: int
    p50_seconds: float | None
    p95_seconds: float | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    requests: int
    counted: int
    verdicts: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that was found.

    Attributes:
        fingerprint: of the judge.
        thresholds: those of the policy, or of the profile where there is one; where each verdict
            has a profile of its own, those that most of them have.
        calibrated: whether a fitted calibrator stands between every verdict and its probability.
        rows, groups, sufficient, insufficient: how many.
        measured: rows with a verdict that a profile, if there is one, is for.
        unmeasured: rows without one, by reason: a kind of failure, or ``stale_profile``.
        no_contexts: rows for which nothing was retrieved: refused without asking the judge.
        routes: rows by route; ``undecided`` = not measured, and the policy is to raise.
        measured_routes: the same of the measured rows alone.
        figures: of judge and policy.
        baselines: the same of deciders that need no judge (`BASELINES`). Word overlap answers from
            the share of words on that suits these very rows best: it is favoured.
        slices: by language and by length of all contexts.
        worst_groups: at most ten groups of more than one row, those with most leaks and false
            refusals.
        histogram: by tenth of the probability, from 0 up: (insufficient, sufficient) rows.
        reliability: bins of equal mass, those of ``ece``.
        cost: time, tokens, requests.
        seed, resamples: of the bootstrap.
    """

    fingerprint: str
    thresholds: Thresholds
    calibrated: bool
    rows: int
    groups: int
    sufficient: int
    insufficient: int
    measured: int
    unmeasured: Mapping[str, int]
    no_contexts: int
    routes: Mapping[str, int]
    measured_routes: Mapping[str, int]
    figures: Figures
    baselines: Mapping[str, Figures]
    slices: tuple[Slice, ...]
    worst_groups: tuple[WrongGroup, ...]
    histogram: tuple[tuple[int, int], ...]
    reliability: tuple[Bin, ...]
    cost: Cost
    seed: int
    resamples: int

    def to_dict(self) -> dict[str, object]:
        """It as JSON-ready values: no NaN among them, ``None`` where a figure is undefined."""
        return asdict(self)


def evaluate(
    judgements: Sequence[Judgement],
    policy: Policy,
    profile: Profile | None = None,
    *,
    profile_of: ProfileOf | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Evaluation:
    """Measures a judge and a policy on labelled rows, each figure with a 95 % interval.

    Intervals are percentiles of a bootstrap over groups. A share that is 0 or 1 throughout gets
    the exact one, since resamples cannot vary it, and no share's upper end lies below that of 0, no
    lower end above that of 1, in as many groups; that of ``ece`` is `guard.calibration_error`'s.
    Rows are routed by the policy itself.

    Args:
        judgements: of one judge, all labelled.
        policy: what routes them, measured or not.
        profile: calibrator and thresholds for the judge.
        profile_of: instead, one for each verdict: a chain's later judges have their own.
        seed, resamples: of the bootstrap.

    Raises:
        ConfigError: no rows, rows without a label, or verdicts of more than one judge.
        ProfileMismatch: the profile is for another judge.
    """
    _require_labelled(judgements)
    fingerprint = _only_fingerprint(judgements)
    chosen = _fixed(profile, policy) if profile_of is None else profile_of
    side = _judged_side(judgements, policy, chosen)
    cuts = thresholds_of(judgements, policy, chosen)
    rows = _Rows(judgements, seed, resamples)
    return Evaluation(
        fingerprint=fingerprint,
        thresholds=cuts or (policy if profile is None else profile).thresholds,
        calibrated=_calibrated(judgements, chosen),
        rows=len(judgements),
        groups=len(set(rows.groups)),
        sufficient=int(rows.truth.sum()),
        insufficient=int((~rows.truth).sum()),
        measured=int(side.measured.sum()),
        unmeasured=side.unmeasured,
        no_contexts=side.missing.count(Reason.NO_CONTEXTS),
        routes=_route_counts(side),
        measured_routes=_route_counts(side.part(side.measured)),
        figures=rows.figures(side),
        baselines={name: rows.figures(other) for name, other in _baselines(rows).items()},
        slices=tuple(_slices(rows, side)),
        worst_groups=_worst_groups(rows, side),
        histogram=_histogram(rows, side),
        reliability=tuple(metrics.reliability(side.scored(rows.truth))),
        cost=cost_of(judgements),
        seed=seed,
        resamples=resamples,
    )


# ── Who decides ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Side:
    """What was said of each row, by the judge or by a baseline.

    Attributes:
        scores: (rows,); NaN = not measured.
        routes: of each row; ``None`` = undecided.
        positive, negative: (rows,), whether it was said to be sufficient, insufficient; neither
            where a row was not measured and is not answered or refused.
        missing: why a row was not measured (`guard.Reason`); ``None`` = it was.
    """

    scores: Floats
    routes: tuple[Route | None, ...]
    positive: Bools
    negative: Bools
    missing: tuple[str | None, ...]

    @property
    def unmeasured(self) -> dict[str, int]:
        """Rows that the judge was asked about in vain, by reason, most frequent first."""
        reasons = Counter(reason for reason in self.missing if reason is not None)
        del reasons[Reason.NO_CONTEXTS]
        return dict(reasons.most_common())

    @property
    def measured(self) -> Bools:
        return ~np.isnan(self.scores)

    def took(self, route: Route | None) -> Bools:
        """(rows,), whether each row took the route."""
        return np.array([each is route for each in self.routes], dtype=np.bool_)

    def scored(self, truth: Bools) -> Scored:
        """The measured rows' scores."""
        return Scored(self.scores[self.measured], truth[self.measured])

    def part(self, rows: Bools) -> "_Side":
        """The same of some rows."""
        kept = np.flatnonzero(rows)
        return _Side(
            self.scores[rows],
            tuple(self.routes[row] for row in kept),
            self.positive[rows],
            self.negative[rows],
            tuple(self.missing[row] for row in kept),
        )


class _Said(NamedTuple):
    """What was said of one row: its probability, or why there is none, and its route."""

    score: float | None
    route: Route | None
    missing: str | None = None


def _side(said: Sequence[_Said], cut: float) -> _Side:
    """A side that says sufficient from ``cut`` on; a row without a score is as its route is."""
    scores = np.array([np.nan if one.score is None else one.score for one in said])
    answered = np.array([one.route is Route.ANSWER for one in said], dtype=np.bool_)
    refused = np.array([one.route is Route.REFUSE for one in said], dtype=np.bool_)
    measured, above = ~np.isnan(scores), scores >= cut
    return _Side(
        scores,
        tuple(one.route for one in said),
        np.where(measured, above, answered),
        np.where(measured, ~above, refused),
        tuple(one.missing for one in said),
    )


def _judged_side(judgements: Sequence[Judgement], policy: Policy, profile_of: ProfileOf) -> _Side:
    return _side([_said(judgement, policy, profile_of) for judgement in judgements], cut=0.5)


def _said(judgement: Judgement, policy: Policy, profile_of: ProfileOf) -> _Said:
    """A row's probability and route, as the gate gives them."""
    verdict = judgement.verdict
    if verdict is None:
        routed = route_unmeasured(policy, Reason(str(judgement.reason)))
        return _Said(None, routed.route, routed.reason.value)
    routed = route_verdict(policy, profile_of(verdict), verdict, judgement.lang)
    if routed.stale or routed.probability is None:
        return _Said(None, routed.route, routed.reason.value)
    return _Said(routed.probability.p, routed.route)


def _calibrated(judgements: Sequence[Judgement], profile_of: ProfileOf) -> bool:
    profiles = [profile_of(one.verdict) for one in judgements if one.verdict is not None]
    return bool(profiles) and all(one is not None and one.calibrator for one in profiles)


def thresholds_of(
    judgements: Iterable[Judgement], policy: Policy, profile_of: ProfileOf
) -> Thresholds | None:
    """Those that most of the verdicts are routed by; ``None`` = there is no verdict.

    Args:
        judgements: measured or not.
        policy: has those of verdicts without a profile.
        profile_of: the profile of each verdict, e.g. a gate's `profile_of`.
    """
    profiles = [profile_of(one.verdict) for one in judgements if one.verdict is not None]
    cuts = Counter((policy if one is None else one).thresholds for one in profiles)
    return cuts.most_common(1)[0][0] if cuts else None


def _fixed(profile: Profile | None, policy: Policy) -> ProfileOf:
    """The same profile for every verdict; as for a gate, one for another judge is an error."""

    def profile_of(verdict: Verdict) -> Profile | None:
        if profile is not None and policy.on_stale is None:
            profile.require_for(verdict.fingerprint)
        return profile

    return profile_of


def _baselines(rows: "_Rows") -> dict[str, _Side]:
    """Deciders that need no judge, in the order of `BASELINES`."""
    overlaps = [judgement.overlap for judgement in rows.judgements]
    cut = metrics.best_cut(Scored(overlaps, rows.truth))
    policy = Policy(thresholds=Thresholds(answer_at=cut, refuse_below=cut))
    count = len(overlaps)
    sides = (
        _side([_Said(1.0, Route.ANSWER)] * count, cut=0.5),
        _side([_Said(0.0, Route.REFUSE)] * count, cut=0.5),
        _side([_Said(each, policy.route(each, each)[0]) for each in overlaps], cut=cut),
    )
    return dict(zip(BASELINES, sides, strict=True))


# ── Figures ──────────────────────────────────────────────────────────────────────────────────────


class _Rows:
    """Rows with their truth and groups, and the bootstrap over these."""

    def __init__(self, judgements: Sequence[Judgement], seed: int, resamples: int) -> None:
        self.judgements = judgements
        self.truth: Bools = np.array([bool(one.sufficient) for one in judgements], dtype=np.bool_)
        self.groups = [judgement.group for judgement in judgements]
        self._bootstrap = Bootstrap(self.groups, seed=seed, resamples=resamples)
        self._seed, self._resamples = seed, resamples

    def part(self, rows: Bools) -> "_Rows":
        """Some of the rows, as a data set of their own."""
        kept = [one for one, wanted in zip(self.judgements, rows, strict=True) if wanted]
        return _Rows(kept, self._seed, self._resamples)

    def figures(self, side: _Side) -> dict[str, Figure]:
        """Every figure of `Figures`."""
        shares = _shares(side, self.truth)
        statistics = _statistics(side, shares, self.truth)
        values = statistics(np.ones(len(self.truth)))
        intervals = self._bootstrap.intervals(statistics)
        about = {name: whole for name, (_, whole) in shares.items()}
        about |= dict.fromkeys(("f1", "weighted_f1"), np.ones_like(self.truth))
        figures = {
            name: self._figure(
                _known(value), intervals[name], about.get(name, side.measured), name in shares, name
            )
            for name, value in values.items()
        }
        return {**figures, "ece": self._calibration_error(side)}

    def _calibration_error(self, side: _Side) -> Figure:
        """Of the measured rows and their groups alone, as where a calibrator is fitted to them."""
        groups = [self.groups[row] for row in np.flatnonzero(side.measured)]
        if not groups:
            return self._figure(None, Interval(None, None), side.measured, False)
        found = calibration_error(
            side.scored(self.truth), groups, seed=self._seed, resamples=self._resamples
        )
        interval = Interval(found.low, found.high) if len({*groups}) > 1 else Interval(None, None)
        return self._figure(found.value, interval, side.measured, False)

    def _figure(
        self,
        value: float | None,
        interval: Interval,
        about: Bools,
        is_share: bool,
        name: str = "",
    ) -> Figure:
        groups = len({self.groups[row] for row in np.flatnonzero(about)})
        if value is None:
            return Figure(None, None, None, int(about.sum()), groups)
        if is_share:
            interval = _widened(value, interval, groups, all_of_it=name in _ERRORS)
        return Figure(value, *interval, int(about.sum()), groups)


_ERRORS = ("leak", "leaked_share", "false_refusal")


def _widened(share: float, interval: Interval, groups: int, *, all_of_it: bool) -> Interval:
    """No narrower than what is exact, where resamples are too much alike.

    Error rates (``all_of_it``) are rare, and bars are set on them: no narrower anywhere. Of others,
    where groups all agree; and an event more must never look like more evidence.
    """
    if share in (0, 1):
        return exact(share, groups)
    if interval.low is None or interval.high is None:
        return interval
    low = exact(share if all_of_it else 1, groups).low or 0.0
    high = exact(share if all_of_it else 0, groups).high or 0.0
    return Interval(min(interval.low, low), max(interval.high, high))


def _known(value: Floats) -> float | None:
    return None if np.isnan(value) else float(value)


def _shares(side: _Side, truth: Bools) -> dict[str, tuple[Bools, Bools]]:
    """Figures that are shares: of which rows they are counted, and of which they are a share."""
    answered, refused = side.took(Route.ANSWER), side.took(Route.REFUSE)
    every = np.ones_like(truth)
    right = np.where(truth, side.positive, side.negative)
    return {
        "accuracy": (right, every),
        "leak": (~truth, answered),
        "leaked_share": (answered, ~truth),
        "false_refusal": (refused, truth),
        "clarify_rate": (side.took(Route.CLARIFY), every),
        "coverage": (answered, every),
        "undecided": (side.took(None), every),
    }


def _statistics(side: _Side, shares: Mapping[str, tuple[Bools, Bools]], truth: Bools) -> Statistics:
    scored = side.scored(truth)
    measured = np.flatnonzero(side.measured)

    def statistics(weights: Floats) -> dict[str, Floats]:
        return {
            **_score_metrics(scored, weights[..., measured]),
            "f1": metrics.f1(side.positive, truth, weights),
            "weighted_f1": metrics.weighted_f1(side.positive, side.negative, truth, weights),
            **{name: metrics.share(*masks, weights) for name, masks in shares.items()},
        }

    return statistics


def _score_metrics(scored: Scored, weights: Floats) -> dict[str, Floats]:
    return {
        "auroc": metrics.auroc(scored, weights),
        "average_precision": metrics.average_precision(scored, weights),
        "aurc": metrics.aurc(scored, weights),
        **{name: metrics.coverage_at_risk(scored, risk, weights) for name, risk in RISKS.items()},
        "brier": metrics.brier(scored, weights),
        "log_loss": metrics.log_loss(scored, weights),
    }


# ── Parts of the rows ────────────────────────────────────────────────────────────────────────────


def _slices(rows: _Rows, side: _Side) -> Iterable[Slice]:
    languages = [judgement.lang or "unknown" for judgement in rows.judgements]
    for name in sorted(set(languages)):
        yield _slice(rows, side, "language", name, np.array([each == name for each in languages]))
    for name, mask in _thirds(rows):
        yield _slice(rows, side, "length", name, mask)


def _slice(rows: _Rows, side: _Side, by: str, name: str, mask: Bools) -> Slice:
    part, said = rows.part(mask), side.part(mask)
    groups = len(set(part.groups))
    return Slice(
        by=by,
        name=name,
        rows=len(part.groups),
        groups=groups,
        unmeasured=sum(said.unmeasured.values()),
        small=len(part.groups) < SMALL_ROWS or groups < SMALL_GROUPS,
        figures=part.figures(said),
    )


def _thirds(rows: _Rows) -> Iterable[tuple[str, Bools]]:
    """The rows by length of their contexts, a third each; fewer parts where lengths agree."""
    lengths = np.array([judgement.characters for judgement in rows.judgements])
    ends = sorted({*np.quantile(lengths, [1 / 3, 2 / 3, 1], method="lower").astype(int).tolist()})
    start = -1
    for end in ends:
        above = "" if start < 0 else f"{start + 1:,} to "
        yield f"{above or 'up to '}{end:,} characters", (lengths > start) & (lengths <= end)
        start = end


def _worst_groups(rows: _Rows, side: _Side) -> tuple[WrongGroup, ...]:
    sizes = Counter(rows.groups)
    leaks = _by_group(rows, side.took(Route.ANSWER) & ~rows.truth)
    refusals = _by_group(rows, side.took(Route.REFUSE) & rows.truth)
    found = [
        WrongGroup(group, sizes[group], leaks[group], refusals[group])
        for group in {**leaks, **refusals}
        if sizes[group] > 1
    ]
    found.sort(key=lambda one: (-one.leaks - one.false_refusals, one.rows, one.group))
    return tuple(found[:WORST_GROUPS])


def _by_group(rows: _Rows, mask: Bools) -> Counter[str]:
    return Counter(rows.groups[row] for row in np.flatnonzero(mask))


def _histogram(rows: _Rows, side: _Side) -> tuple[tuple[int, int], ...]:
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    insufficient, sufficient = (
        np.histogram(side.scores[side.measured & (rows.truth == wanted)], edges)[0].tolist()
        for wanted in (False, True)
    )
    return tuple(zip(insufficient, sufficient, strict=True))


# ── Counts ───────────────────────────────────────────────────────────────────────────────────────


def _route_counts(side: _Side) -> dict[str, int]:
    counts = Counter("undecided" if route is None else route.value for route in side.routes)
    return {name: counts[name] for name in (*(route.value for route in Route), "undecided")}


def cost_of(judgements: Sequence[Judgement]) -> Cost:
    """What measuring these rows took."""
    asked = [one.elapsed_seconds for one in judgements if one.reason != Reason.NO_CONTEXTS]
    verdicts = [one.verdict for one in judgements if one.verdict is not None]
    usages = [verdict.usage for verdict in verdicts if verdict.usage is not None]
    p50, p95 = np.percentile(asked, [50, 95]).tolist() if asked else (None, None)
    return Cost(
        asked=len(asked),
        p50_seconds=p50,
        p95_seconds=p95,
        input_tokens=_sum(usage.input_tokens for usage in usages),
        output_tokens=_sum(usage.output_tokens for usage in usages),
        cached_tokens=_sum(usage.cached_tokens for usage in usages),
        requests=sum(usage.requests for usage in usages),
        counted=sum(usage.input_tokens is not None for usage in usages),
        verdicts=len(verdicts),
    )


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


# ── What must hold before ────────────────────────────────────────────────────────────────────────


def _require_labelled(judgements: Sequence[Judgement]) -> None:
    if not judgements:
        raise ConfigError("There are no rows to evaluate.", hint="Give a file with labelled rows.")
    missing = [one.id for one in judgements if one.sufficient is None]
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(judgements)} rows have no label, the first is {missing[0]!r}.",
            hint="Label them (rag-guard label), or leave them out of the file.",
        )


def _only_fingerprint(judgements: Sequence[Judgement]) -> str:
    found = sorted({judgement.fingerprint for judgement in judgements})
    if len(found) > 1:
        raise ConfigError(
            f"The verdicts are of {len(found)} judges: {', '.join(found)}.",
            hint="Evaluate each judge on its own, with a file of verdicts for each.",
        )
    return found[0]


# ── Bars ─────────────────────────────────────────────────────────────────────────────────────────


def unmet(
    evaluation: Evaluation,
    *,
    max_leak: float | None = None,
    max_false_refusal: float | None = None,
) -> list[str]:
    """Why bars are not met, a sentence each; none where they are.

    A rate meets its bar where the upper end of its interval does: by evidence, not by luck. What
    answers nothing, or everything, meets no bar; what refuses nothing meets none on refusals.

    Ten groups are the least that is looked at, not enough: without one leak they reach up to 31 %,
    and a bar of .05 takes 72 groups.

    Args:
        max_leak, max_false_refusal: the most that each may be, in [0, 1]; ``None`` = any.
    """
    bars = _bars(max_leak, max_false_refusal)
    said = [line for bar in bars for line in _unmet(evaluation, *bar)]
    if bars:
        said += _trivial(evaluation, refusing=max_false_refusal is not None)
    return said


def met(
    evaluation: Evaluation,
    *,
    max_leak: float | None = None,
    max_false_refusal: float | None = None,
) -> list[str]:
    """How far bars are met, a sentence each; none where one is not (`unmet`).

    Args:
        max_leak, max_false_refusal: as for `unmet`.
    """
    if unmet(evaluation, max_leak=max_leak, max_false_refusal=max_false_refusal):
        return []
    bars = _bars(max_leak, max_false_refusal)
    return [
        f"{_seen(evaluation, name, rows)}; the bar is {percent(bar)}." for name, bar, rows in bars
    ]


def _bars(max_leak: float | None, max_false_refusal: float | None) -> list[tuple[str, float, str]]:
    """The figure, the most that it may be, and which rows it is a share of."""
    bars = ("leak", max_leak, "answered"), ("false_refusal", max_false_refusal, "sufficient")
    return [(name, bar, rows) for name, bar, rows in bars if bar is not None]


def _seen(evaluation: Evaluation, name: str, rows: str) -> str:
    figure = evaluation.figures[name]
    value, high = (percent(each or 0.0) for each in (figure.value, figure.high))
    what = name.replace("_", " ")
    return f"{what} {value}, by the 95 % interval up to {high} of n = {figure.n} {rows} rows"


def _unmet(evaluation: Evaluation, name: str, bar: float, rows: str) -> Iterable[str]:
    figure = evaluation.figures[name]
    what = name.replace("_", " ")
    if name == "leak" and not evaluation.insufficient:
        yield "leak: no row is insufficient, so nothing could leak; label rows of both kinds."
    elif figure.value is None:
        yield f"{what}: undefined, since no row is {rows} (n = 0); the bar is {percent(bar)}."
    elif figure.high is None or figure.groups < SMALL_GROUPS:
        yield (
            f"{what} {percent(figure.value)}: {figure.n} {rows} rows (n) of {figure.groups} groups "
            f"are too few to tell; {SMALL_GROUPS} groups are the least, a low bar needs more."
        )
    elif figure.high > bar:
        yield f"{_seen(evaluation, name, rows)}; the bar is {percent(bar)}."


def _trivial(evaluation: Evaluation, *, refusing: bool) -> Iterable[str]:
    # Of measured rows: a judge that always says yes is no better for a row that timed out.
    routes, rows = evaluation.measured_routes, evaluation.measured
    if routes["answer"] == 0:
        yield f"0 of n = {rows} measured rows answered: what answers nothing meets no bar."
    elif routes["answer"] == rows:
        yield f"all of n = {rows} measured rows answered: what answers everything meets no bar."
    if refusing and routes["refuse"] == 0:
        yield f"0 of n = {rows} measured rows refused: what refuses nothing meets no such bar."


def percent(share: float) -> str:
    """A share in [0, 1] in percent, e.g. ``"4.2 %"``."""
    return f"{share * 100:.1f} %"
