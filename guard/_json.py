"""Typed access to JSON of unknown shape: a missing or wrong part reads as empty."""

import math
from collections.abc import Mapping, Sequence
from typing import cast

_MOST = 10**12
_EMPTY: Mapping[str, object] = {}


def as_map(value: object) -> Mapping[str, object]:
    """``value`` if it is a JSON object, else an empty one."""
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else _EMPTY


def as_list(value: object) -> Sequence[object]:
    """``value`` if it is a JSON array, else an empty one."""
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()


def as_text(value: object) -> str | None:
    """``value`` if it is a string, else ``None``."""
    return value if isinstance(value, str) else None


def as_count(value: object) -> int | None:
    """``value`` if it is a whole number that may count something, else ``None``.

    Whole numbers of JSON have no limit: what no float holds cannot be multiplied by a price.
    """
    number = as_int(value)
    return number if number is not None and 0 <= number <= _MOST else None


def as_number(value: object) -> float | None:
    """``value`` as a float if it is a finite number (``True`` is none), else ``None``."""
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > _MOST:
        return None
    return float(value) if math.isfinite(value) else None


def as_int(value: object) -> int | None:
    """``value`` if it is a whole number (``True`` is none), else ``None``."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
