"""Fitting: calibrators from labelled scores. Needs the extra ``calibrate``."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from guard._extras import require_extra
from guard._require import require_number, require_one_of
from guard.calibration import KINDS, Calibrator, Identity, Isotonic, Platt, Temperature
from guard.calibration_error import Estimate, calibration_error
from guard.errors import ConfigError
from guard.metrics import Floats, Scored
from guard.odds import CERTAIN, logit

Integers = npt.NDArray[np.int64]

LEAST_ROWS = 10
"""Fewer rows are not calibrated on."""

_TEMPERATURES = (0.01, 100.0)
_SAME = 1e-9  # Log-odds that differ by less are one score with rounding errors.
_FALLING = (
    "The scores do not rise with the truth on these rows, so that no rising function can "
    "calibrate them: they are left as they are. See whether the labels are the right way round, "
    "and whether the judge suits the task."
)


@dataclass(frozen=True, slots=True)
class Loss:
    """Log loss on rows that were not fitted on, in nats a row.

    Attributes:
        mean: over rows.
        standard_error: of that mean, rows of one group counted as dependent.
    """

    mean: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A calibrator, and how well it does.

    Attributes:
        calibrator: fitted to all rows.
        losses: of each kind of calibrator, by cross-validation over groups.
        ece_before: expected calibration error of the scores as they are, in [0, 1].
        ece_after: the same of the calibrator's kind, each row calibrated by a fit without its
            group. A kind picked by ``auto`` was picked on these rows, so that it is a little
            too good.
        n: rows.
        groups: groups of rows.
        note: what a person should know of this fit, in sentences, or ``None``.
    """

    calibrator: Calibrator
    losses: Mapping[str, Loss]
    ece_before: Estimate
    ece_after: Estimate
    n: int
    groups: int
    note: str | None


@dataclass(frozen=True, slots=True)
class _Rows:
    """Scores p, labels y (0 or 1) and the groups' numbers (0, 1, ...), one each a row."""

    p: Floats
    y: Floats
    group: Integers

    @property
    def n(self) -> int:
        return len(self.p)

    @property
    def groups(self) -> int:
        return int(self.group.max()) + 1

    def at(self, rows: Integers) -> "_Rows":
        return _Rows(self.p[rows], self.y[rows], self.group[rows])


def fit(
    scores: Sequence[float],
    sufficient: Sequence[bool],
    groups: Sequence[str] | None = None,
    *,
    kind: str = "auto",
    folds: int = 5,
    seed: int = 0,
) -> Fitted:
    """A calibrator for a judge's scores, from labelled rows.

    Temperature and Platt scaling minimise log loss against Platt's (1999) targets, (n₊ + 1) /
    (n₊ + 2) and 1 / (n₋ + 2) in place of 1 and 0: with those a fit stays finite also where scores
    part the labels without error. Isotonic regression stays within [1 / (n + 2), 1 - 1 / (n + 2)]
    by the same reasoning (Laplace's rule of succession): n rows that agree do not make certain.

    ``auto`` takes the simplest kind whose log loss in cross-validation is within one standard
    error of the lowest (Breiman et al. 1984, "Classification and Regression Trees", section
    3.4.3); the standard error is that of the difference of the two, row by row. The kinds, the
    simplest first, are `guard.calibration.KINDS`; doing nothing is one of them.

    Args:
        scores: P(True) of n measured rows, each in [0, 1].
        sufficient: their n labels.
        groups: their n groups: rows that are not independent share one, and are never fitted on
            and tested on at a time. ``None``: each row is its own.
        kind: ``auto``, or one of `KINDS`.
        folds: of the cross-validation, at most; fewer where there are fewer groups, or fewer rows
            with the rarer label.
        seed: decides folds and resamples; the same seed gives the same result.

    Raises:
        ConfigError: fewer than `LEAST_ROWS` rows, lengths that differ, a score that is no number
            in [0, 1], a label that is neither true nor false, fewer than two rows of a label, a
            single group, an unknown ``kind``; or scikit-learn or scipy is not installed.
    """
    require_one_of("kind", kind, ("auto", *KINDS))
    require_number("folds", folds, 2, 1000, whole=True)
    require_number("seed", seed, 0, 2**32 - 1, whole=True)
    rows = _checked(scores, sufficient, groups)
    falling = isinstance(_platt(rows), Identity)
    splits = _splits(rows, folds, seed)
    held_out = {name: _held_out(rows, make, splits) for name, make in _FITS.items()}
    chosen = _chosen(rows, held_out, kind, falling)
    return Fitted(
        calibrator=_FITS[chosen](rows),
        losses={name: _loss(_log_losses(p, rows.y), rows) for name, p in held_out.items()},
        ece_before=_error(rows.p, rows, seed),
        ece_after=_error(held_out[chosen], rows, seed),
        n=rows.n,
        groups=rows.groups,
        note=_FALLING if falling else None,
    )


def _checked(
    scores: Sequence[float], sufficient: Sequence[bool], groups: Sequence[str] | None
) -> _Rows:
    names = [str(index) for index in range(len(scores))] if groups is None else groups
    _require_same_length({"scores": scores, "sufficient": sufficient, "groups": names})
    if len(scores) < LEAST_ROWS:
        raise ConfigError(
            f"{len(scores)} rows are too few to calibrate on; {LEAST_ROWS} is the least.",
            hint="Label more rows; a few hundred are worth it.",
        )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    group = np.array([numbers[name] for name in names], np.int64)
    rows = _Rows(_probabilities("scores", scores), _labels("sufficient", sufficient), group)
    _require_both_labels(rows)
    if rows.groups < 2:
        raise ConfigError(
            "All rows are of one group, so that no calibrator can be tested on rows it has not "
            "seen.",
            hint="Label rows of other documents or users, or correct their `group`.",
        )
    return rows


def _require_same_length(columns: Mapping[str, Sequence[object]]) -> None:
    if len({len(column) for column in columns.values()}) > 1:
        listed = ", ".join(f"`{name}` has {len(column)}" for name, column in columns.items())
        raise ConfigError(f"Lengths differ: {listed}.", hint="Pass one of each for every row.")


def _require_both_labels(rows: _Rows) -> None:
    true = int(rows.y.sum())
    for count, label in ((true, "sufficient"), (rows.n - true, "insufficient")):
        if count < 2:
            raise ConfigError(
                f"{count} of {rows.n} rows are {label}; calibrating needs at least 2.",
                hint=f"Label more rows whose contexts are {label}.",
            )


def _probabilities(name: str, values: Sequence[object]) -> Floats:
    for index, value in enumerate(values):
        if not _is_probability(value):
            raise ConfigError(
                f"`{name}[{index}]` is {value!r:.40}; it must be a number from 0 to 1.",
                hint="Leave out rows that were not measured, and count them apart.",
            )
    return np.array(values, np.float64)


def _is_probability(value: object) -> bool:
    # Real: numpy's floats are numbers too, also those that are no Python floats.
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return 0 <= float(cast("float", value)) <= 1


def _labels(name: str, values: Sequence[object]) -> Floats:
    for index, value in enumerate(values):
        if not isinstance(value, bool | np.bool_):
            raise ConfigError(
                f"`{name}[{index}]` is {value!r:.40}; it must be True or False.",
                hint="Leave out rows that are not labelled.",
            )
    return np.array(values, np.float64)


def _held_out(
    rows: _Rows, make: Callable[[_Rows], Calibrator], splits: Sequence[tuple[Integers, Integers]]
) -> Floats:
    """Each row's probability, calibrated by a fit to the folds without it."""
    calibrated = np.empty(rows.n)
    for train, test in splits:
        calibrated[test] = _applied(make(rows.at(train)), rows.p[test])
    return calibrated


def _splits(rows: _Rows, folds: int, seed: int) -> list[tuple[Integers, Integers]]:
    """Row numbers to fit on and to test on; no group is in both, labels spread evenly."""
    rarer = int(min(rows.y.sum(), rows.n - rows.y.sum()))
    several = min(folds, rows.groups, rarer)
    splitter = require_extra("sklearn.model_selection", "calibrate").StratifiedGroupKFold(
        several, shuffle=True, random_state=seed
    )
    return list(splitter.split(rows.p, rows.y, rows.group))


def _applied(calibrator: Calibrator, p: Floats) -> Floats:
    return np.array([calibrator.apply(float(one)) for one in p], np.float64)


def _chosen(rows: _Rows, held_out: Mapping[str, Floats], kind: str, falling: bool) -> str:
    if falling:
        return "identity"
    if kind != "auto":
        return kind
    losses = {name: _log_losses(p, rows.y) for name, p in held_out.items()}
    best = min(losses.values(), key=lambda each: float(each.mean()))
    return next(name for name in KINDS if _is_near(losses[name], best, rows))


def _is_near(losses: Floats, best: Floats, rows: _Rows) -> bool:
    worse = _loss(losses - best, rows)
    return worse.mean <= worse.standard_error


def _log_losses(p: Floats, y: Floats) -> Floats:
    inside = np.clip(p, CERTAIN, 1 - CERTAIN)
    return -np.log(np.where(y > 0, inside, 1 - inside))


def _loss(losses: Floats, rows: _Rows) -> Loss:
    """Mean over rows; its error from the groups' sums, which are independent of each other."""
    mean = float(losses.mean())
    sums = np.bincount(rows.group, losses - mean)
    spread = float((sums**2).sum()) * rows.groups / (rows.groups - 1)
    return Loss(mean, math.sqrt(spread) / rows.n)


def _error(p: Floats, rows: _Rows, seed: int) -> Estimate:
    groups: list[int] = rows.group.tolist()
    return calibration_error(Scored(p, rows.y), groups, seed=seed)


def _identity(rows: _Rows) -> Calibrator:
    return Identity()


def _temperature(rows: _Rows) -> Calibrator:
    odds, targets = _log_odds(rows.p), _targets(rows.y)

    def loss(log_temperature: float) -> float:
        cooled = odds / math.exp(log_temperature)
        return float((np.logaddexp(0, cooled) - targets * cooled).mean())

    bounds = [math.log(limit) for limit in _TEMPERATURES]
    optimize = require_extra("scipy.optimize", "calibrate")
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded")
    return Temperature(math.exp(float(found.x)))


def _platt(rows: _Rows) -> Calibrator:
    """A rising line on log-odds; where the best line does not rise, none."""
    odds, targets = _log_odds(rows.p), _targets(rows.y)
    centre, spread = float(odds.mean()), float(odds.std())
    if spread < _SAME:
        return Identity()
    model = _regression((odds - centre) / spread, targets)
    slope = float(model.coef_[0, 0]) / spread
    if slope <= 0:
        return Identity()
    return Platt(slope, float(model.intercept_[0]) - slope * centre)


def _regression(x: Floats, targets: Floats) -> Any:
    """Logistic regression on targets between 0 and 1: each row is a share true, a share false."""
    linear = require_extra("sklearn.linear_model", "calibrate")
    model = linear.LogisticRegression(C=math.inf, tol=1e-8, max_iter=1000)
    labels = np.repeat([1, 0], len(x))
    weights = np.concatenate([targets, 1 - targets])
    return model.fit(np.concatenate([x, x])[:, None], labels, sample_weight=weights)


def _isotonic(rows: _Rows) -> Calibrator:
    least = 1 / (rows.n + 2)
    regression = require_extra("sklearn.isotonic", "calibrate").IsotonicRegression(
        y_min=least, y_max=1 - least, out_of_bounds="clip"
    )
    regression.fit(rows.p, rows.y)
    x, y = regression.X_thresholds_.tolist(), regression.y_thresholds_.tolist()
    return Isotonic(tuple(x), tuple(y))


_FITS: Mapping[str, Callable[[_Rows], Calibrator]] = {
    "identity": _identity,
    "temperature": _temperature,
    "platt": _platt,
    "isotonic": _isotonic,
}


def _log_odds(p: Floats) -> Floats:
    return np.array([logit(float(one)) for one in p], np.float64)


def _targets(y: Floats) -> Floats:
    true = float(y.sum())
    return np.where(y > 0, (true + 1) / (true + 2), 1 / (len(y) - true + 2))
