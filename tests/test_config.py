"""Configuration: what is read, what beats what, and what each error says."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from guard import ConfigError, JudgeUnavailable, Labels, Route, judges
from guard.config import VARIABLES, Deployment, load_gate, resolve
from guard.errors import UNMEASURED_KINDS
from guard.judge import Judge
from guard.policy import Policy
from guard.retry import Retry
from guard.testing import ScriptedJudge

CANARY = "sk-canary-0123456789"
KEY = f"KEY_{CANARY.replace('-', '_')}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "guard.toml"


def load(file: Path, text: str, name: str | None = None, **environ: str) -> Deployment:
    file.write_text(text, "utf-8")
    return resolve(file, name, environ)[1]


def error_of(
    file: Path, text: str | bytes, environ: Mapping[str, str] | None = None, name: str | None = None
) -> ConfigError:
    """The error of loading ``text``, which must name the file and say what to do."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_gate(file, deployment=name, environ=environ or {})
    error = caught.value
    assert error.hint
    assert "\n" not in error.message
    # Not even a traceback may show what stood in the file.
    assert CANARY not in f"{error} {error.hint} {error.__cause__}"
    return error


# ── What is read ─────────────────────────────────────────────────────────────────────────────────

FULL = """
[deployment.default]
judge = "scripted:0.6"
base_url = "http://127.0.0.1:8080/v1"
api_key_env = "MY_KEY"
model_family = "gpt-4.1"
answer_at = 0.7
refuse_below = 0.2
deadline = 3
attempts = 2
on_unmeasured = { timeout = "clarify", default = "raise" }
mode = "shadow"
min_mass = 0.4
max_context_chars = 9000
api_version = "2024-10-21"
samples = 12
ask_underspecified = true
labels = { true = "Yes", false = "No" }

[deployment.default.messages]
refuse = "No."
clarify = { default = "What?", de = "Was?" }
"""


def test_every_key_arrives(file: Path) -> None:
    file.write_text(FULL)
    gate = load_gate(file, environ={"MY_KEY": CANARY})
    policy = gate.policy
    assert (policy.thresholds.answer_at, policy.thresholds.refuse_below) == (0.7, 0.2)
    assert (policy.deadline, policy.mode, gate.retry.attempts) == (3.0, "shadow", 2)
    assert policy.route_unmeasured("timeout") is Route.CLARIFY
    assert policy.route_unmeasured("low_mass") is None
    assert policy.messages.text(Route.CLARIFY, "de-CH") == "Was?"
    assert policy.messages.text(Route.REFUSE, "de") == "No."
    assert gate.deployment == "default"
    assert gate.check("Why?", ["Because."]).probability == 0.6


def test_what_the_judge_is_given(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = dict[str, object]()

    def from_name(name: str, **options: object) -> Judge:
        seen.update(options, name=name)
        return ScriptedJudge(0.9)

    monkeypatch.setattr(judges, "from_name", from_name)
    file.write_text(FULL.replace("scripted:0.6", "openai:m"))
    load_gate(file, environ={"MY_KEY": f" {CANARY}\n"})
    prompt = resolve(file, environ={})[1].prompt()
    assert seen == {
        "name": "openai:m",
        "base_url": "http://127.0.0.1:8080/v1",
        "api_key": CANARY,
        "model_family": "gpt-4.1",
        "prompt": prompt,
        "min_mass": 0.4,
        "api_version": "2024-10-21",
        "samples": 12,
        "ask_underspecified": True,
    }
    assert (prompt.labels, prompt.max_context_chars) == (Labels("Yes", "No"), 9000)


def test_defaults_are_those_of_the_core() -> None:
    gate = load_gate(environ={"RAG_GUARD_JUDGE": "scripted:0.9"})
    assert gate.policy == Policy()
    assert gate.retry == Retry()
    assert gate.deployment == "default"
    assert resolve(environ={}) == ("default", Deployment())


def test_os_environ_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("[deployment.a]\n[deployment.b]\njudge = 'scripted:0.1'\napi_key_env = 'K'")
    monkeypatch.setenv("RAG_GUARD_CONFIG", str(file))
    monkeypatch.setenv("RAG_GUARD_DEPLOYMENT", "b")
    assert load_gate().deployment == "b"
    assert resolve(deployment="a")[0] == "a"


def test_a_local_judge_needs_no_key(file: Path) -> None:
    file.write_text("[deployment.a]\njudge = 'openai:m'\napi_key_env = 'MY_KEY'")
    gate = load_gate(file, environ={}, options={"judge": "scripted:0.9"})
    assert gate.judge.model == "scripted"


def test_the_keys_variable_may_begin_like_ours(file: Path) -> None:
    text = "[deployment.a]\napi_key_env = 'RAG_GUARD_API_KEY'"
    assert load(file, text, RAG_GUARD_API_KEY=CANARY).api_key_env == "RAG_GUARD_API_KEY"


def test_byte_order_mark_and_windows_lines(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[deployment.a]\r\nattempts = 2\r\n")
    assert resolve(file, environ={}) == ("a", Deployment(attempts=2))


# ── What beats what ──────────────────────────────────────────────────────────────────────────────

FAMILY = """
[deployment.base]
judge = "scripted:0.5"
deadline = 3.0
on_unmeasured = "clarify"
messages = { refuse = "No.", clarify = { default = "What?", de = "Was?" } }
[deployment.middle]
extends = "base"
on_unmeasured = { timeout = "answer" }
messages = { refuse = { de = "Nein." }, clarify = { fr = "Quoi ?" } }
[deployment.leaf]
extends = "middle"
deadline = 5.0
messages.refuse = "Never."
"""


def test_tables_merge_key_by_key(file: Path) -> None:
    middle = load(file, FAMILY, "middle")
    assert middle.deadline == 3.0
    assert middle.on_unmeasured == {"default": "clarify", "timeout": "answer"}
    assert middle.messages.refuse == {"default": "No.", "de": "Nein."}
    assert middle.messages.clarify == {"default": "What?", "de": "Was?", "fr": "Quoi ?"}


def test_one_text_for_all_replaces_texts_by_language(file: Path) -> None:
    leaf = load(file, FAMILY, "leaf")
    assert (leaf.judge, leaf.deadline) == ("scripted:0.5", 5.0)
    assert leaf.messages.refuse == "Never."
    assert leaf.messages.clarify == {"default": "What?", "de": "Was?", "fr": "Quoi ?"}


OVERRIDES = {
    "JUDGE": ("openai:x", "judge", "openai:x"),
    "BASE_URL": ("https://host/v1", "base_url", "https://host/v1"),
    "ANSWER_AT": (" 0.9 ", "answer_at", 0.9),
    "REFUSE_BELOW": ("0", "refuse_below", 0.0),
    "DEADLINE": ("2.5", "deadline", 2.5),
    "ON_UNMEASURED": ("raise", "on_unmeasured", "raise"),
    "ATTEMPTS": ("7", "attempts", 7),
    "MODE": ("enforce", "mode", "enforce"),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_variables_beat_the_file(file: Path, name: str) -> None:
    text, key, value = OVERRIDES[name]
    before = load(file, FULL)
    after = load(file, FULL, **{f"RAG_GUARD_{name}": text})
    assert getattr(before, key) != value
    assert after == before.model_copy(update={key: value})


def test_every_variable_is_tested() -> None:
    assert {*VARIABLES} == {
        *(f"RAG_GUARD_{name}" for name in OVERRIDES),
        "RAG_GUARD_CONFIG",
        "RAG_GUARD_DEPLOYMENT",
    }


def test_options_beat_variables(file: Path) -> None:
    file.write_text(FULL)
    environ = {"RAG_GUARD_ANSWER_AT": "0.8", "RAG_GUARD_DEADLINE": "4"}
    found = resolve(file, environ=environ, options={"answer_at": 0.95})[1]
    assert (found.answer_at, found.deadline) == (0.95, 4.0)


CHOICES: list[tuple[str, str | None, dict[str, str], str]] = [
    ("[deployment.only]", None, {}, "only"),
    ("[deployment.a]\n[deployment.default]", None, {}, "default"),
    ("[deployment.a]\n[deployment.b]", None, {"RAG_GUARD_DEPLOYMENT": "b"}, "b"),
    ("[deployment.a]\n[deployment.b]", "a", {"RAG_GUARD_DEPLOYMENT": "b"}, "a"),
]


@pytest.mark.parametrize(("text", "name", "environ", "chosen"), CHOICES)
def test_which_deployment(
    file: Path, text: str, name: str | None, environ: dict[str, str], chosen: str
) -> None:
    file.write_text(text)
    assert resolve(file, name, environ)[0] == chosen


# ── What each error says ─────────────────────────────────────────────────────────────────────────

# One line of [deployment.bot]; the key that the error must name, what it says, what the hint says.
WRONG = [
    ("answer_at = 1.5", "answer_at", "is 1.5", "from 0 to 1"),
    ("answer_at = -0.1", "answer_at", "is -0.1", "from 0 to 1"),
    ("answer_at = nan", "answer_at", "is nan", "from 0 to 1"),
    ("refuse_below = inf", "refuse_below", "is inf", "from 0 to 1"),
    (f'answer_at = "{CANARY}"', "answer_at", "is a text", "a number"),
    ("answer_at = true", "answer_at", "is true", "a number"),
    ("answer_at = 0.2", "answer_at", "the default refuse_below", "the lower one"),
    ("refuse_below = 0.9", "refuse_below", "refuse_below <= answer_at", "the lower one"),
    ("deadline = 0", "deadline", "is 0", "seconds"),
    (f"deadline = 1{'0' * 400}", "deadline", "is 1000", "seconds"),
    ("deadline = 1e9", "deadline", "is 1000000000.0", "to 86400"),
    ("attempts = 3.0", "attempts", "is 3.0", "a whole number"),
    ("attempts = 0", "attempts", "is 0", "from 1"),
    ("attempts = true", "attempts", "is true", "a whole number"),
    ("min_mass = 2", "min_mass", "is 2", "from 0 to 1"),
    ("max_context_chars = 0", "max_context_chars", "is 0", "at least 1"),
    (f'mode = "{CANARY}"', "mode", "is a text", '"shadow"'),
    ("judge = 2024-01-01", "judge", "is a date", "openai:MODEL"),
    ('judge = " "', "judge", "is a text", "openai:MODEL"),
    (f'judge = "{CANARY}"', "judge", "Unknown judge", "openai:MODEL"),
    ('judge = "scripted:much"', "judge", "lacks a probability", "scripted:0.9"),
    ('base_url = "127.0.0.1:8080"', "base_url", "is a text", "http://"),
    ('base_url = "http://host:99999/v1"', "base_url", "is a text", "http://"),
    ('base_url = "http://[::1/v1"', "base_url", "is a text", "http://"),
    ('base_url = "http://a b/v1"', "base_url", "is a text", "http://"),
    (f'api_key_env = "{CANARY}"', "api_key_env", "is a text", "the name of the variable"),
    (f'api_key = "{CANARY}"', "api_key", "unknown key", "api_key_env"),
    ("anser_at = 0.9", "anser_at", "unknown key", "`answer_at`"),
    ('"we ird" = 1', '"we ird"', "unknown key", "answer_at"),
    (f'on_unmeasured = "{CANARY}"', "on_unmeasured", "is a text", '"raise"'),
    ("on_unmeasured = 3", "on_unmeasured", "is 3", '"raise"'),
    ('on_unmeasured = { timout = "raise" }', "on_unmeasured.timout", "unknown key", "`timeout`"),
    ('on_unmeasured = { timeout = "no" }', "on_unmeasured.timeout", "is a text", '"clarify"'),
    ('messages = "No."', "messages", "is a text", "a table"),
    ('messages = { refus = "x" }', "messages.refus", "unknown key", "`refuse`"),
    ("messages = { refuse = 3 }", "messages.refuse", "is 3", 'refuse = "…"'),
    ("messages = { refuse = { de = 3 } }", "messages.refuse.de", "is 3", 'de = "…"'),
    ('messages = { refuse = { de = "x" } }', "messages", "no `default`", "refuse.default"),
    ('labels = { true = "Yes" }', "labels.false", "is missing", "two words"),
    ('labels = { true = "a", false = "a" }', "labels", "told apart", "two different"),
    ('labels = { true = "in", false = "insufficient" }', "labels", "begins", "two words"),
    ('labels = { true = "a", false = "b", c = "d" }', "labels.c", "unknown key", "true, false"),
    ("labels = []", "labels", "is a list", "two words"),
    ('extends = "nobody"', "extends", "bot -> nobody", "Known: bot"),
    ('extends = "bot"', "extends", "bot -> bot", "Take one"),
    ("[deployment.bot.sub]\nx = 1", "sub", "unknown key", "Known"),
]


@pytest.mark.parametrize(("line", "key", "problem", "remedy"), WRONG)
def test_wrong_keys(file: Path, line: str, key: str, problem: str, remedy: str) -> None:
    error = error_of(file, f"[deployment.bot]\n{line}")
    assert f"{file}: deployment.bot.{key}" in error.message
    assert problem in error.message
    assert remedy in (error.hint or "")


# A whole file; what the message says beside the file's name, what the hint says.
WRONG_FILES: list[tuple[str | bytes, str, str]] = [
    ("[deployment.bot]\njudge = openai:x", "line 2", "double quotes"),
    ("[deployment.bot]\na = 1\na = 2", "line 3", "Mend"),
    # Text for all and texts by language at once: TOML itself forbids it.
    ("[deployment.bot.messages]\nrefuse = 'x'\nrefuse.de = 'y'", "line 3", "Mend"),
    ("a = " + "[" * 5000, "not valid TOML", "Mend"),
    ("a = 1" + "0" * 5000, "not valid TOML", "Mend"),
    (
        b"[deployment.bot]\njudge = 'scripted:0.9' # \xe4",
        ", line 2: the file is not UTF-8",
        "UTF-8",
    ),
    ("", "deployment holds no table", "[deployment.default]"),
    ("deployment = 3", "deployment holds no table", "[deployment.default]"),
    ("[deployment]\njudge = 'scripted:0.9'", "deployment.judge is a text", "[deployment.default]"),
    ("[[deployment.bot]]", "deployment.bot is a list", "[deployment.default]"),
    ("[deploymnt.bot]", "deploymnt is an unknown key", "[deployment.NAME]"),
    (f"judge = '{CANARY}'\n[deployment.bot]", "judge is an unknown key", "move the key"),
    ("[deployment.a]\n[deployment.b]", "none called default", "Known: a, b"),
    ("[deployment.bot]", "deployment.bot.judge is missing", "--judge openai:MODEL"),
    (
        f"[deployment.bot]\njudge = 'openai:m'\napi_key_env = '{KEY}'",
        "deployment.bot.api_key_env names a variable that is not set",
        "Set that variable",
    ),
    (
        "[deployment.a]\nextends = 'b'\n[deployment.b]\nextends = 'c'\n"
        "[deployment.c]\nextends = 'a'\n[deployment.default]",
        "deployment.c.extends: a -> b -> c -> a is a circle",
        "Take one",
    ),
    ("[deployment.default]\n[deployment.other]\nmode = 'off'", "deployment.other.mode", "shadow"),
    (
        "[deployment.base]\nrefuse_below = 0.5\n[deployment.default]\nextends = 'base'\n"
        "answer_at = 0.4",
        "deployment.base.refuse_below: answer_at=0.4",
        "the lower one",
    ),
]


@pytest.mark.parametrize(("text", "problem", "remedy"), WRONG_FILES)
def test_wrong_files(file: Path, text: str | bytes, problem: str, remedy: str) -> None:
    error = error_of(file, text)
    assert error.message.startswith(str(file))
    assert problem in error.message
    assert remedy in (error.hint or "")
    assert KEY not in f"{error.message} {error.hint}"


def test_no_such_deployment(file: Path) -> None:
    error = error_of(file, "[deployment.support-bot]\n[deployment.other]", name="suport-bot")
    assert error.message == f"{file} has no deployment 'suport-bot'."
    assert "Did you mean `support-bot`? Known: support-bot, other." in (error.hint or "")
    assert "RAG_GUARD_DEPLOYMENT" in (error.hint or "")
    with pytest.raises(ConfigError, match="no configuration file is named"):
        resolve(deployment="bot", environ={})


# A variable and its value; what the message says beside the variable's name, what the hint says.
WRONG_VARIABLES = [
    ("RAG_GUARD_ANSWER_AT", "1.5", "is 1.5", "from 0 to 1"),
    ("RAG_GUARD_ANSWER_AT", "nan", "is nan", "from 0 to 1"),
    ("RAG_GUARD_ANSWER_AT", CANARY, "is a text", "from 0 to 1"),
    ("RAG_GUARD_ANSWER_AT", "0.1", "and the default refuse_below", "the lower one"),
    ("RAG_GUARD_REFUSE_BELOW", "-inf", "is -inf", "from 0 to 1"),
    ("RAG_GUARD_DEADLINE", "0", "is 0.0", "seconds"),
    ("RAG_GUARD_ATTEMPTS", "2.5", "is a text", "a whole number"),
    ("RAG_GUARD_MODE", CANARY, "is a text", '"shadow"'),
    ("RAG_GUARD_ON_UNMEASURED", "{}", "is a text", '"raise"'),
    ("RAG_GUARD_BASE_URL", "localhost", "is a text", "http://"),
    ("RAG_GUARD_JUDGE", "nobody:x", "Unknown judge 'nobody'", "openai:MODEL"),
    ("RAG_GUARD_JUDGE", CANARY, "Unknown judge.", "openai:MODEL"),
    ("RAG_GUARD_JUDGE", "\udcff", "is a text", "openai:MODEL"),
    ("RAG_GUARD_MODE", "", "is empty", "unset it"),
    ("RAG_GUARD_CONFIG", " ", "is empty", "unset it"),
    ("RAG_GUARD_DEADLIN", "1", "is unknown", "`RAG_GUARD_DEADLINE`"),
    ("RAG_GUARD_TRESHOLD", "1", "is unknown", "Did you mean `RAG_GUARD_"),
    ("RAG_GUARD_API_KEY", CANARY, "is unknown", "OPENAI_API_KEY"),
]


@pytest.mark.parametrize(("name", "value", "problem", "remedy"), WRONG_VARIABLES)
def test_wrong_variables(name: str, value: str, problem: str, remedy: str) -> None:
    environ = {"RAG_GUARD_JUDGE": "scripted:0.9", name: value}
    with pytest.raises(ConfigError) as caught:
        load_gate(environ=environ)
    error = caught.value
    assert name in error.message
    assert problem in error.message
    assert remedy in (error.hint or "")
    assert CANARY not in f"{error} {error.hint} {error.__cause__}"


def test_the_place_that_won_is_named(file: Path) -> None:
    error = error_of(file, "[deployment.a]\nrefuse_below = 0.5", {"RAG_GUARD_ANSWER_AT": "0.4"})
    assert "RAG_GUARD_ANSWER_AT and " in error.message
    assert f"{file}: deployment.a.refuse_below" in error.message
    with pytest.raises(ConfigError, match="^--answer-at is nan") as caught:
        resolve(environ={"RAG_GUARD_ANSWER_AT": "0.4"}, options={"answer_at": float("nan")})
    assert caught.value.hint


def test_unreadable_files(tmp_path: Path) -> None:
    for path, problem in ((tmp_path, "Is a directory"), (tmp_path / "no.toml", "No such file")):
        with pytest.raises(ConfigError, match=problem) as caught:
            load_gate(path, environ={"RAG_GUARD_JUDGE": "scripted:0.9"})
        assert str(path) in caught.value.message
        assert caught.value.hint


def test_nothing_configured() -> None:
    with pytest.raises(ConfigError, match="No judge is named") as caught:
        load_gate(environ={})
    assert "--judge openai:MODEL, --judge gguf:PATH or --judge embedded" in (
        caught.value.hint or ""
    )


def test_errors_of_a_judges_own_keep_their_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge's ConfigError gets the place; an error that is no ConfigError is left alone."""
    missing = ImportError("no llama.cpp")

    def from_name(name: str, **_options: object) -> Judge:
        if name == "down":
            raise JudgeUnavailable("down")
        raise ConfigError("Not installed.", hint="Install it.") from missing

    monkeypatch.setattr(judges, "from_name", from_name)
    with pytest.raises(ConfigError) as caught:
        load_gate(environ={"RAG_GUARD_JUDGE": "gguf:x"})
    assert caught.value.message == "RAG_GUARD_JUDGE: Not installed."
    assert caught.value.__cause__ is missing
    with pytest.raises(JudgeUnavailable):
        load_gate(environ={"RAG_GUARD_JUDGE": "down"})


# ── Round trips ──────────────────────────────────────────────────────────────────────────────────

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ['"', "\\", "'''", "\r\n", "\x00\x07\x1b\x7f\x85", "\u2028\ufeff", "𝕏é", "# no comment", "{0}"]
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SAID = ANY_TEXT.filter(str.strip)
TEXTS = SAID | st.dictionaries(NAMES, SAID, max_size=3).map(lambda texts: {"default": "d"} | texts)
ROUTES = st.sampled_from(["answer", "clarify", "refuse", "raise"])
PROBABILITY = st.floats(0, 1)


@st.composite
def deployments(draw: st.DrawFn) -> Deployment:
    refuse_below, answer_at = sorted(draw(st.tuples(PROBABILITY, PROBABILITY)))
    kinds = st.sampled_from([*UNMEASURED_KINDS, "default"])
    keys: dict[str, st.SearchStrategy[object]] = {
        "judge": ANY_TEXT.filter(str.strip),
        "base_url": st.sampled_from(["http://127.0.0.1:8080/v1", "https://h/ä?b=1"]),
        "api_key_env": st.from_regex(r"\A[A-Z_][A-Z0-9_]{0,9}\Z"),
        "model_family": ANY_TEXT.filter(str.strip),
        "deadline": st.floats(0.001, 86_400),
        "attempts": st.integers(1, 100),
        "on_unmeasured": ROUTES | st.dictionaries(kinds, ROUTES),
        "mode": st.sampled_from(["enforce", "shadow"]),
        "min_mass": PROBABILITY,
        "api_version": ANY_TEXT.filter(str.strip),
        "samples": st.integers(3, 200),
        "ask_underspecified": st.booleans(),
        "max_context_chars": st.integers(1, 10**9),
        "labels": st.just({"true": "是", "false": '"n"'}),
        "messages": st.fixed_dictionaries({}, optional={"refuse": TEXTS, "clarify": TEXTS}),
    }
    values = draw(st.fixed_dictionaries({}, optional=keys))
    cuts = {"answer_at": answer_at, "refuse_below": refuse_below}
    return Deployment.model_validate({**values, **cuts})


@settings(max_examples=30, deadline=None)
@given(deployment=deployments(), name=NAMES)
def test_what_is_written_loads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, deployment: Deployment, name: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "round-trip.toml"
    file.write_bytes(deployment.to_toml(name).encode())
    assert resolve(file, environ={}) == (name, deployment)


@settings(max_examples=100, deadline=None)
@given(text=ANY_TEXT)
def test_texts_are_written_as_toml(text: str) -> None:
    written = Deployment(judge=f"x{text}").to_toml(text)
    assert tomllib.loads(written)["deployment"][text]["judge"] == f"x{text}"


@settings(max_examples=60, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
        max_leaves=4,
    ),
    key=st.sampled_from(sorted(Deployment.model_fields)) | NAMES,
)
def test_any_value_is_taken_or_explained(key: str, value: object) -> None:
    """Whatever stands under a key: a deployment, or a ConfigError with a hint; nothing else."""
    try:
        resolve(environ={}, options={key: value})
    except ConfigError as error:
        assert error.message and error.hint


def test_a_deployment_checks_itself() -> None:
    for wrong in ({"answer_at": 0.1}, {"messages": {"refuse": {"de": "x"}}}):
        with pytest.raises(ValidationError):
            Deployment.model_validate(wrong)


def test_pydantic_stays_in_this_module() -> None:
    """`import guard` loads no third party, as a fresh process shows."""
    code = "import sys, guard, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, env={**os.environ}
    )
    loaded = json.loads(done.stdout)
    assert not {"pydantic", "pydantic_core", "openai", "numpy", "rich", "typer"} & {*loaded}
