"""Calibrating: which rows serve what, what the profile holds, and that a gate does as promised."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from guard import (
    ConfigError,
    Gate,
    JudgeRejected,
    Policy,
    Profile,
    Query,
    Route,
    calibrating,
)
from guard.calibrating import Calibration, calibrate, require_labels
from guard.certificate import Certified, NotCertifiable
from guard.certification import certify
from guard.dataset import Dataset, Row
from guard.errors import JudgeError, Unmeasured
from guard.fitting import fit
from guard.judgement import Judgement
from guard.survey import survey
from guard.testing import Scripted, ScriptedJudge
from guard.verdict import Verdict

Script = Callable[[Query], Scripted]
BOUNDS: dict[str, Any] = {"max_leak": 0.4, "max_false_refusal": 0.3}


def said(number: int) -> float:
    """What the judge says of a row: too sure of itself, so that there is something to fit."""
    p = random.Random(f"said {number}").betavariate(0.3, 0.3)
    return min(max(p, 0.001), 0.999)


def truth(number: int) -> bool:
    """Whether a row is sufficient: less surely than the judge says."""
    return random.Random(f"truth {number}").random() < 0.05 + 0.9 * said(number)


def number_of(query: Query) -> int:
    return int(query.question.split()[-1])


def by_number(query: Query) -> float:
    return said(number_of(query))


def a_row(number: int, **changes: Any) -> Row:
    """One on a lighthouse; three on the same one are a group."""
    row = Row(
        id=f"r{number}",
        query=Query.of(f"Who keeps lighthouse {number}", [f"Keeper {number} does.", "It is tall."]),
        sufficient=truth(number),
        group=f"g{number // 3}",
        answers=(),
        place=f"rows.jsonl, line {number + 1}",
    )
    return replace(row, **changes)


def judged(
    script: Script = by_number, policy: Policy | None = None, rows: Iterable[Row] | None = None
) -> list[Judgement]:
    """900 rows in 300 groups, unless given, as a scripted judge judged them."""
    given = list(rows) if rows is not None else [a_row(number) for number in range(900)]
    return survey(Gate(ScriptedJudge(script), policy or Policy()), Dataset.of(given), workers=1)


@pytest.fixture(scope="module")
def judgements() -> list[Judgement]:
    return judged()


@pytest.fixture(scope="module")
def calibration(judgements: list[Judgement]) -> Calibration:
    return calibrate(judgements, Policy(), data_version="v1", **BOUNDS)


class Seen:
    """What `calibrate` passes on, and to whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fitted: tuple[Any, ...] = ()
        self.certified: dict[str, Any] = {}
        self._fit, self._certify = fit, certify
        monkeypatch.setattr(calibrating, "fit", self.fit)
        monkeypatch.setattr(calibrating, "certify", self.certify)

    def fit(self, *args: Any, **options: Any) -> Any:
        self.fitted = args
        return self._fit(*args, **options)

    def certify(self, scores: Any, labels: Any, **options: Any) -> Any:
        self.certified = {"scores": scores, "labels": labels, **options}
        return self._certify(scores, labels, **options)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


# ── Which rows serve what ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_no_row_and_no_group_serves_both(
    judgements: list[Judgement], seen: Seen, share: float
) -> None:
    found = calibrate(judgements, Policy(), fit_share=share, **BOUNDS)
    fit_groups, certified_groups = set(seen.fitted[2]), set(seen.certified["groups"])
    assert not fit_groups & certified_groups
    assert len(fit_groups) == round(share * 300)
    assert fit_groups | certified_groups == {each.group for each in judgements}
    assert len(seen.fitted[0]) + len(seen.certified["scores"]) == 900
    assert (found.fit_rows, found.certified_rows) == (len(seen.fitted[0]), len(certified_groups))
    # Where the search begins is chosen on the rows of the fit.
    assert len(seen.certified["pilot"]) == len(seen.fitted[0])


def test_the_lot_is_the_seed_s(judgements: list[Judgement], seen: Seen) -> None:
    drawn = list[tuple[Any, ...]]()
    for seed in (0, 0, 1):
        calibrate(judgements, Policy(), seed=seed, **BOUNDS)
        drawn.append(tuple(seen.fitted[2]))
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_lot_looks_at_no_label_and_at_no_order(judgements: list[Judgement], seen: Seen) -> None:
    calibrate(judgements, Policy(), **BOUNDS)
    before = set(seen.fitted[2])
    calibrate(
        [replace(each, sufficient=not each.sufficient) for each in reversed(judgements)],
        Policy(),
        **BOUNDS,
    )
    assert set(seen.fitted[2]) == before


def test_rows_that_were_picked_serve_the_fit_alone(judgements: list[Judgement], seen: Seen) -> None:
    """Also where a row drawn at random is of the same group: then they serve nothing."""
    random_ids = {each.id for each in judgements if int(each.id[1:]) % 3 == 0 and each.id > "r5"}
    found = calibrate(judgements, Policy(), certifiable=random_ids, **BOUNDS)
    kept = {each.group for each in judgements if each.id in random_ids}
    assert set(seen.certified["groups"]) < kept
    assert len(seen.certified["scores"]) == len(set(seen.certified["groups"]))  # One of three.
    assert not set(seen.fitted[2]) & set(seen.certified["groups"])
    picked_only = {each.group for each in judgements} - kept
    assert picked_only and picked_only < set(seen.fitted[2])
    assert found.certified_rows == len(kept) - round(0.3 * len(kept))


# ── The deployed rule ────────────────────────────────────────────────────────────────────────────


def troubled(query: Query) -> Scripted:
    """Sure, unsure within bounds, in part, beside the labels, rejected."""
    number = number_of(query)
    p = said(number)
    match number % 20:
        case 0:
            return Unmeasured("Beside the labels.", kind="low_mass")
        case 1:
            return JudgeRejected("No.")
        case 2 | 3:
            return (p * 0.9, min(1.0, p * 1.1))
        case 4:
            return Verdict(p, p, p, 1.0, None, "scripted", "-", model="scripted", coverage=0.5)
        case _:
            return p


def troubled_rows() -> list[Row]:
    """Some of which have no contexts."""
    rows = [a_row(number) for number in range(900)]
    return [
        replace(row, query=Query.of(row.query.question, [])) if number % 50 == 7 else row
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    "on_unmeasured",
    ["answer", "clarify", "refuse", "raise", {"low_mass": "answer", "default": "raise"}],
)
def test_a_gate_with_the_profile_does_what_was_certified(
    on_unmeasured: Any, seen: Seen, tmp_path: Path
) -> None:
    """Every count of the certificate, from the routes of a gate with the saved profile."""
    policy, rows = Policy(on_unmeasured=on_unmeasured), troubled_rows()
    # Half of the rows without a verdict are insufficient, and some of these policies answer them.
    bounds: dict[str, Any] = {**BOUNDS, "max_leak": 0.5}
    found = calibrate(judged(troubled, policy, rows), policy, **bounds)
    assert found.profile is not None, found.outcome
    found.profile.save(tmp_path / "lighthouse.json")
    gate = Gate(ScriptedJudge(troubled), policy, profile=Profile.load(tmp_path / "lighthouse.json"))
    counted = one_a_group([row for row in rows if row.group in set(seen.certified["groups"])])
    answered = [row for row in counted if routed(gate, row) is Route.ANSWER]
    refused = [row for row in counted if routed(gate, row) is Route.REFUSE]
    certificate = found.profile.certificate
    assert certificate is not None and certificate.n == len(counted)
    leak, lost = certificate.leak, certificate.false_refusal
    assert leak.events == sum(not row.sufficient for row in answered) > 0
    assert leak.rows == len(answered)
    assert lost.events == sum(bool(row.sufficient) for row in refused) > 0
    assert lost.rows == sum(bool(row.sufficient) for row in counted)


def one_a_group(rows: Sequence[Row]) -> list[Row]:
    """Those that `certify` draws with seed 0; it draws by place alone."""
    import numpy as np

    chosen = dict[str, Row]()
    order: list[int] = np.random.default_rng(0).permutation(len(rows)).tolist()
    for place in order:
        chosen.setdefault(rows[place].group, rows[place])
    return list(chosen.values())


def routed(gate: Gate, row: Row) -> Route | None:
    try:
        return gate.check(row.query.question, row.query.contexts).route
    except JudgeError:
        return None


def test_scores_and_routes_are_those_of_the_policy(seen: Seen) -> None:
    policy = Policy(on_unmeasured={"low_mass": "answer", "rejected": "raise"})
    rows = troubled_rows()
    found = calibrate(judged(troubled, policy, rows), policy, **BOUNDS)
    held = [row for row in rows if row.group in set(seen.certified["groups"])]
    scores, routes = seen.certified["scores"], seen.certified["on_unmeasured"]
    for row, score, route in zip(held, scores, routes, strict=True):
        number = number_of(row.query)
        if row.query.is_empty:
            assert (score, route) == (None, "refuse")
        elif number % 20 in (0, 1):
            assert (score, route) == (None, "answer" if number % 20 == 0 else "raise")
        else:
            low, high = score
            assert low <= high
            assert (high == 1.0) == (number % 20 == 4)
            assert (low < high) == (number % 20 in (2, 3, 4))
    assert found.unmeasured == sum(score is None for score in scores) > 0
    assert found.fit_rows == len(seen.fitted[0]) < len(seen.certified["pilot"])


def test_what_is_seldom_is_routed_as_stale(seen: Seen) -> None:
    """A gate does not apply the profile to another signal, so that no score may be certified."""

    def truncated_at_times(query: Query) -> Scripted:
        p = by_number(query)
        signal = "logprobs-truncated" if number_of(query) % 10 == 0 else "logprobs"
        return Verdict(p, p, p, 1.0, None, signal, "-", model="m")

    found = calibrate(judged(truncated_at_times), Policy(on_stale="clarify"), **BOUNDS)
    missing = [at for at, score in enumerate(seen.certified["scores"]) if score is None]
    assert found.unmeasured == len(missing) > 30
    assert {seen.certified["on_unmeasured"][at] for at in missing} == {"clarify"}
    assert found.profile is not None and found.profile.signal == "logprobs"
    assert found.fit_rows < 270


# ── The profile ──────────────────────────────────────────────────────────────────────────────────


def test_the_profile_holds_what_it_was_made_of(calibration: Calibration) -> None:
    profile, outcome = calibration.profile, calibration.outcome
    assert isinstance(outcome, Certified) and profile is not None
    assert profile.thresholds == outcome.thresholds
    assert profile.certificate == outcome.certificate
    assert profile.calibrator == calibration.fitted.calibrator
    assert profile.calibrator is not None and profile.calibrator.name != "identity"
    assert (profile.fingerprint, profile.signal) == ("scripted:scripted", "scripted")
    assert (profile.model, profile.data_version) == ("scripted", "v1")
    assert (profile.languages, profile.windows) == ((), 1)
    assert profile.created is not None and profile.created.tzinfo is not None
    assert timedelta() <= datetime.now(UTC) - profile.created < timedelta(minutes=10)


def test_a_profile_comes_back_equal(calibration: Calibration, tmp_path: Path) -> None:
    assert calibration.profile is not None
    calibration.profile.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == calibration.profile


def test_the_model_is_written_down_if_there_was_one(judgements: list[Judgement]) -> None:
    def served_by(each: Judgement) -> Judgement:
        assert each.verdict is not None
        return replace(each, verdict=replace(each.verdict, model=f"m{len(each.group) % 2}"))

    with pytest.raises(ConfigError, match="of 2 served models, e.g. 'm0' and 'm1'"):
        calibrate(list(map(served_by, judgements)), Policy(), **BOUNDS)
    # A reply without its model's name is none of another model.
    first = judgements[0]
    assert first.verdict is not None
    unnamed = replace(first, verdict=replace(first.verdict, model=None))
    profile = calibrate([unnamed, *judgements[1:]], Policy(), **BOUNDS).profile
    assert profile is not None and profile.model == "scripted"


@pytest.mark.parametrize(("pin", "expected"), [(False, ()), (True, ("fp_1",))])
def test_the_backend_is_written_down_if_it_is_to_count(
    judgements: list[Judgement], pin: bool, expected: tuple[str, ...]
) -> None:
    """Another one is stale then; hosted ones change often, so it is not the rule."""

    def by(each: Judgement, backend: str) -> Judgement:
        assert each.verdict is not None
        return replace(each, verdict=replace(each.verdict, system_fingerprint=backend))

    seen = [by(each, "fp_1") for each in judgements]
    profile = calibrate(seen, Policy(), pin_backend=pin, **BOUNDS).profile
    assert profile is not None and profile.system_fingerprints == expected
    other = by(judgements[0], "fp_2").verdict
    assert other is not None
    assert (profile.difference(other, None) is not None) == pin


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([1], 1),
        ([1, 4], 4),
        ([1] * 99 + [8], 1),  # Too few rows to count.
        ([2] * 99 + [8], 2),
        ([1] * 98 + [3, 8], 3),  # So many, or more.
    ],
)
def test_windows_are_written_down_as_enough_rows_had_them(
    judgements: list[Judgement], windows: list[int], expected: int
) -> None:
    """A profile is for no more of them than that."""

    def at(place: int, each: Judgement) -> Judgement:
        assert each.verdict is not None
        many = windows[place % len(windows)]
        return replace(each, verdict=replace(each.verdict, windows=many))

    profile = calibrate([at(*each) for each in enumerate(judgements)], Policy(), **BOUNDS).profile
    assert profile is not None and profile.windows == expected
    verdict = judgements[0].verdict
    assert verdict is not None
    assert profile.difference(replace(verdict, windows=expected), None) is None
    stale = profile.difference(replace(verdict, windows=expected + 1), None)
    assert stale is not None and stale.startswith("it was fitted to sets judged")


@pytest.mark.parametrize(
    ("langs", "expected"),
    [
        (["de", "en"], ("de", "en")),
        (["de"], ("de",)),
        (["de", None], ("de",)),
        (["de", ""], ("de",)),
        (["de", " "], ("de",)),
        ([None], ()),
        (["de"] * 99 + ["fr"], ("de",)),  # Too few rows to count as calibrated.
        # None has enough, so that it is for no query whose language is known.
        ([None] * 150 + ["ja"], ("und",)),
    ],
)
def test_languages_are_written_down_if_enough_rows_have_them(
    judgements: list[Judgement], langs: list[str | None], expected: tuple[str, ...]
) -> None:
    said = [replace(each, lang=langs[at % len(langs)]) for at, each in enumerate(judgements)]
    profile = calibrate(said, Policy(), **BOUNDS).profile
    assert profile is not None and profile.languages == expected


def test_so_many_languages_that_none_has_enough_rows_are_an_error(
    judgements: list[Judgement],
) -> None:
    """A profile for all of them would be one for languages that nobody looked at."""
    said = [replace(each, lang=f"q{at % 120:03}") for at, each in enumerate(judgements)]
    with pytest.raises(ConfigError, match="No language has 10 rows"):
        calibrate(said, Policy(), **BOUNDS)


def test_a_language_that_was_never_certified_on_does_not_count(
    judgements: list[Judgement],
) -> None:
    """Neither rows that serve the calibrator alone, nor those without a verdict."""
    said = [replace(each, lang="en") for each in judgements]
    picked = {each.id for each in said[:40]}
    for at in range(40):
        said[at] = replace(said[at], lang="de")
    random = {each.id for each in said} - picked
    profile = calibrate(said, Policy(), certifiable=random, **BOUNDS).profile
    assert profile is not None and profile.languages == ("en",)
    for at in range(40):
        said[at] = replace(said[at], verdict=None, reason="timeout")
    profile = calibrate(said, Policy(on_unmeasured="clarify"), **BOUNDS).profile
    assert profile is not None and profile.languages == ("en",)


def test_rows_without_contexts_are_refused_whatever_the_policy(
    judgements: list[Judgement], seen: Seen
) -> None:
    """As a gate refuses them, without asking."""
    said = [
        replace(each, verdict=None, reason="no_contexts") if at % 9 == 0 else each
        for at, each in enumerate(judgements)
    ]
    calibrate(said, Policy(on_unmeasured="clarify", on_stale="answer"), **BOUNDS)
    routes = zip(seen.certified["scores"], seen.certified["on_unmeasured"], strict=True)
    missing = [route for score, route in routes if score is None]
    assert len(missing) > 30 and set(missing) == {"refuse"}


def test_the_promise_is_of_the_policy_that_was_certified(
    calibration: Calibration, caplog: pytest.LogCaptureFixture
) -> None:
    """Where another sends more to be answered, or refused, unmeasured, a gate says so."""
    profile = calibration.profile
    assert profile is not None and profile.certificate is not None
    assert dict(profile.certificate.routes)["timeout"] == "refuse"
    judge = ScriptedJudge(0.9)
    for policy in (Policy(), Policy(on_unmeasured="clarify"), Policy(on_unmeasured="raise")):
        Gate(judge, policy, profile=profile)
    assert caplog.text == ""
    Gate(judge, Policy(on_unmeasured={"timeout": "answer"}), profile=profile)
    assert "promise does not hold here" in caplog.text and "timeout." in caplog.text


@pytest.mark.parametrize("kind", ["identity", "temperature", "platt", "isotonic"])
def test_the_calibrator_may_be_chosen(judgements: list[Judgement], kind: str) -> None:
    found = calibrate(judgements, Policy(), kind=kind, max_leak=0.4, max_false_refusal=0.3)
    assert found.fitted.calibrator.name == kind
    assert found.profile is not None, found.outcome


def test_nothing_certified_is_no_profile(judgements: list[Judgement]) -> None:
    found = calibrate(judgements, Policy(), max_leak=0.001, max_false_refusal=0.15)
    assert isinstance(found.outcome, NotCertifiable)
    assert found.profile is None
    assert found.fit_rows == 270


# ── Misuse ───────────────────────────────────────────────────────────────────────────────────────


def some(judgements: list[Judgement], **changes: Any) -> list[Judgement]:
    """With the last row changed."""
    return [*judgements[:-1], replace(judgements[-1], **changes)]


def verdict_of(judgements: list[Judgement], **changes: Any) -> Verdict:
    assert judgements[-1].verdict is not None
    return replace(judgements[-1].verdict, **changes)


Change = Callable[[list[Judgement]], list[Judgement]]

WRONG: dict[str, tuple[Change, str]] = {
    "unlabelled": (
        lambda them: some(them, sufficient=None),
        "1 rows are not labelled, e.g. 'r899'",
    ),
    "judges": (
        lambda them: some(them, verdict=verdict_of(them, fingerprint="scripted:x")),
        "those of 2 judges",
    ),
    "judges, one without a verdict": (
        lambda them: some(them, verdict=None, reason="timeout", fingerprint="scripted:x"),
        "those of 2 judges",
    ),
    "unmeasured": (
        lambda them: [replace(each, verdict=None, reason="timeout") for each in them],
        "No row could be measured",
    ),
    "one group": (lambda them: [replace(each, group="g") for each in them], "1 groups"),
    "one class": (
        lambda them: [replace(each, sufficient=True) for each in them],
        "0 of 270 rows are insufficient",
    ),
    "few": (lambda them: them[:9], "too few to calibrate on"),
}


@pytest.mark.parametrize("name", WRONG)
def test_rows_that_cannot_serve(judgements: list[Judgement], name: str) -> None:
    change, problem = WRONG[name]
    with pytest.raises(ConfigError) as caught:
        calibrate(change(judgements), Policy(), **BOUNDS)
    assert problem in caught.value.message
    assert caught.value.hint


def test_nothing_to_certify_on(judgements: list[Judgement]) -> None:
    with pytest.raises(ConfigError, match="0 groups of rows to certify on"):
        calibrate(judgements, Policy(), certifiable=[], **BOUNDS)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"max_leak": 0}, "`max_leak`"),
        ({"max_false_refusal": 1}, "`max_false_refusal`"),
        ({"confidence": 95}, "`confidence`"),
        ({"fit_share": 0}, "`fit_share`"),
        ({"fit_share": 1}, "`fit_share`"),
        ({"kind": "magic"}, "`kind`"),
    ],
)
def test_settings_are_looked_at_before_rows(changes: dict[str, Any], problem: str) -> None:
    """Of which there are none here, which would be the next error."""
    with pytest.raises(ConfigError) as caught:
        calibrate([], Policy(), **BOUNDS | changes)
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([True, False] * 3 + [True], "7 rows are too few"),
        ([True] * 20, "All 20 rows are sufficient"),
        ([False] * 20, "All 20 rows are insufficient"),
    ],
)
def test_labels_that_calibrate_nothing(labels: list[bool], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        require_labels(labels)
    require_labels([True, False] * 5)
