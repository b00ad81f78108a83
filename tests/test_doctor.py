"""``rag-guard doctor`` against imitations of real providers: what it finds, and if that helps."""

import io
import json
import socket
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from providers import KEY, PROVIDERS, Running, imitating
from wire import Answer, chat, padded, token, verdict

from guard import Route
from guard.cli import main
from guard.config import load_gate, resolve
from guard.doctor import INSUFFICIENT, SUFFICIENT
from guard.judges import close
from guard.judges.endpoint import endpoint_for

pytestmark = pytest.mark.wire

EXIT_CODES = {"can judge": 0, "only with": 0, "cannot": 6, "not known": 5}
STATES = {"ok", "warn", "bad", "unknown"}
NAMES = set(
    "reachable auth model logprobs alternatives mass verdicts order_bias temperature reasoning "
    "token_floor prefix_cache prompt_limit latency openai decisions systemone samples".split()
)
KEYS = set(
    "judge address provider known conclusion because needs instead findings calls toml".split()
)


@dataclass(frozen=True)
class Row:
    """What must come of examining one provider.

    Attributes:
        instead: the kind of judge that is named instead.
        finds: findings by name: a state, or a state and a value.
        needs: a word of what has to be set or accepted.
        judge: the kind of judge that is configured, if not the provider's own.
    """

    name: str
    conclusion: str
    instead: str | None = None
    finds: Mapping[str, str | tuple[str, Any]] = field(default_factory=dict[str, Any])
    needs: str | None = None
    judge: str | None = None


MUTE: Mapping[str, Any] = {
    "reachable": "ok",
    "auth": "ok",
    "logprobs": ("bad", "absent"),
    "decisions": "bad",
    "systemone": "bad",
    "samples": "ok",
}
OPEN: Mapping[str, Any] = {"reachable": "ok", "auth": "ok", "model": "ok", "verdicts": "ok"}
FULL: Mapping[str, Any] = {**OPEN, "logprobs": ("ok", "present"), "mass": "ok"}
SWITCHED_OFF = {"reasoning_effort": "none"}
ONE_HOT: Mapping[str, Any] = {
    **OPEN,
    "logprobs": ("warn", "truncated"),
    "alternatives": "warn",
    "reasoning": ("ok", SWITCHED_OFF),
    "token_floor": ("ok", 8),
    "prefix_cache": "ok",
}

ROWS = [
    Row(
        "openai-full",
        "can judge",
        finds={
            **FULL,
            "alternatives": ("ok", 20),
            "token_floor": ("ok", 1),
            "prefix_cache": "ok",
            "prompt_limit": "ok",
            "order_bias": "ok",
        },
    ),
    Row("openai-gpt-5.4", "only with", finds=ONE_HOT, needs="Accept"),
    Row("openai-gpt-5.5", "only with", finds=ONE_HOT, needs="Accept"),
    Row("gateway-gpt-5.5", "only with", finds=ONE_HOT, needs="Accept"),
    Row("openai-never", "cannot", "samples", MUTE),
    Row("openai-never-unfinished", "cannot", "samples", MUTE),
    Row("gateway-never", "cannot", "samples", MUTE),
    Row(
        "openai-decisions",
        "cannot",
        "decisions",
        {"logprobs": ("bad", "absent"), "decisions": "ok"},
    ),
    Row("openai-decisions", "can judge", judge="decisions", finds=OPEN),
    Row("azure-old-api", "can judge", finds={**FULL, "alternatives": ("warn", 5)}),
    Row(
        "azure-content-filter", "cannot", finds={"reachable": "ok", "auth": "ok", "verdicts": "bad"}
    ),
    Row(
        "vllm",
        "can judge",
        finds={**FULL, "alternatives": ("warn", 5), "temperature": ("ok", "raw")},
    ),
    Row("vllm-masked", "only with", finds={"logprobs": ("warn", "truncated")}, needs="Accept"),
    Row("sglang", "can judge", finds={**FULL, "temperature": ("ok", "after temperature")}),
    Row(
        "llama-cpp",
        "can judge",
        finds={**FULL, "temperature": ("ok", "raw"), "prompt_limit": ("warn", 4096)},
    ),
    Row("llama-cpp-decision-model", "can judge", finds=OPEN),
    Row("llama-cpp-decision-model", "cannot", "systemone", {"systemone": "ok"}, judge="openai"),
    Row(
        "ollama",
        "only with",
        finds={**FULL, "prompt_limit": ("bad", 4096)},
        needs="max_context_chars",
    ),
    Row(
        "ollama-thinking",
        "only with",
        finds={**FULL, "reasoning": ("ok", SWITCHED_OFF)},
        needs="max_context_chars",
    ),
    Row("lm-studio", "cannot", "samples", MUTE),
    Row(
        "deepseek",
        "can judge",
        finds={**FULL, "reasoning": ("ok", {"thinking": {"type": "disabled"}})},
    ),
    Row("gateway-deepseek", "can judge", finds={**FULL, "reasoning": "ok"}),
    Row("qwen-on-vllm", "can judge", finds={**FULL, "reasoning": "ok"}),
    Row("gemini", "cannot", "samples", MUTE),
    Row("gemini-unknown-name", "cannot", "samples", MUTE),
    Row("anthropic", "cannot", "samples", MUTE),
    Row("anthropic", "can judge", judge="samples", finds=OPEN),
    Row("anthropic-compatible", "cannot", "samples", MUTE),
    Row("mistral", "can judge", finds=FULL),
    Row("groq", "cannot", "samples", MUTE),
    Row("xai", "cannot", "samples", MUTE),
    Row("together", "can judge", finds={**FULL, "alternatives": ("ok", 20)}),
    Row("together-newer-model", "can judge", finds={**FULL, "alternatives": ("ok", 20)}),
    Row("fireworks", "can judge", finds={**FULL, "alternatives": ("warn", 5)}),
    Row("openrouter", "can judge", finds={**FULL, "token_floor": ("ok", 16)}),
    Row("litellm-drop-params", "cannot", "samples", MUTE),
    Row("litellm-refuses", "cannot", "samples", MUTE),
    Row("tgi", "can judge", finds={**FULL, "alternatives": ("warn", 5)}),
    Row(
        "emitted-only",
        "only with",
        finds={**OPEN, "logprobs": ("warn", "emitted only")},
        needs="Accept",
    ),
    Row("jev", "can judge", finds=OPEN),
    Row("jev", "cannot", "systemone", {"systemone": "ok"}, judge="openai"),
    # ── Trouble ──
    Row("unauthorized", "not known", finds={"reachable": "ok", "auth": "bad"}),
    Row("forbidden", "not known", finds={"reachable": "ok", "auth": "bad"}),
    Row("unknown-model", "not known", finds={"reachable": "ok", "model": "bad"}),
    Row("slow", "not known", finds={"reachable": "bad"}),
    Row("rate-limited", "not known", finds={"reachable": "ok"}),
    Row("web-page", "not known", finds={}),
    Row("at-chance", "cannot", finds={"verdicts": "bad"}),
    Row("leaning", "can judge", finds={**FULL, "order_bias": "warn"}),
    Row(
        "wrong-way",
        "only with",
        finds={"verdicts": "warn", "order_bias": "bad"},
        needs="both_orders",
    ),
    Row("inverted", "cannot", finds={"verdicts": "bad"}),
]
CASES = [
    pytest.param(
        row,
        id=f"{row.name}-{row.judge}" if row.judge else row.name,
    )
    for row in ROWS
]
MOST_CALLS = 30


@dataclass(frozen=True)
class Run:
    """One run of the command line in this process."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """The one report printed, and nothing else."""
        (line,) = self.out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def findings(self) -> dict[str, dict[str, Any]]:
        """The report's findings by name; no name stands twice."""
        found = self.report["findings"]
        assert len({one["name"] for one in found}) == len(found)
        return {one["name"]: one for one in found}


RunCli = Callable[..., Run]
Start = Callable[[str], AbstractContextManager[Running]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCli:
    """Runs ``rag-guard`` with arguments, as the entry point does, knowing no endpoint yet."""
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str, width: int = 80) -> Run:
        endpoint_for.cache_clear()
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            main(args)
        assert isinstance(ended.value.code, int)
        out, err = capsys.readouterr()
        return Run(ended.value.code, out, err)

    return run


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts imitations, each in the environment that it needs."""

    @contextmanager
    def start(name: str) -> Generator[Running]:
        with imitating(name) as running, monkeypatch.context() as environment:
            for variable, value in running.environ.items():
                environment.setenv(variable, value)
            yield running

    return start


def examine(
    run: RunCli, running: Running, *options: str, kind: str | None = None, **more: int
) -> Run:
    """One run of the doctor."""
    judge = running.judge if kind is None else f"{kind}:{running.model}"
    options = ("--judge", judge, "--base-url", running.base_url, *options)
    timeout = "0.5" if running.imitation.chat_hangs else "20"
    return run("doctor", *options, "--timeout", timeout, **more)


def test_every_imitation_is_in_the_table() -> None:
    assert {row.name for row in ROWS} == set(PROVIDERS)


@pytest.mark.parametrize("row", CASES)
def test_the_report(run: RunCli, start: Start, row: Row) -> None:
    """Conclusion, exit code and findings; every promised key; few calls; no key shown."""
    with start(row.name) as running:
        done = examine(run, running, "--json", kind=row.judge)
        sent = len(running.requests)
    report, findings = done.report, done.findings
    assert (report["conclusion"], done.code) == (row.conclusion, EXIT_CODES[row.conclusion])
    assert report["instead"] == (row.instead and f"{row.instead}:{running.model}")
    for name, expected in row.finds.items():
        state, *value = (expected,) if isinstance(expected, str) else expected
        assert findings[name]["state"] == state, findings[name]
        assert value in ([], [findings[name]["value"]]), findings[name]
    assert any(row.needs in need for need in report["needs"]) if row.needs else not report["needs"]
    _require_contract(report)
    assert report["calls"] == sent
    assert sent <= MOST_CALLS or row.judge == "samples"
    assert KEY not in done.out
    assert done.err == ""


def _require_contract(report: Mapping[str, Any]) -> None:
    assert set(report) == KEYS
    assert report["because"] and report["address"]
    for finding in report["findings"]:
        assert set(finding) == {"name", "state", "value", "detail"}
        assert finding["name"] in NAMES and finding["state"] in STATES and finding["detail"]
    latency = [one["value"] for one in report["findings"] if one["name"] == "latency"]
    works = report["conclusion"] in ("can judge", "only with")
    assert len(latency) == 1 if works else True
    assert all(isinstance(seconds, float) and 0 < seconds < 20 for seconds in latency)
    assert bool(report["needs"]) == (report["conclusion"] == "only with")
    assert (report["toml"] is not None) == (works or report["instead"] is not None)


@pytest.mark.parametrize("row", CASES)
def test_the_lines_work_when_pasted(run: RunCli, start: Start, tmp_path: Path, row: Row) -> None:
    """As a file they make a gate that answers one of the known cases and refuses the other."""
    with start(row.name) as running:
        toml = examine(run, running, "--json", kind=row.judge).report["toml"]
        if row.instead is None and EXIT_CODES[row.conclusion]:
            assert toml is None
            return
        assert KEY not in toml
        file = tmp_path / "guard.toml"
        file.write_text(toml, "utf-8")
        endpoint_for.cache_clear()  # Whoever pastes them starts a process of their own.
        gate = load_gate(file)
        try:
            decisions = [
                gate.check(query.question, query.contexts) for query in (SUFFICIENT, INSUFFICIENT)
            ]
        finally:
            close(gate.judge)
    assert [decision.route for decision in decisions] == [Route.ANSWER, Route.REFUSE]
    assert all(decision.measured for decision in decisions)


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize("row", CASES)
def test_the_table(run: RunCli, start: Start, row: Row, width: int) -> None:
    """For people: the conclusion, what to do, and lines that can be pasted at any width."""
    with start(row.name) as running:
        done = examine(run, running, kind=row.judge, width=width)
    assert done.code == EXIT_CODES[row.conclusion]
    assert row.conclusion.upper() in done.out
    for text in (done.out, done.err):
        assert "Traceback" not in text and KEY not in text
    if row.instead is not None:
        assert f"{row.instead}:{running.model}" in done.out
    if row.instead is not None or not EXIT_CODES[row.conclusion]:
        assert "[deployment.default]" in done.out
        assert f'base_url = "{running.base_url}"' in done.out.splitlines()
    # The first line names the address, and lines to paste are never wrapped.
    words = done.out.partition("[deployment.default]")[0].splitlines()
    assert all(len(line) <= width for line in words)


def test_nobody_there(run: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is down is not one that cannot judge."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        done = run("doctor", "--judge", "openai:m", "--base-url", url, "--json")
        people = run("doctor", "--judge", "openai:m", "--base-url", url)
    assert (done.code, done.report["conclusion"]) == (5, "not known")
    assert done.findings["reachable"]["state"] == "bad"
    assert done.report["toml"] is done.report["instead"] is None
    assert (people.code, "NOT KNOWN" in people.out) == (5, True)
    assert "Traceback" not in people.out + people.err


def test_misuse(run: RunCli) -> None:
    """Nothing to examine, or nothing that can be."""
    for args in ((), ("--judge", "nonsense"), ("--judge", "openai:m", "--base-url", "nowhere")):
        done = run("doctor", *args)
        assert (done.code, done.out) == (2, "")
        assert "Traceback" not in done.err


@pytest.mark.parametrize("name", ["openai-gpt-5.5", "gateway-gpt-5.5", "ollama-thinking"])
def test_no_verdict_costs_a_thought(run: RunCli, start: Start, name: str) -> None:
    """Where thinking can be switched off, every request but the first few does so."""
    with start(name) as running:
        examine(run, running, "--json")
        efforts = [request.body.get("reasoning_effort") for request in running.requests]
    assert set(efforts[4:]) == {"none"}


def test_the_cut_prompt_fits_once_the_line_is_pasted(
    run: RunCli, start: Start, tmp_path: Path
) -> None:
    """Where a server cuts silently, the advised limit keeps the prompt whole."""
    with start("ollama") as running:
        toml = examine(run, running, "--json").report["toml"]
        (tmp_path / "guard.toml").write_text(toml, "utf-8")
        gate = load_gate(tmp_path / "guard.toml")
        filler = ["Rain fell on the coast for most of that week. " * 40] * 30
        decision = gate.check(SUFFICIENT.question, [*SUFFICIENT.contexts, *filler])
        close(gate.judge)
    assert decision.route is Route.ANSWER
    assert len(running.requests[-1].prompt) <= running.imitation.context


FAULTS = {
    "500": Answer({"error": {"message": "oops"}}, status=500),
    "429": Answer({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "600"}),
    "odd 400": Answer({"error": {"message": "no"}}, status=400),
    "web page": Answer(b"<html>502</html>", headers={"content-type": "text/html"}),
    "cut off": Answer({"choices": []}, cut=3),
    "no choice": Answer({"choices": []}),
    "not an object": Answer([1, 2]),
    "filtered": Answer(chat(content="", finish_reason="content_filter", logprobs=None)),
    "prose": Answer(chat(token("Well", -0.1, padded(("Well", -0.1))))),
    "no usage": Answer({**verdict(-0.1, -3.0), "usage": None}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["openai-full", "openai-decisions"])
def test_a_fault_at_any_moment(run: RunCli, start: Start, name: str, fault: str) -> None:
    """Whichever of its requests goes wrong, there is a sound report, and nothing is made up."""
    with start(name) as running:
        usual: int = examine(run, running, "--json").report["calls"]
        for moment in range(usual):
            running.imitation.faults = {len(running.requests) + moment: FAULTS[fault]}
            done = examine(run, running, "--json")
            assert done.code == EXIT_CODES[done.report["conclusion"]]
            _require_contract(done.report)
            assert done.err == ""


@pytest.mark.parametrize("fault", ["500", "429", "web page"])
def test_an_outage_is_no_finding(run: RunCli, start: Start, fault: str) -> None:
    """What could not be asked is unknown; it is not what a refusal would have meant."""
    with start("llama-cpp") as running:
        usual = examine(run, running, "--json")
        for moment in range(usual.report["calls"]):
            running.imitation.faults = {len(running.requests) + moment: FAULTS[fault]}
            findings = examine(run, running, "--json").findings
            for name in {"temperature", "token_floor", "prompt_limit"} & set(findings):
                now, then = findings[name], usual.findings[name]
                assert now["state"] == "unknown" or now["value"] == then["value"], (moment, now)


def test_other_labels(run: RunCli, start: Start, tmp_path: Path) -> None:
    """A deployment of a file is examined as it stands, and its lines go on standing."""
    with start("vllm") as running:
        (tmp_path / "old.toml").write_text(
            "[deployment.bot]\n"
            f'judge = "openai:{running.model}"\nbase_url = "{running.base_url}"\n'
            'labels = { true = "Yes", false = "No" }\nmin_mass = 0.7\n',
            "utf-8",
        )
        done = run("doctor", "--config", str(tmp_path / "old.toml"), "--json")
        assert (done.code, done.report["conclusion"]) == (0, "can judge")
        assert "write Yes" in running.requests[-1].prompt
        (tmp_path / "new.toml").write_text(done.report["toml"], "utf-8")
    _, old = resolve(tmp_path / "old.toml")
    _, new = resolve(tmp_path / "new.toml")
    assert new == old
