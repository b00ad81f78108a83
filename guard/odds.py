"""Odds: probabilities on the log-odds scale, where evidence adds up."""

import math

CERTAIN = 1e-9
"""How near to 0 or 1 a probability is taken at most, so that its log-odds are finite."""


def logit(p: float) -> float:
    """The natural logarithm of the odds of ``p``, in nats; finite for every p in [0, 1]."""
    inside = min(1 - CERTAIN, max(CERTAIN, p))
    return math.log(inside) - math.log1p(-inside)


def expit(x: float) -> float:
    """The probability with log-odds ``x``; the inverse of `logit`."""
    if x < 0:
        return math.exp(x) / (1 + math.exp(x))
    return 1 / (1 + math.exp(-x))
