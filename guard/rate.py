"""A rate: how often something was seen, and where the true share may lie."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its 95 % interval, by Wilson's score (1927, JASA 22).

    It takes rows to be independent, and stays inside [0, 1] also where few were seen.

    Attributes:
        events: how often.
        n: of how many.
    """

    events: int
    n: int

    @property
    def value(self) -> float | None:
        """The share in [0, 1]; ``None`` = of nothing."""
        return self.events / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its ends in [0, 1]; ``None`` = of nothing."""
        if not self.n:
            return None
        share, spread = self.events / self.n, _Z**2 / self.n
        middle = share + spread / 2
        half = (share * (1 - share) * spread + spread**2 / 4) ** 0.5
        low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
        # At the ends the formula gives 0 and 1 but for rounding.
        return (0.0 if self.events == 0 else low), (1.0 if self.events == self.n else high)

    def to_dict(self) -> dict[str, object]:
        """It as JSON-ready values."""
        low, high = self.interval or (None, None)
        return {"value": self.value, "low": low, "high": high, "events": self.events, "n": self.n}


@dataclass(frozen=True, slots=True)
class Change:
    """By how much a share changes, where each row is seen before and after.

    The 95 % interval is that of Agresti and Min (2005, Statistics in Medicine 24) for matched
    pairs: Wald's, with half a row added to each of the four cells.

    Attributes:
        gained: rows that count only after.
        lost: rows that count only before.
        n: all rows.
    """

    gained: int
    lost: int
    n: int

    @property
    def value(self) -> float | None:
        """The difference of the shares, in [-1, 1]; ``None`` = of nothing."""
        return (self.gained - self.lost) / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its ends in [-1, 1]; ``None`` = of nothing."""
        if not self.n:
            return None
        gained, lost, n = self.gained + 0.5, self.lost + 0.5, self.n + 2
        middle = (gained - lost) / n
        half = _Z * (gained + lost - (gained - lost) ** 2 / n) ** 0.5 / n
        return max(-1.0, middle - half), min(1.0, middle + half)

    def to_dict(self) -> dict[str, object]:
        """It as JSON-ready values."""
        low, high = self.interval or (None, None)
        return {
            "value": self.value,
            "low": low,
            "high": high,
            "gained": self.gained,
            "lost": self.lost,
        }


@dataclass(frozen=True, slots=True)
class Shift:
    """By how much a share changes where the rows that it is a share of change as well.

    The 95 % interval is the normal one, from the linearised difference of two ratios over the same
    rows (Cochran 1977, "Sampling Techniques", section 6.3), so that rows counted before and after
    do not count as two. Where few events were seen it is too narrow.

    Attributes:
        value: the difference, in [-1, 1]; ``None`` = one of the shares is of nothing.
        interval: its ends in [-1, 1]; ``None`` = there is no value.
    """

    value: float | None
    interval: tuple[float, float] | None

    @classmethod
    def of(
        cls, before: Rate, after: Rate, cells: Iterable[tuple[int, bool, Sequence[bool]]]
    ) -> "Shift":
        """From the two shares and all rows.

        Args:
            before, after: the shares.
            cells: how many rows are alike; whether the event happened in them; and whether they are
                of those that the share is of, before and after.
        """
        first, last = before.value, after.value
        if first is None or last is None:
            return cls(None, None)
        variance = sum(
            count
            * (is_after * (event - last) / after.n - is_before * (event - first) / before.n) ** 2
            for count, event, (is_before, is_after) in cells
        )
        value, half = last - first, _Z * variance**0.5
        return cls(value, (max(-1.0, value - half), min(1.0, value + half)))

    def to_dict(self) -> dict[str, object]:
        """It as JSON-ready values."""
        low, high = self.interval or (None, None)
        return {"value": self.value, "low": low, "high": high}
