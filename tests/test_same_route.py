"""One query, one P(True), every way to measure it: the same route each time."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from counted import counting, fresh
from wire import Answer, Json, Request, Script, WireServer, chat, padded, token, verdict

from guard import Decision, Route
from guard.config import load_gate
from guard.judges import close, gguf
from guard.judges.rated import NAMES

pytestmark = pytest.mark.wire

Wire = Callable[[Script], WireServer]

QUESTION, CONTEXTS = "When did it open?", ["The bridge opened in 1932."]
ROUTES = {0.99: Route.ANSWER, 0.60: Route.CLARIFY, 0.02: Route.REFUSE}
MASS = 0.999  # The rest goes to other words.

# Each is a deployment's name and what is different about it.
JUDGES = {
    "chat": 'judge = "openai:m"',
    "mean": 'judge = "openai:m"\nboth_orders = true',
    "decisions": 'judge = "decisions:m"',
    "systemone": 'judge = "systemone:m"',
    "samples": 'judge = "samples:m"',
    "fallback": 'judge = "openai:none"\nfallback = "decisions"',
}
SIGNALS = {
    "chat": "logprobs",
    "mean": "mean",
    "decisions": "predicate",
    "systemone": "noul",
    "samples": "samples",
    "fallback": "predicate",
}


def serving(p: float) -> Callable[[Request], Answer]:
    """One server for all of them, of one opinion."""
    said = fresh(counting(p))

    def answer(request: Request) -> Answer:
        if request.body["model"] == "none":
            return Answer({"error": {"message": "no such model"}}, status=404)
        if request.path.endswith("/decisions"):
            return Answer(
                {"answers": [{"type": "predicate", "name": NAMES[0], "probability": round(p, 2)}]}
            )
        if request.path.endswith("/systemone"):
            return Answer({"answers": {NAMES[0]: {"type": "noul", "noul": p}}})
        if "logprobs" in request.body:
            return Answer(verdict(math.log(MASS * p), math.log(MASS * (1 - p))))
        return said(request)

    return answer


def decided(file: Path, name: str, how: str) -> Decision:
    """The decision of one deployment, by one path."""
    gate = load_gate(file, deployment=name, environ={})

    async def asked() -> Decision:
        return await gate.acheck(QUESTION, CONTEXTS)

    try:
        return gate.check(QUESTION, CONTEXTS) if how == "check" else asyncio.run(asked())
    finally:
        close(gate.judge)


@pytest.mark.parametrize("how", ["check", "acheck"])
@pytest.mark.parametrize("p", ROUTES)
@pytest.mark.parametrize("name", JUDGES)
def test_the_same_route_by_every_way_to_measure(
    wire: Wire, tmp_path: Path, name: str, p: float, how: str
) -> None:
    """The numbers differ in their bounds, and in their signal, and lead to the same place."""
    server, file = wire(serving(p)), tmp_path / "guard.toml"
    common = f'base_url = "{server.url}"\nanswer_at = 0.85\nrefuse_below = 0.30\n'
    file.write_text("".join(f"[deployment.{one}]\n{JUDGES[one]}\n{common}" for one in JUDGES))
    decision = decided(file, name, how)
    assert decision.route is ROUTES[p]
    assert decision.verdict is not None
    assert decision.verdict.signal == SIGNALS[name]
    assert decision.probability == pytest.approx(p, abs=0.04)
    assert decision.low is not None and decision.high is not None
    assert decision.low <= p + 1e-3 and p - 1e-3 <= decision.high or name == "samples"


def test_no_two_judges_may_share_thresholds(wire: Wire, tmp_path: Path) -> None:
    """Their fingerprints begin with what was measured, so that none is taken for another."""
    server, file = wire(serving(0.99)), tmp_path / "guard.toml"
    common = f'base_url = "{server.url}"\n'
    file.write_text("".join(f"[deployment.{one}]\n{JUDGES[one]}\n{common}" for one in JUDGES))
    found = [decided(file, name, "check").fingerprint for name in JUDGES if name != "fallback"]
    assert len({one.partition(":")[0] for one in found}) == len(found)


class _Server:
    """llama.cpp's part: the whole vocabulary, listed."""

    def __init__(self, p: float) -> None:
        self._p = p

    def handle_chat_completions(self, body: dict[str, object]) -> Json:
        labels = sorted([("True", self._p), ("False", 1 - self._p)], key=lambda one: -one[1])
        listed = [(label, math.log(MASS * p)) for label, p in labels]
        rest = padded(*listed, k=1000, floor=math.log((1 - MASS) / 2000))
        return chat(token(*listed[0], rest))


@pytest.mark.local
@pytest.mark.parametrize("how", ["check", "acheck"])
@pytest.mark.parametrize("p", ROUTES)
def test_the_same_route_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, p: float, how: str
) -> None:
    """Through the GGUF judge, with llama.cpp played by a list."""

    def load(_path: object, **_options: object) -> _Server:
        return _Server(p)

    monkeypatch.setattr(gguf, "load_server", load)
    (tmp_path / "model.gguf").write_bytes(b"GGUF and so on")
    file = tmp_path / "guard.toml"
    file.write_text(f'[deployment.default]\njudge = "gguf:{tmp_path / "model.gguf"}"\n')
    decision = decided(file, "default", how)
    assert decision.route is ROUTES[p]
    assert decision.verdict is not None and decision.verdict.signal == "logprobs"
    assert decision.probability == pytest.approx(p, abs=1e-6)
    assert decision.fingerprint.startswith("gguf-logprobs:")
