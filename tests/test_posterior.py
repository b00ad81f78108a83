"""The posterior after counted answers: closed forms, symmetry, order, and what bounds promise."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.posterior import posterior

COUNTS = st.integers(0, 200)
MOST = 1e-9  # How far bisection may end from the closed form.


@pytest.mark.parametrize("n", [3, 20, 200])
def test_answers_of_one_kind_have_a_closed_form(n: int) -> None:
    """Beta(n + 1, 1) has the distribution function x^(n + 1)."""
    found = posterior(n, 0)
    assert found.mean == pytest.approx((n + 1) / (n + 2), abs=MOST)
    assert found.high == pytest.approx(0.95 ** (1 / (n + 1)), abs=MOST)
    assert found.low == pytest.approx(0.05 ** (1 / (n + 1)), abs=MOST)


def test_nothing_seen_is_the_prior() -> None:
    """Beta(1, 1) is uniform: its quantiles are themselves."""
    assert posterior(0, 0) == pytest.approx((0.5, 0.05, 0.95), abs=MOST)


def test_one_of_two_has_a_closed_form() -> None:
    """Beta(2, 2) has the distribution function 3 x² - 2 x³."""
    low, high = posterior(1, 1).low, posterior(1, 1).high
    assert 3 * low**2 - 2 * low**3 == pytest.approx(0.05, abs=MOST)
    assert 3 * high**2 - 2 * high**3 == pytest.approx(0.95, abs=MOST)


def test_what_the_sampled_judge_promises() -> None:
    """The figures of its docstring: 20 of a kind, and how many a bound of .85 takes."""
    assert posterior(20, 0).low == pytest.approx(0.867, abs=5e-4)
    assert posterior(0, 20).high == pytest.approx(0.133, abs=5e-4)
    assert posterior(17, 0).low < 0.85 <= posterior(18, 0).low


@given(true=COUNTS, false=COUNTS)
def test_bounds_hold_the_mean(true: int, false: int) -> None:
    """However lopsided the counts are, nothing is certain and nothing is out of order."""
    found = posterior(true, false)
    assert 0 < found.low <= found.mean <= found.high < 1


@given(true=COUNTS, false=COUNTS)
def test_true_and_false_are_alike(true: int, false: int) -> None:
    """Swapping the answers mirrors the posterior at one half."""
    found, mirrored = posterior(true, false), posterior(false, true)
    assert found.mean == pytest.approx(1 - mirrored.mean, abs=MOST)
    assert found.low == pytest.approx(1 - mirrored.high, abs=MOST)
    assert found.high == pytest.approx(1 - mirrored.low, abs=MOST)


@given(n=st.integers(1, 200), data=st.data())
def test_one_more_true_answer_raises_everything(n: int, data: st.DataObject) -> None:
    """Of two outcomes of n answers, the one with more Trues lies higher throughout."""
    true = data.draw(st.integers(0, n - 1))
    fewer, more = posterior(true, n - true), posterior(true + 1, n - true - 1)
    assert all(one < other for one, other in zip(fewer, more, strict=True))


@given(true=st.integers(0, 40), false=st.integers(0, 40), times=st.integers(2, 5))
def test_more_answers_of_the_same_share_tell_more(true: int, false: int, times: int) -> None:
    """The bounds draw together."""
    few, many = posterior(true, false), posterior(times * true, times * false)
    assert many.high - many.low <= few.high - few.low + MOST


def test_bounds_cover_what_they_promise() -> None:
    """Where P is drawn from the prior, each bound is overstepped in 5 % of the cases."""
    rng, rounds = random.Random(20261121), 4000
    known = [posterior(true, 20 - true) for true in range(21)]
    below = above = 0
    for _ in range(rounds):
        p = rng.random()
        found = known[sum(rng.random() < p for _ in range(20))]
        below += p < found.low
        above += p > found.high
    # The standard deviation of such a share is .0034.
    assert below / rounds == pytest.approx(0.05, abs=0.014)
    assert above / rounds == pytest.approx(0.05, abs=0.014)
