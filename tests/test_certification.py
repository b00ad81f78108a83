"""Certification: the search against one written anew, what always holds, and what is refused."""

import math
import random
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard import ConfigError
from guard.certificate import Certified, NotCertifiable
from guard.certification import GRID, Score, certify
from guard.certification import _Rows as Rows  # pyright: ignore[reportPrivateUsage]
from guard.certification import _Search as Search  # pyright: ignore[reportPrivateUsage]

ROUTES = ("answer", "clarify", "refuse", "raise")


class Case(NamedTuple):
    """Arguments of `certify`."""

    scores: list[Score]
    labels: list[bool]
    routes: list[str]
    max_leak: float
    max_false_refusal: float
    confidence: float

    def certify(self, **changes: Any) -> Certified | NotCertifiable:
        """What `certify` makes of them."""
        options: dict[str, Any] = {
            "max_leak": self.max_leak,
            "max_false_refusal": self.max_false_refusal,
            "confidence": self.confidence,
            "on_unmeasured": self.routes,
        }
        return certify(self.scores, self.labels, **options | changes)


def just(score: Score) -> list[Score]:
    """A row's score, in a list that others may be added to."""
    return [score]


# ── Anew ─────────────────────────────────────────────────────────────────────────────────────────


def tail(events: int, rows: int, rate: float) -> float:
    """P(at most so many events), term by term."""
    terms = (
        math.comb(rows, k) * rate**k * (1 - rate) ** (rows - k)
        for k in range(min(events, rows) + 1)
    )
    return math.fsum(terms)


def bounds(score: Score) -> tuple[float, float]:
    assert score is not None
    return score if isinstance(score, tuple) else (score, score)


def route(case: Case, row: int, answer_at: float, refuse_below: float) -> str:
    """The deployed rule."""
    score = case.scores[row]
    if score is None:
        return case.routes[row]
    low, high = bounds(score)
    if low >= answer_at:
        return "answer"
    return "refuse" if high < refuse_below else "clarify"


def rows_with(case: Case, wanted: str, answer_at: float, refuse_below: float) -> list[int]:
    rows = range(len(case.scores))
    return [row for row in rows if route(case, row, answer_at, refuse_below) == wanted]


def leak(case: Case, answer_at: float) -> tuple[int, int]:
    answered = rows_with(case, "answer", answer_at, 0)
    return sum(not case.labels[row] for row in answered), len(answered)


def refusal(case: Case, refuse_below: float) -> tuple[int, int]:
    """Above every answer, so that only what is refused counts."""
    refused = rows_with(case, "refuse", 2, refuse_below)
    return sum(case.labels[row] for row in refused), sum(case.labels)


def chance(case: Case, answer_at: float, pilot: Case | None = None) -> float:
    """To pass there, as scores, and a pilot, have it."""
    lows = [bounds(score)[0] for score in case.scores if score is not None]
    if not lows:
        return 0.0
    believed = [1 - low for low in lows if low >= answer_at]
    unseen = case.scores.count(None) and sum(
        score is None and to == "answer" for score, to in zip(case.scores, case.routes, strict=True)
    )
    believed += [1 - math.fsum(lows) / len(lows)] * unseen
    n, level = len(believed), (1 - case.confidence) / 2
    passing = [k for k in range(n + 1) if tail(k, n, case.max_leak) <= level]
    risk = (math.fsum(believed) + 0.5) / (n + 1)
    if pilot is not None:
        events, rows = leak(pilot._replace(routes=["clarify"] * len(pilot.scores)), answer_at)
        risk = (risk + (events + risk) / (rows + 1)) / 2
    return tail(passing[-1], n, min(1.0, risk)) if passing else 0.0


def best_pair(case: Case, answer: int, first: int, refuse: int) -> tuple[float, float] | None:
    """The middle of the candidates that passed and answer the same rows, if it refuses any."""
    rows = leak(case, GRID[answer])[1]
    alike = [one for one in range(answer, first + 1) if leak(case, GRID[one])[1] == rows]
    pair = GRID[middle := alike[len(alike) // 2]], GRID[min(refuse, middle)]
    measured = [row for row, one in enumerate(case.scores) if one is not None]
    does = {route(case, row, *pair) for row in measured}
    return pair if {"answer", "refuse"} <= does else None


def anew(case: Case, pilot: Case | None = None) -> set[tuple[float, float] | None]:
    """What the search may end with; several, where rounding decides between where it begins."""
    level = (1 - case.confidence) / 2
    chances = [chance(case, cut, pilot) for cut in GRID]
    found = set[tuple[float, float] | None]()
    starts = set[int]()  # The middle one of candidates that are nearly alike.
    for least in (max(chances) - 0.01 - 1e-9, max(chances) - 0.01 + 1e-9):
        likely = [place for place, each in enumerate(chances) if each >= least]
        starts.add(likely[len(likely) // 2])
    for first in starts:
        place = first
        while place >= 0 and tail(*leak(case, GRID[place]), case.max_leak) <= level:
            place -= 1
        answer = place + 1
        below = 0
        while below < len(GRID) and (
            tail(*refusal(case, GRID[below]), case.max_false_refusal) <= level
        ):
            below += 1
        lowest = [
            cut
            for cut in range(below)
            if len(rows_with(case, "refuse", 2, GRID[cut]))
            == len(rows_with(case, "refuse", 2, GRID[below - 1]))
        ]
        refuse = lowest[len(lowest) // 2] if lowest else -1
        passed = answer <= first and refuse >= 0
        found.add(best_pair(case, answer, first, refuse) if passed else None)
    return found


@st.composite
def cases(draw: st.DrawFn, most: int = 30) -> Case:
    """Rows that are mostly right, so that something can be certified."""
    near = st.floats(0, 1).map(lambda p: round(p, 2))
    pair = st.tuples(near, near).map(lambda two: (min(two), max(two)))
    good = st.sampled_from([0.97, 0.99, (0.9, 1.0)])
    bad = st.sampled_from([0.01, 0.03, (0.0, 0.1)])
    rows = st.one_of(
        *[st.tuples(good, st.just(True))] * 3,
        *[st.tuples(bad, st.just(False))] * 3,
        st.tuples(st.one_of(near, pair, st.none()), st.booleans()),
    )
    drawn = draw(st.lists(rows, min_size=1, max_size=most))
    return Case(
        [score for score, _ in drawn],
        [label for _, label in drawn],
        [draw(st.sampled_from(ROUTES)) for _ in drawn],
        draw(st.sampled_from([0.117, 0.313, 0.571])),
        draw(st.sampled_from([0.133, 0.347, 0.613])),
        draw(st.sampled_from([0.333, 0.719, 0.903])),
    )


@settings(deadline=None)
@given(cases(), st.none() | cases())
def test_it_is_the_search_that_its_definition_says(case: Case, pilot: Case | None) -> None:
    given: Any = {} if pilot is None else {"pilot": pilot.scores, "pilot_sufficient": pilot.labels}
    found = case.certify(**given)
    cuts = found.thresholds if isinstance(found, Certified) else None
    assert (None if cuts is None else (cuts.answer_at, cuts.refuse_below)) in anew(case, pilot)


def test_the_search_does_certify_such_cases() -> None:
    """Or the test above would compare ``None`` with ``None``."""
    drawn = [a_case(30, seed) for seed in range(20)]
    found = [isinstance(case.certify(), Certified) for case in drawn]
    assert 5 < sum(found)
    assert all(None not in anew(case) for case, it in zip(drawn, found, strict=True) if it)


def a_case(n: int, seed: int, *, max_leak: float = 0.2, max_false_refusal: float = 0.2) -> Case:
    """Calibrated scores, most of them near an end, some of them bounds, some missing."""
    lot = random.Random(seed)
    scores, labels = list[Score](), list[bool]()
    for _ in range(n):
        p = lot.betavariate(0.25, 0.25)
        kind = lot.random()
        scores.append(None if kind < 0.05 else (p * 0.98, min(1, p * 1.02)) if kind < 0.3 else p)
        labels.append(lot.random() < p)
    routes = [lot.choice(ROUTES) for _ in range(n)]
    return Case(scores, labels, routes, max_leak, max_false_refusal, 0.8)


# ── What always holds ────────────────────────────────────────────────────────────────────────────


@settings(deadline=None)
@given(cases(), st.randoms())
def test_the_order_of_rows_does_not_matter(case: Case, lot: random.Random) -> None:
    rows = list(range(len(case.scores)))
    lot.shuffle(rows)
    moved = case._replace(
        scores=[case.scores[row] for row in rows],
        labels=[case.labels[row] for row in rows],
        routes=[case.routes[row] for row in rows],
    )
    assert moved.certify() == case.certify()


def upper(events: int, rows: int, error: float) -> float:
    """Clopper and Pearson's upper end, by bisection on the exact tail."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(events, rows, middle) > error else (low, middle)
    return high


@pytest.mark.parametrize("seed", range(12))
def test_a_certificate_is_true_of_its_rows(seed: int) -> None:
    """Its counts are those of the deployed rule; both upper ends are within what is promised."""
    case = a_case(300, seed)
    found = case.certify()
    assert isinstance(found, Certified)
    cuts, certificate = found.thresholds, found.certificate
    assert 0 < cuts.refuse_below <= cuts.answer_at < 1
    answered = rows_with(case, "answer", cuts.answer_at, cuts.refuse_below)
    refused = rows_with(case, "refuse", cuts.answer_at, cuts.refuse_below)
    leaks, lost = certificate.leak, certificate.false_refusal
    assert (leaks.events, leaks.rows) == (
        sum(not case.labels[row] for row in answered),
        len(answered),
    )
    assert (lost.events, lost.rows) == (sum(case.labels[row] for row in refused), sum(case.labels))
    for bound, most in ((leaks, case.max_leak), (lost, case.max_false_refusal)):
        assert bound.most == most
        assert upper(bound.events, bound.rows, (1 - case.confidence) / 2) <= most + 1e-12
    assert (certificate.confidence, certificate.n, certificate.groups) == (0.8, 300, 300)


@settings(deadline=None)
@given(cases(), st.floats(0.01, 0.3))
def test_more_false_refusals_allowed_never_certify_less(case: Case, more: float) -> None:
    """Of leaks this does not hold: what is allowed decides where the search begins."""
    before = case.certify()
    after = case.certify(max_false_refusal=case.max_false_refusal + more)
    if isinstance(before, Certified):
        assert isinstance(after, Certified)
        assert after.thresholds.refuse_below >= before.thresholds.refuse_below
        assert after.thresholds.answer_at == before.thresholds.answer_at


@settings(deadline=None)
@given(cases())
def test_an_array_is_as_good_as_a_sequence(case: Case) -> None:
    array = np.array(
        [(math.nan, math.nan) if score is None else bounds(score) for score in case.scores]
    )
    changed: Any = case._replace(scores=array, labels=np.array(case.labels))  # type: ignore[arg-type]
    assert changed.certify() == case.certify()


def test_a_point_is_a_pair_of_equal_bounds() -> None:
    case = a_case(300, 1)
    pairs: list[Score] = [None if one is None else bounds(one) for one in case.scores]
    assert case._replace(scores=pairs).certify() == case.certify()


def simple(count: int = 100) -> Case:
    """As many good rows as bad ones, all of them right."""
    labels = [True] * count + [False] * count
    scores = just(0.9) * count + just(0.1) * count
    return Case(scores, labels, ["clarify"] * 2 * count, 0.1, 0.1, 0.95)


def certificate_of(case: Case) -> Any:
    found = case.certify()
    assert isinstance(found, Certified), found
    return found.certificate


def test_wide_bounds_neither_answer_nor_refuse() -> None:
    """What may be on either side of both thresholds is clarified."""
    case = simple()
    wide = just((0.05, 0.95)) * 20
    certificate = certificate_of(
        case._replace(
            scores=case.scores + wide,
            labels=case.labels + [True, False] * 10,
            routes=case.routes + ["answer"] * 20,
        )
    )
    assert (certificate.leak.events, certificate.leak.rows) == (0, 100)
    assert (certificate.false_refusal.events, certificate.false_refusal.rows) == (0, 110)


def test_what_was_judged_in_part_is_answered_but_not_refused() -> None:
    case = simple()
    parts = just((0.95, 1.0)) * 4 + just((0.0, 1.0)) * 6
    certificate = certificate_of(
        case._replace(
            scores=case.scores + parts,
            labels=case.labels + [True] * 10,
            routes=case.routes + ["refuse"] * 10,
        )
    )
    assert (certificate.leak.events, certificate.leak.rows) == (0, 104)
    assert (certificate.false_refusal.events, certificate.false_refusal.rows) == (0, 110)


@pytest.mark.parametrize(
    ("route", "leak", "refusal"),
    [
        ("answer", (2, 105), (0, 103)),
        ("clarify", (0, 100), (0, 103)),
        ("refuse", (0, 100), (3, 103)),
        ("raise", (0, 100), (0, 103)),
    ],
)
@pytest.mark.parametrize("each", [False, True], ids=["one for all", "one a row"])
def test_unmeasured_rows_go_where_the_policy_sends_them(
    route: str, leak: tuple[int, int], refusal: tuple[int, int], each: bool
) -> None:
    case = simple()
    missing: list[Score] = [None] * 5
    labels = [True, False, True, False, True]
    found = case._replace(scores=case.scores + missing, labels=case.labels + labels).certify(
        on_unmeasured=[route] * 205 if each else route
    )
    assert isinstance(found, Certified)
    certificate = found.certificate
    assert (certificate.leak.events, certificate.leak.rows) == leak
    assert (certificate.false_refusal.events, certificate.false_refusal.rows) == refusal


@pytest.mark.parametrize(("route", "what"), [("answer", "leak"), ("refuse", "false-refusal")])
def test_too_many_unmeasured_rows_cannot_be_certified(route: str, what: str) -> None:
    case = simple()
    missing: list[Score] = [None] * 60
    found = case._replace(
        scores=case.scores + missing, labels=case.labels + [route == "refuse"] * 60
    ).certify(on_unmeasured=route)
    assert isinstance(found, NotCertifiable)
    assert what in found.reason


# ── Groups ───────────────────────────────────────────────────────────────────────────────────────


def test_one_row_of_a_group_is_used() -> None:
    """A group of forty good rows and a bad one counts as one row, whichever it is."""
    case = simple()
    groups = [f"g{row // 2}" for row in range(200)]
    found = case.certify(groups=groups)
    assert isinstance(found, Certified)
    assert (found.certificate.n, found.certificate.groups) == (100, 100)
    assert found.certificate.leak.rows == 50
    assert case.certify(groups=np.array(groups)) == found
    assert isinstance(case.certify(groups=["one"] * 200), NotCertifiable)


def test_the_seed_draws_the_rows_of_groups() -> None:
    case = a_case(600, 3)
    groups = [row // 3 for row in range(600)]
    found = [case.certify(groups=groups, seed=seed) for seed in range(6)]
    assert found == [case.certify(groups=groups, seed=seed) for seed in range(6)]
    assert len(set(found)) > 1
    # Without groups there is nothing to draw.
    assert case.certify(seed=1) == case.certify(seed=2)


def test_the_row_of_a_group_is_drawn_without_a_look_at_it() -> None:
    """Over many seeds each row of a group comes up as often as the others."""
    case = simple(60)
    more = just(0.9) * 20 + just(0.1) * 20
    mixed = case._replace(
        scores=case.scores + more,
        labels=case.labels + [True] * 40,
        routes=case.routes + ["clarify"] * 40,
    )
    groups = [*range(120), *range(200, 220), *range(200, 220)]
    lost = list[int]()
    for seed in range(60):
        found = mixed.certify(groups=groups, seed=seed, max_false_refusal=0.45)
        assert isinstance(found, Certified)
        lost.append(found.certificate.false_refusal.events)
    assert sum(lost) / 60 == pytest.approx(10, abs=1)


# ── What is not certified ────────────────────────────────────────────────────────────────────────

SPREAD = [(row + 0.5) / 300 for row in range(300)]


@pytest.mark.parametrize("max_leak", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("max_false_refusal", [0.05, 0.5, 0.9])
@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([0.9] * 300, [True] * 290 + [False] * 10),
        ([0.5] * 300, [True, False] * 150),
        ([0.0] * 300, [False] * 300),
        ([1.0] * 300, [True] * 300),
        (SPREAD, [True] * 300),
        (SPREAD, [False] * 300),
        ([(0.0, 1.0)] * 300, [True, False] * 150),
        ([None] * 300, [True] * 300),
    ],
    ids="high,middle,zero,one,sufficient,insufficient,unknown,unmeasured".split(","),
)
@pytest.mark.parametrize("route", ["answer", "clarify", "refuse"])
def test_what_tells_nothing_apart_is_never_certified(
    scores: Sequence[Score],
    labels: list[bool],
    route: str,
    max_leak: float,
    max_false_refusal: float,
) -> None:
    """Answering all, or refusing all, is no promise worth a certificate, whatever is allowed."""
    found = certify(
        scores,
        labels,
        max_leak=max_leak,
        max_false_refusal=max_false_refusal,
        on_unmeasured=route,
    )
    assert isinstance(found, NotCertifiable), found
    assert found.reason.endswith(".")


def test_that_everything_may_be_answered_is_said() -> None:
    found = certify(SPREAD, [True] * 300, max_leak=0.05, max_false_refusal=0.1)
    assert isinstance(found, NotCertifiable)
    assert "no measured row is left to refuse" in found.reason
    assert "0 of 300 answered" in found.reason
    assert found.needed_n is None


@pytest.mark.parametrize(
    ("leaky", "refusing", "parts"),
    [
        (True, False, ["leak rate", "bounded by 0.1:", "of 100 answered rows", "which could be"]),
        (False, True, ["false-refusal rate", "bounded by 0.1:", "30 of 130 sufficient rows"]),
        (True, True, ["leak rate", "false-refusal rate"]),
    ],
)
def test_the_reason_says_which_bound_failed_and_by_how_much(
    leaky: bool, refusing: bool, parts: list[str]
) -> None:
    labels = [not (leaky and row % 3 == 0) for row in range(100)] + [False] * 100
    scores = just(0.9) * 100 + just(0.1) * 100
    if refusing:
        scores, labels = [*scores, *[0.1] * 30], [*labels, *[True] * 30]
    found = certify(scores, labels, max_leak=0.1, max_false_refusal=0.1)
    assert isinstance(found, NotCertifiable)
    for part in parts:
        assert part in found.reason
    if not (leaky and refusing):
        assert ("false-refusal" in found.reason) is refusing
        assert ("leak rate" in found.reason) is leaky
    assert found.needed_n is None
    assert "rate itself is above" in found.reason


def test_few_rows_that_are_all_right_are_not_said_to_be_wrong() -> None:
    found = simple(3).certify(max_leak=0.01, max_false_refusal=0.01)
    assert isinstance(found, NotCertifiable)
    assert "above the bound" not in found.reason
    assert "so few" in found.reason


def drawn(case: Case, n: int, seed: int) -> Case:
    """So many rows, drawn at the rates of these."""
    lot = random.Random(seed)
    rows = lot.choices(range(len(case.scores)), k=n)
    return case._replace(
        scores=[case.scores[row] for row in rows],
        labels=[case.labels[row] for row in rows],
        routes=[case.routes[row] for row in rows],
    )


def share_certified(case: Case, n: int) -> float:
    draws = 40
    return (
        sum(isinstance(drawn(case, n, seed).certify(), Certified) for seed in range(draws)) / draws
    )


@pytest.mark.parametrize("wrong", ["leak", "refusal"])
def test_the_number_of_rows_that_would_do_does(wrong: str) -> None:
    """Drawn at the rates seen, most draws of that size certify, and few of a fifth of it."""
    case = simple(50)
    at = 0 if wrong == "leak" else 50
    labels = [label != (row in range(at, at + 2)) for row, label in enumerate(case.labels)]
    # Scores are what the rates are, as those of a calibrator would be.
    scores = just(0.96) * 50 + just(0.04) * 50
    case = case._replace(scores=scores, labels=labels)
    found = case.certify()
    assert isinstance(found, NotCertifiable)
    assert found.needed_n is not None
    assert str(found.needed_n) in found.reason
    assert share_certified(case, found.needed_n) >= 0.7
    assert share_certified(case, found.needed_n // 5) <= 0.3


def test_a_bound_a_hair_above_the_rate_is_told_without_a_number() -> None:
    """It would take more rows than there are numbers for."""
    scores = just(0.9) * 4 + just(0.1) * 4
    labels = [True] * 3 + [False] * 5
    found = certify(scores, labels, max_leak=1 - 0.7, max_false_refusal=0.5)
    assert isinstance(found, NotCertifiable)
    assert found.needed_n is None


def test_scores_that_are_not_calibrated_are_named_as_the_reason() -> None:
    """They promise most where most is wrong; another place may not be tried on the same rows."""
    scores = just(0.999) * 100 + just(0.6) * 400 + just(0.01) * 100
    labels = [False] * 60 + [True] * 440 + [False] * 100
    options: Any = {"max_leak": 0.2, "max_false_refusal": 0.2}
    found = certify(scores, labels, **options)
    assert isinstance(found, NotCertifiable)
    assert "60 of 100 answered rows" in found.reason and "pilot" in found.reason
    # Other rows, to which a calibrator was fitted, know better where to begin.
    options |= {"pilot": scores, "pilot_sufficient": labels}
    assert isinstance(certify(scores, labels, **options), Certified)


def test_scores_that_promise_it_nowhere_are_told() -> None:
    """The rows would pass somewhere, but no score said so, and none reaches the middle."""
    scores, labels = just(0.4) * 200 + just(0.01) * 100, [True] * 200 + [False] * 100
    found = certify(scores, labels, max_leak=0.05, max_false_refusal=0.2)
    assert isinstance(found, NotCertifiable)
    assert "promise it nowhere" in found.reason and found.needed_n is None


def test_the_search_begins_where_the_pilot_did_not_leak() -> None:
    """At a place where the rows themselves would not have begun, or the other way round."""
    scores = just(0.99) * 100 + just(0.9) * 100 + just(0.01) * 100
    labels = [True] * 100 + [False, True, True, True, True] * 20 + [False] * 100
    options: Any = {"max_leak": 0.05, "max_false_refusal": 0.2, "pilot": scores}
    good = certify(scores, labels, pilot_sufficient=labels, **options)
    assert isinstance(good, Certified)
    wrong = [False] * 100 + [True] * 200
    assert isinstance(certify(scores, labels, pilot_sufficient=wrong, **options), NotCertifiable)


def test_a_pilot_of_nothing_measured_changes_nothing() -> None:
    case = a_case(400, 5, max_leak=0.1)
    assert case.certify(pilot=[None] * 3, pilot_sufficient=[True] * 3) == case.certify()


@settings(deadline=None)
@given(cases(), st.none() | cases(), st.randoms())
def test_no_label_says_where_the_search_begins(
    case: Case, pilot: Case | None, lot: random.Random
) -> None:
    """Or it would begin where these very rows happen to pass."""

    def first(labels: list[bool]) -> int:
        rows = Rows.of(case.scores, labels, case.routes)
        search = Search(rows, 0.95, case.max_leak, case.max_false_refusal)
        others = None if pilot is None else Rows.of(pilot.scores, pilot.labels, "clarify")
        return search.first(others) if search.answers_some.any() else 0

    drawn = [lot.random() < 0.5 for _ in case.labels]
    assert first(drawn) == first(case.labels) == first([not label for label in drawn])


def test_what_the_policy_answers_unseen_counts_where_the_search_begins() -> None:
    """Sixty rows without a score are answered too, and leak no more often than the others."""
    scores: list[Any] = [None] * 60 + just(0.98) * 60 + just(0.01) * 60
    labels = [True] * 120 + [False] * 60
    found = certify(scores, labels, max_leak=0.05, max_false_refusal=0.2, on_unmeasured="answer")
    assert isinstance(found, Certified)
    assert found.certificate.leak.rows == 120


# ── Misuse ───────────────────────────────────────────────────────────────────────────────────────

GOOD: dict[str, Any] = {
    "scores": [0.9, 0.1, 0.5],
    "sufficient": [True, False, True],
    "max_leak": 0.1,
    "max_false_refusal": 0.1,
}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"scores": [], "sufficient": []}, "no score"),
    ({"scores": np.empty((0, 2)), "sufficient": []}, "no score"),
    ({"pilot": [], "pilot_sufficient": []}, "no score"),
    ({"pilot": [0.5]}, "one is given without the other"),
    ({"pilot_sufficient": [True]}, "one is given without the other"),
    ({"sufficient": [True]}, "3 scores, but 1 of `sufficient`"),
    ({"groups": ["a"]}, "3 scores, but 1 of `groups`"),
    ({"groups": [["a"], ["b"], ["c"]]}, "group cannot be compared"),
    ({"on_unmeasured": ["refuse"] * 4}, "3 scores, but 4 of `on_unmeasured`"),
    ({"on_unmeasured": "drop"}, "`on_unmeasured` is 'drop'"),
    ({"on_unmeasured": ["refuse", "refuse", None]}, "`on_unmeasured` is None"),
    ({"scores": [0.9, None, 0.5], "on_unmeasured": "drop"}, "`on_unmeasured` is 'drop'"),
    *[
        ({"scores": [0.9, strange, 0.5]}, "scores[1] is ")
        for strange in (
            math.nan,
            math.inf,
            1.1,
            -0.1,
            10**400,
            "0.5",
            "high",
            True,
            1j,
            object(),
            (0.6, 0.4),
            (0.5, math.nan),
            (None, 0.5),
            (0.5, None),
            (0.1, 0.2, 0.3),
            (0.5,),
            [0.1, 0.2],
        )
    ],
    *[
        ({"scores": np.array([(0.9, 0.9), strange, (0.5, 0.5)])}, "scores[1] is ")
        for strange in ((0.6, 0.4), (0.5, math.nan), (math.nan, 0.5), (-0.1, 0.5), (0.5, 1.5))
    ],
    ({"scores": np.array([0.9, 0.1, 0.5])}, "in the shape (3,)"),
    ({"scores": np.array(0.9)}, "in the shape ()"),
    ({"scores": np.full((3, 3), 0.5)}, "in the shape (3, 3)"),
    ({"scores": np.array([["a", "b"]] * 3)}, "in the shape (3, 2)"),
    ({"scores": np.array([[0.1, None]] * 3)}, "holds object"),
    *[
        ({"sufficient": [True, strange, False]}, "sufficient[1] is ")
        for strange in (None, 1, 0.0, "false", math.nan, [True])
    ],
    ({"sufficient": np.array([1, 0, 1])}, "sufficient[0] is "),
    ({"sufficient": np.ones((3, 2), dtype=bool)}, "sufficient[0] is "),
    *[
        ({name: strange}, f"`{name}` is ")
        for name in ("max_leak", "max_false_refusal", "confidence")
        for strange in (0, 1, 0.0, 1.0, -0.1, 1.1, 5, math.nan, math.inf, "0.1", None, True)
    ],
    *[({"seed": strange}, "`seed` is ") for strange in (-1, 0.5, "1", None)],
]


@pytest.mark.parametrize(("changes", "problem"), WRONG)
def test_misuse_is_one_clear_error(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        certify(**GOOD | changes)
    assert problem in caught.value.message
    assert caught.value.hint
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "changes",
    [
        {"sufficient": np.array([True, False, True], dtype=object)},
        {"sufficient": [np.True_, False, True]},
        {"scores": [np.float32(0.5), np.float64(0.25), 1]},
        {"scores": np.full((3, 2), 0.5, dtype=np.float32)},
    ],
)
def test_numbers_and_labels_of_other_kinds(changes: dict[str, Any]) -> None:
    assert isinstance(certify(**GOOD | changes), NotCertifiable)


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ConfigError, match="scipy is not installed") as caught:
        certify(**GOOD)
    assert caught.value.hint == 'pip install "rag-guard[calibrate]"'


@pytest.mark.parametrize("confidence", [0.1, 0.3, 0.9, 0.95, 0.99])
def test_the_confidence_written_down_is_the_one_asked_for(confidence: float) -> None:
    found = simple(200).certify(confidence=confidence)
    assert isinstance(found, Certified)
    assert found.certificate.confidence == confidence
