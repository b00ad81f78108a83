"""The examples run as they are."""

import importlib.util
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from providers import PROVIDERS
from wire import Answer, Script, WireServer, verdict

pytestmark = pytest.mark.local
EXAMPLES = Path(__file__).parent.parent / "examples"
Wire = Callable[[Script], WireServer]


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("p", "route"), [(0.95, "answer"), (0.5, "clarify"), (0.05, "refuse")])
def test_fastapi_app(monkeypatch: pytest.MonkeyPatch, p: float, route: str) -> None:
    """The FastAPI recipe answers over HTTP, or says the policy's message, by route."""
    from fastapi.testclient import TestClient

    monkeypatch.setenv("RAG_GUARD_JUDGE", f"scripted:{p}")
    reply = TestClient(load("fastapi_app").app).post("/ask", json={"question": "The old bridge?"})
    assert reply.status_code == 200
    body = reply.json()
    assert body["route"] == route
    assert ("1932" in body["text"]) == (route == "answer")
    assert len(body["decision_id"]) == 32


def test_fastapi_app_without_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is retrieved, it refuses without asking the judge."""
    from fastapi.testclient import TestClient

    monkeypatch.setenv("RAG_GUARD_JUDGE", "scripted:0.95")
    reply = TestClient(load("fastapi_app").app).post("/ask", json={"question": "Zebras?"})
    assert reply.json()["route"] == "refuse"


@pytest.mark.parametrize(
    ("p", "said"), [("0.9", "your model writes"), ("0.1", "don't have enough")]
)
def test_plain_gate(capsys: pytest.CaptureFixture[str], p: str, said: str) -> None:
    """The plain recipe acts on the route."""
    load("plain_gate").main(f"scripted:{p}")
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(("p", "said"), [("0.9", "1932"), ("0.1", "don't have enough")])
def test_llama_index_app(capsys: pytest.CaptureFixture[str], p: str, said: str) -> None:
    """The LlamaIndex application answers from its notes, or refuses."""
    load("llama_index_app").main(f"scripted:{p}")
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("When was the old bridge opened?", "answer (sufficient, P = 0.98"),
        ("Who designed the old bridge?", "refuse (insufficient, P = 0.01"),
    ],
)
def test_llama_index_judge(
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    question: str,
    said: str,
) -> None:
    """One endpoint judges, and is asked for an answer where the notes suffice, and only there."""
    server = wire(replace(PROVIDERS["llama-cpp"], model="MODEL"))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setattr("sys.argv", ["llama_index_judge.py", question])
    runpy.run_path(str(EXAMPLES / "llama_index_judge.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert out.startswith(said)
    assert ("Hello" in out) == said.startswith("answer")  # All that the imitation can write.
    assert len(server.requests) == (2 if said.startswith("answer") else 1)


def test_ada_lovelace(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The four published questions go to any judge; the published bounds stand beside."""
    server = wire(Answer(verdict(-0.01, -6.0)))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setattr("sys.argv", ["run.py", "openai:MODEL"])
    runpy.run_path(str(EXAMPLES / "ada_lovelace" / "run.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert len(server.requests) == 4
    for bounds in ("[0.9998, 1.0000]", "[0.0000, 0.0697]", "[0.0000, 0.0002]", "[0.9758, 1.0000]"):
        assert bounds in out
