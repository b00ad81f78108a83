"""Fitting calibrators: what was put into simulated scores is found again, and nothing else."""

import math
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from guard import fitting
from guard.calibration import KINDS, Identity, Isotonic, Platt, Temperature
from guard.calibration_error import calibration_error
from guard.errors import ConfigError
from guard.fitting import fit
from guard.metrics import Scored

Sample = tuple[list[float], list[bool]]


def simulated(n: int, *, slope: float = 1, intercept: float = 0, seed: int = 0) -> Sample:
    """Scores and labels whose true log-odds are ``slope`` times the score's plus ``intercept``."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 2, n)
    labels = rng.random(n) < 1 / (1 + np.exp(-odds))
    scores = 1 / (1 + np.exp(-(odds - intercept) / slope))
    return scores.tolist(), labels.tolist()


@pytest.mark.parametrize("temperature", [0.5, 1, 3])
def test_a_temperature_is_found_again(temperature: float) -> None:
    """Within what 4,000 rows can tell."""
    calibrator = fit(*simulated(4000, slope=1 / temperature), kind="temperature").calibrator
    assert isinstance(calibrator, Temperature)
    assert calibrator.temperature == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.4, 1), (2, -1.5)])
def test_a_line_is_found_again(slope: float, intercept: float) -> None:
    """Within what 4,000 rows can tell."""
    scores, labels = simulated(4000, slope=slope, intercept=intercept)
    calibrator = fit(scores, labels, kind="platt").calibrator
    assert isinstance(calibrator, Platt)
    assert calibrator.slope == pytest.approx(slope, rel=0.1)
    assert calibrator.intercept == pytest.approx(intercept, abs=0.2)


def test_a_curve_is_found_again() -> None:
    """A score whose square is true of it."""
    rng = np.random.default_rng(0)
    scores = rng.random(4000)
    labels = rng.random(4000) < scores**2
    fitted = fit(scores.tolist(), labels.tolist(), kind="isotonic")
    assert isinstance(fitted.calibrator, Isotonic)
    for p in (0.2, 0.5, 0.8):
        assert fitted.calibrator.apply(p) == pytest.approx(p**2, abs=0.07)


@pytest.mark.parametrize(
    ("slope", "intercept", "kinds"),
    [(1, 0, {"identity"}), (0.4, 0, {"temperature"}), (0.5, 2, {"platt"})],
)
def test_auto_takes_the_simplest_kind_that_does(
    slope: float, intercept: float, kinds: set[str]
) -> None:
    """No more than what is wrong with the scores calls for."""
    picked = [
        fit(*simulated(600, slope=slope, intercept=intercept, seed=seed)).calibrator.name
        for seed in range(8)
    ]
    assert sum(name in kinds for name in picked) >= 6, picked


def test_auto_takes_a_curve_where_no_line_does() -> None:
    """Two steps: half of the scores say too much, half too little."""
    rng = np.random.default_rng(0)
    scores = rng.random(2000)
    labels = rng.random(2000) < np.where(scores < 0.2, 0.05, np.where(scores < 0.8, 0.45, 0.55))
    assert fit(scores.tolist(), labels.tolist()).calibrator.name == "isotonic"


@pytest.mark.parametrize(("slope", "intercept"), [(0.4, 0), (0.5, 2)])
def test_error_falls_where_scores_are_miscalibrated(slope: float, intercept: float) -> None:
    """Out of fold, and by more than both intervals are wide."""
    fitted = fit(*simulated(2000, slope=slope, intercept=intercept))
    assert fitted.ece_after.high < fitted.ece_before.low
    assert fitted.losses[fitted.calibrator.name].mean < fitted.losses["identity"].mean


def test_calibrated_scores_are_left_as_they_are() -> None:
    """Nothing is gained, and nothing said to be."""
    fitted = fit(*simulated(2000))
    assert fitted.calibrator == Identity()
    assert fitted.ece_after == fitted.ece_before
    assert fitted.ece_before.low == 0
    assert fitted.note is None
    assert (fitted.n, fitted.groups) == (2000, 2000)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_can_be_asked_for(kind: str) -> None:
    """And the losses of all are told."""
    fitted = fit(*simulated(100), kind=kind)
    assert fitted.calibrator.name == kind
    assert list(fitted.losses) == list(KINDS)
    for loss in fitted.losses.values():
        assert 0 < loss.mean < math.log(2)
        assert 0 < loss.standard_error < 0.2


def grouped(seed: int = 0) -> tuple[list[float], list[bool], list[str]]:
    """Rows of 25 groups, of 8 rows each, all of a group with one label."""
    rng = np.random.default_rng(seed)
    of_group = rng.random(25) < 0.5
    labels = np.repeat(of_group, 8)
    scores = np.clip(np.where(labels, 0.7, 0.4) + rng.normal(0, 0.15, 200), 0, 1)
    return scores.tolist(), labels.tolist(), [f"document {row // 8}" for row in range(200)]


def test_no_group_is_fitted_on_and_tested_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """In no fold, and every row is tested on once."""
    seen: list[tuple[set[int], set[int]]] = []
    split = fitting._splits  # pyright: ignore[reportPrivateUsage]

    def watched(rows: Any, folds: int, seed: int) -> Any:
        splits: list[tuple[Any, Any]] = list(split(rows, folds, seed))
        seen.extend((set(rows.group[one]), set(rows.group[two])) for one, two in splits)
        assert sorted(row for _, test in splits for row in test.tolist()) == list(range(rows.n))
        return splits

    monkeypatch.setattr(fitting, "_splits", watched)
    scores, labels, groups = grouped()
    shuffled: list[int] = np.random.default_rng(1).permutation(200).tolist()
    fit(
        [scores[row] for row in shuffled],
        [labels[row] for row in shuffled],
        [groups[row] for row in shuffled],
    )
    assert len(seen) == 5
    for train, test in seen:
        assert train and test and not train & test
        assert train | test == set(range(25))


def test_rows_of_a_group_count_as_dependent() -> None:
    """Copies of rows, marked as such, do not make anything surer."""
    scores, labels = simulated(200)
    once = fit(scores, labels, kind="identity")
    copies = fit(scores * 4, labels * 4, [str(row) for row in range(200)] * 4, kind="identity")
    unmarked = fit(scores * 4, labels * 4, kind="identity")
    error = once.losses["identity"].standard_error
    assert copies.losses["identity"].standard_error == pytest.approx(error)
    assert unmarked.losses["identity"].standard_error == pytest.approx(error / 2, rel=0.02)
    assert copies.groups == 200
    width = [each.ece_before.high - each.ece_before.low for each in (once, copies, unmarked)]
    assert width[1] == pytest.approx(width[0])
    assert width[2] < 0.85 * width[0]


def test_the_same_seed_gives_the_same_fit() -> None:
    """Every number of it."""
    sample = simulated(200, slope=0.5)
    assert fit(*sample, seed=3) == fit(*sample, seed=3)
    assert fit(*sample, seed=3) != fit(*sample, seed=4)


@pytest.mark.parametrize("kind", ["auto", *KINDS])
def test_scores_that_fall_with_the_truth_are_left_alone(kind: str) -> None:
    """And the note says so."""
    scores, labels = simulated(300)
    fitted = fit(scores, [not label for label in labels], kind=kind)
    assert fitted.calibrator == Identity()
    assert fitted.note is not None and "do not rise with the truth" in fitted.note
    assert fitted.ece_after == fitted.ece_before


def test_scores_that_are_all_the_same_are_left_alone() -> None:
    """They say nothing that could be calibrated."""
    fitted = fit([0.7] * 40, [row % 2 == 0 for row in range(40)])
    assert fitted.calibrator == Identity()
    assert fitted.note is not None


@pytest.mark.parametrize("kind", ["temperature", "platt", "isotonic"])
def test_no_certainty_from_rows_without_an_error(kind: str) -> None:
    """Scores that part the labels fully: sure, and surer with more rows, but never certain."""
    reached: list[float] = []
    for n in (20, 200):
        labels = [row % 2 == 0 for row in range(n)]
        fitted = fit([0.8 if label else 0.3 for label in labels], labels, kind=kind)
        assert fitted.calibrator.name == kind
        reached.append(fitted.calibrator.apply(0.8))
        assert 1 - reached[-1] > 1 / n**2
        assert all(math.isfinite(loss.mean) for loss in fitted.losses.values())
    assert 0.8 < reached[0] < reached[1] < 1


def test_certain_scores_are_calibrated_too() -> None:
    """Zeros and ones, of which some are wrong, and many ties."""
    labels = [row % 3 > 0 for row in range(300)]
    scores = [float(label != (row % 10 == 0)) for row, label in enumerate(labels)]
    fitted = fit(scores, labels)
    assert fitted.calibrator.name != "identity"
    assert fitted.ece_after.value < fitted.ece_before.value
    assert 0.7 < fitted.calibrator.apply(1.0) < 0.97


def test_the_fewest_rows_that_do() -> None:
    """10 rows of 2 groups, 2 of them with the rarer label, both in one group."""
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    fitted = fit(scores, [False] * 8 + [True] * 2, ["a"] * 5 + ["b"] * 5)
    assert (fitted.n, fitted.groups) == (10, 2)


TEN = [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95]
HALF = [False] * 5 + [True] * 5


def but(values: Sequence[object], index: int, odd: object) -> Any:
    """``values`` with one of them replaced."""
    return [*values[:index], odd, *values[index + 1 :]]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"scores": TEN[:7], "sufficient": HALF[:7]}, "7 rows are too few .* 10 is the least"),
    ({"scores": [], "sufficient": []}, "0 rows are too few"),
    ({"sufficient": HALF[1:]}, "Lengths differ: `scores` has 10, `sufficient` has 9"),
    ({"groups": ["a", "b"]}, "Lengths differ: .* `groups` has 2"),
    ({"sufficient": [True] * 10}, "0 of 10 rows are insufficient"),
    ({"sufficient": [False] * 10}, "0 of 10 rows are sufficient"),
    ({"sufficient": but([False] * 10, 9, True)}, "1 of 10 rows are sufficient"),
    ({"groups": ["a"] * 10}, "All rows are of one group"),
    *[
        ({"scores": but(TEN, 3, odd)}, r"`scores\[3\]` is .*; it must be a number from 0 to 1")
        for odd in (math.nan, -0.1, 1.1, math.inf, None, "0.5", True)
    ],
    *[
        ({"sufficient": but(HALF, 3, odd)}, r"`sufficient\[3\]` is .*; it must be True or False")
        for odd in (None, 1, math.nan, "yes")
    ],
    ({"kind": "spline"}, "`kind` is 'spline'"),
    ({"folds": 1}, "`folds` is 1"),
    ({"seed": -1}, "`seed` is -1"),
]


@pytest.mark.parametrize(("changed", "said"), BAD)
def test_bad_input_is_refused(changed: dict[str, Any], said: str) -> None:
    """With one error, which says what to do."""
    good: dict[str, Any] = {"scores": TEN, "sufficient": HALF}
    with pytest.raises(ConfigError, match=said) as caught:
        fit(**good | changed)
    assert caught.value.hint


WITHOUT = f"""
import sys

class Absent:
    def find_spec(self, name, *_):
        if name.partition('.')[0] == 'sklearn':
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Absent())
from guard.errors import ConfigError
from guard.fitting import fit
try:
    fit({TEN}, {HALF})
except ConfigError as error:
    print(error)
"""


def test_without_the_extra_the_error_says_how_to_get_it() -> None:
    """`ConfigError`, not a traceback of imports."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=False
    )
    said = 'sklearn is not installed. pip install "rag-guard[calibrate]"'
    assert done.stdout.splitlines() == [said], done.stderr


def test_the_error_after_is_of_rows_that_the_fit_had_not_seen() -> None:
    """Scores say little here; a fit to the same rows would look calibrated by learning them."""
    lot = np.random.default_rng(8)
    scores = lot.random(80).tolist()
    labels = (lot.random(80) < np.linspace(0.3, 0.7, 80)[np.argsort(np.argsort(scores))]).tolist()
    fitted = fit(scores, labels, kind="isotonic")
    learned = np.array([fitted.calibrator.apply(score) for score in scores])
    seen = calibration_error(Scored(learned, np.array(labels, float)), [*range(80)], seed=0)
    assert fitted.ece_after.value > 2 * seen.value
