"""The guarantee, on draws from worlds whose true risks are known.

Shares of broken promises are of 1,000 seeded draws, so that one of .05 has a standard error of
.007; three of them are allowed for. Comparisons of power, and groups, make do with fewer.
"""

from typing import Any

import numpy as np
import pytest

from benchmarks.certification import (
    BOUNDS,
    MAX_FALSE_REFUSAL,
    SIZES,
    WORLDS,
    Shares,
    World,
    censored,
    failing,
    others,
    world,
)
from guard.certificate import Certified
from guard.certification import GRID, certify
from guard.odds import expit, logit

pytestmark = pytest.mark.slow

DRAWS = 1000
ERROR = 0.05 + 3 * (0.05 * 0.95 / DRAWS) ** 0.5
HALF = 0.025 + 3 * (0.025 * 0.975 / DRAWS) ** 0.5


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", WORLDS)
def test_the_promise_is_kept(kind: str, n: int) -> None:
    """And hardly ever is so much promised where scores say nothing."""
    for max_leak in BOUNDS:
        shares = Shares.of(world(kind), n, max_leak, DRAWS)
        assert shares.broken <= ERROR, (max_leak, shares)
        assert max(shares.leaking, shares.refusing) <= HALF, (max_leak, shares)
        if kind == "uninformative":
            assert shares.promised <= ERROR, (max_leak, shares)


@pytest.mark.parametrize("n", [500, 2000, 4000])
def test_each_of_the_two_has_half_of_the_error(n: int) -> None:
    """Where every threshold leaks a hair too often, the whole of it would show."""
    shares = Shares.of(world("at the bounds"), n, 0.05, DRAWS, pilot=True)
    assert 0.005 <= shares.leaking <= HALF, shares


@pytest.mark.parametrize("n", [500, 2000])
@pytest.mark.parametrize("kind", ["informative", "weak"])
def test_the_power_is_that_of_who_knows_the_best_threshold(kind: str, n: int) -> None:
    """Within five points, with a pilot of as many rows, as `calibrate` has one, or without."""
    for max_leak in BOUNDS:
        for pilot in (False, True):
            shares = Shares.of(world(kind), n, max_leak, DRAWS // 2, pilot=pilot, seed=7)
            assert shares.promised >= shares.oracle - 0.05, (max_leak, pilot, shares)
            assert shares.broken <= ERROR


VARIANTS: dict[str, World] = {
    "censored": censored(world("informative")),
    "very censored": censored(world("weak"), 0.3),
    **{
        f"failures {route}": failing(world("informative"), route)
        for route in ("answer", "clarify", "refuse", "raise")
    },
    "many failures refuse": failing(world("informative"), "refuse", 0.2),
    "many failures answer": failing(world("informative"), "answer", 0.2),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_the_deployed_rule_that_is_certified(variant: str) -> None:
    """Bounds in place of probabilities, and rows without any."""
    promised = 0.0
    for max_leak in BOUNDS:
        shares = Shares.of(VARIANTS[variant], 500, max_leak, DRAWS, pilot=True)
        assert shares.broken <= ERROR, (max_leak, shares)
        promised = max(promised, shares.promised)
    # A fifth of all rows refused, or answered, unseen is above the bound, whatever the thresholds.
    assert (promised > 0.5) == ("many" not in variant and "very" not in variant)


def test_the_naive_choice_is_wrong_as_often_as_not() -> None:
    """What everybody does: the lowest threshold whose observed leak rate is within the bound."""
    shares = others(world("informative"), 500, 0.1, 200)
    assert shares["naive"] > 0.25
    ours = Shares.of(world("informative"), 500, 0.1, 200)
    assert ours.promised >= max(shares["Holm"], shares["FST"]) - 0.02
    assert shares["Holm broken"] <= 0.05 and shares["FST broken"] <= 0.05


# ── Groups ───────────────────────────────────────────────────────────────────────────────────────

_EFFECTS = np.array([-3.0, -1.5, 0.0, 1.5, 3.0])  # In nats: what rows of one group share.


def grouped(groups: int, rows: int, random: np.random.Generator) -> tuple[Any, Any, Any]:
    """Scores, labels and groups; a group's rows are all better than they look, or all worse."""
    scores = random.beta(0.5, 0.35, (groups, rows))
    shift = random.choice(_EFFECTS, groups)[:, None]
    odds = np.log(np.clip(scores, 1e-9, 1 - 1e-9) / (1 - np.clip(scores, 1e-9, 1 - 1e-9)))
    labels = random.random((groups, rows)) < 1 / (1 + np.exp(-(odds + shift)))
    names = np.repeat(np.arange(groups), rows)
    return scores.ravel().tolist(), labels.ravel().tolist(), names.tolist()


def true_rates() -> tuple[Any, Any]:
    """Leak and false-refusal rates at each candidate, over groups drawn anew."""
    scores, labels, _ = grouped(400_000, 1, np.random.default_rng(99))
    s, y = np.array(scores), np.array(labels)
    leaks = [(~y[s >= cut]).mean() if (s >= cut).any() else 0.0 for cut in GRID]
    lost = [(y & (s < cut)).sum() / y.sum() for cut in GRID]
    return np.array(leaks), np.array(lost)


@pytest.mark.parametrize(("groups", "rows"), [(16, 60), (300, 5)])
def test_rows_of_one_group_are_not_counted_as_many(groups: int, rows: int) -> None:
    """Sixteen correlated articles promise nothing; taken as rows of their own they would."""
    leaks, lost = true_rates()
    random = np.random.default_rng(5)
    broken = {"groups": 0, "rows": 0}
    promised = {"groups": 0, "rows": 0}
    draws = DRAWS // 2
    for _ in range(draws):
        scores, labels, names = grouped(groups, rows, random)
        for how, given in (("groups", names), ("rows", None)):
            result = certify(
                scores, labels, max_leak=0.15, max_false_refusal=MAX_FALSE_REFUSAL, groups=given
            )
            if isinstance(result, Certified):
                promised[how] += 1
                cuts = result.thresholds
                at, below = GRID.index(cuts.answer_at), GRID.index(cuts.refuse_below)
                broken[how] += bool(leaks[at] > 0.15 or lost[below] > MAX_FALSE_REFUSAL)
    assert broken["groups"] <= (0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5) * draws
    if groups == 16:
        assert promised["groups"] == 0
        assert broken["rows"] > 0.1 * draws  # Why groups are to be named.
    else:
        assert promised["groups"] > 0.5 * draws


def test_odds_and_their_inverse_agree_with_the_simulation() -> None:
    assert expit(logit(0.3) + 1.5) == pytest.approx(1 / (1 + np.exp(-(np.log(3 / 7) + 1.5))))
