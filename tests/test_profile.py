"""Profiles: applied to what they were fitted to and to nothing else, kept in files as written."""

import asyncio
import io
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from guard import (
    ConfigError,
    Decision,
    Gate,
    JudgeUnavailable,
    Policy,
    Profile,
    ProfileMismatch,
    Prompt,
    Reason,
    Route,
    Thresholds,
    Usage,
    Verdict,
)
from guard._profile_file import write_content
from guard.cache import MemoryCache
from guard.calibration import Calibrator, Identity, Isotonic, Platt, Temperature
from guard.certificate import Bound, Certificate
from guard.cli.check import show
from guard.errors import StaleProfile
from guard.judges import Chain, ChatJudge, Link
from guard.policy import OnUnmeasured
from guard.price import Price
from guard.prompt import DEFAULT_TEMPLATE
from guard.testing import ScriptedJudge

QUESTION, CONTEXTS = "When did it open?", ["It opened in 1932."]
CUTS = Thresholds(answer_at=0.7, refuse_below=0.2)
CERTIFICATE = Certificate(
    leak=Bound(0.05, 3, 180),
    false_refusal=Bound(0.10, 2, 201),
    confidence=0.95,
    n=412,
    groups=412,
    method="fixed sequence",
)
FULL = Profile(
    CUTS,
    fingerprint="scripted:scripted",
    calibrator=Platt(slope=0.5, intercept=-0.25),
    certificate=CERTIFICATE,
    signal="scripted",
    model="scripted",
    system_fingerprints=("fp_1", "fp_2"),
    languages=("en", "de-CH"),
    windows=3,
    data_version="f00",
    created=datetime(2026, 11, 21, 12, 30, 1, 5, UTC),
    name="bot",
)
VERDICT = Verdict(
    p_true=0.9,
    low=0.8,
    high=0.95,
    mass=1.0,
    emitted="True",
    signal="scripted",
    fingerprint="replaced",
    model="scripted",
    system_fingerprint="fp_1",
)
ROUTES: tuple[OnUnmeasured | None, ...] = (None, "answer", "clarify", "refuse", "raise")

Ask = Callable[..., Decision]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Asks a gate, once through ``check`` and once through ``acheck``."""

    def call(gate: Gate, lang: str | None = None) -> Decision:
        if request.param == "sync":
            return gate.check(QUESTION, CONTEXTS, lang=lang)
        return asyncio.run(gate.acheck(QUESTION, CONTEXTS, lang=lang))

    return call


# ── Applied ──────────────────────────────────────────────────────────────────────────────────────


def test_probability_and_bounds_are_calibrated_and_the_verdict_is_not(ask: Ask) -> None:
    """The record shows both, and the profile's thresholds beat the policy's."""
    policy = Policy(thresholds=Thresholds(answer_at=0.99, refuse_below=0.98))
    decision = ask(Gate(ScriptedJudge(VERDICT), policy, profile=FULL))
    record, apply = decision.to_dict(), cast("Platt", FULL.calibrator).apply
    assert [record[key] for key in ("p_true", "raw_low", "raw_high")] == [0.9, 0.8, 0.95]
    assert [record[key] for key in ("probability", "low", "high")] == [
        apply(0.9),
        apply(0.8),
        apply(0.95),
    ]
    assert record["calibrated"] is True and record["profile"] == "bot"
    assert (record["answer_at"], record["refuse_below"]) == (0.7, 0.2)
    assert f"P(sufficient) = {apply(0.9):.4f}" in decision.detail
    # Calibrated it lies between the thresholds; as the judge said it, it would answer.
    assert (apply(0.8) < 0.7 < 0.8, decision.route) == (True, Route.CLARIFY)
    assert decision.measured and not decision.unmeasured


@pytest.mark.parametrize(
    ("calibrator", "p", "route"),
    [
        (None, 0.75, Route.ANSWER),
        (Identity(), 0.75, Route.ANSWER),
        (Temperature(2.0), 0.75, Route.CLARIFY),
        (Temperature(0.5), 0.65, Route.ANSWER),
        (Isotonic((0.0, 1.0), (0.0, 0.15)), 1.0, Route.REFUSE),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_route_is_that_of_the_calibrated_probability(
    ask: Ask, calibrator: Calibrator | None, p: float, route: Route
) -> None:
    """A profile may have thresholds alone; then nothing is calibrated."""
    decision = ask(Gate(ScriptedJudge(p), profile=Profile(CUTS, calibrator=calibrator)))
    assert decision.route is route
    assert decision.calibrated is (calibrator is not None)
    assert decision.thresholds == CUTS


def test_the_cache_keeps_what_the_judge_said(ask: Ask) -> None:
    """Not what a calibrator made of it: another profile applies to it anew."""
    cache, judge = MemoryCache(), ScriptedJudge([0.9])
    first = ask(Gate(judge, cache=cache, profile=Profile(CUTS, calibrator=Temperature(3.0))))
    second = ask(Gate(judge, cache=cache, profile=Profile(CUTS)))
    assert (first.cached, second.cached) == (False, True)
    assert first.probability != 0.9 == second.probability
    assert first.verdict == second.verdict


@pytest.mark.parametrize("values", [(0.4, math.nan), (0.4, 1.5), (-0.1, 0.4)])
def test_a_calibrator_with_a_bug_surfaces(ask: Ask, values: tuple[float, float]) -> None:
    """What leaves [0, 1] is no probability, and never a route."""

    @dataclass
    class Buggy:
        name = "buggy"

        def apply(self, p: float) -> float:
            return values[p >= 0.9]

        def to_dict(self) -> dict[str, object]:
            return {}

    gate = Gate(ScriptedJudge(VERDICT), profile=Profile(CUTS, calibrator=Buggy()))
    with pytest.raises(ValueError, match="buggy calibrator"):
        ask(gate)


# ── Stale from the start ─────────────────────────────────────────────────────────────────────────


def chat(
    model: str = "m",
    prompt: Prompt | None = None,
) -> ChatJudge:
    """A judge on an endpoint that is never asked."""
    from openai import OpenAI

    client = OpenAI(api_key="none", base_url="http://127.0.0.1:1/v1")
    return ChatJudge(client, model=model, prompt=prompt or Prompt())


OTHERS: Mapping[str, Callable[[], ChatJudge]] = {
    "model": lambda: chat("m2"),
    "one character of the prompt": lambda: chat(prompt=Prompt(f"{DEFAULT_TEMPLATE} ")),
    "packing": lambda: chat(prompt=Prompt(max_context_chars=999)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_profile_for_another_judge_is_refused(what: str) -> None:
    """One character of the prompt, another model, another packing."""
    profile = Profile(CUTS, chat().fingerprint)
    Gate(chat(), profile=profile)
    with pytest.raises(ProfileMismatch) as caught:
        Gate(OTHERS[what](), profile=profile)
    assert caught.value.hint


@pytest.mark.parametrize("on_stale", ROUTES[1:])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_on_stale_says_what_to_do_with_every_query(
    ask: Ask, on_stale: OnUnmeasured, p: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever was measured, by no threshold, and with a word in the log from the start."""
    profile = replace(FULL, fingerprint="scripted:another")
    gate = Gate(ScriptedJudge(p), Policy(on_stale=on_stale), profile=profile)
    assert "The profile is for scripted:another" in caplog.text
    require_stale(ask, gate, on_stale, None, p, "its judge is scripted:another")


def require_stale(
    ask: Ask, gate: Gate, on_stale: OnUnmeasured | None, lang: str | None, p: float, says: str
) -> None:
    """The old thresholds and calibrator are not applied, and the policy's choice is."""
    if on_stale == "raise":
        with pytest.raises(StaleProfile) as caught:
            ask(gate, lang)
        assert says in caught.value.message and caught.value.hint
        assert not caught.value.retryable
        decision = cast("Decision", caught.value.decision)
        assert decision.route is None
    else:
        decision = ask(gate, lang)
        divided = decision.verdict is not None and decision.verdict.windows > 1
        assert decision.route == (on_stale or ("clarify" if divided else "refuse"))
    assert decision.reason is Reason.STALE_PROFILE
    assert says in decision.detail
    assert decision.probability == p and not decision.calibrated
    assert decision.thresholds == gate.policy.thresholds != CUTS
    assert decision.unmeasured and not decision.measured
    texts = gate.policy.messages
    divided = decision.verdict is not None and decision.verdict.windows > 1
    says_so = {"clarify": texts.clarify, "refuse": texts.refuse}
    told = says_so if divided else dict.fromkeys(says_so, texts.unmeasured)
    assert decision.message == told.get(str(decision.route))
    assert json.loads(json.dumps(decision.to_dict()))["reason"] == "stale_profile"


# ── Stale by what a query shows ──────────────────────────────────────────────────────────────────

# What the verdict holds instead, the query's language, and what the detail says.
STALE: list[tuple[dict[str, object], str | None, str]] = [
    ({"model": "scripted-2"}, None, "its served model is 'scripted', not 'scripted-2'"),
    ({"system_fingerprint": "fp_3"}, None, "the backend 'fp_3' was not seen"),
    ({"signal": "logprobs"}, None, "its signal is 'scripted', not 'logprobs'"),
    ({}, "fr", "it was fitted to en, de-CH, not to 'fr'"),
    ({}, "eng", "not to 'eng'"),
    ({"windows": 4}, None, "it was fitted to sets judged in at most 3 windows, not in 4"),
]
# What may differ, or is not known.
FRESH: list[tuple[dict[str, object], str | None]] = [
    ({}, None),
    ({}, ""),
    ({}, "EN-GB"),
    ({}, "de"),
    ({}, "de_AT"),
    ({"model": None}, "en"),
    ({"system_fingerprint": None}, "en"),
    ({"system_fingerprint": "fp_2"}, "en"),
    ({"windows": 3}, "en"),
]


@pytest.mark.parametrize("on_stale", ROUTES)
@pytest.mark.parametrize(("changed", "lang", "says"), STALE)
def test_stale_by_what_a_query_shows(
    ask: Ask,
    changed: dict[str, Any],
    lang: str | None,
    says: str,
    on_stale: OnUnmeasured | None,
) -> None:
    """Another served model, backend, signal or language; ``None`` refuses."""
    gate = Gate(ScriptedJudge(replace(VERDICT, **changed)), Policy(on_stale=on_stale), profile=FULL)
    require_stale(ask, gate, on_stale, lang, 0.9, says)


@pytest.mark.parametrize(("changed", "lang"), FRESH)
def test_not_stale(ask: Ask, changed: dict[str, Any], lang: str | None) -> None:
    """What is not known, or is the same language elsewhere, is no difference."""
    decision = ask(Gate(ScriptedJudge(replace(VERDICT, **changed)), profile=FULL), lang)
    assert decision.calibrated and decision.reason is Reason.UNCERTAIN


def test_a_profile_of_whole_sets_is_for_no_windows(ask: Ask) -> None:
    """The best of several requests is above what one of them says; unknown = for any."""
    verdict = replace(VERDICT, windows=2)
    for windows, stale in ((1, True), (2, False), (None, False)):
        profile = replace(FULL, windows=windows)
        decision = ask(Gate(ScriptedJudge(verdict), profile=profile))
        assert (decision.reason is Reason.STALE_PROFILE) is stale
        assert ("fitted to sets judged as a whole, not in 2" in decision.detail) is stale


@pytest.mark.parametrize(
    ("without", "low"), [(None, 0.0), (0.3, None), (0.85, None)], ids=["unknown", "less", "more"]
)
def test_what_the_lower_bound_owes_to_suspects_is_not_calibrated(
    without: float | None, low: float | None
) -> None:
    """Calibrated is the bound without them, never above the verdict's own; unknown stays 0."""
    calibrator = Isotonic((0.0, 1.0), (0.25, 1.0))
    profile = replace(FULL, calibrator=calibrator)
    suspect = replace(VERDICT, suspects=(0,), p_without=without, low_without=without)
    found, plain = profile.calibrated(suspect), profile.calibrated(VERDICT)
    expected = calibrator.apply(min(0.8, without or 0.0)) if low is None else low
    assert found.low == pytest.approx(expected)
    assert (found.p, found.high) == (plain.p, plain.high)


def test_a_verdict_of_another_judge(ask: Ask) -> None:
    """A judge that passes on verdicts of others: the profile is not for those."""

    class Wrapper(ScriptedJudge):
        def _verdict(self, line: Any, *, late: bool) -> Verdict:
            return replace(super()._verdict(line, late=late), fingerprint="someone else")

    gate = Gate(Wrapper(VERDICT), profile=FULL)
    require_stale(ask, gate, None, None, 0.9, "not 'someone else'")


def test_a_profile_without_facts_is_for_everything(ask: Ask) -> None:
    """As one written in code, of thresholds alone."""
    odd = replace(VERDICT, model="x", signal="mean", system_fingerprint="y")
    assert ask(Gate(ScriptedJudge(odd), profile=Profile(CUTS)), "tlh").route is Route.ANSWER


def test_stale_in_shadow_mode(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """Recorded and let through, and nothing is raised; each such query is heard of."""
    caplog.set_level(logging.WARNING, logger="guard")
    for on_stale in ("raise", None):
        policy = Policy(on_stale=cast("OnUnmeasured", on_stale), mode="shadow")
        decision = ask(Gate(ScriptedJudge(VERDICT), policy, profile=FULL), "fr")
        assert decision.passes and decision.unmeasured
        assert f"query {decision.id}: The profile is stale" in caplog.text


def test_nothing_retrieved_is_not_stale(ask: Ask) -> None:
    """The judge is not asked, so there is nothing that the profile could be for."""
    decision = Gate(ScriptedJudge([]), profile=FULL).check(QUESTION, [], lang="fr")
    assert decision.reason is Reason.NO_CONTEXTS


# ── Chains ───────────────────────────────────────────────────────────────────────────────────────

DOWN = JudgeUnavailable("down")
SECOND = Profile(
    Thresholds(0.9, 0.1),
    "scripted:b",
    calibrator=Temperature(2.0),
    languages=("en",),
    name="second",
)


def chain(a: object, b: object) -> Chain:
    first = replace(FULL, fingerprint="scripted:a", model="a")
    return Chain(
        [
            Link(ScriptedJudge(cast("float", a), name="a"), first),
            Link(ScriptedJudge(cast("float", b), name="b"), SECOND),
        ]
    )


def test_each_link_has_its_calibrator_and_thresholds(ask: Ask) -> None:
    """The profile is that of the judge that measured."""
    first = ask(Gate(chain(0.9, 0.9)), "en")
    second = ask(Gate(chain(DOWN, 0.9)), "en")
    apply = cast("Platt", FULL.calibrator).apply
    assert (first.probability, first.thresholds) == (apply(0.9), CUTS)
    assert (second.probability, second.thresholds) == (
        Temperature(2.0).apply(0.9),
        SECOND.thresholds,
    )
    assert first.calibrated and second.calibrated
    assert second.to_dict()["profile"] == "second"


def test_each_link_goes_stale_by_itself(ask: Ask) -> None:
    """German was calibrated for the first alone."""
    assert ask(Gate(chain(0.9, 0.9)), "de").calibrated
    decision = ask(Gate(chain(DOWN, 0.9)), "de")
    assert (decision.route, decision.reason) == (Route.REFUSE, Reason.STALE_PROFILE)
    assert (decision.probability, decision.calibrated) == (0.9, False)
    assert [one.model for one in decision.tried] == ["a"]


def test_a_chain_takes_no_profile_for_all() -> None:
    """Its judges' thresholds are not each other's."""
    with pytest.raises(ConfigError, match="on each link") as caught:
        Gate(chain(0.9, 0.9), profile=Profile(CUTS))
    assert "Link(judge, profile)" in (caught.value.hint or "")


# ── Files ────────────────────────────────────────────────────────────────────────────────────────

CALIBRATORS: list[Calibrator | None] = [
    None,
    Identity(),
    Temperature(1 / 3),
    Platt(0.1 + 0.2, -1e-17),
    Isotonic((0.1, 0.2, 1 / 3), (0.0, 0.5, 0.5)),
]


@pytest.mark.parametrize("profile", [FULL, Profile(CUTS), Profile(Thresholds(1, 0))])
@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_what_is_saved_loads_back_equal(
    tmp_path: Path, profile: Profile, calibrator: Calibrator | None
) -> None:
    """To the last bit; it is called after its file, and saved again it gives the same file."""
    path, again = tmp_path / "support-bot.profile.json", tmp_path / "again.json"
    before = replace(profile, calibrator=calibrator)
    before.save(path)
    after = Profile.load(path)
    assert after == before
    assert after.name == "support-bot"
    after.save(str(again))
    assert again.read_bytes() == path.read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["again.json", path.name]
    assert path.read_text("utf-8").count("\n") > 10


def test_layout_and_line_ends_are_not_content(tmp_path: Path) -> None:
    """Git and editors change them; no number is changed by that."""
    path = tmp_path / "p.json"
    FULL.save(path)
    document = json.loads(path.read_text("utf-8"))
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(document, indent=4).replace("\n", "\r\n").encode()
    )
    assert Profile.load(path) == FULL


EDITS = [
    *("answer_at", "slope", "confidence", "n", "events", "model", "languages", "windows"),
    "created",
]


@pytest.mark.parametrize("name", EDITS)
def test_a_value_set_by_hand_is_refused(tmp_path: Path, name: str) -> None:
    """Whichever it is: what was promised was promised of the others."""
    path = tmp_path / "p.json"
    FULL.save(path)
    path.write_text(json.dumps(_edited(json.loads(path.read_text("utf-8")), name)), "utf-8")
    error = error_of(path)
    assert "no longer holds" in error.message
    assert "rag-guard calibrate" in (error.hint or "")
    assert "answer_at and refuse_below into guard.toml" in (error.hint or "")


def _edited(value: Any, name: str) -> Any:
    """``value`` with one field of that name changed, wherever it stands."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {
            key: _another(old) if key == name else _edited(old, name) for key, old in fields.items()
        }
    return value


def _another(old: Any) -> Any:
    if isinstance(old, list):
        return [*cast("list[object]", old), "fr"]
    return old + 1e-3 if isinstance(old, int | float) else f"{old} "


def error_of(path: Path) -> ConfigError:
    """The error of loading a file; it names the file once and says what to do."""
    with pytest.raises(ConfigError) as caught:
        Profile.load(path)
    assert caught.value.message.startswith(str(path)) and caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def test_half_a_file(tmp_path: Path) -> None:
    """Wherever it was cut off."""
    path = tmp_path / "p.json"
    FULL.save(path)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 3, 7):
        path.write_bytes(whole[:end])
        assert "is not valid JSON" in error_of(path).message


# What is done to a file's document, and what the error says of it.
DAMAGE: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda whole: whole.update(version=2), "has a version that this rag-guard does not know"),
    (lambda whole: whole.update(version="1"), "a version that this rag-guard does not"),
    (lambda whole: whole.update(version=True), "it knows 1"),
    (lambda whole: whole.pop("format"), "is not a profile of rag-guard"),
    (lambda whole: whole.pop("version"), "lacks `version`"),
    (lambda whole: whole.pop("sha256"), "lacks `sha256`"),
    (lambda whole: whole.update(sha256=None), "no longer holds"),
    (lambda whole: whole.update(more=1), "has an unknown field 'more'"),
    (lambda whole: whole.update(profile=[]), "profile lacks `thresholds`"),
    (lambda whole: whole["profile"].pop("model"), "profile lacks `model`"),
    (lambda whole: whole["profile"].update(modle=1), "profile has an unknown field 'modle'"),
    (lambda whole: whole["profile"].update(created=math.nan), "not valid JSON (NaN is no number)"),
    (lambda whole: whole["profile"].update(created=-math.inf), "-Infinity is no number"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGE)
def test_damaged_files(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], says: str
) -> None:
    """One clear error each."""
    path = tmp_path / "p.json"
    FULL.save(path)
    document = json.loads(path.read_text("utf-8"))
    damage(document)
    path.write_text(json.dumps(document), "utf-8")
    assert says in error_of(path).message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not valid JSON"),
        (b"[]", "is not a profile"),
        (b"3", "is not a profile"),
        (b"answer_at = 0.9", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8 (byte 0)"),
        (b"[" * 100_000, "not valid JSON"),
        (b"1" * 5_000, "not valid JSON"),
    ],
)
def test_what_is_no_profile(tmp_path: Path, data: bytes, says: str) -> None:
    """TOML, an empty file, another program's JSON."""
    path = tmp_path / "p.json"
    path.write_bytes(data)
    assert says in error_of(path).message


# Values that nobody's hand changed, but that are wrong all the same: the checksum is theirs.
WRONG: list[tuple[dict[str, object], str]] = [
    ({"thresholds": None}, "`thresholds` is NoneType"),
    ({"thresholds": {"answer_at": 0.9}}, "thresholds lacks `refuse_below`"),
    ({"thresholds": {"answer_at": 0.1, "refuse_below": 0.2}}, "do not satisfy"),
    ({"thresholds": {"answer_at": "0.1", "refuse_below": 0.2}}, "`answer_at` is '0.1'"),
    ({"calibrator": {"kind": "magic"}}, "`kind` is 'magic'"),
    ({"calibrator": []}, "calibrator is list"),
    ({"certificate": {}}, "certificate lacks `leak`"),
    ({"created": "yesterday"}, "`created` is no time"),
    ({"created": 5}, "`created` is no time"),
    ({"languages": "en"}, "`languages` is no list"),
    ({"languages": [1]}, "`languages` holds what is"),
    ({"model": 7}, "`model` holds what is"),
    ({"fingerprint": " "}, "`fingerprint` holds what is blank"),
    ({"windows": 0}, "`windows` is 0"),
    ({"windows": 1.5}, "`windows` is 1.5"),
    ({"windows": "1"}, "`windows` is '1'"),
]


@pytest.mark.parametrize(("values", "says"), WRONG)
def test_wrong_values_under_a_right_checksum(
    tmp_path: Path, values: dict[str, object], says: str
) -> None:
    """As another program may write them."""
    path = tmp_path / "p.json"
    FULL.save(path)
    content = json.loads(path.read_text("utf-8"))["profile"]
    write_content(path, {**content, **values})
    assert says in error_of(path).message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("confidence", 2),
        ("n", -1),
        ("n", 1.5),
        ("groups", "1"),
        ("method", ""),
        ("leak", {"most": 2, "events": 0, "rows": 0}),
        ("leak", {"most": 0.1, "events": 0.5, "rows": 1}),
        ("false_refusal", {"most": 0.1, "events": 0}),
    ],
)
def test_wrong_certificates(tmp_path: Path, name: str, value: object) -> None:
    """Each number in its range."""
    path = tmp_path / "p.json"
    FULL.save(path)
    content = json.loads(path.read_text("utf-8"))["profile"]
    content["certificate"][name] = value
    write_content(path, content)
    assert f"certificate.{name}" in error_of(path).message


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    """A folder, no file, a folder that does not exist, a name that is no path."""
    assert "cannot be read: Is a directory" in error_of(tmp_path).message
    assert "cannot be read: No such file" in error_of(tmp_path / "none.json").message
    with pytest.raises(ConfigError, match="it is no path"):
        Profile.load("a\0b")
    for path in (tmp_path, tmp_path / "none" / "p.json", tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError, match="cannot be written") as caught:
            FULL.save(path)
        assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing beside it."""
    path = tmp_path / "p.json"
    FULL.save(path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        Profile(CUTS).save(path)
    assert Profile.load(path) == FULL
    assert list(tmp_path.iterdir()) == [path]


def test_whoever_reads_meanwhile_sees_the_old_file(tmp_path: Path) -> None:
    """Whole, never half of the new one; a link stays a link."""
    path, link = tmp_path / "p.json", tmp_path / "link.json"
    FULL.save(path)
    link.symlink_to(path)
    whole = path.read_bytes()
    with path.open("rb", buffering=0) as reader:
        begun = reader.read(20)
        Profile(CUTS).save(link)
        assert begun + reader.read() == whole
    assert link.is_symlink() and Profile.load(path) == Profile(CUTS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"thresholds": 0.5},
        {"thresholds": None},
        {"fingerprint": 3},
        {"calibrator": "platt"},
        {"certificate": {}},
        {"model": ""},
        {"languages": "en"},
        {"languages": [None]},
        {"system_fingerprints": 7},
        {"created": "2026-11-21"},
    ],
)
def test_profile_misuse(wrong: dict[str, Any]) -> None:
    """Found when it is made, not when a query needs it."""
    make = cast("Callable[..., Profile]", Profile)
    with pytest.raises(ConfigError) as caught:
        make(**{"thresholds": CUTS, **wrong})
    assert caught.value.hint


def test_a_list_of_languages_becomes_a_tuple() -> None:
    """So that a profile cannot be changed under a gate."""
    make = cast("Callable[..., Profile]", Profile)
    assert make(CUTS, languages=["en"]).languages == ("en",)


# ── Prices ───────────────────────────────────────────────────────────────────────────────────────

PRICE = Price(input=0.15, output=0.60, cached=0.075, currency="EUR")


@pytest.mark.parametrize(
    ("usage", "price", "cost"),
    [
        (Usage(1_000_000, 0), PRICE, 0.15),
        (Usage(0, 1_000_000), PRICE, 0.60),
        (Usage(1_000_000, 1_000_000, 1_000_000), PRICE, 0.675),
        (Usage(1000, 10, 400), PRICE, (600 * 0.15 + 400 * 0.075 + 10 * 0.60) / 1e6),
        (Usage(1000, 10, 400), Price(0.15, 0.60), (1000 * 0.15 + 10 * 0.60) / 1e6),
        (Usage(10, 0, 400), PRICE, 10 * 0.075 / 1e6),
        (Usage(None, 10), PRICE, None),
        (Usage(10, None), PRICE, None),
        (None, PRICE, None),
        (Usage(0, 0), PRICE, 0),
    ],
)
def test_what_a_verdict_costs(
    ask: Ask, usage: Usage | None, price: Price, cost: float | None
) -> None:
    """By the million tokens; unknown where the tokens are."""
    record = ask(Gate(ScriptedJudge(replace(VERDICT, usage=usage)), price=price)).to_dict()
    assert record["cost"] == (None if cost is None else pytest.approx(cost))
    assert record["currency"] == price.currency


def test_what_costs_nothing_and_what_nobody_knows(ask: Ask) -> None:
    """A kept verdict and an empty set cost nothing; a failure or a fallback, nobody knows."""
    spent = replace(VERDICT, usage=Usage(1000, 10))
    gate = Gate(ScriptedJudge([spent]), price=PRICE, cache=MemoryCache())
    assert [ask(gate).cost, ask(gate).cost] == [pytest.approx(1.56e-4), 0.0]
    assert gate.check(QUESTION, []).cost == 0.0
    down = Gate(ScriptedJudge(DOWN), Policy(deadline=0.01), price=PRICE)
    assert (ask(down).cost, ask(down).currency) == (None, "EUR")
    assert ask(Gate(chain(DOWN, spent), price=PRICE)).cost is None
    free = ask(Gate(ScriptedJudge(spent)))
    assert (free.cost, free.currency) == (None, None)


@pytest.mark.parametrize(
    "wrong",
    [{"input": -1}, {"output": math.nan}, {"cached": "1"}, {"input": True}, {"currency": " "}],
)
def test_price_misuse(wrong: dict[str, Any]) -> None:
    """Negative prices, texts, no currency."""
    make = cast("Callable[..., Price]", Price)
    with pytest.raises(ConfigError) as caught:
        make(**{"input": 1, "output": 1, **wrong})
    assert caught.value.hint


# ── What `rag-guard check` shows ─────────────────────────────────────────────────────────────────


def shown(gate: Gate, lang: str | None = None, question: str = QUESTION) -> str:
    """What a person sees of one decision, its white space made single spaces."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=100, emoji=False, highlight=False, markup=False)
    try:
        decision = gate.check(question, CONTEXTS, lang=lang)
    except StaleProfile as error:
        decision = cast("Decision", error.decision)
    show(decision, console)
    return " ".join(cast("io.StringIO", console.file).getvalue().split())


def test_check_shows_the_promise() -> None:
    """Calibrated, by which profile, and what that promises."""
    text = shown(Gate(ScriptedJudge(VERDICT), profile=FULL))
    assert "], calibrated" in text
    assert "bot: leak <= 5 %, false refusal <= 10 %, confidence 95 %, n = 412" in text
    assert "refuse below 0.2, answer at 0.7" in text
    assert "price" not in text
    without = shown(Gate(ScriptedJudge(VERDICT), profile=Profile(CUTS, name="\x1b[31mred")))
    assert "], uncalibrated" in without and "nothing is promised of its thresholds" in without
    assert "\x1b" not in without
    assert "profile" not in shown(Gate(ScriptedJudge(VERDICT)))


@pytest.mark.parametrize("on_stale", ROUTES)
def test_check_shows_what_is_stale(on_stale: OnUnmeasured | None) -> None:
    """Why, and that no threshold was applied: none is drawn."""
    text = shown(Gate(ScriptedJudge(VERDICT), Policy(on_stale=on_stale), profile=FULL), "fr")
    raises = "the profile is stale, and the policy is to raise"
    assert (raises if on_stale == "raise" else "the profile is stale; the policy routes it") in text
    assert "0.9000 in [0.8000, 0.9500], uncalibrated" in text
    assert "bot: stale, nothing of it was applied" in text
    assert "stale_profile: The profile is stale: it was fitted to en, de-CH, not to 'fr'." in text
    assert "answer at" not in text and "leak" not in text


def test_check_shows_what_a_verdict_cost() -> None:
    """In the currency of the price, or that nobody knows."""
    spent = replace(VERDICT, usage=Usage(1000, 10))
    assert "price 0.000156 EUR" in shown(Gate(ScriptedJudge(spent), price=PRICE))
    assert "price unknown" in shown(Gate(ScriptedJudge(VERDICT), price=PRICE))
