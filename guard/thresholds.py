"""Thresholds: the two cut-offs on P(True)."""

from dataclasses import dataclass

from guard._require import require_number
from guard.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where a probability of sufficient context turns into a route.

    ``low >= answer_at`` answers, ``high < refuse_below`` refuses, anything between clarifies.

    Attributes:
        answer_at: probability in [0, 1]; at or above it the query is answered.
        refuse_below: probability in [0, answer_at]; below it the query is refused.

    Raises:
        ConfigError: unless ``0 <= refuse_below <= answer_at <= 1``.
    """

    answer_at: float
    refuse_below: float

    def __post_init__(self) -> None:
        for name in ("answer_at", "refuse_below"):
            require_number(name, getattr(self, name), 0, 1)
        if self.refuse_below > self.answer_at:
            raise ConfigError(
                f"answer_at={self.answer_at!r} and refuse_below={self.refuse_below!r} "
                "do not satisfy 0 <= refuse_below <= answer_at <= 1.",
                hint="Both are probabilities of sufficient context; refuse_below is the lower one.",
            )

    def __reduce__(self) -> str | tuple[object, ...]:
        # Copied or sent to another process, what nobody has set is still what nobody has set.
        if self is DEFAULT_THRESHOLDS:
            return "DEFAULT_THRESHOLDS"
        return Thresholds, (self.answer_at, self.refuse_below)


DEFAULT_THRESHOLDS = Thresholds(answer_at=0.85, refuse_below=0.30)
"""A placeholder where none are set; a judge that brings a profile takes its place with it."""
