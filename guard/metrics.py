"""Metrics: how good scores and choices are, given what proved true.

Every one takes weights besides: how often each row counts (0, 1, 2, …), of shape (..., rows). One
call then measures many resamples at once, with the very function that measures the rows themselves;
the result has the shape ``...``. Rows are those that were measured: nothing here guesses a score.
A metric is NaN where it is undefined, e.g. AUROC where all rows are of one class.

``scores`` (rows,) are higher the more likely a row is sufficient; ``sufficient`` (rows,) is the
truth. Rows of equal scores are treated alike: no threshold can tell them apart, so none of these
numbers depends on the order in which rows are listed.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]

CLAMP = 1e-6
"""Log loss takes probabilities for at least this, and at most one minus it."""
MOST_BINS, LEAST_IN_BIN = 15, 10
"""Bins of equal mass: as many as Guo et al. (2017) take, fewer where rows are few."""


class Scored:
    """Scores and truths, sorted once, so that every resample only has to be summed up.

    Args:
        scores: (rows,), no NaN among them.
        sufficient: (rows,), whether the contexts held the answer.

    Raises:
        ValueError: shapes differ, or a score is NaN: what was not measured has no score.
    """

    def __init__(self, scores: ArrayLike, sufficient: ArrayLike) -> None:
        self.scores: Floats = np.asarray(scores, dtype=np.float64)
        self.sufficient: Bools = np.asarray(sufficient, dtype=np.bool_)
        if self.scores.ndim != 1 or self.scores.shape != self.sufficient.shape:
            raise ValueError(f"Scores {self.scores.shape}, truths {self.sufficient.shape}.")
        if np.isnan(self.scores).any():
            raise ValueError("A score is NaN.")
        self._order: Ints = np.argsort(-self.scores, kind="stable")
        falling = self.scores[self._order]
        new = np.ones(len(falling), dtype=np.bool_)
        new[1:] = falling[1:] != falling[:-1]
        self._starts: Ints = np.flatnonzero(new)
        self._tie_of: Ints = np.cumsum(new) - 1
        self._last: tuple[object, Ties] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def weights(self, weights: ArrayLike | None) -> Floats:
        """The weights as numbers; one for each row where none are given."""
        if weights is None:
            return np.ones(len(self))
        return np.asarray(weights, dtype=np.float64)

    def ties(self, weights: ArrayLike | None) -> "Ties":
        """Rows of each distinct score together, the highest score first.

        The same array of weights must not be changed between calls: summing up is most of the work
        of most metrics, and is done once for all that are called with the same array.
        """
        last = self._last
        if last is None or weights is None or last[0] is not weights:
            self._last = last = (weights, self._summed(weights))
        return last[1]

    def _summed(self, weights: ArrayLike | None) -> "Ties":
        falling = self.weights(weights)[..., self._order]
        good = falling * self.sufficient[self._order]
        if not len(self):
            return Ties(good, falling)
        return Ties(
            np.add.reduceat(good, self._starts, axis=-1),
            np.add.reduceat(falling - good, self._starts, axis=-1),
        )

    def bins(self, weights: ArrayLike | None, count: int) -> Ints:
        """Of each row, which of ``count`` bins of equal mass it is in, the lowest scores in 0.

        Rows of one score share a bin: the one in which their middle lies.
        """
        mass = self.ties(weights).all
        total = mass.sum(axis=-1, keepdims=True)
        middle = np.cumsum(mass, axis=-1) - mass / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            place = np.nan_to_num((1 - middle / total) * count)
        of_tie = np.clip(place.astype(np.intp), 0, count - 1)
        bins = np.empty((*of_tie.shape[:-1], len(self)), dtype=np.intp)
        bins[..., self._order] = of_tie[..., self._tie_of]
        return bins


class Ties(NamedTuple):
    """Weights of sufficient and of insufficient rows by distinct score, of shape (..., scores)."""

    good: Floats
    bad: Floats

    @property
    def all(self) -> Floats:
        return self.good + self.bad

    @property
    def risk(self) -> Floats:
        """Share of insufficient rows among those answered from each score upward."""
        return _ratio(np.cumsum(self.bad, axis=-1), np.cumsum(self.all, axis=-1))


def _ratio(part: Floats, whole: Floats) -> Floats:
    """``part / whole``; NaN where the whole is nothing."""
    quotient: Floats = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient


# ── Of scores: the order alone counts ────────────────────────────────────────────────────────────


def auroc(rows: Scored, weights: ArrayLike | None = None) -> Floats:
    """P(a sufficient row scores above an insufficient one), a tie being half of that.

    Undefined where one of the two classes is missing.
    """
    ties = rows.ties(weights)
    good, bad = ties.good.sum(axis=-1), ties.bad.sum(axis=-1)
    below = bad[..., None] - np.cumsum(ties.bad, axis=-1)
    return _ratio((ties.good * (below + ties.bad / 2)).sum(axis=-1), good * bad)


def average_precision(rows: Scored, weights: ArrayLike | None = None) -> Floats:
    """Precision at each distinct score, weighted by the recall gained there.

    Undefined where no row is sufficient.
    """
    ties = rows.ties(weights)
    gained = ties.good * np.nan_to_num(1 - ties.risk)
    return _ratio(gained.sum(axis=-1), ties.good.sum(axis=-1))


def aurc(rows: Scored, weights: ArrayLike | None = None) -> Floats:
    """Area under the risk-coverage curve (Geifman & El-Yaniv 2017); lower is better.

    The mean, over k = 1 … n, of the share of insufficient rows among the k of highest score; rows
    of equal score stand in random order, and the mean is over all such orders. ``weights`` must be
    whole numbers.
    """
    ties = rows.ties(weights)
    after, bad_after = np.cumsum(ties.all, axis=-1), np.cumsum(ties.bad, axis=-1)
    before, bad_before = after - ties.all, bad_after - ties.bad
    # Of a tie of t rows, e of them bad, after K rows with E bad, the j-th one's expected risk is
    # (E + j·e/t) / (K + j) = e/t + (E − K·e/t) / (K + j): summed over j, harmonic numbers.
    share = np.nan_to_num(_ratio(ties.bad, ties.all))
    sums = _harmonic(after) - _harmonic(before)
    risks = ties.bad + (bad_before - before * share) * sums
    return _ratio(risks.sum(axis=-1), ties.all.sum(axis=-1))


def _harmonic(counts: Floats) -> Floats:
    """1 + 1/2 + … + 1/n for each count n."""
    most = int(counts.max(initial=0))
    table = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, most + 1))])
    return table[counts.astype(np.intp)]


def best_cut(rows: Scored) -> float:
    """The score from which on to answer, so that Youden's J (1950) is largest on these rows.

    J is P(answered | sufficient) − P(answered | insufficient). There must be rows.
    """
    ties = rows.ties(None)
    hits = np.nan_to_num(_ratio(np.cumsum(ties.good), ties.good.sum()))
    leaks = np.nan_to_num(_ratio(np.cumsum(ties.bad), ties.bad.sum()))
    return float(np.unique(rows.scores)[::-1][int(np.argmax(hits - leaks))])


def coverage_at_risk(rows: Scored, risk: float, weights: ArrayLike | None = None) -> Floats:
    """Largest share of rows that one threshold can answer with at most ``risk`` insufficient.

    Zero where no threshold can; undefined without rows. ``risk`` is in [0, 1].
    """
    ties = rows.ties(weights)
    covered = _ratio(np.cumsum(ties.all, axis=-1), ties.all.sum(axis=-1, keepdims=True))
    # A risk that is NaN (nothing answered yet) is not at or below any.
    fit = np.where(ties.risk <= risk, covered, 0.0)
    best = fit.max(axis=-1, initial=0.0)
    return np.where(ties.all.sum(axis=-1) > 0, best, np.nan)


# ── Of probabilities: their values count ─────────────────────────────────────────────────────────


def brier(rows: Scored, weights: ArrayLike | None = None) -> Floats:
    """Mean squared distance from the truth, 0 or 1 (Brier 1950)."""
    return _mean((rows.scores - rows.sufficient) ** 2, rows.weights(weights))


def log_loss(rows: Scored, weights: ArrayLike | None = None) -> Floats:
    """Mean −ln of the probability given to the truth, in nats.

    Probabilities are clamped by `CLAMP`: one sure row that is wrong costs 13.8, not infinity.
    """
    given = np.where(rows.sufficient, rows.scores, 1 - rows.scores)
    return _mean(-np.log(np.clip(given, CLAMP, 1 - CLAMP)), rows.weights(weights))


def expected_calibration_error(
    rows: Scored, weights: ArrayLike | None = None, *, bins: int | None = None
) -> Floats:
    """Mean distance, over bins, of mean probability from the share that is sufficient.

    Bins hold about as many rows each (Nixon et al. 2019, arXiv 1904.01685); each counts by its
    rows. The number is biased upward where rows are few, and more so on resamples, so that
    percentiles of these are no interval for it; `guard.calibration_error` gives one.

    Args:
        bins: how many; ``None`` = 15, or fewer so that each holds at least 10 rows.
    """
    found = _binned(rows, weights, bins or bins_for(len(rows)))
    gaps = np.abs(found.scores - found.good).sum(axis=-1)
    # All gaps may be 1 each, and their sum above it by a rounding error.
    return np.minimum(_ratio(gaps, found.mass.sum(axis=-1)), 1.0)


def bins_for(rows: int) -> int:
    """How many bins of equal mass suit so many rows."""
    return max(1, min(MOST_BINS, rows // LEAST_IN_BIN))


class _Binned(NamedTuple):
    """Sums by bin, of shape (..., bins): weights, scores, weights of sufficient rows."""

    mass: Floats
    scores: Floats
    good: Floats


def _binned(rows: Scored, weights: ArrayLike | None, count: int) -> _Binned:
    each = rows.weights(weights)
    # Every resample has bins of its own: they are numbered through.
    shape = (*each.shape[:-1], count)
    resamples = int(np.prod(shape[:-1], dtype=np.intp))
    bins = rows.bins(weights, count).reshape(resamples, len(rows))
    numbers = (bins + count * np.arange(resamples)[:, None]).ravel()

    def summed(values: Floats) -> Floats:
        sums = np.bincount(numbers, values.ravel(), minlength=resamples * count)
        return sums.astype(np.float64).reshape(shape)

    return _Binned(summed(each), summed(each * rows.scores), summed(each * rows.sufficient))


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of like probability.

    Attributes:
        rows: how many.
        probability: their mean probability in [0, 1].
        sufficient: share in [0, 1] of them that is sufficient.
    """

    rows: int
    probability: float
    sufficient: float


def reliability(rows: Scored, *, bins: int | None = None) -> list[Bin]:
    """The bins of `expected_calibration_error`, lowest first, without empty ones."""
    found = _binned(rows, None, bins or bins_for(len(rows)))
    sums = zip(found.mass.tolist(), found.scores.tolist(), found.good.tolist(), strict=True)
    return [Bin(int(n), score / n, good / n) for n, score, good in sums if n]


# ── Of choices: what was chosen for each row ─────────────────────────────────────────────────────


def share(part: Bools, whole: Bools, weights: Floats) -> Floats:
    """Share of the rows of ``whole`` that are also of ``part``; undefined where it is empty."""
    return _ratio(weights @ _numbers(part & whole), weights @ _numbers(whole))


def f1(chosen: Bools, actual: Bools, weights: Floats) -> Floats:
    """Harmonic mean of precision and recall of ``chosen`` for the rows that are ``actual``.

    Undefined where no row is either.
    """
    both = weights @ _numbers(chosen & actual)
    return _ratio(2 * both, weights @ _numbers(chosen) + weights @ _numbers(actual))


def weighted_f1(positive: Bools, negative: Bools, actual: Bools, weights: Floats) -> Floats:
    """F1 of both classes, each counting by its rows (SQUADRUN's, arXiv 2504.11704).

    Args:
        positive, negative: (rows,), where each class was chosen; a row may be of neither.
        actual: (rows,), where the positive class was right.
    """
    parts = [(positive, actual), (negative, ~actual)]
    scores = [np.nan_to_num(f1(chosen, right, weights)) for chosen, right in parts]
    rows = [weights @ _numbers(right) for _, right in parts]
    return _ratio(scores[0] * rows[0] + scores[1] * rows[1], rows[0] + rows[1])


def _mean(values: Floats, weights: Floats) -> Floats:
    return _ratio(weights @ values, weights.sum(axis=-1))


def _numbers(mask: NDArray[Any]) -> Floats:
    return mask.astype(np.float64)
