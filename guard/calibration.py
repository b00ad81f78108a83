"""Calibration: from what a judge says to what proved true of what it said.

A calibrator is a rising function from [0, 1] to [0, 1], fitted to labelled rows (`guard.fitting`)
and kept in a profile. Applying one needs nothing but the standard library.
"""

import sys
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Protocol, cast, runtime_checkable

from guard._json import as_list, as_map
from guard._require import require_number, require_one_of
from guard.errors import ConfigError
from guard.odds import expit, logit

_MAKE_AGAIN = "Fit it again (`rag-guard calibrate` writes it) rather than mend it by hand."


@runtime_checkable
class Calibrator(Protocol):
    """A rising function from a probability to a calibrated one, both in [0, 1]."""

    @property
    def name(self) -> str:
        """Which kind it is, in one word."""
        ...

    def apply(self, p: float) -> float:
        """The calibrated probability of ``p``."""
        ...

    def to_dict(self) -> dict[str, object]:
        """It as JSON-ready values, ``kind`` among them; `calibrator_from` reads them."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Leaves every probability as it is."""

    @property
    def name(self) -> str:
        """``identity``."""
        return "identity"

    def apply(self, p: float) -> float:
        """``p``."""
        return p

    def to_dict(self) -> dict[str, object]:
        """Its kind; there is nothing else to it."""
        return {"kind": self.name}


@dataclass(frozen=True, slots=True)
class Temperature:
    """Log-odds divided by a temperature (Guo et al. 2017, "On Calibration of Modern Neural
    Networks", section 4.2).

    Attributes:
        temperature: finite and above 0; above 1 it takes confidence away, below 1 it adds some.

    Raises:
        ConfigError: it is anything else.
    """

    temperature: float

    def __post_init__(self) -> None:
        _require_finite("temperature", self.temperature, above_zero=True)

    @property
    def name(self) -> str:
        """``temperature``."""
        return "temperature"

    def apply(self, p: float) -> float:
        """The probability whose log-odds are those of ``p`` divided by the temperature."""
        return expit(logit(p) / self.temperature)

    def to_dict(self) -> dict[str, object]:
        """Its kind and temperature."""
        return {"kind": self.name, "temperature": self.temperature}


@dataclass(frozen=True, slots=True)
class Platt:
    """A straight line on log-odds (Platt 1999, "Probabilistic Outputs for Support Vector
    Machines").

    Attributes:
        slope: finite and above 0, so that it rises.
        intercept: finite, in nats: what is added to the log-odds.

    Raises:
        ConfigError: either is anything else.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        _require_finite("slope", self.slope, above_zero=True)
        _require_finite("intercept", self.intercept)

    @property
    def name(self) -> str:
        """``platt``."""
        return "platt"

    def apply(self, p: float) -> float:
        """The probability whose log-odds are ``slope`` times those of ``p``, plus ``intercept``."""
        return expit(self.slope * logit(p) + self.intercept)

    def to_dict(self) -> dict[str, object]:
        """Its kind, slope and intercept."""
        return {"kind": self.name, "slope": self.slope, "intercept": self.intercept}


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Straight lines between knots, flat before the first and after the last (Zadrozny and Elkan
    2002, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates").

    Attributes:
        x: what the judge says at each knot: at least one, in [0, 1], each above the one before.
        y: what that becomes: as many, in [0, 1], none below the one before.

    Raises:
        ConfigError: the knots are anything else.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            object.__setattr__(self, name, _knots(name, getattr(self, name)))
        if len(self.x) != len(self.y):
            raise ConfigError(
                f"`x` has {len(self.x)} knots and `y` has {len(self.y)}.", hint=_MAKE_AGAIN
            )
        _require_order("x", self.x, strictly=True)
        _require_order("y", self.y, strictly=False)

    @property
    def name(self) -> str:
        """``isotonic``."""
        return "isotonic"

    def apply(self, p: float) -> float:
        """The height at ``p`` of the line through the knots."""
        after = bisect_right(self.x, p)
        if after in (0, len(self.x)):
            return self.y[max(0, after - 1)]
        left, right = self.x[after - 1 : after + 1]
        lower, upper = self.y[after - 1 : after + 1]
        # Rounding must not lift it above the next knot: that would not be rising.
        return min(upper, lower + (upper - lower) * ((p - left) / (right - left)))

    def to_dict(self) -> dict[str, object]:
        """Its kind and its knots, as lists."""
        return {"kind": self.name, "x": list(self.x), "y": list(self.y)}


_BY_KIND: Mapping[str, type[Identity | Temperature | Platt | Isotonic]] = {
    "identity": Identity,
    "temperature": Temperature,
    "platt": Platt,
    "isotonic": Isotonic,
}

KINDS = tuple(_BY_KIND)
"""All kinds of calibrators, the simplest first."""


def calibrator_from(values: object) -> Calibrator:
    """The calibrator whose ``to_dict`` gave ``values``, equal to it in every bit.

    Raises:
        ConfigError: ``values`` is no mapping, its ``kind`` is none of `KINDS`, or a field of that
            kind is missing, is one too many or is out of range; the error names it.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"The calibrator is {type(values).__name__}, not an object.", hint=_MAKE_AGAIN
        )
    given = dict(as_map(cast("object", values)))
    kind = given.pop("kind", None)
    require_one_of("kind", kind, KINDS)
    chosen = _BY_KIND[str(kind)]
    _require_fields(f"{kind} calibrator", given, {one.name for one in fields(chosen)})
    return cast("Callable[..., Calibrator]", chosen)(**given)


def without_bias(p: float, content_free: float) -> float:
    """``p`` without what the judge says when there is nothing to judge.

    Contextual calibration (Zhao et al. 2021, "Calibrate Before Use", section 4): both labels'
    probabilities are divided by those of a content-free input and made to sum to 1 again, which
    divides the odds of ``p`` by the odds of that input. Both are kept off 0 and 1 by
    `guard.odds.CERTAIN`, so that a judge that always says True with certainty comes out as 0.5.

    Args:
        p: P(True) of a query, in [0, 1].
        content_free: P(True) of an input without content, such as "N/A", in [0, 1].

    Returns:
        A probability that rises with ``p``; exactly ``p`` where ``content_free`` is 0.5.

    Raises:
        ConfigError: either is no number in [0, 1].
    """
    require_number("p", p, 0, 1)
    require_number("content_free", content_free, 0, 1)
    bias = logit(content_free)
    return expit(logit(p) - bias) if bias else p


def calibrated(
    calibrator: Calibrator, low: float, p: float, high: float
) -> tuple[float, float, float]:
    """A probability and its bounds, calibrated, with ``low <= p <= high`` kept.

    What rises keeps the order of its arguments, but for the last bit, which rounding may turn.
    """
    middle = calibrator.apply(p)
    return min(calibrator.apply(low), middle), middle, max(calibrator.apply(high), middle)


def _require_fields(owner: str, given: Mapping[str, object], wanted: set[str]) -> None:
    for name in sorted(wanted - set(given)):
        raise ConfigError(f"The {owner} lacks `{name}`.", hint=_MAKE_AGAIN)
    for name in sorted(set(given) - wanted):
        raise ConfigError(f"The {owner} has `{name:.40}`, which is unknown.", hint=_MAKE_AGAIN)


def _require_finite(name: str, value: object, *, above_zero: bool = False) -> None:
    kind = "a finite number above 0" if above_zero else "a finite number"
    if isinstance(value, int | float) and not isinstance(value, bool):
        # NaN fails every comparison; a whole number may be too large for a float.
        if abs(value) <= sys.float_info.max and (value > 0 or not above_zero):
            return
    raise ConfigError(f"`{name}` is {value!r:.40}; it must be {kind}.", hint=_MAKE_AGAIN)


def _knots(name: str, values: object) -> tuple[float, ...]:
    listed = as_list(values)
    if not listed:
        raise ConfigError(f"`{name}` must be a list of one knot or more.", hint=_MAKE_AGAIN)
    for index, value in enumerate(listed):
        require_number(f"{name}[{index}]", value, 0, 1)
    return tuple(cast("Sequence[float]", listed))


def _require_order(name: str, knots: Sequence[float], *, strictly: bool) -> None:
    for index, (before, after) in enumerate(pairwise(knots), 1):
        if after < before or (strictly and after == before):
            raise ConfigError(
                f"`{name}[{index}]` is {after!r} after {before!r}; it must "
                f"{'rise' if strictly else 'not fall'}.",
                hint=_MAKE_AGAIN,
            )
