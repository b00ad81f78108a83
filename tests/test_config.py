"""Configuration: what is read, what beats what, and what each error says."""

import asyncio
import dataclasses
import json
import math
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from wire import Answer, Script, WireServer, verdict

from guard import (
    ConfigError,
    Decision,
    JudgeUnavailable,
    Labels,
    ProfileMismatch,
    Reason,
    Route,
    Thresholds,
    judges,
)
from guard.audit_file import Audit
from guard.breaker import breaker_of
from guard.calibration import Temperature
from guard.config import VARIABLES, Deployment, load_gate, resolve
from guard.errors import UNMEASURED_KINDS
from guard.judge import Judge
from guard.judges import Chain, Link, Mean
from guard.policy import Policy
from guard.price import Price
from guard.profile import Profile
from guard.retry import Retry
from guard.testing import Scripted, ScriptedJudge
from guard.trace import Trace

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
judge = "mine:m"
base_url = "http://127.0.0.1:8080/v1"
api_key_env = "MY_KEY"
model_family = "gpt-4.1"
answer_at = 0.7
refuse_below = 0.2
deadline = 3
attempts = 2
on_unmeasured = { timeout = "clarify", default = "raise" }
mode = "shadow"
canary = 0.5
min_mass = 0.4
max_context_chars = 9000
api_version = "2024-10-21"
samples = 12
ask_underspecified = true
both_orders = false
price = { input = 0.15, output = 1, cached = 0.075, currency = "EUR" }
labels = { true = "Yes", false = "No" }

[deployment.default.messages]
refuse = "No."
clarify = { default = "What?", de = "Was?" }
"""


def test_every_key_arrives(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_name(_name: str, **_options: object) -> Judge:
        return ScriptedJudge(0.6)

    monkeypatch.setattr(judges, "from_name", from_name)
    file.write_text(FULL)
    gate = load_gate(file, environ={"MY_KEY": CANARY})
    policy = gate.policy
    assert (policy.thresholds.answer_at, policy.thresholds.refuse_below) == (0.7, 0.2)
    assert (policy.deadline, policy.mode, gate.retry.attempts) == (3.0, "shadow", 2)
    assert policy.canary == 0.5
    assert gate.observers == ()
    assert policy.route_unmeasured("timeout") is Route.CLARIFY
    assert policy.route_unmeasured("low_mass") is None
    assert policy.messages.text(Route.CLARIFY, "de-CH") == "Was?"
    assert policy.messages.text(Route.REFUSE, "de") == "No."
    assert gate.deployment == "default"
    assert gate.price == Price(input=0.15, output=1, cached=0.075, currency="EUR")
    assert gate.check("Why?", ["Because."]).probability == 0.6


def test_a_limit_and_a_trace_are_the_gates(file: Path) -> None:
    """Tools that ask for no audit get no trace either."""
    file.write_text(
        '[deployment.default]\njudge = "scripted:0.6"\nmax_in_flight = 7\nmax_wait = 0.25\n'
        "trace = true\ntrace_texts = true\n"
    )
    gate = load_gate(file, environ={})
    assert (gate.limit.max_in_flight, gate.limit.wait) == (7, 0.25)
    [trace] = gate.observers
    assert isinstance(trace, Trace) and trace.texts
    assert load_gate(file, environ={}, audit=False).observers == ()
    assert load_gate(None, environ={"RAG_GUARD_JUDGE": "scripted:0.6"}).observers == ()


@pytest.mark.parametrize("name", ["openai:m", "decisions:m", "samples:m"])
@pytest.mark.parametrize(("failures", "seconds"), [(4, 1.5), (0, 2.0)])
def test_a_breaker_has_the_numbers_of_the_file(
    file: Path, name: str, failures: int, seconds: float
) -> None:
    """0 failures: there is none."""
    file.write_text(
        f'[deployment.default]\njudge = "{name}"\nbase_url = "http://127.0.0.1:1/v1"\n'
        f"breaker_failures = {failures}\nbreaker_seconds = {seconds}\nanswer_at = 0.5\n"
    )
    gate = load_gate(file, environ={})
    breaker = breaker_of(gate.judge)
    if failures:
        assert breaker is not None
        assert (breaker.failures, breaker.seconds) == (failures, seconds)
    else:
        assert breaker is None
    judges.close(gate.judge)


def test_judges_of_one_endpoint_share_its_breaker(file: Path) -> None:
    """Also the two of `both_orders`; not with another key, model or number."""
    table = (
        '[deployment.{}]\njudge = "openai:{}"\nbase_url = "http://127.0.0.1:1/v1"\n'
        'api_key_env = "{}"\n{}\n'
    )
    rows = [
        ("a", "m", "ONE", ""),
        ("b", "m", "ONE", "both_orders = true"),
        ("c", "m", "TWO", ""),
        ("d", "n", "ONE", ""),
        ("e", "m", "ONE", "breaker_failures = 3"),
    ]
    file.write_text("".join(table.format(*row) for row in rows))
    environ = {"ONE": "k1", "TWO": "k2"}
    made = [load_gate(file, deployment=row[0], environ=environ).judge for row in rows]
    first, both, *others = made
    assert isinstance(both, Mean)
    assert [breaker_of(one) for one in both.judges] == [breaker_of(first)] * 2
    found = [breaker_of(one) for one in (first, *others)]
    assert len({id(one) for one in found}) == len(found) and None not in found
    for judge in made:
        judges.close(judge)


def test_a_breaker_is_for_judges_that_go_through_http(file: Path) -> None:
    error = error_of(file, '[deployment.default]\njudge = "gguf:x.gguf"\nbreaker_failures = 3\n')
    assert "breaker_failures" in error.message


def test_an_audit_keeps_decisions_unless_it_is_left_out(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file.write_text(
        f"[deployment.d]\njudge = 'scripted:0.6'\naudit = {{ path = '{path}', texts = true }}\n"
    )
    assert load_gate(file, environ={}, audit=False).observers == ()
    gate = load_gate(file, environ={})
    decision = gate.check("Why?", ["Because."])
    [record] = Audit(path).records()
    assert (record.id, record.deployment) == (decision.id, "d")
    assert Audit(path).texts([record.id]) == {record.id: ("Why?", ("Because.",))}


def test_an_audit_stands_beside_the_file_that_names_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Wherever the process was started, as a profile."""
    file.write_text("[deployment.d]\njudge = 'scripted:0.6'\naudit = { path = 'a.jsonl' }\n")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    load_gate(file, environ={}).check("Why?", ["Because."])
    assert len(list(Audit(file.with_name("a.jsonl")).records())) == 1
    assert list(Path.cwd().iterdir()) == []


def test_what_switches_it_off_may_be_written_in_capitals(file: Path) -> None:
    assert load(file, FULL, RAG_GUARD_MODE=" Enforce ").mode == "enforce"
    assert load(file, FULL, RAG_GUARD_ON_UNMEASURED="Refuse").on_unmeasured == "refuse"


def test_no_key_is_needed_where_nothing_is_asked(file: Path) -> None:
    file.write_text("[deployment.d]\njudge = 'openai:m'\nanswer_at = 0.6\n")
    with pytest.raises(ConfigError, match="No key"):
        load_gate(file, environ={})
    gate = load_gate(file, environ={}, asks=False)
    assert gate.policy.thresholds.answer_at == 0.6
    judges.close(gate.judge)


def test_what_the_judge_is_given(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = dict[str, object]()

    def from_name(name: str, **options: object) -> Judge:
        seen.update(options, name=name)
        return ScriptedJudge(0.9)

    monkeypatch.setattr(judges, "from_name", from_name)
    file.write_text(FULL.replace("both_orders = false", "both_orders = true"))
    load_gate(file, environ={"MY_KEY": f" {CANARY}\n"})
    prompt = resolve(file, environ={})[1].prompt()
    assert seen == {
        "name": "mine:m",
        "base_url": "http://127.0.0.1:8080/v1",
        "api_key": CANARY,
        "model_family": "gpt-4.1",
        "prompt": prompt,
        "min_mass": 0.4,
        "api_version": "2024-10-21",
        "samples": 12,
        "ask_underspecified": True,
        "both_orders": True,
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


def test_scripts_of_other_probabilities_are_other_judges() -> None:
    """Verdicts kept of one, and a profile for it, are not the other's."""
    names = ("scripted:0.9", "scripted:0.2", "scripted:0.20000001", "scripted:0.90")
    found = [judges.from_name(name).fingerprint for name in names]
    assert found == ["scripted:0.9", "scripted:0.2", "scripted:0.20000001", "scripted:0.9"]


def test_a_local_judge_needs_no_key(file: Path) -> None:
    file.write_text("[deployment.a]\njudge = 'openai:m'\napi_key_env = 'MY_KEY'")
    gate = load_gate(file, environ={}, options={"judge": "scripted:0.9"})
    assert gate.judge.fingerprint == "scripted:0.9"


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
    "MAX_IN_FLIGHT": ("9", "max_in_flight", 9),
    "MAX_WAIT": ("0.5", "max_wait", 0.5),
    "TRACE": ("True", "trace", True),
    "MODE": ("enforce", "mode", "enforce"),
    "CANARY": ("0.25", "canary", 0.25),
    "ON_STALE": ("clarify", "on_stale", "clarify"),
    "PROFILE": (" x.json ", "profile", "x.json"),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_variables_beat_the_file(file: Path, name: str) -> None:
    text, key, value = OVERRIDES[name]
    before = load(file, FULL)
    after = load(file, FULL, **{f"RAG_GUARD_{name}": text})
    assert getattr(before, key) != value
    # What openai: can make nothing of was set for the file's judge, and goes with it.
    left = {"api_version": None, "samples": 20, "ask_underspecified": False}
    gone: dict[str, object] = {**left, "price": None} if name == "JUDGE" else {}
    if name == "PROFILE":
        gone = {"answer_at": 0.85, "refuse_below": 0.30}  # It has its own.
    assert after == before.model_copy(update={key: value, **gone})


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
    ("price = 0.15", "price", "is 0.15", "{ input = 0.15"),
    ("price = { input = 0.15 }", "price.output", "is missing", "output = 0.60"),
    ("price = { input = -1, output = 1 }", "price.input", "is -1", "by the million"),
    ("price = { input = 1, output = nan }", "price.output", "is nan", "by the million"),
    ("price = { input = 1, output = 1, cachd = 1 }", "price.cachd", "unknown key", "`cached`"),
    (f'price = {{ input = "{CANARY}", output = 1 }}', "price.input", "is a text", "{ input"),
    ('price = { input = 1, output = 1, currency = "" }', "price.currency", "is a text", "currency"),
    ("canary = 2", "canary", "is 2", "0.1"),
    ("canary = true", "canary", "is true", "0.1"),
    (f'audit = "{CANARY}"', "audit", "is a text", "path"),
    ("audit = {}", "audit.path", "is missing", "the name of a file"),
    ('audit = { path = "" }', "audit.path", "is a text", "the name of a file"),
    ('audit = { path = "a", texts = 1 }', "audit.texts", "is 1", "true or false"),
    ('audit = { path = "a", text_days = 0 }', "audit.text_days", "is 0", "days from 1"),
    ('audit = { path = "a", max_bytes = 9 }', "audit.max_bytes", "is 9", "bytes from 10000"),
    ('audit = { path = "a", text = true }', "audit.text", "unknown key", "`texts`"),
    (
        'judge = "scripted:1"\naudit = { path = "none/of/these/a.jsonl" }',
        "audit",
        "none/of/these",
        "folder",
    ),
    (f'on_stale = "{CANARY}"', "on_stale", "is a text", '"raise"'),
    ('on_stale = { default = "refuse" }', "on_stale", "is a table", '"raise"'),
    ("profile = 3", "profile", "is 3", "rag-guard calibrate"),
    (
        'judge = "scripted:1"\nprofile = "none.json"',
        "profile",
        "cannot be read",
        "rag-guard calibrate",
    ),
    (
        'judge = "scripted:1"\nprofile = "a\\u0000b"',
        "profile",
        "it is no path",
        "rag-guard calibrate",
    ),
    ('profile = "x"\nanswer_at = 0.9', "profile", "thresholds of its own", "Take `profile` away"),
    ('messages.refuse = "nobody.here:f"', "messages.refuse", "no such module", "with a space"),
    ('messages.refuse = "json:dumpz"', "messages.refuse", "no such function", "module:function"),
    ('messages.refuse = "sk:canary"', "messages.refuse", "no such module", "module:function"),
    ('messages.clarify = { default = "json:x" }', "messages.clarify.default", "no such", "package"),
    ("samples = 2", "samples", "is 2", "from 3 to 200"),
    ("samples = 201", "samples", "is 201", "from 3 to 200"),
    ("samples = 20.0", "samples", "is 20.0", "a whole number"),
    ("samples = true", "samples", "is true", "a whole number"),
    (f'samples = "{CANARY}"', "samples", "is a text", "a whole number"),
    ("api_version = 2024-10-21", "api_version", "is a date", '"2024-10-21"'),
    ('api_version = " "', "api_version", "is a text", "as text"),
    ("ask_underspecified = 1", "ask_underspecified", "is 1", "true or false"),
    (f'ask_underspecified = "{CANARY}"', "ask_underspecified", "is a text", "true or false"),
    (
        f'leave_out_suspects = "{CANARY}"',
        "leave_out_suspects",
        "is a text that does not fit",
        "true or false; write it without quotes.",
    ),
    ('answer_at = "0.9"', "answer_at", "is a text", "e.g. 0.85; write it without quotes."),
    ('windows = "3"', "windows", "is a text", "; write it without quotes."),
    ('audit = { path = "a", texts = "yes" }', "audit.texts", "is a text", "without quotes."),
    ("both_orders = 0", "both_orders", "is 0", "true or false"),
    ("cache = true", "cache", "is true", '"memory", or the path'),
    ("fallback = true", "fallback", "is true", "another deployment"),
    ('fallback = "nobody"', "fallback", "names no deployment", "Known: bot"),
    (f'fallback = "{CANARY}"', "fallback", "names no deployment", "Known: bot"),
    ('judge = "openai:"', "judge", "lacks a model", "openai:MODEL"),
    ('judge = "decisions:"', "judge", "lacks a model", "decisions:MODEL"),
    ('judge = "samples"', "judge", "lacks a model", "samples:MODEL"),
    ('judge = "systemone:"', "judge", "lacks a model", "systemone:MODEL"),
    ('judge = "systemone:m"', "judge", "lacks an address", "base_url"),
    ('judge = "azure:"', "judge", "lacks a deployment", "azure:DEPLOYMENT"),
    ('judge = "azure:d"', "judge", "Azure needs base_url", "AZURE_OPENAI_ENDPOINT"),
    ('judge = "decisions:m"', "judge", "No key for api.openai.com", "api_key_env"),
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
        "[deployment.default]\nextends = 'base'\n[deployment.base]\nfallback = 'base'",
        "deployment.base.fallback names its own table",
        "take it away",
    ),
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
    ("RAG_GUARD_WINDOWS", "0", "is unknown", "Set `windows` in guard.toml: no variable does."),
    ("RAG_GUARD_Max_Context_Chars", "9", "is unknown", "Set `max_context_chars` in guard.toml"),
    ("RAG_GUARD_API_KEY_ENV", "K", "is unknown", "Set `api_key_env` in guard.toml"),
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


# ── Azure ────────────────────────────────────────────────────────────────────────────────────────

AZURE = {
    "base_url": ("https://x.openai.azure.com", "AZURE_OPENAI_ENDPOINT"),
    "api_key": (CANARY, "AZURE_OPENAI_API_KEY"),
    "api_version": ("2024-10-21", "OPENAI_API_VERSION"),
}


@pytest.mark.parametrize("lacking", AZURE)
def test_azure_needs_three_settings(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    """Each may be given or stand in its variable; where neither is, the error names both."""
    given = {name: value for name, (value, _) in AZURE.items() if name != lacking}
    key = "api_key_env" if lacking == "api_key" else lacking
    value, variable = AZURE[lacking]
    with pytest.raises(ConfigError, match=f"Azure needs {key}") as caught:
        judges.from_name("azure:d", **given)  # type: ignore[arg-type]
    assert variable in (caught.value.hint or "")
    assert CANARY not in f"{caught.value}"
    monkeypatch.setenv(variable, value)
    judge = judges.from_name("azure:d", **given)  # type: ignore[arg-type]
    assert judge.model == "d"
    judges.close(judge)


WRONG_AZURE = [
    ({"base_url": "x.openai.azure.com"}, r"base_url \(or AZURE_OPENAI_ENDPOINT\)"),
    ({"base_url": "https://h:99999"}, "is not an address"),
    ({"api_key": f"{CANARY}\n"}, "holds a character"),
    ({"api_key": f"{CANARY}–"}, "holds a character"),
]


@pytest.mark.parametrize(("wrong", "problem"), WRONG_AZURE)
def test_what_azure_cannot_be_sent(wrong: dict[str, str], problem: str) -> None:
    """An address without its scheme, a key with a line break: said at once, and not repeated."""
    given = {name: value for name, (value, _) in AZURE.items()}
    with pytest.raises(ConfigError, match=problem) as caught:
        judges.from_name("azure:d", **{**given, **wrong})  # type: ignore[arg-type]
    assert CANARY not in f"{caught.value}"
    assert caught.value.hint


@pytest.mark.wire
@pytest.mark.parametrize("how", ["check", "acheck"])
def test_where_an_azure_deployment_is_asked(
    file: Path, wire: Callable[[Script], WireServer], how: str
) -> None:
    """Under its own path, with its version and its own header for the key."""
    server = wire(Answer(verdict(-0.01, -6.0)))
    file.write_text(
        "[deployment.a]\njudge = 'azure:my-gpt'\napi_version = '2024-10-21'\n"
        f"model_family = 'gpt-4o'\napi_key_env = 'MY_KEY'\nbase_url = '{server.url}'"
    )
    gate = load_gate(file, environ={"MY_KEY": CANARY})

    async def asked() -> Decision:
        return await gate.acheck("Why?", ["Because."])

    decision = gate.check("Why?", ["Because."]) if how == "check" else asyncio.run(asked())
    judges.close(gate.judge)
    assert (decision.route, decision.model) == (Route.ANSWER, "my-gpt")
    [request] = server.requests
    assert request.path == ("/v1/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21")
    headers = {name.casefold(): value for name, value in request.headers.items()}
    assert headers["api-key"] == CANARY
    assert "authorization" not in headers
    assert CANARY not in json.dumps(decision.to_dict())


# ── Fallbacks ────────────────────────────────────────────────────────────────────────────────────

CHAIN = """
[deployment.default]
judge = "named:a"
fallback = "second"
answer_at = 0.8
refuse_below = 0.4
deadline = 3
attempts = 1
on_unmeasured = "clarify"
[deployment.third]
judge = "named:c"
answer_at = 0.99
refuse_below = 0.3
mode = "shadow"
[deployment.second]
judge = "named:b"
answer_at = 0.95
refuse_below = 0.1
deadline = 7
fallback = "third"
"""


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> dict[str, Scripted]:
    """What judges called ``named:NAME`` say, .9 unless set; ``named:b@2`` is b elsewhere."""
    says = dict[str, Scripted]()

    def from_name(name: str, **_options: object) -> Judge:
        _, _, place = name.partition(":")
        return ScriptedJudge(says.get(place, 0.9), name=place.partition("@")[0])

    monkeypatch.setattr(judges, "from_name", from_name)
    return says


DOWN = JudgeUnavailable("down")


def links(file: Path, text: str, name: str | None = None, **more: Any) -> list[Link]:
    """The links of the chain that a file amounts to."""
    file.write_text(text)
    judge = load_gate(file, deployment=name, environ={}, **more).judge
    assert isinstance(judge, Chain)
    return list(judge.links)


def models(chain: Sequence[Link]) -> list[str | None]:
    return [link.judge.model for link in chain]


@pytest.mark.usefixtures("named")
def test_fallbacks_stand_in_the_order_in_which_they_name_each_other(file: Path) -> None:
    """Not in that of the file; each with its own thresholds, the first with the policy's."""
    chain = links(file, CHAIN)
    assert models(chain) == ["a", "b", "c"]
    assert [link.profile for link in chain] == [
        None,
        Profile(Thresholds(0.95, 0.1)),
        Profile(Thresholds(0.99, 0.3)),
    ]
    assert models(links(file, CHAIN, "second")) == ["b", "c"]
    assert not isinstance(load_gate(file, deployment="third", environ={}).judge, Chain)


def test_a_fallback_brings_its_judge_and_thresholds_alone(
    file: Path, named: dict[str, Scripted]
) -> None:
    """Deadline, attempts, routes and mode are those of the chosen deployment."""
    named["a"] = DOWN
    file.write_text(CHAIN)
    gate = load_gate(file, environ={})
    assert (gate.policy.deadline, gate.retry.attempts, gate.policy.mode) == (3, 1, "enforce")
    decision = gate.check("Why?", ["Because."])
    assert (decision.probability, decision.route) == (0.9, Route.CLARIFY)  # a would answer.
    assert decision.thresholds == Thresholds(0.95, 0.1)
    assert (decision.fingerprint, decision.deployment) == ("scripted:b", "default")
    record = decision.to_dict()
    assert (record["model"], record["answer_at"]) == ("b", 0.95)
    [tried] = decision.tried
    assert (tried.model, tried.kind, tried.detail) == ("a", "unavailable", "down")
    assert record["tried"] == [dataclasses.asdict(tried)]
    named.update(b=DOWN, c=DOWN)
    decision = load_gate(file, environ={}).check("Why?", ["Because."])
    assert (decision.probability, decision.route) == (None, Route.CLARIFY)
    assert [one.model for one in decision.tried] == ["a", "b", "c"]


@pytest.mark.usefixtures("named")
def test_a_fallback_is_inherited(file: Path) -> None:
    """From whatever is extended, at both ends, and a nearer one wins."""
    text = CHAIN + (
        "[deployment.child]\nextends = 'default'\njudge = 'named:d'\n"
        "[deployment.heir]\nextends = 'child'\nfallback = 'third'\n"
        "[deployment.last]\nextends = 'second'\njudge = 'named:e'\n"
        "answer_at = 0.7\nrefuse_below = 0.1\n"
        "[deployment.via]\njudge = 'named:f'\nfallback = 'last'\n"
    )
    assert models(links(file, text, "child")) == ["d", "b", "c"]
    assert models(links(file, text, "heir")) == ["d", "c"]
    chain = links(file, text, "via")
    assert models(chain) == ["f", "e", "c"]
    assert chain[1].profile == Profile(Thresholds(0.7, 0.1))


@pytest.mark.usefixtures("named")
def test_a_circle_of_fallbacks_ends(file: Path) -> None:
    """Each is asked once, wherever it begins: two deployments may stand in for each other."""
    text = "".join(
        f"[deployment.{one}]\njudge = 'named:{one}'\nfallback = '{other}'\n{CUTS}"
        for one, other in ("ab", "bc", "cb")
    )
    assert models(links(file, text, "a")) == ["a", "b", "c"]
    assert models(links(file, text, "b")) == ["b", "c"]
    assert models(links(file, text, "c")) == ["c", "b"]
    heir = "[deployment.a]\nfallback = 'd'\n[deployment.d]\nextends = 'a'\njudge = 'named:d'\n"
    file.write_text(heir)  # Inherited, it comes to name the heir itself.
    assert load_gate(file, deployment="d", environ={}).judge.model == "d"


def test_a_fallback_to_nobody_is_found_at_once(file: Path) -> None:
    """Also one that another deployment names, or has inherited; the error says where it stands."""
    text = CHAIN + "[deployment.x]\nfallback = 'secnd'\n[deployment.y]\nextends = 'x'\n"
    error = error_of(file, text)
    assert error.message == f"{file}: deployment.x.fallback names no deployment."
    assert "Did you mean `second`?" in (error.hint or "")


def test_the_same_name_elsewhere_has_thresholds_of_its_own(
    file: Path, named: dict[str, Scripted]
) -> None:
    """One fingerprint, two addresses, and perhaps two models: each is routed by its own."""
    named.update({"a": DOWN, "a@2": 0.8})
    text = (
        "[deployment.default]\njudge = 'named:a'\nanswer_at = 0.7\nfallback = 'a2'\n"
        "[deployment.a2]\njudge = 'named:a@2'\nanswer_at = 0.9\nrefuse_below = 0.2\n"
    )
    chain = links(file, text)
    assert models(chain) == ["a", "a"]
    decision = load_gate(file, environ={}).check("Why?", ["Because."])
    assert (decision.route, decision.thresholds) == (Route.CLARIFY, Thresholds(0.9, 0.2))


# What stands in a fallback and in the table that it extends; which key is lacking, if one is.
OWN_THRESHOLDS: list[tuple[str, str, str | None]] = [
    ("judge = 'named:b'\nanswer_at = 0.9\nrefuse_below = 0.2", "", None),
    ("answer_at = 0.9\nrefuse_below = 0.2", "judge = 'named:b'", None),
    ("answer_at = 0.9", "judge = 'named:b'\nrefuse_below = 0.2", None),
    ("", "judge = 'named:b'\nanswer_at = 0.9\nrefuse_below = 0.2", None),
    ("judge = 'named:b'", "", "answer_at is missing in a fallback"),
    ("judge = 'named:b'\nanswer_at = 0.9", "", "refuse_below is missing in a fallback"),
    ("judge = 'named:b'", "answer_at = 0.9\nrefuse_below = 0.2", "answer_at is inherited"),
    (
        "judge = 'named:b'\nanswer_at = 0.9",
        "judge = 'named:c'\nrefuse_below = 0.2",
        "refuse_below is inherited",
    ),
]


@pytest.mark.parametrize(("child", "parent", "problem"), OWN_THRESHOLDS)
@pytest.mark.usefixtures("named")
def test_a_fallback_has_thresholds_of_its_own(
    file: Path, child: str, parent: str, problem: str | None
) -> None:
    """Set where its judge is named, or on top of that; those of another judge will not do."""
    text = (
        "[deployment.default]\njudge = 'named:a'\nfallback = 'b'\n"
        f"[deployment.p]\n{parent}\n[deployment.b]\nextends = 'p'\n{child}\n"
    )
    if problem is None:
        assert links(file, text)[1].profile == Profile(Thresholds(0.9, 0.2))
        return
    error = error_of(file, text)
    assert error.message.startswith(f"{file}: deployment.b.{problem}")
    assert "thresholds for one judge are not thresholds for another" in error.message
    assert "`answer_at = …` and `refuse_below = …` beside the `judge`" in (error.hint or "")


@pytest.mark.usefixtures("named")
def test_variables_and_options_are_about_the_chosen_one(file: Path) -> None:
    """A fallback is what the file says it is."""
    file.write_text(CHAIN)
    environ = {"RAG_GUARD_ANSWER_AT": "0.97", "RAG_GUARD_BASE_URL": "http://127.0.0.1:1/v1"}
    gate = load_gate(file, environ=environ, options={"judge": "named:z", "refuse_below": 0.2})
    assert isinstance(gate.judge, Chain)
    assert models(gate.judge.links) == ["z", "b", "c"]
    assert gate.policy.thresholds == Thresholds(0.97, 0.2)
    assert gate.judge.links[1].profile == Profile(Thresholds(0.95, 0.1))


CUTS = "answer_at = 0.9\nrefuse_below = 0.2\n"
WRONG_FALLBACKS = [
    (
        f"judge = 'openai:m'\napi_key_env = 'NONE_SUCH'\n{CUTS}",
        "deployment.b.api_key_env names a variable that is not set",
        "Set that variable",
    ),
    (f"judge = 'openai:m'\n{CUTS}", "deployment.b.judge: No key for api.openai.com", "api_key_env"),
    (
        f"judge = 'systemone:m'\n{CUTS}",
        "deployment.b.judge: The judge 'systemone' lacks",
        "base_url",
    ),
    (f"judge = 'nobody:x'\n{CUTS}", "deployment.b.judge: Unknown judge 'nobody'", "openai:MODEL"),
    ("answer_at = 0.9", "deployment.b.judge is missing", "into that table"),
    ("judge = 'scripted:1'\nanswer_at = 0.1", "deployment.b.answer_at", "the lower one"),
    ("judge = 'samples:m'\nboth_orders = true", "deployment.b.both_orders is for", "Take it"),
    (
        f"judge = 'samples:m'\nsamples = 18\n{CUTS}",
        "deployment.b.samples: samples = 18 reaches 0.854 at most: no query could be answered at "
        "0.9",
        "Use 28 or more, or lower answer_at.",
    ),
]


@pytest.mark.parametrize(("keys", "problem", "remedy"), WRONG_FALLBACKS)
def test_wrong_fallbacks(file: Path, keys: str, problem: str, remedy: str) -> None:
    """They are found when the gate is made, not in the first outage, and at their own place."""
    text = f"[deployment.default]\njudge = 'scripted:0.9'\nfallback = 'b'\n[deployment.b]\n{keys}"
    error = error_of(file, text)
    assert error.message.startswith(f"{file}: deployment.b")
    assert problem in error.message
    assert remedy in (error.hint or "")


@pytest.mark.wire
def test_the_documented_fallback_is_true(file: Path, wire: Callable[[Script], WireServer]) -> None:
    """docs/configuration.md: its example loads, and its record is what comes of an outage."""
    page = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text("utf-8")
    section = page.partition("## Fallback")[2].partition("\n## ")[0]
    [text] = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    [shown] = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    body = verdict(math.log(0.9), math.log(0.1 - 1e-9))
    server = wire(Answer({**body, "model": "qwen3-4b"}))
    file.write_text(text.replace("http://127.0.0.1:8080/v1", server.url))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    gate = load_gate(
        file,
        environ={"OPENAI_API_KEY": CANARY},
        options={"base_url": f"http://{nobody}/v1"},
    )
    record = gate.check("Why?", ["Because."]).to_dict()
    judges.close(gate.judge)
    found = json.dumps(record).replace(nobody, "api.openai.com")
    found = re.sub(r"(:gpt-6-luna|:qwen3-4b):[0-9a-f]{16}", r"\1:…", found)
    found = re.sub(r'("seconds"): [^}]+', r"\1: 0.2", found)
    expected = json.loads(shown)
    told = {key: value for key, value in json.loads(found).items() if key in expected}
    assert told == {**expected, "probability": pytest.approx(0.9, abs=1e-3)}


def test_resolving_needs_no_key_of_a_fallback(file: Path) -> None:
    """What a deployment amounts to can be shown without the secrets of another."""
    text = "[deployment.default]\nfallback = 'b'\n[deployment.b]\napi_key_env = 'NONE_SUCH'"
    assert load(file, text).fallback == "b"


# ── Profiles, prices, messages by function ───────────────────────────────────────────────────────

MADE = Thresholds(0.61, 0.07)


@pytest.fixture
def profiled(file: Path) -> Callable[..., Profile]:
    """Writes a profile into a folder beside the configuration."""
    (file.parent / "sub").mkdir()

    def made(name: str, fingerprint: str | None = "scripted:0.8", **more: Any) -> Profile:
        profile = Profile(MADE, fingerprint, **more)
        profile.save(file.parent / "sub" / f"{name}.profile.json")
        return profile

    return made


# What stands in the child and in the table that it extends, variables, options; whether the profile
# applies, and which thresholds do where it does not.
P = "profile = 'sub/a.profile.json'\n"
CUT = "answer_at = 0.9\nrefuse_below = 0.2\n"
BEATS: list[tuple[str, str, dict[str, str], dict[str, object], Thresholds | None]] = [
    (P, "", {}, {}, None),
    ("", P, {}, {}, None),
    (P, CUT, {}, {}, None),
    (CUT, P, {}, {}, Thresholds(0.9, 0.2)),
    ("", "", {"RAG_GUARD_PROFILE": "{folder}/sub/a.profile.json"}, {}, None),
    (CUT, "", {"RAG_GUARD_PROFILE": "{folder}/sub/a.profile.json"}, {}, None),
    (CUT, "", {}, {"profile": "{folder}/sub/a.profile.json"}, None),
    (P, "", {}, {"answer_at": 0.9, "refuse_below": 0.2}, Thresholds(0.9, 0.2)),
    (
        P,
        "",
        {"RAG_GUARD_ANSWER_AT": "0.9", "RAG_GUARD_REFUSE_BELOW": "0.2"},
        {"profile": "{folder}/sub/a.profile.json"},
        None,
    ),
]


@pytest.mark.parametrize(("child", "parent", "environ", "options", "cuts"), BEATS)
def test_a_profile_and_thresholds_beat_each_other(
    file: Path,
    profiled: Callable[..., Profile],
    child: str,
    parent: str,
    environ: dict[str, str],
    options: dict[str, object],
    cuts: Thresholds | None,
) -> None:
    """What comes later wins, and takes all of the other's place."""
    made = profiled("a", calibrator=Temperature(2.0))
    file.write_text(
        f"[deployment.p]\njudge = 'scripted:0.8'\n{parent}[deployment.c]\nextends = 'p'\n{child}"
    )
    here = str(file.parent)
    gate = load_gate(
        file,
        deployment="c",
        environ={key: value.format(folder=here) for key, value in environ.items()},
        options={
            key: value.format(folder=here) if isinstance(value, str) else value
            for key, value in options.items()
        },
    )
    decision = gate.check("Why?", ["Because."])
    assert gate.profile == (made if cuts is None else None)
    assert decision.thresholds == (cuts or MADE)
    assert decision.calibrated is (cuts is None)
    assert decision.to_dict()["profile"] == ("a" if cuts is None else None)


def test_one_threshold_does_not_beat_a_profile(file: Path) -> None:
    """It would say nothing of the other one."""
    text = (
        f"[deployment.p]\njudge = 'scripted:0.8'\n{P}[deployment.c]\nextends = 'p'\nanswer_at = 0.9"
    )
    error = error_of(file, text, name="c")
    assert error.message.startswith(f"{file}: deployment.c.answer_at takes the place of a profile")
    assert "Give both" in (error.hint or "")


def test_a_profile_is_found_from_anywhere(
    file: Path, profiled: Callable[..., Profile], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a file its path is relative to that file; in a variable, to where one stands."""
    made = profiled("a")
    file.write_text(f"[deployment.p]\njudge = 'scripted:0.8'\n{P}")
    monkeypatch.chdir("/")
    assert load_gate(file, environ={}).profile == made
    monkeypatch.chdir(tmp_path)
    assert load_gate("guard.toml", environ={}).profile == made
    variable = {"RAG_GUARD_PROFILE": "a.profile.json", "RAG_GUARD_JUDGE": "scripted:0.8"}
    monkeypatch.chdir(tmp_path / "sub")
    assert load_gate(environ=variable).profile == made
    assert load_gate("../guard.toml", environ=variable).profile == made


def test_a_profile_set_by_hand_names_its_place(
    file: Path, profiled: Callable[..., Profile]
) -> None:
    """The key, the file, and what to do."""
    profiled("a")
    path = file.parent / "sub" / "a.profile.json"
    path.write_text(path.read_text().replace("0.61", "0.31"))
    error = error_of(file, f"[deployment.p]\njudge = 'scripted:0.8'\n{P}")
    assert error.message.startswith(f"{file}: deployment.p.profile: {path} is not as rag-guard")


def test_a_profile_for_another_judge_names_its_place(
    file: Path, profiled: Callable[..., Profile]
) -> None:
    """Unless ``on_stale`` says what to do; a tool that makes a new one leaves it aside."""
    profiled("a", "scripted:other")
    text = f"[deployment.p]\njudge = 'scripted:0.8'\n{P}"
    error = error_of(file, text)
    assert isinstance(error, ProfileMismatch)
    assert error.message.startswith(f"{file}: deployment.p.profile: The profile is for scripted:o")
    file.write_text(text)
    assert load_gate(file, environ={}, profiles=False).profile is None
    file.write_text(f"{text}on_stale = 'clarify'")
    decision = load_gate(file, environ={}).check("Why?", ["Because."])
    assert (decision.route, decision.reason) == (Route.CLARIFY, Reason.STALE_PROFILE)


def test_a_profile_goes_stale_with_any_key_of_its_judge(
    file: Path, profiled: Callable[..., Profile]
) -> None:
    """Another packing, other labels, both orders: each is another judge."""
    base = "[deployment.p]\njudge = 'openai:m'\nbase_url = 'http://127.0.0.1:1/v1'\nattempts = 1\n"
    file.write_text(base)
    gate = load_gate(file, environ={})
    profiled("a", gate.judge.fingerprint)
    judges.close(gate.judge)
    file.write_text(base + P)
    judges.close(load_gate(file, environ={}).judge)
    for line in (
        "max_context_chars = 999",
        "labels = { true = 'Yes', false = 'No' }",
        "both_orders = true",
    ):
        assert isinstance(error_of(file, f"{base}{P}{line}"), ProfileMismatch), line


def test_fallbacks_with_profiles(
    file: Path, named: dict[str, Scripted], profiled: Callable[..., Profile]
) -> None:
    """Two files, a judge each, thresholds and calibrators each."""
    first = profiled("a", "scripted:a", calibrator=Temperature(2.0))
    second = profiled("b", "scripted:b", calibrator=Temperature(4.0), languages=("en",))
    text = (
        f"[deployment.default]\njudge = 'named:a'\n{P}fallback = 'b'\n"
        "[deployment.b]\njudge = 'named:b'\nprofile = 'sub/b.profile.json'\n"
    )
    assert [link.profile for link in links(file, text)] == [first, second]
    gate = load_gate(file, environ={})
    assert gate.check("Why?", ["Because."]).probability == Temperature(2.0).apply(0.9)
    named["a"] = DOWN
    gate = load_gate(file, environ={})
    decision = gate.check("Why?", ["Because."])
    assert decision.probability == Temperature(4.0).apply(0.9)
    assert gate.check("Pourquoi ?", ["Because."], lang="fr").reason is Reason.STALE_PROFILE
    profiled("b", "scripted:c")
    error = error_of(file, text)
    assert error.message.startswith(f"{file}: deployment.b.profile: The profile is for scripted:c")


def test_a_fallback_goes_stale_alone_where_the_policy_allows_for_it(
    file: Path, named: dict[str, Scripted], profiled: Callable[..., Profile]
) -> None:
    """With ``on_stale`` of the first, which is the policy's, the others go on."""
    profiled("a", "scripted:a")
    profiled("b", "scripted:c")
    file.write_text(
        f"[deployment.default]\njudge = 'named:a'\n{P}fallback = 'b'\non_stale = 'clarify'\n"
        "[deployment.b]\njudge = 'named:b'\nprofile = 'sub/b.profile.json'\n"
    )
    first = load_gate(file, environ={}).check("Why?", ["Because."])
    assert first.reason is not Reason.STALE_PROFILE
    named["a"] = DOWN
    second = load_gate(file, environ={}).check("Why?", ["Because."])
    assert (second.route, second.reason) == (Route.CLARIFY, Reason.STALE_PROFILE)


def test_judges_are_freed_where_a_profile_is_for_another(
    file: Path, profiled: Callable[..., Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that stays loaded is no small thing."""
    closed = list[Judge]()
    monkeypatch.setattr(judges, "close", closed.append)
    profiled("a", "scripted:other")
    error_of(file, f"[deployment.p]\njudge = 'scripted:1'\n{P}")
    assert [judge.fingerprint for judge in closed] == ["scripted:1.0"]


def test_a_fallback_inherits_no_profile(
    file: Path, named: dict[str, Scripted], profiled: Callable[..., Profile]
) -> None:
    """One that was set for another judge, even if it does not say for which."""
    profiled("a", None)
    error = error_of(
        file,
        "[deployment.default]\njudge = 'named:a'\nfallback = 'b'\n"
        f"[deployment.p]\njudge = 'named:c'\n{P}"
        "[deployment.b]\nextends = 'p'\njudge = 'named:b'\n",
    )
    assert error.message.startswith(f"{file}: deployment.b.profile is inherited")
    assert not named


def test_too_few_samples_for_a_profile(file: Path, profiled: Callable[..., Profile]) -> None:
    """What counts is what the calibrator makes of the most that they reach."""
    profiled("a", None, calibrator=Temperature(20.0))
    error = error_of(file, f"[deployment.b]\njudge = 'samples:m'\nsamples = 100\n{P}")
    assert "deployment.b.profile: samples = 100 reaches 0.5" in error.message
    assert error.message.endswith("no query could be answered at 0.61.")


def test_a_price_is_for_the_judge_that_it_stands_beside(file: Path) -> None:
    """Another judge costs something else."""
    text = (
        "[deployment.p]\njudge = 'scripted:1'\nprice = { input = 1, output = 2 }\n"
        "[deployment.c]\nextends = 'p'\nprice.currency = 'EUR'\nprice.input = 3\n"
        "price.output = 2\n[deployment.d]\nextends = 'p'\njudge = 'scripted:0'\n"
    )
    file.write_text(text)
    prices = [load_gate(file, deployment=name, environ={}).price for name in "pcd"]
    assert prices == [Price(1, 2), Price(3, 2, currency="EUR"), None]
    options = {"judge": "scripted:0.3"}
    assert load_gate(file, deployment="p", environ={}, options=options).price is None


def test_messages_by_function(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported when the gate is made; for all languages or for one."""
    (tmp_path / "own_messages.py").write_text(
        "def said(route, lang):\n    return f'{route} in {lang}'\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    file.write_text(
        "[deployment.a]\njudge = 'scripted:0'\n"
        "messages = { refuse = { default = 'No.', de = 'own_messages:said' } }\n"
    )
    gate = load_gate(file, environ={})
    assert gate.check("Why?", ["x"], lang="de-CH").message == "refuse in de-CH"
    assert gate.check("Why?", ["x"]).message == "No."
    resolve(file, environ={})
    assert "own_messages:said" in resolve(file, environ={})[1].to_toml("a")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import none_such_module", "its module needs none_such_module"),
        ("1 / 0", "importing its module fails (ZeroDivisionError)"),
        ("said = 'text'", "its module has no such function"),
    ],
)
def test_a_function_that_cannot_be_had(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    """Said when the gate is made, not to the first user."""
    name = f"broken_{len(text)}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    whole = f"[deployment.a]\njudge = 'scripted:0'\nmessages.refuse = '{name}:said'\n"
    error = error_of(file, whole)
    assert error.message == (
        f"{file}: deployment.a.messages.refuse names a function that cannot be used: {problem}."
    )
    assert load(file, whole).messages.refuse == f"{name}:said"  # Nothing is imported for that.


def test_the_documented_tables_load(file: Path) -> None:
    """docs/configuration.md: every TOML block of it."""
    page = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text("utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    found = [
        load(file, block, name) for block in blocks for name in tomllib.loads(block)["deployment"]
    ]
    assert {"support-bot.profile.json"} < {one.profile for one in found}
    assert Price(0.15, 0.6, 0.075, "EUR") in [one.price_of_tokens() for one in found]


def test_a_text_with_a_colon_is_a_text(file: Path) -> None:
    """Only what could be no sentence is taken for a function's name."""
    for text in ("Note: nothing found.", "抱歉:不知道", "No:", ":-(", "a:b:c", "http://help"):
        file.write_text(f"[deployment.a]\njudge = 'scripted:0'\nmessages.refuse = '{text}'\n")
        assert load_gate(file, environ={}).check("Why?", ["x"]).message == text


# ── Keys that a judge can make nothing of ────────────────────────────────────────────────────────

READING = ("openai:m", "azure:m", "samples:m", "decisions:m", "systemone:m", "gguf:m")
EVERY = (*READING, "embedded", "scripted:0.9")
SUITED = {
    "model_family = 'x'": ("openai:m", "azure:m", "samples:m"),
    "api_version = 'x'": ("azure:m",),
    "samples = 30": ("samples:m",),
    "ask_underspecified = true": ("decisions:m", "systemone:m"),
    "both_orders = true": ("openai:m", "azure:m"),
    "min_mass = 0.4": ("openai:m", "azure:m", "samples:m", "gguf:m"),
    "max_context_chars = 900": READING,
    "labels = { true = 'Yes', false = 'No' }": READING,
}
UNSUITED = [(line, judge) for line, fit in SUITED.items() for judge in EVERY if judge not in fit]


@pytest.mark.parametrize(("line", "judge"), UNSUITED)
def test_a_key_is_not_silently_ignored(file: Path, line: str, judge: str) -> None:
    """Neither beside the judge's name nor on top of it."""
    beside = f"[deployment.bot]\njudge = '{judge}'\n{line}"
    above = f"[deployment.p]\njudge = '{judge}'\n[deployment.bot]\nextends = 'p'\n{line}"
    key = line.partition(" ")[0]
    for text in (beside, above):
        error = error_of(file, text, name="bot")
        assert error.message.startswith(f"{file}: deployment.bot.{key} is for ")
        assert error.message.endswith(f", not for {judge.partition(':')[0]}:.")


@pytest.mark.parametrize(("line", "judge"), UNSUITED)
def test_a_key_of_another_judge_is_left_with_it(file: Path, line: str, judge: str) -> None:
    """Inherited, or under an option; and the judge is not given it."""
    key = line.partition(" ")[0]
    text = f"[deployment.p]\njudge = '{SUITED[line][0]}'\n{line}\n[deployment.bot]\nextends = 'p'"
    inherited = load(file, f"{text}\njudge = '{judge}'", "bot")
    file.write_text(text)
    _, under_option = resolve(file, "bot", {}, {"judge": judge})
    for found in (inherited, under_option):
        assert getattr(found, key) == Deployment.model_fields[key].default


@pytest.mark.parametrize("line", SUITED)
def test_a_key_that_suits_is_taken(file: Path, line: str) -> None:
    """By all its kinds, and by a plug-in, whose own business it is."""
    for judge in (*SUITED[line], "mine:x"):
        found = load(file, f"[deployment.bot]\njudge = '{judge}'\n{line}")
        assert line.partition(" ")[0] in found.model_fields_set


def test_an_option_that_the_files_judge_cannot_use(file: Path) -> None:
    """It is called by its option."""
    file.write_text("[deployment.bot]\njudge = 'decisions:m'")
    with pytest.raises(ConfigError) as caught:
        resolve(file, environ={}, options={"model_family": "gpt-4o"})
    assert caught.value.message == (
        "--model-family is for openai:, azure: and samples:, not for decisions:."
    )


def test_a_script_may_stand_in_for_any_judge(file: Path) -> None:
    """Also for one that is asked in both orders: what was set for that one is left with it."""
    keys = "both_orders = true\nmax_context_chars = 900"
    file.write_text(f"[deployment.bot]\njudge = 'openai:m'\n{keys}")
    gate = load_gate(file, environ={}, options={"judge": "scripted:0.9"})
    assert gate.check("Why?", ["Because."]).route is Route.ANSWER


@pytest.mark.parametrize("judge", [*EVERY, "mine:x"])
def test_what_is_written_suits_the_judge(file: Path, judge: str) -> None:
    """Keys that it cannot use are not written, so that what is written loads."""
    deployment = Deployment(judge=judge)
    assert load(file, deployment.to_toml("bot")) == deployment


@pytest.mark.parametrize("key", ["extends", "fallback"])
def test_options_cannot_name_tables(file: Path, key: str) -> None:
    """Instead of being ignored."""
    file.write_text("[deployment.default]\njudge = 'scripted:1'\n[deployment.b]")
    with pytest.raises(ConfigError, match=f"^--{key} is for the file alone") as caught:
        load_gate(file, environ={}, options={key: "b"})
    assert "[deployment.NAME]" in (caught.value.hint or "")


# ── Addresses ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("user", [f"user:{CANARY}", CANARY, f":{CANARY}", ""])
def test_an_address_holds_no_key(file: Path, monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    """Neither in the file nor in a variable, nor where a judge is made by its name."""
    address = f"http://{user}@127.0.0.1:1/v1"
    error = error_of(file, f"[deployment.bot]\njudge = 'openai:m'\nbase_url = '{address}'")
    assert error.message == f"{file}: deployment.bot.base_url holds a user name."
    assert "what stands before the @" in (error.hint or "") and "api_key_env" in (error.hint or "")
    variable = {"RAG_GUARD_BASE_URL": address}
    error = error_of(file, "[deployment.bot]\njudge = 'openai:m'", variable)
    assert error.message == "RAG_GUARD_BASE_URL holds a user name."
    azure = {"api_key": "k", "api_version": "1"}
    for name, more in (("openai:m", {}), ("systemone:m", {}), ("azure:m", azure)):
        with pytest.raises(ConfigError, match="holds a user name") as caught:
            judges.from_name(name, base_url=address, **more)  # type: ignore[arg-type]
        assert CANARY not in f"{caught.value}"
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL"):
        judges.from_name("openai:m")


@pytest.mark.parametrize("judge", ["openai:m", "samples:m", "azure:m"])
@pytest.mark.parametrize("end", ["/chat/completions", "/completions/", "/responses"])
def test_an_address_is_not_that_of_one_endpoint(file: Path, judge: str, end: str) -> None:
    """The error says which part is too much."""
    text = f"[deployment.bot]\njudge = '{judge}'\nbase_url = 'http://127.0.0.1:1/v1{end}'"
    error = error_of(file, text)
    part = end.rstrip("/")
    assert error.message.startswith(f"{file}: deployment.bot.judge: base_url (or ")
    assert error.message.endswith(f") ends in {part}.")
    assert f"Remove {part}" in (error.hint or "")


def test_an_address_in_a_variable_is_not_that_of_one_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The SDK reads it too."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1/chat/completions")
    with pytest.raises(ConfigError, match=r"OPENAI_BASE_URL\) ends in /chat/completions"):
        judges.from_name("openai:m")


@pytest.mark.parametrize("end", ["/openai", "/openai/", "/openai/v1", "/openai/v1/"])
def test_an_azure_address_is_the_resources_own(end: str) -> None:
    """Its page in Azure shows longer ones as well."""
    with pytest.raises(ConfigError, match=rf"ends in {end.rstrip('/')}\. Re") as caught:
        judges.from_name(
            "azure:d", base_url=f"https://x.openai.azure.com{end}", api_key="k", api_version="1"
        )
    assert "the resource's own address" in (caught.value.hint or "")


# ── Keys of known providers, samples that suffice ────────────────────────────────────────────────

USUAL = [
    ("openai:claude-x", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    ("samples:grok-4", "https://api.x.ai/v1", "XAI_API_KEY"),
    ("systemone:jev-latest", "https://api.typesafe.ai/v1", "TYPESAFE_API_KEY"),
]


@pytest.mark.parametrize(("judge", "address", "variable"), USUAL)
def test_the_usual_variable_of_a_key_is_named(
    file: Path, judge: str, address: str, variable: str
) -> None:
    """Where the host is known and no key is given."""
    error = error_of(file, f"[deployment.bot]\njudge = '{judge}'\nbase_url = '{address}'")
    host = address.split("/")[2]
    assert f"No key for {host}" in error.message
    assert (error.hint or "").endswith(f'Usual for {host}: api_key_env = "{variable}".')


def test_no_variable_is_guessed(file: Path) -> None:
    """Of a host that nobody knows; OpenAI's own the hint names anyway."""
    for line in ("", "base_url = 'https://example.org/v1'"):
        error = error_of(file, f"[deployment.bot]\njudge = 'openai:m'\n{line}")
        assert "Usual" not in (error.hint or "")


# Keys beside samples:; the place and the end of the message, and the remedy.
OUT_OF_REACH = [
    ("samples = 5", "samples", "samples = 5 reaches 0.607 at most", "0.85", "Use 18 or more, or"),
    ("answer_at = 0.9", "answer_at", "samples = 20 reaches 0.867", "0.9", "Use 28 or more, or"),
    ("samples = 200\nanswer_at = 1", "samples", "reaches 0.985", "1", "Lower answer_at."),
]


@pytest.mark.parametrize(("keys", "place", "most", "at", "remedy"), OUT_OF_REACH)
def test_too_few_samples_to_answer_anything(
    file: Path, keys: str, place: str, most: str, at: str, remedy: str
) -> None:
    """Found when the gate is made; nobody would find out why nothing is ever answered."""
    error = error_of(file, f"[deployment.bot]\njudge = 'samples:m'\n{keys}")
    assert error.message.startswith(f"{file}: deployment.bot.{place}: ")
    assert most in error.message
    assert error.message.endswith(f"no query could be answered at {at}.")
    assert (error.hint or "").startswith(remedy)


def test_just_enough_samples(file: Path) -> None:
    """What the error says is enough."""
    file.write_text("[deployment.bot]\njudge = 'samples:m'\nsamples = 18\napi_key_env = 'K'")
    gate = load_gate(file, environ={"K": CANARY})
    judges.close(gate.judge)


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
        "canary": PROBABILITY,
        "audit": st.fixed_dictionaries(
            {"path": SAID},
            optional={
                "texts": st.booleans(),
                "text_days": st.integers(1, 36_500),
                "max_bytes": st.integers(10_000, 10**12),
            },
        ),
        "on_stale": ROUTES,
        "price": st.fixed_dictionaries(
            {"input": st.floats(0, 1e9), "output": st.floats(0, 1e9)},
            optional={"cached": st.floats(0, 1e9), "currency": SAID},
        ),
        "min_mass": PROBABILITY,
        "api_version": ANY_TEXT.filter(str.strip),
        "samples": st.integers(3, 200),
        "ask_underspecified": st.booleans(),
        "both_orders": st.booleans(),
        "max_context_chars": st.integers(1, 10**9),
        "labels": st.just({"true": "是", "false": '"n"'}),
        "messages": st.fixed_dictionaries({}, optional={"refuse": TEXTS, "clarify": TEXTS}),
    }
    values = draw(st.fixed_dictionaries({}, optional=keys))
    cuts: dict[str, object] = {"answer_at": answer_at, "refuse_below": refuse_below}
    if draw(st.booleans()):
        cuts = {"profile": draw(SAID)}
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


def test_verdicts_are_kept_in_memory_or_in_a_file(file: Path) -> None:
    """`cache` names either; a second gate finds what the first one left in the file."""
    kept = file.parent / "verdicts"
    for cache, found in (("memory", False), (str(kept), False), (str(kept), True)):
        file.write_text(f"[deployment.a]\njudge = 'scripted:0.9'\ncache = '{cache}'\n")
        gate = load_gate(file, environ={})
        assert gate.check("When?", ["1932"]).cached is found
        assert gate.check("When?", ["1932"]).cached is True


def test_a_cache_that_cannot_be_opened_names_its_place(file: Path) -> None:
    """The key, the path, and what to do."""
    file.write_text("[deployment.a]\njudge = 'scripted:0.9'\ncache = '/nowhere/at/all'\n")
    with pytest.raises(ConfigError, match=r"deployment\.a\.cache: .*cannot be opened") as caught:
        load_gate(file, environ={})
    assert caught.value.hint
