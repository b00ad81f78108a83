"""The embedded judge in a deployment: whose thresholds hold, and which model it is."""

import io
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_judge import folder

from guard import ConfigError, Gate, JudgeRejected, Policy, Thresholds, Unmeasured, judges
from guard.cli import main
from guard.cli.measuring import evaluated
from guard.config import Deployment, load_gate, resolve
from guard.dataset import read
from guard.judges import Chain, EmbeddedJudge, Link, from_name
from guard.profile import Profile
from guard.survey import survey
from guard.testing import ScriptedJudge
from guard.thresholds import DEFAULT_THRESHOLDS
from guard.weights import Weights

pytestmark = pytest.mark.local

OWN = Thresholds(0.6, 0.4)
SET = "answer_at = 0.95\nrefuse_below = 0.4\n"
USERS = Thresholds(0.95, 0.4)
EMBEDDED = f"[deployment.bot]\njudge = 'embedded'\n{SET}"
OTHER = f"[deployment.bot]\njudge = 'scripted:0.7'\n{SET}"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a judge that says 0.5 and brings `OWN`; ``embedded`` is its name."""
    at = fitted(tmp_path / "shipped")
    monkeypatch.setattr("guard.judges.embedded.SHIPPED", at)
    return at


def fitted(at: Path, cuts: Thresholds = OWN) -> Path:
    """A folder with a profile."""
    folder(at, odds=0.0, profile=True, positions=4_096)  # Room for the texts of attacks.
    profile = Profile(cuts, fingerprint=Weights.load(at).fingerprint, signal="encoder")
    profile.save(at / "profile.json")
    return at


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a deployment stands."""
    return tmp_path / "guard.toml"


def loaded(
    file: Path,
    text: str,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
) -> Gate:
    """The gate of the deployment ``bot``."""
    file.write_text(text)
    return load_gate(file, deployment="bot", environ=environ or {}, options=options)


def thresholds_of(gate: Gate) -> Thresholds:
    """Those that a query is routed by."""
    thresholds = gate.check("a", ["b"]).thresholds
    judges.close(gate.judge)
    assert thresholds is not None
    return thresholds


# ── Whose thresholds hold ────────────────────────────────────────────────────────────────────────

STRICT = f"[deployment.strict]\n{SET}"
KEPT: list[tuple[str, dict[str, str], dict[str, object], Thresholds]] = [
    (EMBEDDED, {"RAG_GUARD_JUDGE": "embedded"}, {}, USERS),
    (EMBEDDED, {}, {"judge": "embedded"}, USERS),
    (EMBEDDED, {"RAG_GUARD_JUDGE": "embedded"}, {"judge": "embedded"}, USERS),
    (EMBEDDED, {}, {"judge": "embedded", "answer_at": 0.97}, Thresholds(0.97, 0.4)),
    (EMBEDDED, {"RAG_GUARD_ANSWER_AT": "0.97"}, {}, Thresholds(0.97, 0.4)),
    (STRICT + "[deployment.bot]\nextends = 'strict'\njudge = 'embedded'\n", {}, {}, USERS),
    (STRICT + "[deployment.bot]\nextends = 'strict'\n", {}, {"judge": "embedded"}, USERS),
    ("[deployment.bot]\nanswer_at = 0.9\n", {"RAG_GUARD_JUDGE": "embedded"}, {}, USERS),
    # Another judge was named in between, but they were not set for that one.
    (EMBEDDED, {"RAG_GUARD_JUDGE": "scripted:0.7"}, {"judge": "embedded"}, USERS),
]


@pytest.mark.parametrize(("text", "environ", "options", "expected"), KEPT)
@pytest.mark.usefixtures("shipped")
def test_what_the_user_set_holds(
    file: Path,
    caplog: pytest.LogCaptureFixture,
    text: str,
    environ: dict[str, str],
    options: dict[str, object],
    expected: Thresholds,
) -> None:
    """However often the same judge is named, and where none was named before."""
    if "refuse_below" not in text:
        environ = {**environ, "RAG_GUARD_ANSWER_AT": "0.95", "RAG_GUARD_REFUSE_BELOW": "0.4"}
    assert thresholds_of(loaded(file, text, environ, options)) == expected
    assert not caplog.records


LEFT: list[tuple[str, dict[str, str], dict[str, object]]] = [
    (OTHER, {}, {"judge": "embedded"}),
    (OTHER, {"RAG_GUARD_JUDGE": "embedded"}, {}),
    (
        OTHER.replace("bot", "base") + "[deployment.bot]\nextends = 'base'\njudge = 'embedded'\n",
        {},
        {},
    ),
    # Set where none was named, they are for the first one that is.
    (
        STRICT + "[deployment.bot]\nextends = 'strict'\njudge = 'scripted:0.7'\n",
        {},
        {"judge": "embedded"},
    ),
]


@pytest.mark.parametrize(("text", "environ", "options"), LEFT)
@pytest.mark.usefixtures("shipped")
def test_what_was_set_for_another_judge_is_left_aside(
    file: Path,
    caplog: pytest.LogCaptureFixture,
    text: str,
    environ: dict[str, str],
    options: dict[str, object],
) -> None:
    """And one line says so, with the places."""
    assert thresholds_of(loaded(file, text, environ, options)) == OWN
    [line] = caplog.records
    assert (line.name, line.levelno) == ("guard", logging.WARNING)
    said = line.getMessage()
    assert "left aside, since they were set for another judge" in said
    assert f"{file}: deployment." in said and ".answer_at" in said and ".refuse_below" in said
    assert "\n" not in said


@pytest.mark.usefixtures("shipped")
def test_nothing_is_said_where_nothing_is_missed(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """New ones were set for this judge; and the same ones hold for another judge as ever."""
    new: dict[str, object] = {"judge": "embedded", "answer_at": 0.9, "refuse_below": 0.1}
    assert thresholds_of(loaded(file, OTHER, options=new)) == Thresholds(0.9, 0.1)
    assert thresholds_of(loaded(file, OTHER, options={"judge": "scripted:0.2"})) == USERS
    assert not caplog.records


@pytest.mark.usefixtures("shipped")
def test_one_of_them_for_another_judge(file: Path) -> None:
    """It says nothing of this one."""
    with pytest.raises(ConfigError, match="--answer-at takes .* only one threshold is given"):
        loaded(file, OTHER, options={"judge": "embedded", "answer_at": 0.97})


@pytest.mark.parametrize(
    ("more", "expected", "warnings"),
    [("", OWN, 1), (SET.replace("0.95", "0.9"), Thresholds(0.9, 0.4), 0)],
)
@pytest.mark.usefixtures("shipped")
def test_a_fallback_leaves_them_too(
    file: Path,
    caplog: pytest.LogCaptureFixture,
    more: str,
    expected: Thresholds,
    warnings: int,
) -> None:
    """What it extends was set for the judge in front of it."""
    text = (
        f"{OTHER}fallback = 'near'\n[deployment.near]\nextends = 'bot'\njudge = 'embedded'\n{more}"
    )
    chain = loaded(file, text).judge
    assert isinstance(chain, Chain)
    profile = chain.links[1].profile
    assert profile is not None and profile.thresholds == expected
    assert len(caplog.records) == warnings


@pytest.mark.parametrize(
    ("deployment", "expected"),
    [
        (Deployment(judge="embedded"), DEFAULT_THRESHOLDS),
        (Deployment(judge="embedded", answer_at=0.85, refuse_below=0.3), Thresholds(0.85, 0.3)),
    ],
)
def test_what_is_written_sets_no_more_than_was_set(
    file: Path, deployment: Deployment, expected: Thresholds
) -> None:
    """Or the placeholder would beat what the judge brings."""
    file.write_text(deployment.to_toml("bot"))
    again = resolve(file, "bot", {})[1]
    assert again == deployment
    assert again.thresholds() == expected
    assert again.policy().has_thresholds is (expected is not DEFAULT_THRESHOLDS)


# ── A profile of another judge ───────────────────────────────────────────────────────────────────

BEHIND = "[deployment.bot]\njudge = 'scripted:0.7'\nfallback = 'near'\n"
NEAR = "[deployment.near]\nextends = 'base'\njudge = 'embedded'\n"


@pytest.mark.parametrize("judge", ["", "judge = 'scripted:0.2'\n"])
@pytest.mark.usefixtures("shipped")
def test_a_fallback_inherits_no_profile(file: Path, judge: str) -> None:
    """Its verdicts would all be stale, and answered where ``on_stale`` says so."""
    Profile(USERS, fingerprint="scripted:0.2").save(file.parent / "other.json")
    base = f"[deployment.base]\n{judge}profile = 'other.json'\non_stale = 'answer'\n"
    with pytest.raises(ConfigError, match="is inherited and not set for its judge") as caught:
        loaded(file, BEHIND + base + NEAR)
    assert caught.value.message.startswith(f"{file}: deployment.near.profile")


@pytest.mark.usefixtures("shipped")
def test_a_fallback_may_have_a_profile(file: Path, shipped: Path) -> None:
    """One that stands beside its judge."""
    fingerprint = Weights.load(shipped).fingerprint
    Profile(USERS, fingerprint=fingerprint).save(file.parent / "own.json")
    text = BEHIND + "[deployment.near]\njudge = 'embedded'\nprofile = 'own.json'\n"
    chain = loaded(file, text).judge
    assert isinstance(chain, Chain)
    profile = chain.links[1].profile
    assert profile is not None and profile.thresholds == USERS


# ── A model of your own ──────────────────────────────────────────────────────────────────────────


def test_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a path, from the current folder, or from one's home."""
    folder(tmp_path / "mine", name="mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for path in (str(tmp_path / "mine"), "mine", "~/mine"):
        judge = from_name(f"embedded:{path}")
        assert isinstance(judge, EmbeddedJudge) and judge.model == "mine"
        judge.close()


def test_a_folder_that_is_not_there(tmp_path: Path, file: Path) -> None:
    """One error, which names it; in a file also the place."""
    with pytest.raises(ConfigError) as caught:
        from_name(f"embedded:{tmp_path / 'none'}")
    assert str(tmp_path / "none") in caught.value.message and caught.value.hint
    with pytest.raises(ConfigError) as caught:
        loaded(file, f"[deployment.bot]\njudge = 'embedded:{(tmp_path / 'none').as_posix()}'\n")
    assert caught.value.message.startswith(f"{file}: deployment.bot.judge: ")


def test_a_path_that_was_forgotten() -> None:
    """An empty variable must not stand for the model that comes with the package."""
    with pytest.raises(ConfigError, match="The judge 'embedded' lacks a path"):
        from_name("embedded:")


def test_its_thresholds_are_brought(file: Path, tmp_path: Path) -> None:
    """By kind, in front and as a fallback; one alone is an error."""
    at = fitted(tmp_path / "mine").as_posix()
    first = f"[deployment.bot]\njudge = 'embedded:{at}'\n"
    assert thresholds_of(loaded(file, first)) == OWN
    chain = loaded(file, f"{BEHIND}[deployment.near]\njudge = 'embedded:{at}'\n").judge
    assert isinstance(chain, Chain)
    profile = chain.links[1].profile
    assert profile is not None and profile.thresholds == OWN
    for line in ("answer_at = 0.9", "max_context_chars = 100", "min_mass = 0.4"):
        with pytest.raises(ConfigError, match="only one threshold|is for "):
            loaded(file, first + line)


def test_two_folders_are_two_judges(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was set for one is left aside for the other."""
    one, other = (fitted(tmp_path / name).as_posix() for name in ("one", "other"))
    text = f"[deployment.bot]\njudge = 'embedded:{one}'\n{SET}"
    assert thresholds_of(loaded(file, text, options={"judge": f"embedded:{one}"})) == USERS
    assert not caplog.records
    assert thresholds_of(loaded(file, text, options={"judge": f"embedded:{other}"})) == OWN
    assert len(caplog.records) == 1


# ── What is printed ──────────────────────────────────────────────────────────────────────────────

ROWS = [
    {"question": f"q {n}", "contexts": [f"c {n}"], "sufficient": bool(n % 2), "group": str(n)}
    for n in range(12)
]
CHAIN = (
    "[deployment.bot]\njudge = 'embedded'\nfallback = 'far'\n"
    f"[deployment.far]\njudge = 'scripted:0.7'\n{SET}"
)
PROFILED = CHAIN.replace("fallback", "profile = 'own.json'\nfallback")
CUTS = Thresholds(0.7, 0.2)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Labelled rows; the working folder is a fresh one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return path


Ran = Callable[..., str]


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str]) -> Ran:
    """Runs a command, and gives what it prints."""

    def run(*args: object) -> str:
        with pytest.raises(SystemExit):
            main([str(arg) for arg in args])
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(("text", "expected"), [(CHAIN, OWN), (PROFILED, CUTS)])
def test_the_thresholds_of_a_chain_are_printed(
    shipped: Path, file: Path, data: Path, ran: Ran, text: str, expected: Thresholds
) -> None:
    """Those that its first judge is routed by: what that brings, or its profile's."""
    fingerprint = Weights.load(shipped).fingerprint
    Profile(CUTS, fingerprint=fingerprint).save(file.parent / "own.json")
    file.write_text(text)
    named = ("--config", file, "--deployment", "bot")
    shown = f"Answer at {expected.answer_at:g}, refuse below {expected.refuse_below:g}"

    record = json.loads(ran("eval", data, *named, "--resamples", 20, "--json"))
    found = record["thresholds"]
    assert Thresholds(found["answer_at"], found["refuse_below"]) == expected
    assert shown in ran("eval", data, *named, "--resamples", 20)

    attack = ("attack", *named, "--family", "plain_orders", "--data", data, "--no-bare")
    record = json.loads(ran(*attack, "--json"))
    assert Thresholds(record["answer_at"], record["refuse_below"]) == expected
    assert shown in " ".join(ran(*attack).split())


@pytest.mark.parametrize("policy", [Policy(), Policy(thresholds=Thresholds(0.9, 0.1))])
def test_the_thresholds_of_a_chain_whose_first_judge_is_down(
    shipped: Path, data: Path, policy: Policy
) -> None:
    """Those of the judge that gave the verdicts; none of them is that of the policy."""
    first = Link(ScriptedJudge(JudgeRejected("down")), Profile(CUTS))
    gate = Gate(Chain([first, EmbeddedJudge(shipped)]), policy)
    found = evaluated(gate, survey(gate, read([str(data)])), seed=0, resamples=10)
    assert (found.thresholds, found.measured) == (OWN, len(ROWS))
    judges.close(gate.judge)


def test_the_thresholds_where_nothing_was_measured(data: Path) -> None:
    """The policy's: no others were applied."""
    down = ScriptedJudge(Unmeasured("It says nothing.", kind="malformed"))
    gate = Gate(Chain([down, Link(down, Profile(CUTS))]), Policy(thresholds=USERS))
    found = evaluated(gate, survey(gate, read([str(data)])), seed=0, resamples=10)
    assert (found.thresholds, found.measured) == (USERS, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("judge = 'embedded'\n", OWN),
        (f"judge = 'embedded'\n{SET}", USERS),
        ("judge = 'embedded'\nanswer_at = 0.85\nrefuse_below = 0.3\n", Thresholds(0.85, 0.3)),
        ("judge = 'scripted:0.7'\n", DEFAULT_THRESHOLDS),
    ],
)
@pytest.mark.usefixtures("shipped")
def test_label_picks_near_the_thresholds_in_use(
    file: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    expected: Thresholds,
) -> None:
    """What the judge brings among them."""
    from guard import labelling

    asked = list[Thresholds]()
    real = labelling.pick

    def pick(*args: Any, thresholds: Thresholds, **more: Any) -> Any:
        asked.append(thresholds)
        return real(*args, thresholds=thresholds, **more)

    monkeypatch.setattr(labelling, "pick", pick)
    monkeypatch.setattr("sys.stdin", io.StringIO("q"))
    file.write_text(f"[deployment.bot]\n{text}")
    with pytest.raises(SystemExit):
        main(["label", str(data), "-o", str(file.parent / "labels.jsonl"), "--config", str(file)])
    assert asked == [expected]
