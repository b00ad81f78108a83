"""Checks of arguments: one clear `ConfigError` instead of a TypeError from deep inside."""

from collections.abc import Iterable

from guard.errors import ConfigError


def require_number(
    name: str, value: object, low: float, high: float, *, whole: bool = False
) -> None:
    """Raises unless ``value`` is a number (a whole one, if asked) in [low, high]."""
    kinds = int if whole else int | float
    # NaN is in no range, since every comparison with it is false.
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise ConfigError(
            f"`{name}` is {shown_number(value)!s:.40}; it must be {kind} from {low:g} to {high:g}.",
            hint=_fitting(name, value, low, high),
        )


def shown_number(value: object) -> str:
    """``repr``; Python writes no whole number of more than 4300 digits."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _fitting(name: str, value: object, low: float, high: float) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"Pass a value from {low:g} to {high:g}."
    return f"Pass {name} as a number, not as text."


def require_instance(name: str, value: object, kind: type) -> None:
    """Raises unless ``value`` is a ``kind``."""
    if not isinstance(value, kind):
        raise ConfigError(
            f"`{name}` is {type(value).__name__}, not {kind.__name__}.",
            hint=f"Pass guard.{kind.__name__}(…).",
        )


def require_one_of(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raises unless ``value`` is one of ``allowed``."""
    known = list(allowed)
    if value not in known:
        listed = ", ".join(map(repr, known))
        raise ConfigError(
            f"`{name}` is {value!r:.40}; it must be one of {listed}.", hint="Check its spelling."
        )
