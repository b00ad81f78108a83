"""A certificate: what was promised of two thresholds, on which evidence, with which confidence."""

from collections.abc import Mapping
from dataclasses import dataclass

from guard.thresholds import Thresholds


@dataclass(frozen=True, slots=True)
class Bound:
    """One of the two promises: a rate that stays at or below what was asked for.

    Attributes:
        most: the rate promised at most, in (0, 1).
        events: rows in which it happened: leaks, or false refusals.
        rows: rows that it is a share of: those answered, or those sufficient.
    """

    most: float
    events: int
    rows: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """The promise of a pair of thresholds.

    With ``confidence`` in the draw of the rows it was made from, both rates hold together for new
    queries drawn as those rows were, a random one of a random group, judged and routed as they
    were. Where large groups are worse than small ones, the share of all queries is another.

    Attributes:
        leak: P(insufficient | answered).
        false_refusal: P(refused | sufficient).
        confidence: probability in (0, 1) that both hold, over the draw of rows.
        n: rows it was made from, one of each group.
        groups: how many groups there were.
        method: how it was made, in words.
        routes: where the policy that was certified sends what has no usable verdict, as pairs of
            a kind (or ``stale_profile``) and a route or ``raise``; empty = not known.
    """

    leak: Bound
    false_refusal: Bound
    confidence: float
    n: int
    groups: int
    method: str
    routes: tuple[tuple[str, str], ...] = ()

    def broken_by(self, routes: Mapping[str, str]) -> list[str]:
        """Kinds without a verdict that these routes send where the promise did not reckon with.

        To answer more of them may leak more, and to refuse more of them may refuse falsely.
        """
        return [
            kind
            for kind, route in self.routes
            if routes.get(kind, route) != route and routes[kind] in ("answer", "refuse")
        ]


@dataclass(frozen=True, slots=True)
class Certified:
    """Two thresholds, and what is promised of them."""

    thresholds: Thresholds
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class NotCertifiable:
    """No thresholds can be promised what was asked for, on these rows.

    Attributes:
        reason: which bound failed and by how much, in sentences.
        needed_n: about how many rows would do, if rates stay as seen; ``None`` = none would.
    """

    reason: str
    needed_n: int | None
