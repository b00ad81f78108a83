"""Calibration: from what a judge says to what proved true of what it said.

A calibrator is a rising function from [0, 1] to [0, 1], fitted to labelled rows (`guard.fitting`)
and kept in a profile. Applying one needs nothing but the standard library.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from guard._json import as_list, as_map
from guard._require import require_number
from guard.errors import ConfigError
from guard.odds import expit, logit


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
