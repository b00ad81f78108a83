"""Bootstrap: how far a number might have come out otherwise, had other groups been drawn."""

from collections.abc import Callable, Hashable, Mapping, Sequence
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


def unanimous(share: float, groups: int) -> Interval:
    """The exact interval (Clopper & Pearson 1934) of a share that is 0 or 1 in all groups.

    Resamples of groups that agree agree as well, as if nothing else were possible. Of 20 groups
    without a leak, up to 17 % of all groups may have one.
    """
    reach = 1 - (LOWER / 100) ** (1 / groups)
    return Interval(0.0, reach) if share == 0 else Interval(1 - reach, 1.0)


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
