"""The calibration error of scores, with an interval that holds it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from guard.bootstrap import Bootstrap
from guard.metrics import Floats, Scored, bins_for, expected_calibration_error

_TWO_SIDED, _WIDTH = 0.975, 1.96


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number measured on rows, and its 95 % interval, in the number's own unit.

    ``low <= value <= high``.
    """

    value: float
    low: float
    high: float


def calibration_error(
    rows: Scored, groups: Sequence[Hashable], *, seed: int = 0, resamples: int = 1000
) -> Estimate:
    """`guard.metrics.expected_calibration_error`, its bins held fixed while groups are resampled.

    Percentiles of resampled errors would miss a calibrated judge always: noise adds to the error
    of the rows, and again to that of resamples. By the triangle inequality the error of the rows
    exceeds the true one by at most the sum of the bins' noise, which gives the lower end; above
    it the true one lies only by the spread of the error itself, which gives the upper end.

    Args:
        rows: at least one, all of them measured.
        groups: of each row; one group says nothing about others, so the interval is then [0, 1].
        seed, resamples: of the bootstrap.

    Raises:
        ConfigError: ``seed`` or ``resamples`` is out of range.
    """
    value = float(expected_calibration_error(rows))
    bootstrap = Bootstrap(groups, seed=seed, resamples=resamples)
    if bootstrap.groups < 2:
        return Estimate(value, 0.0, 1.0)
    gaps = _gaps(rows)
    own = gaps.mean(axis=0)

    def statistics(weights: Floats) -> dict[str, Floats]:
        drawn = weights @ gaps / weights.sum(axis=-1, keepdims=True)
        noise, error = np.abs(drawn - own).sum(axis=-1), np.abs(drawn).sum(axis=-1)
        return {"noise": noise, "error": error}

    found = bootstrap.over_resamples(statistics)
    noise, spread = float(np.quantile(found["noise"], _TWO_SIDED)), float(found["error"].std())
    return Estimate(value, max(0.0, value - noise), min(1.0, value + _WIDTH * spread))


def _gaps(rows: Scored) -> Floats:
    """(rows, bins): in each row's bin, how far its score lies above its truth."""
    count = bins_for(len(rows))
    gaps = np.zeros((len(rows), count))
    gaps[np.arange(len(rows)), rows.bins(None, count)] = rows.scores - rows.sufficient
    return gaps
