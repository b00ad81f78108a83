"""Bootstrap: how far a number might have come out otherwise, had other groups been drawn."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from guard._require import require_number
from guard.metrics import Floats

LOWER, UPPER = 2.5, 97.5
"""Percentiles: the ends of a 95 % interval."""
_AT_ONCE = 1_000_000
"""Numbers in one block of weights (8 MB): blocks that fit caches are several times faster."""

Statistics = Callable[[Floats], Mapping[str, Floats]]
"""From weights (resamples, rows) to statistics by name, each (resamples,)."""


class Interval(NamedTuple):
    """A 95 % percentile interval; ``None`` where none can be given."""

    low: float | None
    high: float | None


def exact(share: float, groups: int) -> Interval:
    """The exact interval (Clopper & Pearson 1934) of a share that so many groups have on average.

    Resamples of few events are too much alike: of 20 groups without a leak, all resamples are
    without one, and yet up to 17 % of all groups may have one. Each group counts as one row,
    however many it has; between two whole numbers of events the ends lie between theirs.
    """
    return Interval(1 - _between(1 - share, groups), _between(share, groups))


def _between(share: float, groups: int) -> float:
    events = share * groups
    fewer = min(groups, math.floor(events + 1e-9))
    part = max(0.0, events - fewer)
    return (1 - part) * _upper(fewer, groups) + part * _upper(min(groups, fewer + 1), groups)


@lru_cache(maxsize=4096)
def _upper(events: int, n: int) -> float:
    """The rate at which so few events, or fewer, of ``n`` have a probability of 2.5 %."""
    if events >= n:
        return 1.0
    low, high = events / n, 1.0
    for _ in range(50):  # Bisection: 2^-50 is below what a float tells apart here.
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(events, n, middle) > LOWER / 100 else (low, middle)
    return high


def _at_most(events: int, n: int, rate: float) -> float:
    """P(at most so many events of ``n``)."""
    if rate == 0 or rate == 1:
        return float(rate == 0)
    logs = np.log(np.arange(1, events + 1))
    chosen = np.log(n - np.arange(events)) - logs  # The ratios of binomial coefficients.
    terms = np.concatenate([[0.0], np.cumsum(chosen)])
    counts = np.arange(events + 1)
    return float(np.exp(terms + counts * math.log(rate) + (n - counts) * math.log1p(-rate)).sum())


class Bootstrap:
    """Resamples whole groups, since rows of one group are not independent (Field & Welsh 2007).

    Each resample draws as many groups as there are, with replacement. All statistics see the same
    resamples, and the same seed draws the same ones.

    Args:
        groups: each row's group.
        seed: of the draws.
        resamples: how many, from 1 to 100,000.

    Raises:
        ConfigError: ``resamples`` or ``seed`` is out of range.
    """

    def __init__(self, groups: Sequence[Hashable], *, seed: int = 0, resamples: int = 1000) -> None:
        require_number("resamples", resamples, 1, 100_000, whole=True)
        require_number("seed", seed, 0, 2**63 - 1, whole=True)
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        self._codes = np.array([numbers[group] for group in groups], dtype=np.intp)
        self.groups = len(numbers)
        self._seed, self._resamples = seed, resamples

    def intervals(self, statistics: Statistics) -> dict[str, Interval]:
        """The interval of each statistic over the resamples in which it is defined.

        There is none where a statistic is undefined in most resamples, and none from a single
        group: one group says nothing about others.
        """
        found = self.over_resamples(statistics)
        return {name: self._interval(values) for name, values in found.items()}

    def over_resamples(self, statistics: Statistics) -> dict[str, Floats]:
        """Each statistic in each resample: (resamples,)."""
        rng = np.random.default_rng(self._seed)
        size = max(1, _AT_ONCE // max(1, len(self._codes)))
        blocks: list[Mapping[str, Floats]] = []
        for start in range(0, self._resamples, size):
            weights = self._draw(rng, min(size, self._resamples - start))
            blocks.append(statistics(weights))
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        """How often each row is drawn: (count, rows)."""
        drawn = rng.integers(self.groups, size=(count, self.groups))
        numbered = drawn + self.groups * np.arange(count)[:, None]
        times = np.bincount(numbered.ravel(), minlength=count * self.groups)
        weights: Floats = times.reshape(count, self.groups)[:, self._codes].astype(np.float64)
        return weights

    def _interval(self, values: Floats) -> Interval:
        defined = values[~np.isnan(values)]
        if self.groups < 2 or 2 * len(defined) <= len(values):
            return Interval(None, None)
        low, high = np.percentile(defined, [LOWER, UPPER])
        return Interval(float(low), float(high))
