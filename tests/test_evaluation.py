"""Evaluations: figures, slices, baselines and bars, on judgements made for the purpose."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from guard import (
    ConfigError,
    Gate,
    JudgeRejected,
    JudgeUnavailable,
    Policy,
    Profile,
    ProfileMismatch,
    Query,
    Retry,
    Thresholds,
    Usage,
    Verdict,
)
from guard.calibration import Platt
from guard.calibration_error import Estimate
from guard.dataset import Row
from guard.evaluation import BASELINES, Evaluation, Figure, evaluate, met, unmet
from guard.fitting import fit
from guard.judgement import Judgement
from guard.testing import Scripted, ScriptedJudge

POLICY = Policy(thresholds=Thresholds(answer_at=0.8, refuse_below=0.3))
FINGERPRINT = "scripted:one"


def verdict(p: float, *, low: float | None = None, high: float | None = None) -> Verdict:
    return Verdict(
        p_true=p,
        low=p if low is None else low,
        high=p if high is None else high,
        mass=1.0,
        emitted=None,
        signal="scripted",
        fingerprint=FINGERPRINT,
    )


def judgement(
    number: int, sufficient: bool | None, said: float | Verdict | str, group: str | None = None
) -> Judgement:
    """A row; ``said`` is a probability, a verdict, or why there is none."""
    measured = verdict(said) if isinstance(said, float | int) else said
    return Judgement(
        id=f"row {number}",
        group=group or f"group {number}",
        sufficient=sufficient,
        lang="en",
        verdict=None if isinstance(measured, str) else measured,
        reason=measured if isinstance(measured, str) else None,
        detail="It failed." if isinstance(measured, str) else "",
        elapsed_seconds=0.1 * (number + 1),
        characters=100 * (number + 1),
        overlap=0.5,
        fingerprint=FINGERPRINT,
    )


def rows(*said: tuple[bool, float | Verdict | str]) -> list[Judgement]:
    return [judgement(number, *each) for number, each in enumerate(said)]


def many(count: int, say: Callable[[bool], float | str], share: float = 0.5) -> list[Judgement]:
    """Rows of groups of their own; ``share`` of them, evenly spread, are sufficient."""
    truths = [int((row + 1) * share) > int(row * share) for row in range(count)]
    return rows(*((truth, say(truth)) for truth in truths))


def found(judgements: Sequence[Judgement], policy: Policy = POLICY, **options: Any) -> Evaluation:
    options.setdefault("resamples", 100)
    return evaluate(judgements, policy, **options)


def values(evaluation: Evaluation) -> dict[str, float | None]:
    return {name: figure.value for name, figure in evaluation.figures.items()}


T, F = True, False
SMALL = rows((T, 0.9), (F, 0.85), (T, 0.5), (F, 0.1), (T, 0.2), (F, 0.0))


def test_figures_are_exact() -> None:
    """Answered .9 and .85, clarified .5, refused .1, .2 and 0."""
    evaluation = found(SMALL)
    assert evaluation.routes == {"answer": 2, "clarify": 1, "refuse": 3, "undecided": 0}
    expected = {
        "leak": 1 / 2,
        "leaked_share": 1 / 3,
        "false_refusal": 1 / 3,
        "clarify_rate": 1 / 6,
        "coverage": 2 / 6,
        "undecided": 0.0,
        "accuracy": 4 / 6,
        "f1": 2 / 3,
        "weighted_f1": 2 / 3,
        "auroc": 7 / 9,
        "brier": (0.1**2 + 0.85**2 + 0.5**2 + 0.1**2 + 0.8**2 + 0) / 6,
        "average_precision": (1 + 2 / 3 + 3 / 4) / 3,
        "aurc": (0 + 1 / 2 + 1 / 3 + 1 / 4 + 2 / 5 + 1 / 2) / 6,
        "coverage_at_5_risk": 1 / 6,
        "coverage_at_10_risk": 1 / 6,
    }
    assert {name: values(evaluation)[name] for name in expected} == pytest.approx(expected)
    about = {name: figure.n for name, figure in evaluation.figures.items()}
    assert (about["leak"], about["false_refusal"], about["leaked_share"]) == (2, 3, 3)
    assert (about["auroc"], about["accuracy"]) == (6, 6)


def test_every_figure_lies_in_its_interval() -> None:
    rng = np.random.default_rng(0)
    judgements = many(300, lambda truth: float(np.clip(rng.normal(0.4 + 0.3 * truth, 0.3), 0, 1)))
    for name, figure in found(judgements, resamples=400).figures.items():
        assert figure.value is not None and figure.low is not None and figure.high is not None
        assert figure.low <= figure.value <= figure.high, name


def test_the_calibration_error_is_that_of_a_fit() -> None:
    """Number and interval, also where some rows, and whole groups, were not measured."""
    rng = np.random.default_rng(0)
    judgements = many(300, lambda truth: float(np.clip(rng.normal(0.4 + 0.3 * truth, 0.3), 0, 1)))
    failed = [replace(one, verdict=None, reason="timeout") for one in judgements[::7]]
    scored = [one for one in judgements if one.id not in {each.id for each in failed}]
    fitted = fit(
        [one.verdict.p_true for one in scored if one.verdict is not None],
        [bool(one.sufficient) for one in scored],
        [one.group for one in scored],
    )
    figure = found([*failed, *scored], resamples=1000).figures["ece"]
    assert Estimate(*_triple(figure)) == fitted.ece_before


def _triple(figure: Figure) -> tuple[float, float, float]:
    assert figure.value is not None and figure.low is not None and figure.high is not None
    return figure.value, figure.low, figure.high


def test_groups_widen_every_interval() -> None:
    """Rows of one group that say the same are worth one."""
    rng = np.random.default_rng(0)
    truths = rng.random(60) < 0.5
    said = np.clip(rng.normal(0.4 + 0.3 * truths, 0.3), 0, 1)
    alone = [judgement(row, bool(truths[row // 8]), float(said[row // 8])) for row in range(60 * 8)]
    grouped = [replace(one, group=str(row // 8)) for row, one in enumerate(alone)]

    def width(judgements: Sequence[Judgement], name: str) -> float:
        figure = found(judgements, resamples=400).figures[name]
        assert figure.low is not None and figure.high is not None
        return figure.high - figure.low

    for name in ("auroc", "brier", "accuracy", "leak", "coverage"):
        assert width(grouped, name) > 2 * width(alone, name), name


def test_the_same_seed_gives_the_same_figures() -> None:
    judgements = many(80, lambda truth: 0.7 if truth else 0.4)
    judgements[3] = replace(judgements[3], sufficient=not judgements[3].sufficient)
    assert found(judgements, seed=3) == found(judgements, seed=3)
    assert found(judgements, seed=3).figures != found(judgements, seed=4).figures


# ── What was not measured ────────────────────────────────────────────────────────────────────────

HALF: list[tuple[bool, float | Verdict | str]] = [
    (T, 0.9),
    (F, 0.1),
    (T, "timeout"),
    (F, "timeout"),
    (F, "low_mass"),
]


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("answer", {"leak": 2 / 4, "false_refusal": 0, "accuracy": 3 / 5, "coverage": 4 / 5}),
        ("refuse", {"leak": 0, "false_refusal": 1 / 2, "accuracy": 4 / 5, "coverage": 1 / 5}),
        ("clarify", {"leak": 0, "false_refusal": 0, "accuracy": 2 / 5, "clarify_rate": 3 / 5}),
        ("raise", {"leak": 0, "false_refusal": 0, "accuracy": 2 / 5, "undecided": 3 / 5}),
    ],
)
def test_unmeasured_rows_are_where_the_policy_routes_them(
    route: Any, expected: dict[str, float]
) -> None:
    """They count in every share, right only where they are answered or refused rightly."""
    evaluation = found(rows(*HALF), replace(POLICY, on_unmeasured=route))
    assert {name: values(evaluation)[name] for name in expected} == pytest.approx(expected)
    assert evaluation.figures["accuracy"].n == 5
    assert evaluation.unmeasured == {"timeout": 2, "low_mass": 1}
    assert evaluation.measured == 2


def test_unmeasured_rows_have_no_score() -> None:
    """Figures of scores are those of the measured rows alone, and say so by their n."""
    with_failures, without = found(rows(*HALF)), found(rows(*HALF[:2]))
    for name in ("auroc", "average_precision", "aurc", "brier", "ece", "log_loss"):
        assert values(with_failures)[name] == values(without)[name]
        assert with_failures.figures[name].n == 2


def test_unmeasured_rows_leave_intervals_of_scores_as_they_are() -> None:
    """One more row in each group, without a score: the same groups are drawn."""
    rng = np.random.default_rng(0)
    judgements = many(60, lambda truth: float(np.clip(rng.normal(0.4 + 0.3 * truth, 0.3), 0, 1)))
    gone = [replace(one, verdict=None, reason="timeout") for one in judgements]
    both = [each for pair in zip(gone, judgements, strict=True) for each in pair]
    for name in ("auroc", "brier", "log_loss", "aurc"):
        assert found(both).figures[name] == found(judgements).figures[name]


def test_each_kind_has_its_route() -> None:
    policy = replace(POLICY, on_unmeasured={"timeout": "answer", "default": "refuse"})
    assert found(rows(*HALF), policy).routes["answer"] == 3


def test_nothing_measured_at_all() -> None:
    evaluation = found(rows((T, "timeout"), (F, "rejected")))
    assert evaluation.measured == 0
    assert values(evaluation)["auroc"] is None
    assert values(evaluation)["brier"] is None
    assert values(evaluation)["leak"] is None
    assert values(evaluation)["false_refusal"] == 1
    assert evaluation.cost.p50_seconds is not None


def test_empty_contexts_are_refused_and_no_failure() -> None:
    """As the gate does, whatever is done with what could not be measured."""
    judgements = rows((T, 0.9), (F, "no_contexts"), (F, 0.1))
    evaluation = found(judgements, replace(POLICY, on_unmeasured="answer"))
    assert evaluation.routes["refuse"] == 2
    assert (evaluation.no_contexts, evaluation.unmeasured) == (1, {})
    assert (evaluation.cost.asked, evaluation.measured) == (2, 2)


def test_bounds_and_coverage_route() -> None:
    """A probability above the threshold with a bound below it does not answer."""
    wide = verdict(0.9, low=0.7, high=0.95)
    partly = replace(verdict(0.1), coverage=0.5)
    routes = found(rows((T, wide), (F, partly))).routes
    assert routes == {"answer": 0, "clarify": 2, "refuse": 0, "undecided": 0}


# ── Profiles ─────────────────────────────────────────────────────────────────────────────────────


def test_a_profile_calibrates_and_has_its_thresholds() -> None:
    platt = Platt(2.0, 0.5)
    profile = Profile(Thresholds(0.6, 0.6), FINGERPRINT, calibrator=platt)
    evaluation = found(SMALL, profile=profile)
    assert evaluation.calibrated
    assert evaluation.thresholds == profile.thresholds
    truths = [float(bool(one.sufficient)) for one in SMALL]
    said = [platt.apply(one.verdict.p_true) for one in SMALL if one.verdict is not None]
    expected = np.mean([(p - truth) ** 2 for p, truth in zip(said, truths, strict=True)])
    assert values(evaluation)["brier"] == pytest.approx(expected)
    assert evaluation.routes["answer"] == sum(p >= 0.6 for p in said)


def test_a_profile_for_another_judge() -> None:
    profile = Profile(Thresholds(0.6, 0.6), "scripted:other")
    with pytest.raises(ProfileMismatch):
        found(SMALL, profile=profile)
    # Where the policy says what to do then, its rows are as good as not measured.
    stale = found(SMALL, replace(POLICY, on_stale="clarify"), profile=profile)
    assert stale.unmeasured == {"stale_profile": 6}
    assert (stale.measured, stale.routes["clarify"]) == (0, 6)


def test_a_profile_for_another_language() -> None:
    profile = Profile(Thresholds(0.8, 0.3), FINGERPRINT, languages=("en",))
    judgements = [replace(SMALL[0], lang="de"), *SMALL[1:]]
    evaluation = found(judgements, profile=profile)
    assert evaluation.unmeasured == {"stale_profile": 1}
    assert evaluation.figures["auroc"].n == 5


def test_a_profile_for_each_verdict() -> None:
    """As in a chain, whose later judges have their own."""
    judgements = rows((T, 0.5), (F, 0.5))
    low, high = Profile(Thresholds(0.4, 0.4)), Profile(Thresholds(0.6, 0.6))
    first = judgements[0].verdict

    def profile_of(verdict: Verdict) -> Profile:
        return low if verdict is first else high

    evaluation = found(judgements, profile_of=profile_of)
    assert (evaluation.routes["answer"], evaluation.routes["refuse"]) == (1, 1)
    assert not evaluation.calibrated


SAYINGS: list[Scripted] = [
    0.9,
    0.5,
    0.1,
    (0.4, 0.95),
    replace(verdict(0.1), coverage=0.5),
    replace(verdict(0.9), signal="mean"),
    JudgeUnavailable("Slow.", kind="timeout"),
    JudgeRejected("No such model."),
]


@pytest.mark.parametrize("on_unmeasured", ["answer", "refuse", "clarify", "raise"])
@pytest.mark.parametrize("on_stale", ["answer", "clarify"])
@pytest.mark.parametrize("fitted", [True, False])
def test_rows_take_the_route_that_the_gate_decides(
    on_unmeasured: Any, on_stale: Any, fitted: bool
) -> None:
    """One rule: with calibrators, stale profiles, empty contexts and failures of all kinds."""
    policy = replace(POLICY, on_unmeasured=on_unmeasured, on_stale=on_stale, mode="shadow")
    profile = Profile(Thresholds(0.6, 0.2), calibrator=Platt(2.0, 0.5), signal="scripted")
    chosen = profile if fitted else None
    gate = Gate(ScriptedJudge(SAYINGS), policy, retry=Retry(attempts=1), profile=chosen)
    routes = list[str]()
    judgements = list[Judgement]()
    for number, contexts in enumerate([["A passage."]] * len(SAYINGS) + [[]]):
        query = Query.of("When?", contexts, lang="en")
        decision = gate.check(query.question, query.contexts, lang=query.lang)
        routes.append("undecided" if decision.route is None else decision.route.value)
        row = Row(str(number), query, number % 2 == 0, str(number), (), "here")
        judgements.append(Judgement.of(row, decision))
    evaluation = found(judgements, policy, profile=chosen)
    assert {name: count for name, count in evaluation.routes.items() if count} == Counter(routes)


# ── Edges ────────────────────────────────────────────────────────────────────────────────────────


def test_a_perfect_judge() -> None:
    evaluation = found(many(200, lambda truth: 1.0 if truth else 0.0))
    perfect = {"leak": 0, "false_refusal": 0, "accuracy": 1, "f1": 1, "weighted_f1": 1, "auroc": 1}
    perfect |= {"brier": 0, "ece": 0, "average_precision": 1}
    assert {name: values(evaluation)[name] for name in perfect} == perfect
    leak = evaluation.figures["leak"]
    # No leak in 100 groups is no proof that there is none.
    assert (leak.low, leak.high) == pytest.approx((0, 1 - 0.025 ** (1 / 100)))


@pytest.mark.parametrize("truth", [True, False])
def test_one_class_only(truth: bool) -> None:
    """What is undefined is None; the rest is there."""
    evaluation = found(many(40, lambda _: 0.9, share=float(truth)))
    undefined = {name for name, value in values(evaluation).items() if value is None}
    both_ways = {"auroc"}
    expected = {"leaked_share"} if truth else {"false_refusal", "average_precision"}
    assert undefined == both_ways | expected
    assert values(evaluation)["leak"] == (0 if truth else 1)


def test_one_group_has_no_intervals() -> None:
    judgements = [replace(one, group="only") for one in SMALL]
    brier = found(judgements).figures["brier"]
    assert (brier.low, brier.high, brier.groups) == (None, None, 1)


@pytest.mark.parametrize(
    ("judgements", "problem"),
    [
        ([], "no rows"),
        ([*SMALL, judgement(9, None, 0.5)], "1 of 7 rows have no label, the first is 'row 9'"),
        ([*SMALL, replace(judgement(9, T, 0.5), fingerprint="other")], "2 judges"),
    ],
)
def test_what_cannot_be_evaluated(judgements: list[Judgement], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        found(judgements)


def test_json_ready() -> None:
    """No NaN in it, wherever figures are undefined, and all names there."""
    for judgements in (SMALL, rows((T, "timeout")), rows((F, 0.9))):
        record = json.loads(json.dumps(found(judgements).to_dict(), allow_nan=False))
        assert set(record["figures"]["leak"]) == {"value", "low", "high", "n", "groups"}
        assert set(record["baselines"]) == set(BASELINES)
        assert record["thresholds"] == {"answer_at": 0.8, "refuse_below": 0.3}
        assert record["rows"] == len(judgements)
        assert len(record["histogram"]) == 10


# ── Beside and below ─────────────────────────────────────────────────────────────────────────────


def test_baselines() -> None:
    """Two that are trivial, and word overlap at the cut that suits it best."""
    overlaps = [1.0, 0.75, 0.75, 0.25, 0.75, 0.0]
    judgements = [
        replace(one, overlap=overlap) for one, overlap in zip(SMALL, overlaps, strict=True)
    ]
    always, never, words = (found(judgements).baselines[name] for name in BASELINES)
    assert (always["leak"].value, always["coverage"].value) == (0.5, 1)
    assert (never["leak"].value, never["false_refusal"].value) == (None, 1)
    assert always["auroc"].value == never["auroc"].value == 0.5
    # Answered from .75 on: three sufficient rows, one that is not.
    assert (words["leak"].value, words["false_refusal"].value) == (1 / 4, 0)
    assert words["accuracy"].value == pytest.approx(5 / 6)
    assert words["clarify_rate"].value == 0


def test_slices() -> None:
    """Every row is in one slice of each sort; a slice's figures are those of its rows alone."""
    judgements = [
        replace(one, lang=("de", None)[row % 2], characters=row) for row, one in enumerate(SMALL)
    ]
    evaluation = found(judgements)
    sizes = {(part.by, part.name): part.rows for part in evaluation.slices}
    assert sizes == {
        ("language", "de"): 3,
        ("language", "unknown"): 3,
        ("length", "up to 1 characters"): 2,
        ("length", "2 to 3 characters"): 2,
        ("length", "4 to 5 characters"): 2,
    }
    german = evaluation.slices[0]
    assert german.small
    assert german.figures == found(judgements[::2]).figures


def test_slices_of_contexts_of_one_length() -> None:
    evaluation = found([replace(one, characters=7) for one in SMALL])
    assert [part.name for part in evaluation.slices if part.by == "length"] == [
        "up to 7 characters"
    ]


def test_a_slice_of_many_rows_in_few_groups_is_small() -> None:
    judgements = [replace(one, group="ab"[row % 2]) for row, one in enumerate(many(80, float))]
    assert all(part.small for part in found(judgements).slices)
    assert not any(part.small for part in found(many(200, float)).slices)


def test_worst_groups() -> None:
    bad = [judgement(row, F, 0.9, "leaky") for row in range(3)]
    mixed = [judgement(3, T, 0.1, "mixed"), judgement(4, T, 0.9, "mixed")]
    good = [judgement(5, T, 0.9, "good"), judgement(6, F, 0.1, "good")]
    worst = found([*good, *mixed, *bad]).worst_groups
    assert [(one.group, one.rows, one.leaks, one.false_refusals) for one in worst] == [
        ("leaky", 3, 3, 0),
        ("mixed", 2, 0, 1),
    ]


def test_at_most_ten_worst_groups() -> None:
    judgements = [judgement(row, F, 0.9, f"group {row // 2}") for row in range(40)]
    assert len(found(judgements).worst_groups) == 10


def test_cost() -> None:
    """What verdicts do not say is not counted as nothing."""
    told = replace(verdict(0.9), usage=Usage(100, 1, 40))
    silent = replace(verdict(0.9), usage=Usage(requests=2))
    cost = found(rows((T, told), (T, told), (F, silent), (F, "timeout"))).cost
    assert (cost.input_tokens, cost.output_tokens, cost.cached_tokens) == (200, 2, 80)
    assert (cost.requests, cost.counted, cost.verdicts, cost.asked) == (4, 2, 3, 4)
    assert cost.p50_seconds == pytest.approx(0.25)
    assert found(SMALL).cost.input_tokens is None


def test_histogram_holds_every_measured_row_once() -> None:
    histogram = found(rows((T, 1.0), (F, 0.0), (T, 0.95), (T, 0.5), (F, "timeout"))).histogram
    assert histogram[0] == (1, 0)
    assert histogram[5] == (0, 1)
    assert histogram[9] == (0, 2)
    assert sum(map(sum, histogram)) == 4


# ── Bars ─────────────────────────────────────────────────────────────────────────────────────────


def bars(judgements: Sequence[Judgement], policy: Policy | None = None, **most: Any) -> list[str]:
    return unmet(found(judgements, policy or POLICY), **most)


LEAK: dict[str, Any] = {"max_leak": 0.05}
REFUSAL: dict[str, Any] = {"max_false_refusal": 0.2}
BARS = [LEAK, REFUSAL, LEAK | REFUSAL]


@pytest.mark.parametrize("most", BARS, ids=["leak", "refusal", "both"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("said", [0.99, 0.5, 0.01, "timeout"])
@pytest.mark.parametrize("on_unmeasured", ["answer", "refuse", "clarify", "raise"])
def test_what_is_always_the_same_meets_no_bar(
    said: float | str, share: float, most: dict[str, Any], on_unmeasured: Any
) -> None:
    """Whatever the data: also where hardly a row is insufficient, or none."""
    policy = replace(POLICY, on_unmeasured=on_unmeasured)
    assert bars(many(200, lambda _: said, share), policy, **most)


@pytest.mark.parametrize("most", BARS, ids=["leak", "refusal", "both"])
@pytest.mark.parametrize("other", ["timeout", "no_contexts"])
def test_a_row_that_was_not_measured_makes_no_judge_less_trivial(
    other: str, most: dict[str, Any]
) -> None:
    """Always yes, but for rows that nobody judged, which are refused."""
    judgements = [*many(300, lambda _: 0.99, share=0.99), judgement(999, F, other)]
    assert bars(judgements, **most)


@pytest.mark.parametrize("most", BARS, ids=["leak", "refusal", "both"])
def test_a_good_judge_meets_bars(most: dict[str, Any]) -> None:
    assert bars(many(400, lambda truth: 0.95 if truth else 0.05), **most) == []


@pytest.mark.parametrize("most", BARS, ids=["leak", "refusal", "both"])
@pytest.mark.parametrize("good", [True, False])
def test_a_met_bar_is_told(most: dict[str, Any], good: bool) -> None:
    """A sentence for each; none where one is not met."""
    evaluation = found(many(400, lambda truth: (0.95 if truth else 0.05) if good else 0.95))
    lines = met(evaluation, **most)
    names = [name.removeprefix("max_").replace("_", " ") for name in most] if good else []
    assert [line.partition(" 0.0 %")[0] for line in lines] == names


def test_where_nothing_is_insufficient_nothing_could_leak() -> None:
    """However many were refused."""
    judgements = many(400, lambda truth: 0.95, share=1.0)
    refused = [replace(each, verdict=verdict(0.05)) for each in judgements[::4]]
    answered = [each for at, each in enumerate(judgements) if at % 4]
    (line,) = bars([*answered, *refused], max_leak=0.5)
    assert "no row is insufficient" in line


def test_what_refuses_nothing_meets_no_bar_on_refusals() -> None:
    """It clarifies instead; its leaks may be few all the same."""
    judgements = many(400, lambda truth: 0.95 if truth else 0.5)
    assert bars(judgements, **LEAK) == []
    (line,) = bars(judgements, **REFUSAL)
    assert "0 of n = 400 measured rows refused" in line


def test_no_bar() -> None:
    assert bars(SMALL) == []


def test_a_bar_is_met_by_evidence_not_by_luck() -> None:
    """No leak at all among few answers is not evidence enough."""
    few = bars(many(60, lambda truth: 0.95 if truth else 0.05), max_leak=0.05)
    (line,) = few
    assert "leak 0.0 %" in line and "n = 30" in line and "5.0 %" in line
    assert bars(many(160, lambda truth: 0.95 if truth else 0.05), max_leak=0.05) == []


@pytest.mark.parametrize("leaks", [0, 1])
def test_one_leak_is_no_better_evidence_than_none(leaks: int) -> None:
    """Many answers of 15 groups: the upper end is never below that of no leak."""
    answered = [judgement(at, at >= leaks, 0.95, str(at % 15)) for at in range(1500)]
    refused = [judgement(at, F, 0.05, str(at % 15)) for at in range(1500, 3000)]
    evaluation = found([*answered, *refused])
    leak, accuracy = (evaluation.figures[name] for name in ("leak", "accuracy"))
    no_leak = 1 - 0.025 ** (1 / 15)
    assert leak.high is not None and no_leak <= leak.high + 1e-9 <= no_leak + 0.002
    assert accuracy.low == pytest.approx(1 - no_leak)
    (line,) = unmet(evaluation, max_leak=0.05)
    assert "up to 21." in line


def test_rows_of_few_groups_meet_no_bar() -> None:
    judgements = [
        replace(one, group=str(row % 9))
        for row, one in enumerate(many(400, lambda truth: 0.95 if truth else 0.05))
    ]
    (line,) = bars(judgements, max_leak=0.5)
    assert "9 groups" in line


def test_unmeasured_rows_that_are_answered_leak() -> None:
    judgements = many(400, lambda truth: 0.95 if truth else 0.05)
    broken = [
        replace(one, verdict=None, reason="timeout") if row % 10 < 2 else one
        for row, one in enumerate(judgements)
    ]
    answering = replace(POLICY, on_unmeasured="answer")
    assert bars(broken, max_leak=0.05) == []
    (line,) = bars(broken, answering, max_leak=0.05)
    assert "n = 240 answered" in line
    (line,) = bars(broken, max_false_refusal=0.1)
    assert "n = 200 sufficient" in line


def test_each_missed_bar_has_its_line() -> None:
    lines = bars(many(100, lambda truth: 0.05 if truth else 0.95), **LEAK, **REFUSAL)
    assert [line.partition(" 100")[0] for line in lines] == ["leak", "false refusal"]


def test_no_interval_holds_nan() -> None:
    for figure in found(SMALL).figures.values():
        assert isinstance(figure, Figure)
        for number in (figure.value, figure.low, figure.high):
            assert number is None or math.isfinite(number)


@pytest.mark.slow
def test_a_thousand_resamples_of_six_thousand_rows_take_seconds() -> None:
    rng = np.random.default_rng(0)
    judgements = many(6000, lambda truth: float(np.clip(rng.normal(0.4 + 0.3 * truth, 0.3), 0, 1)))
    started = time.perf_counter()
    evaluation = evaluate(judgements, POLICY, resamples=1000)
    # 3 s on two idle cores; one resample after the other would take minutes.
    assert time.perf_counter() - started < 60
    assert evaluation.figures["auroc"].n == 6000


@pytest.mark.parametrize("answered", [73, 80, 100, 150, 200, 500])
def test_a_bar_is_met_by_luck_no_oftener_than_it_says(answered: int) -> None:
    """Of judges whose true leak rate is the bar, 2.5 % at most meet it."""

    def meets(leaks: int) -> bool:
        rows = [judgement(at, at >= leaks, 0.95) for at in range(answered)]
        rows += [judgement(at, F, 0.05) for at in range(answered, 2 * answered)]
        return not unmet(found(rows, resamples=200), max_leak=0.05)

    most = next(leaks for leaks in range(answered) if not meets(leaks)) - 1
    assert most >= 0
    lucky = math.fsum(
        math.comb(answered, k) * 0.05**k * 0.95 ** (answered - k) for k in range(most + 1)
    )
    assert lucky <= 0.025
