"""A posterior: what counts of True and False answers tell about P(True)."""

import math
from typing import NamedTuple

DEFAULT_SAMPLES = 20
"""Answers that a sampled judge asks for, unless told otherwise; see its docstring for why."""

_TAIL = 0.05


class Posterior(NamedTuple):
    """A Beta posterior on a share, summed up.

    Attributes:
        mean: in (0, 1).
        low: the share lies below it with a probability of 5 %.
        high: the share lies above it with a probability of 5 %.
    """

    mean: float
    low: float
    high: float


def posterior(true: int, false: int) -> Posterior:
    """The posterior on P(True) after ``true`` and ``false`` independent answers.

    The prior is uniform (Bayes and Laplace), so the posterior is Beta(true + 1, false + 1) and the
    mean Laplace's rule of succession. Each end is a one-sided bound, since a route looks at one end
    only: an answer at the low one, a refusal at the high one.
    """
    a, b = true + 1, false + 1
    return Posterior(a / (a + b), _quantile(_TAIL, a, b), _quantile(1 - _TAIL, a, b))


def _quantile(share: float, a: int, b: int) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):  # Bisection: 2^-50 is below what a float tells apart here.
        middle = (low + high) / 2
        if _below(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _below(x: float, a: int, b: int) -> float:
    """P(X < x) for X ~ Beta(a, b), whole a and b: a binomial tail (NIST DLMF 8.17.5)."""
    n = a + b - 1
    return math.fsum(math.comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(a, n + 1))
