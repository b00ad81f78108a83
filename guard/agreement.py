"""Agreement: how far two people's labels of the same rows are the same, beyond chance."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

Z = 1.959963984540054
"""The 97.5 % point of the normal distribution: of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One person's label of one row, and where it stands."""

    sufficient: bool
    place: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that two people label differently: ``first`` and ``second`` say how."""

    id: str
    first: Mark
    second: Mark


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two people's labels have in common.

    Attributes:
        common: rows that both labelled.
        only_first, only_second: rows that one of them labelled.
        agreed: of the common rows, those labelled the same.
        raw: ``agreed / common``; ``None`` where nothing is common.
        raw_interval: 95 %, by Wilson (1927).
        kappa: Cohen's (1960), in [-1, 1]: agreement beyond what two people who label at random,
            each at their own rate, would reach; ``None`` = undefined.
        kappa_interval: 95 %, by the standard error of Fleiss, Cohen and Everitt (1969); ``None``
            where that error is zero or kappa undefined.
        reason: why kappa or its interval is ``None``, in a sentence; else ``None``.
        differences: the rows that they differ on, in the order of the first one's labels.
    """

    common: int
    only_first: int
    only_second: int
    agreed: int
    raw: float | None
    raw_interval: Interval | None
    kappa: float | None
    kappa_interval: Interval | None
    reason: str | None
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, object]:
        """It as JSON-ready values: numbers, ids and places; no text of a row."""
        return asdict(self)


def agreement(first: Mapping[str, Mark], second: Mapping[str, Mark]) -> Agreement:
    """How far two people agree; labels are given by row id.

    Intervals take the rows to be independent: with many rows of one group they are too narrow.
    """
    both = [id for id in first if id in second]
    differ = [id for id in both if first[id].sufficient != second[id].sufficient]
    agreed = len(both) - len(differ)
    kappa = _kappa([(first[id].sufficient, second[id].sufficient) for id in both])
    return Agreement(
        common=len(both),
        only_first=len(first) - len(both),
        only_second=len(second) - len(both),
        agreed=agreed,
        raw=agreed / len(both) if both else None,
        raw_interval=_wilson(agreed, len(both)) if both else None,
        kappa=kappa.value,
        kappa_interval=kappa.interval,
        reason=kappa.reason,
        differences=tuple(Difference(id, first[id], second[id]) for id in differ),
    )


@dataclass(frozen=True, slots=True)
class _Kappa:
    value: float | None = None
    interval: Interval | None = None
    reason: str | None = None


def _kappa(pairs: list[tuple[bool, bool]]) -> _Kappa:
    if not pairs:
        return _Kappa(reason="No row is labelled by both.")
    if len({label for pair in pairs for label in pair}) == 1:
        return _Kappa(reason="Both gave every row the same label, so chance agrees as well.")
    n = len(pairs)
    shares = {(a, b): pairs.count((a, b)) / n for a in (True, False) for b in (True, False)}
    by_chance = _by_chance(shares)
    seen = shares[True, True] + shares[False, False]
    value = (seen - by_chance) / (1 - by_chance)
    if seen in (0, 1):
        always = "They agree on every row" if seen else "They differ on every row"
        return _Kappa(value, reason=f"{always}, so the error of kappa cannot be estimated.")
    error = _standard_error(shares, n)
    return _Kappa(value, Interval(max(-1.0, value - Z * error), min(1.0, value + Z * error)))


def _rates(shares: Mapping[tuple[bool, bool], float], label: bool) -> tuple[float, float]:
    """How often the first and the second give ``label``."""
    both, other = shares[label, label], not label
    return both + shares[label, other], both + shares[other, label]


def _by_chance(shares: Mapping[tuple[bool, bool], float]) -> float:
    return sum(math.prod(_rates(shares, label)) for label in (True, False))


def _standard_error(shares: Mapping[tuple[bool, bool], float], n: int) -> float:
    """Of kappa, for large samples: Fleiss, Cohen and Everitt (1969), equation 13."""
    seen, chance = shares[True, True] + shares[False, False], _by_chance(shares)
    total = 0.0
    for (a, b), share in shares.items():
        # The second's rate of what the first said, and the other way round.
        rates = _rates(shares, a)[1] + _rates(shares, b)[0]
        weight = (1 - chance) - rates * (1 - seen) if a == b else rates * (1 - seen)
        total += share * weight**2
    total -= (seen * chance - 2 * chance + seen) ** 2
    return math.sqrt(max(0.0, total) / n) / (1 - chance) ** 2


def _wilson(events: int, n: int) -> Interval:
    share, spread = events / n, Z**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))
