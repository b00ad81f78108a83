"""A profile: thresholds for one judge, and for no other."""

from dataclasses import dataclass

from guard._require import require_instance
from guard.errors import ProfileMismatch
from guard.thresholds import Thresholds


@dataclass(frozen=True, slots=True)
class Profile:
    """What was set, or fitted, for one judge.

    Attributes:
        thresholds: the two cut-offs.
        fingerprint: of the judge that they are for; ``None`` = whichever they are given to.
    """

    thresholds: Thresholds
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        require_instance("thresholds", self.thresholds, Thresholds)

    def require_for(self, fingerprint: str) -> None:
        """Raises `ProfileMismatch` unless this profile is for the judge with that fingerprint."""
        if self.fingerprint not in (None, fingerprint):
            raise ProfileMismatch(
                f"The profile is for {self.fingerprint}, not for {fingerprint}.",
                hint="Fit one for this judge: model, prompt, labels and packing must agree.",
            )
