"""Findings that any kind of judge can have."""

import statistics
from collections.abc import Sequence

from guard.doctor.exchange import Exchange
from guard.doctor.report import Finding
from guard.verdict import Verdict

Pair = tuple[Verdict, Verdict]
"""The verdicts on the sufficient and on the insufficient case."""

APART = 0.1
"""How far apart the two known cases must be, as probabilities, to count as told apart."""


def pair_of(yes: Exchange, no: Exchange) -> Pair | None:
    """The verdicts on the two known cases, if there are both."""
    if yes.verdict is None or no.verdict is None:
        return None
    return yes.verdict, no.verdict


def tells_apart(pair: Pair) -> bool:
    """Whether the sufficient case is surely the likelier one: beyond what bounds leave open."""
    yes, no = pair
    return yes.p_true - no.p_true >= APART and yes.low > no.high


def verdicts(pair: Pair) -> Finding:
    """How the two known cases were judged."""
    yes, no = pair
    values = {"sufficient": yes.p_true, "insufficient": no.p_true}
    told = f"P = {yes.p_true:.3f} where the answer is there, {no.p_true:.3f} where it is missing."
    if not tells_apart(pair):
        return Finding("verdicts", "bad", values, f"{told} They are not told apart.")
    if yes.p_true > 0.5 > no.p_true:
        return Finding("verdicts", "ok", values, told)
    return Finding("verdicts", "warn", values, f"{told} Both on one side of 0.5.")


def latency(seconds: Sequence[float]) -> Finding:
    """The median wall-clock time of one request; its value is in seconds."""
    median = statistics.median(seconds)
    told = f"{median * 1000:.0f} ms a request, the median of {len(seconds)}."
    return Finding("latency", "ok" if median < 3 else "warn", median, told)
