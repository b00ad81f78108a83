"""Which rows are picked for labelling, and how far two people agree on them."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from guard.agreement import Agreement, Mark, agreement
from guard.errors import ConfigError
from guard.judgement import Judgement
from guard.labelling import Pick, pick
from guard.thresholds import Thresholds
from guard.verdict import Verdict

CUTS = Thresholds(answer_at=0.8, refuse_below=0.3)


def judged(id: str, p: float | None, group: str | None = None) -> Judgement:
    """A row's judgement; ``None`` = not measured."""
    verdict = None
    if p is not None:
        verdict = Verdict(p, p, p, 1.0, None, "scripted", "scripted:x")
    return Judgement(
        id=id,
        group=group or id,
        sufficient=None,
        lang=None,
        verdict=verdict,
        reason=None if verdict else "timeout",
        detail="",
        elapsed_seconds=0.0,
        characters=10,
        overlap=0.0,
        fingerprint="scripted:x",
    )


def evenly(count: int) -> list[Judgement]:
    """Rows spread evenly over the scale, a group each."""
    return [judged(f"r{at}", (at + 0.5) / count) for at in range(count)]


def ids(picks: Sequence[Pick], sampling: str) -> set[str]:
    return {one.id for one in picks if one.sampling == sampling}


# ── Picking ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("share", "by_lot"), [(0, 0), (0.5, 10), (0.33, 7), (1, 20)])
def test_share(share: float, by_lot: int) -> None:
    """The share asked for is marked as random; no row is picked twice."""
    picks = pick(evenly(200), 20, thresholds=CUTS, random_share=share)
    assert Counter(one.sampling for one in picks)["random"] == by_lot
    assert len({one.id for one in picks}) == len(picks) == 20


def test_random_part_is_uniform() -> None:
    """Each of 40 rows is as likely as any other, near a threshold or not, measured or not."""
    rows = [judged(f"r{at}", None if at % 4 == 0 else at / 40) for at in range(40)]
    drawn = Counter[str]()
    draws = 2000
    for seed in range(draws):
        drawn.update(ids(pick(rows, 20, thresholds=CUTS, seed=seed), "random"))
    expected = draws * 10 / 40
    # Each count is binomial(draws, 1/4), so the sum of squares is about chi-square with 39 degrees.
    squares = sum((drawn[row.id] - expected) ** 2 / (expected * 0.75) for row in rows)
    assert squares < 72.05  # Its 99.9 % point.
    assert len(drawn) == 40


def test_targeted_part_crowds_near_the_thresholds_and_spreads() -> None:
    rows = evenly(2000)
    near = {row.id for row in rows if row.verdict and _off(row.verdict.p_true) < 0.03}
    targeted = Counter[bool]()
    strata = Counter[int]()
    for seed in range(20):
        for id in ids(pick(rows, 200, thresholds=CUTS, seed=seed), "targeted"):
            targeted[id in near] += 1
            strata[int(id[1:]) // 200] += 1
    share, uniform = targeted[True] / targeted.total(), len(near) / len(rows)
    assert share > 2 * uniform
    assert min(strata[stratum] for stratum in range(10)) > 0.05 * targeted.total()


def _off(p: float) -> float:
    return min(abs(p - CUTS.answer_at), abs(p - CUTS.refuse_below))


def test_a_thin_stratum_is_looked_into() -> None:
    """Where 980 of 1000 rows lie at one end, the other 20 are not forgotten."""
    rows = [judged(f"r{at}", 0.99 if at < 980 else 0.5) for at in range(1000)]
    targeted = ids(pick(rows, 60, thresholds=CUTS), "targeted")
    assert sum(int(id[1:]) >= 980 for id in targeted) >= 8


def test_the_bounds_decide_what_is_near() -> None:
    """Answering compares the lower bound, not the probability."""
    wide = [
        Verdict(0.95, 0.8 if at < 50 else 0.95, 0.95, 1, None, "scripted", "x") for at in range(500)
    ]
    rows = [replace(judged(f"r{at}", 0.95), verdict=verdict) for at, verdict in enumerate(wide)]
    drawn = Counter[bool]()
    for seed in range(20):
        picks = pick(rows, 50, thresholds=CUTS, random_share=0, seed=seed)
        drawn.update(int(one.id[1:]) < 50 for one in picks)
    assert drawn[True] / drawn.total() > 0.2  # Without weights a tenth.


def test_one_row_of_each_group_first() -> None:
    """Ten groups: none gives a second row before each has given one."""
    rows = [judged(f"r{at}", 0.5, group=f"g{at % 10}") for at in range(100)]
    groups = Counter(int(one.id[1:]) % 10 for one in pick(rows, 10, thresholds=CUTS))
    assert sorted(groups.values()) == [1] * 10
    more = pick(rows, 12, thresholds=CUTS, random_share=1)
    assert sorted(Counter(int(one.id[1:]) % 10 for one in more).values()) == [1] * 8 + [2] * 2


def test_groups_count_the_same() -> None:
    """A group of 90 rows is drawn no oftener than one of a single row."""
    rows = [judged(f"r{at}", 0.5, group="big" if at < 90 else f"g{at}") for at in range(100)]
    big = sum(
        any(int(one.id[1:]) < 90 for one in pick(rows, 1, thresholds=CUTS, random_share=1, seed=at))
        for at in range(1000)
    )
    assert abs(big - 1000 / 11) < 4 * math.sqrt(1000 / 11)


def test_without_probabilities_all_is_random() -> None:
    rows = [judged(f"r{at}", None) for at in range(50)]
    picks = pick(rows, 20, thresholds=CUTS)
    assert len(ids(picks, "random")) == 20


def test_too_few_measured_rows_make_the_random_part_longer() -> None:
    """It is a longer draw from all rows, not a draw from those that nobody measured."""
    rows = [judged(f"r{at}", 0.5 if at < 10 else None) for at in range(100)]
    among = Counter[bool]()
    for seed in range(300):
        picks = pick(rows, 60, thresholds=CUTS, random_share=0.2, seed=seed)
        assert len(picks) == 60
        assert all(int(id[1:]) < 10 for id in ids(picks, "targeted"))
        among.update(int(id[1:]) < 10 for id in ids(picks, "random"))
    assert abs(among[True] / among.total() - 0.1) < 0.015


def test_all_rows_are_no_selection() -> None:
    picks = pick(evenly(7), 300, thresholds=CUTS)
    assert len(ids(picks, "random")) == 7


def test_a_seed_repeats_and_a_larger_n_extends() -> None:
    rows = evenly(500)
    small, again = (pick(rows, 50, thresholds=CUTS, seed=3) for _ in range(2))
    assert small == again != pick(rows, 50, thresholds=CUTS, seed=4)
    large = pick(rows, 100, thresholds=CUTS, seed=3)
    assert ids(small, "random") < ids(large, "random")


def test_the_random_part_does_not_depend_on_the_judge() -> None:
    others = [judged(row.id, 0.8) for row in evenly(500)]
    first, second = (pick(rows, 50, thresholds=CUTS) for rows in (evenly(500), others))
    assert ids(first, "random") == ids(second, "random")


@pytest.mark.parametrize("n", [1, 10, 40, 100])
def test_whoever_stops_early_has_the_first_of_a_longer_lot(n: int) -> None:
    """Also after a larger draw: the order never changes."""

    def lot(count: int) -> list[str]:
        picks = pick(evenly(500), count, thresholds=CUTS)
        return [one.id for one in picks if one.sampling == "random"]

    assert lot(300)[: len(lot(n))] == lot(n) != []


def test_both_parts_are_mixed() -> None:
    """Whoever stops halfway has labelled about as many of the one as of the other."""
    half = pick(evenly(2000), 400, thresholds=CUTS)[:200]
    assert 70 < len(ids(half, "random")) < 130


@pytest.mark.parametrize(("n", "share"), [(0, 0.5), (10, 1.1), (10, -0.1), (10, math.nan)])
def test_numbers_out_of_range(n: int, share: float) -> None:
    with pytest.raises(ConfigError):
        pick(evenly(10), n, thresholds=CUTS, random_share=share)


# ── Agreement ────────────────────────────────────────────────────────────────────────────────────


def compared(both: int, first: int, second: int, neither: int) -> Agreement:
    """Two people's agreement, from how often both, one or none of them say sufficient."""
    pairs = [(True, True)] * both + [(True, False)] * first
    pairs += [(False, True)] * second + [(False, False)] * neither
    one, two = (
        {f"r{at}": Mark(p[i], f"f, line {at}") for at, p in enumerate(pairs)} for i in (0, 1)
    )
    return agreement(one, two)


def test_kappa_by_hand() -> None:
    """20, 5, 10, 15 of 50: seen .7, by chance .5 * .6 + .5 * .4 = .5, kappa .2 / .5 = .4."""
    found = compared(20, 5, 10, 15)
    assert (found.common, found.agreed, found.raw) == (50, 35, 0.7)
    assert found.kappa == pytest.approx(0.4)
    # Fleiss, Cohen and Everitt (1969): the first says sufficient in .5 of rows, the second in .6.
    variance = 0.4 * (0.5 - 0.33) ** 2 + 0.3 * (0.5 - 0.27) ** 2
    variance += 0.09 * (0.1 * 1.1**2 + 0.2 * 0.9**2) - (0.7 * 0.5 - 1.0 + 0.7) ** 2
    error = math.sqrt(variance / 50) / 0.25
    assert found.kappa_interval is not None
    assert found.kappa_interval.low == pytest.approx(0.4 - 1.959964 * error, abs=1e-6)
    assert found.kappa_interval.high == pytest.approx(0.4 + 1.959964 * error, abs=1e-6)
    assert found.reason is None
    assert len(found.differences) == 15


def test_the_interval_covers() -> None:
    """The spread of kappa over draws is the standard error that the interval is made of."""
    lot = random.Random(5)
    weights = (0.5, 0.15, 0.05, 0.3)
    kappas, halves = list[float](), list[float]()
    for _ in range(400):
        drawn = Counter(lot.choices(range(4), weights, k=300))
        found = compared(drawn[0], drawn[1], drawn[2], drawn[3])
        assert found.kappa is not None and found.kappa_interval is not None
        kappas.append(found.kappa)
        halves.append((found.kappa_interval.high - found.kappa_interval.low) / 2)
    mean = sum(kappas) / len(kappas)
    spread = math.sqrt(sum((kappa - mean) ** 2 for kappa in kappas) / len(kappas))
    assert sum(halves) / len(halves) / 1.96 == pytest.approx(spread, rel=0.1)


def test_worse_than_chance() -> None:
    found = compared(5, 20, 15, 10)
    assert found.kappa is not None and found.kappa < 0


@pytest.mark.parametrize(
    ("table", "kappa", "why"),
    [
        ((0, 0, 0, 0), None, "No row"),
        ((9, 0, 0, 0), None, "same label"),
        ((0, 0, 0, 9), None, "same label"),
        ((5, 0, 0, 4), 1.0, "agree on every row"),
        ((0, 5, 5, 0), -1.0, "differ on every row"),
        ((0, 9, 0, 0), 0.0, "differ on every row"),
    ],
)
def test_what_has_no_interval_says_why(
    table: tuple[int, int, int, int], kappa: float | None, why: str
) -> None:
    found = compared(*table)
    assert found.kappa == kappa
    assert found.kappa_interval is None
    assert found.reason is not None and why in found.reason
    assert (found.raw is None) == (found.raw_interval is None) == (sum(table) == 0)


def test_perfect_raw_agreement_is_no_certainty() -> None:
    """Wilson (1927): of 9 of 9, the lower end is n / (n + z²)."""
    interval = compared(9, 0, 0, 0).raw_interval
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((9 / (9 + 1.959964**2), 1.0), abs=1e-6)


def test_rows_of_one_alone_count_apart() -> None:
    one = {"a": Mark(True, "A, line 1"), "b": Mark(True, "A, line 2")}
    two = {"b": Mark(False, "B, line 1"), "c": Mark(False, "B, line 2"), "d": Mark(True, "B")}
    found = agreement(one, two)
    assert (found.common, found.only_first, found.only_second) == (1, 1, 2)
    (differ,) = found.differences
    assert (differ.id, differ.first.place, differ.second.place) == ("b", "A, line 2", "B, line 1")
