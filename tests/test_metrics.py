"""Metrics: against numbers worked out by hand, against scikit-learn, and against plain loops."""

import importlib
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from guard import metrics
from guard.bootstrap import Bootstrap, Interval, exact
from guard.calibration_error import calibration_error
from guard.errors import ConfigError
from guard.metrics import CLAMP, Floats, Scored

T, F = True, False
sklearn_metrics: Any = importlib.import_module("sklearn.metrics")  # It ships no types.
Metric = Callable[..., Floats]


def simulated(seed: int, rows: int = 300) -> Scored:
    """Scores of some use, many of them tied."""
    rng = np.random.default_rng(seed)
    sufficient = rng.random(rows) < 0.6
    scores = np.clip(rng.normal(0.4 + 0.3 * sufficient, 0.25), 0, 1).round(2)
    return Scored(scores, sufficient)


FOUR = Scored([0.9, 0.8, 0.6, 0.2], [T, F, T, F])
TIED = Scored([0.7, 0.7, 0.2], [T, F, F])


@pytest.mark.parametrize(
    ("metric", "rows", "expected"),
    [
        # Of 2 x 2 pairs three are in order.
        (metrics.auroc, FOUR, 3 / 4),
        # One pair is a tie, one in order.
        (metrics.auroc, TIED, 3 / 4),
        # Precision 1 at the first, 2/3 at the third row; half of the recall at each.
        (metrics.average_precision, FOUR, (1 + 2 / 3) / 2),
        (metrics.average_precision, TIED, 1 / 2),
        # Risks of the first 1, 2, 3, 4 rows: 0, 1/2, 1/3, 1/2.
        (metrics.aurc, FOUR, (0 + 1 / 2 + 1 / 3 + 1 / 2) / 4),
        # The tie in random order: 1/2 on average, then 1/2; then 2/3.
        (metrics.aurc, TIED, (1 / 2 + 1 / 2 + 2 / 3) / 3),
        (metrics.brier, FOUR, (0.1**2 + 0.8**2 + 0.4**2 + 0.2**2) / 4),
        (metrics.log_loss, TIED, -(math.log(0.7) + math.log(0.3) + math.log(0.8)) / 3),
    ],
)
def test_by_hand(metric: Metric, rows: Scored, expected: float) -> None:
    assert float(metric(rows)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("risk", "covered"), [(0.0, 1 / 4), (0.33, 1 / 4), (1 / 3, 3 / 4), (0.5, 1.0), (1.0, 1.0)]
)
def test_coverage_at_risk(risk: float, covered: float) -> None:
    """The largest share counts, also where a smaller one would be above the risk."""
    assert float(metrics.coverage_at_risk(FOUR, risk)) == covered


def test_coverage_at_risk_splits_no_tie() -> None:
    assert float(metrics.coverage_at_risk(TIED, 0.4)) == 0
    assert float(metrics.coverage_at_risk(TIED, 0.5)) == 2 / 3


def test_calibration_error_by_hand() -> None:
    """Two bins of two rows: .15 against 1/2, .85 against 1."""
    rows = Scored([0.1, 0.2, 0.8, 0.9], [F, T, T, T])
    expected = (2 * 0.35 + 2 * 0.15) / 4
    assert float(metrics.expected_calibration_error(rows, bins=2)) == pytest.approx(expected)
    low, high = metrics.reliability(rows, bins=2)
    assert (low.rows, high.rows) == (2, 2)
    assert (low.probability, low.sufficient) == pytest.approx((0.15, 0.5))
    assert (high.probability, high.sufficient) == pytest.approx((0.85, 1.0))


@pytest.mark.parametrize(
    ("p", "y", "bins", "expected"),
    [
        ([0.3, 0.3, 0.3, 0.3], [T, F, F, F], 10, 0.05),
        ([0.2, 0.2, 0.9, 0.9], [F, F, T, T], 2, 0.15),
        ([0.2, 0.2, 0.9, 0.9], [F, F, T, T], 1, 0.05),
        ([0.0, 1.0], [T, F], 10, 1.0),
        ([0.0, 1.0], [F, T], 10, 0.0),
        ([0.7], [T], 10, 0.3),
    ],
)
def test_calibration_error_of_few_rows(
    p: list[float], y: list[bool], bins: int, expected: float
) -> None:
    found = float(metrics.expected_calibration_error(Scored(p, y), bins=bins))
    assert found == pytest.approx(expected) and found <= 1


def overconfident(rows: int, slope: float, seed: int = 0) -> Scored:
    """Scores whose true log-odds are ``slope`` times their own; at 1 they are calibrated."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 2, rows)
    return Scored(1 / (1 + np.exp(-odds / slope)), rng.random(rows) < 1 / (1 + np.exp(-odds)))


@pytest.mark.slow
@pytest.mark.parametrize("slope", [1, 0.8, 0.5])
@pytest.mark.parametrize("rows", [60, 300, 1500])
def test_the_interval_of_the_calibration_error_covers_it(rows: int, slope: float) -> None:
    """In 9 of 10 draws or more."""
    of_many = metrics.expected_calibration_error(
        overconfident(400_000, slope, 999), bins=metrics.bins_for(rows)
    )
    # What a calibrated judge's is above 0 is noise, also of so many rows.
    truth = 0.0 if slope == 1 else float(of_many)
    drawn = [calibration_error(overconfident(rows, slope, seed), range(rows)) for seed in range(60)]
    assert all(each.low <= each.value <= each.high for each in drawn)
    assert sum(each.low <= truth <= each.high for each in drawn) >= 54


def test_one_group_says_nothing_of_others() -> None:
    found = calibration_error(FOUR, ["a"] * 4)
    assert (found.low, found.high) == (0, 1)


def test_rows_of_one_score_share_a_bin() -> None:
    """A judge that always says .5, and is right half of the time, is calibrated."""
    rows = Scored([0.5] * 100, [T, F] * 50)
    assert float(metrics.expected_calibration_error(rows)) == 0
    assert [one.rows for one in metrics.reliability(rows)] == [100]


def test_a_tie_is_in_the_bin_of_its_middle() -> None:
    """Seven of ten rows, from the second to the eighth from above: in the upper half."""
    rows = Scored([0.9] + [0.5] * 7 + [0.1] * 2, [T] * 10)
    assert [one.rows for one in metrics.reliability(rows, bins=2)] == [2, 8]


@pytest.mark.parametrize(("rows", "bins"), [(0, 1), (7, 1), (29, 2), (149, 14), (5000, 15)])
def test_bins(rows: int, bins: int) -> None:
    assert metrics.bins_for(rows) == bins


def test_bins_hold_about_as_many_rows_each() -> None:
    rng = np.random.default_rng(3)
    rows = Scored(rng.beta(0.3, 0.3, 1500), rng.random(1500) < 0.5)
    assert {one.rows for one in metrics.reliability(rows)} == {100}


def test_log_loss_is_clamped() -> None:
    wrong = Scored([1.0, 0.0], [F, T])
    assert float(metrics.log_loss(wrong)) == pytest.approx(-math.log(CLAMP))
    assert float(metrics.log_loss(Scored([1.0], [T]))) == pytest.approx(CLAMP)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (metrics.auroc, sklearn_metrics.roc_auc_score),
        (metrics.average_precision, sklearn_metrics.average_precision_score),
        (metrics.brier, sklearn_metrics.brier_score_loss),
    ],
)
def test_as_scikit_learn(seed: int, ours: Metric, theirs: Callable[..., float]) -> None:
    """Plain, and with weights, which are how often a row counts."""
    rows = simulated(seed)
    weights = np.random.default_rng(seed).integers(0, 4, len(rows))
    assert float(ours(rows)) == pytest.approx(theirs(rows.sufficient, rows.scores))
    weighed = theirs(rows.sufficient, rows.scores, sample_weight=weights)
    assert float(ours(rows, weights)) == pytest.approx(weighed)


@pytest.mark.parametrize("seed", range(5))
def test_log_loss_as_scikit_learn(seed: int) -> None:
    rows = simulated(seed)
    inside = Scored(np.clip(rows.scores, 0.01, 0.99), rows.sufficient)
    expected = sklearn_metrics.log_loss(inside.sufficient, inside.scores)
    assert float(metrics.log_loss(inside)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_choices_as_scikit_learn(seed: int) -> None:
    rows = simulated(seed)
    chosen, ones = rows.scores >= 0.5, np.ones(len(rows))
    expected = sklearn_metrics.f1_score(rows.sufficient, chosen)
    assert float(metrics.f1(chosen, rows.sufficient, ones)) == pytest.approx(expected)
    expected = sklearn_metrics.f1_score(rows.sufficient, chosen, average="weighted")
    found = metrics.weighted_f1(chosen, ~chosen, rows.sufficient, ones)
    assert float(found) == pytest.approx(expected)


def test_what_is_of_neither_class_is_missed_by_both() -> None:
    """Two rows right, one sufficient row of neither class: recall 1/2 and 1."""
    positive, negative = np.array([T, F, F]), np.array([F, T, F])
    actual = np.array([T, F, T])
    found = metrics.weighted_f1(positive, negative, actual, np.ones(3))
    assert float(found) == pytest.approx((2 * (2 / 3) + 1 * 1.0) / 3)


@pytest.mark.parametrize("seed", range(3))
def test_aurc_is_the_mean_over_orders_of_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, wrong = rng.integers(0, 3, 6), rng.random(6) < 0.5

    def area(order: Sequence[int]) -> float:
        return float(np.mean(np.cumsum(wrong[list(order)]) / np.arange(1, 7)))

    orders = [
        order
        for order in itertools.permutations(range(6))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    expected = np.mean([area(order) for order in orders])
    assert float(metrics.aurc(Scored(scores, ~wrong))) == pytest.approx(expected)


def ece(rows: Scored, weights: Floats | None = None) -> Floats:
    return metrics.expected_calibration_error(rows, weights, bins=7)


def coverage(rows: Scored, weights: Floats | None = None) -> Floats:
    return metrics.coverage_at_risk(rows, 0.3, weights)


EVERY: list[Metric] = [
    metrics.auroc,
    metrics.average_precision,
    metrics.aurc,
    metrics.brier,
    metrics.log_loss,
    ece,
    coverage,
]


@pytest.mark.parametrize("metric", EVERY)
def test_a_weight_is_how_often_a_row_is_there(metric: Metric) -> None:
    """Many resamples at once give what each gives with its rows written out."""
    rows = simulated(11, 60)
    weights = np.random.default_rng(1).integers(0, 4, (9, 60))
    expected = [
        float(metric(Scored(np.repeat(rows.scores, each), np.repeat(rows.sufficient, each))))
        for each in weights
    ]
    assert metric(rows, weights).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("metric", EVERY)
def test_the_order_of_rows_is_nothing(metric: Metric) -> None:
    rows = simulated(5, 80)
    order = np.random.default_rng(0).permutation(80)
    mixed = Scored(rows.scores[order], rows.sufficient[order])
    assert float(metric(mixed)) == pytest.approx(float(metric(rows)))


@pytest.mark.parametrize(
    ("metric", "rows", "defined"),
    [
        (metrics.auroc, Scored([0.1, 0.9], [T, T]), False),
        (metrics.auroc, Scored([0.1, 0.9], [F, F]), False),
        (metrics.average_precision, Scored([0.1, 0.9], [F, F]), False),
        (metrics.average_precision, Scored([0.1, 0.9], [T, T]), True),
        (metrics.aurc, Scored([0.1, 0.9], [F, F]), True),
        (metrics.brier, Scored([0.1, 0.9], [F, F]), True),
        *[(metric, Scored([], []), False) for metric in EVERY],
    ],
)
def test_undefined_is_nan(metric: Metric, rows: Scored, defined: bool) -> None:
    assert bool(np.isnan(metric(rows))) is not defined


@pytest.mark.parametrize(
    ("scores", "sufficient"), [([0.5, math.nan], [T, F]), ([0.5], [T, F]), ([[0.5]], [[T]])]
)
def test_what_was_not_measured_has_no_score(scores: list[float], sufficient: list[bool]) -> None:
    with pytest.raises(ValueError):
        Scored(scores, sufficient)


@pytest.mark.parametrize(
    ("scores", "sufficient", "cut"),
    [
        ([0.9, 0.7, 0.6, 0.2], [T, T, F, F], 0.7),
        ([0.9, 0.7, 0.6, 0.2], [F, T, T, F], 0.6),
        ([0.9, 0.1], [T, T], 0.1),
    ],
)
def test_best_cut(scores: list[float], sufficient: list[bool], cut: float) -> None:
    assert metrics.best_cut(Scored(scores, sufficient)) == cut


# ── The bootstrap ────────────────────────────────────────────────────────────────────────────────


def width(interval: Interval) -> float:
    assert interval.low is not None and interval.high is not None
    return interval.high - interval.low


def mean_of(values: Floats) -> Callable[[Floats], dict[str, Floats]]:
    return lambda weights: {"mean": weights @ values / weights.sum(axis=-1)}


def test_groups_widen_an_interval() -> None:
    """Ten rows of each group say the same: they are worth one, and by row too much is claimed."""
    values = np.repeat(np.random.default_rng(0).random(40) < 0.5, 10).astype(float)
    groups = [str(row // 10) for row in range(400)]
    by_group = Bootstrap(groups).intervals(mean_of(values))["mean"]
    by_row = Bootstrap([str(row) for row in range(400)]).intervals(mean_of(values))["mean"]
    assert width(by_group) == pytest.approx(math.sqrt(10) * width(by_row), rel=0.15)


def test_an_interval_of_a_mean_is_about_two_standard_errors_each_way() -> None:
    values = np.random.default_rng(2).normal(size=900)
    found = Bootstrap([str(row) for row in range(900)]).intervals(mean_of(values))["mean"]
    assert width(found) == pytest.approx(2 * 1.96 * values.std() / 30, rel=0.1)


def test_the_same_seed_draws_the_same() -> None:
    values = np.random.default_rng(2).normal(size=50)
    groups = [str(row % 20) for row in range(50)]

    def found(seed: int) -> Interval:
        return Bootstrap(groups, seed=seed).intervals(mean_of(values))["mean"]

    assert found(4) == found(4) != found(5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many resamples are weighed at once."""
    values, groups = np.arange(30.0), [str(row) for row in range(30)]
    whole = Bootstrap(groups, resamples=100).intervals(mean_of(values))
    monkeypatch.setattr("guard.bootstrap._AT_ONCE", 30 * 7)
    assert Bootstrap(groups, resamples=100).intervals(mean_of(values)) == whole


def test_no_interval() -> None:
    """One group says nothing of others; a statistic that is mostly undefined has none either."""
    nothing = Interval(None, None)
    assert Bootstrap(["a"] * 9).intervals(mean_of(np.arange(9.0)))["mean"] == nothing

    def rarely(weights: Floats) -> dict[str, Floats]:
        return {"rare": np.where(weights[:, 0] > 2, 1.0, np.nan)}

    assert Bootstrap(["a", "b", "c", "d"]).intervals(rarely)["rare"] == nothing


@pytest.mark.parametrize(
    ("share", "groups", "low", "high"),
    [
        (0, 72, 0, 0.0499),
        (0, 1, 0, 0.975),
        (1, 72, 0.9501, 1),
        (0, 20, 0, 0.1684),
        # From the tables of Clopper and Pearson (1934), and scipy's beta quantiles.
        (1 / 73, 73, 0.0003, 0.0740),
        (0.5, 10, 0.1871, 0.8129),
        (0.05, 2000, 0.0409, 0.0605),
        (0.5, 100_000, 0.4969, 0.5031),
        (0.15, 10, 0.0139, 0.5006),  # One and a half: between those of one and of two.
    ],
)
def test_an_exact_interval(share: float, groups: int, low: float, high: float) -> None:
    found = exact(share, groups)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("seed", "resamples"), [(0, 0), (0, 10**9), (-1, 10), (0.5, 10)])
def test_wrong_settings(seed: int, resamples: int) -> None:
    with pytest.raises(ConfigError):
        Bootstrap(["a", "b"], seed=seed, resamples=resamples)
