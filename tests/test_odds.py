"""Log-odds: there and back, finite everywhere, and never out of order."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.odds import CERTAIN, expit, logit

PROBABILITY = st.floats(0, 1)


@pytest.mark.parametrize(("p", "nats"), [(0.5, 0.0), (0.9, math.log(9)), (0.2, -math.log(4))])
def test_known_values(p: float, nats: float) -> None:
    """The logarithm of p : (1 - p)."""
    assert logit(p) == pytest.approx(nats, abs=1e-12)
    assert expit(nats) == pytest.approx(p, abs=1e-12)


@given(p=st.floats(CERTAIN, 1 - CERTAIN))
def test_there_and_back(p: float) -> None:
    """`expit` undoes `logit`."""
    assert expit(logit(p)) == pytest.approx(p, rel=1e-9, abs=1e-15)


@given(x=st.floats(-20, 20))
def test_back_and_there(x: float) -> None:
    """`logit` undoes `expit`, as far as a probability near 1 can tell."""
    assert logit(expit(x)) == pytest.approx(x, abs=1e-6)


def test_zero_and_one_are_finite() -> None:
    """Where nothing tells how far from certainty something is, it is taken as very near."""
    assert logit(0.0) == logit(CERTAIN) == pytest.approx(math.log(CERTAIN))
    assert logit(1.0) == pytest.approx(-logit(0.0), rel=1e-6)
    assert (expit(logit(0.0)), expit(logit(1.0))) == pytest.approx((0, 1), abs=2 * CERTAIN)


@given(x=st.floats(allow_nan=False))
def test_any_odds_are_a_probability(x: float) -> None:
    """Also infinite ones, without an overflow."""
    assert 0 <= expit(x) <= 1
    assert expit(x) + expit(-x) == pytest.approx(1)


@given(p=PROBABILITY, q=PROBABILITY)
def test_order_is_kept(p: float, q: float) -> None:
    """The likelier has the higher odds, and the other way round up to a rounding error."""
    low, high = sorted((p, q))
    assert logit(low) <= logit(high)
    assert expit(logit(low)) <= expit(logit(high)) + 1e-15
