"""The chat judge against real HTTP on loopback."""

import json
from collections.abc import Callable

import pytest
from openai import OpenAI
from wire import Answer, Script, WireServer, verdict

from guard import Gate, Policy, Query, Route
from guard.judges import ChatJudge

pytestmark = pytest.mark.wire

Wire = Callable[[Script], WireServer]
QUERY = Query.of("When did it open?", ["The bridge opened in 1932."])


def test_reads_p_true(wire: Wire, chat_judge: Callable[..., ChatJudge]) -> None:
    """P(True) is two-way normalised, and served facts go into the verdict."""
    server = wire(Answer(verdict(-0.2, -2.0)))
    measured = chat_judge(server).judge(QUERY, timeout=5)
    assert abs(measured.p_true - 0.8581) < 1e-3
    assert measured.signal == "logprobs"
    assert measured.model == "wire-model"
    assert measured.system_fingerprint == "fp_wire"
    assert measured.usage and measured.usage.input_tokens == 90
    assert measured.low <= measured.p_true <= measured.high


def test_gate_on_the_wire(wire: Wire, chat_judge: Callable[..., ChatJudge]) -> None:
    """The whole trip over HTTP."""
    server = wire(Answer(verdict(-0.001, -9.0)))
    decision = Gate(chat_judge(server), Policy()).check(QUERY.question, QUERY.contexts)
    assert decision.route is Route.ANSWER
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["model", "system_fingerprint"])
def test_a_key_in_place_of_a_name_is_not_kept(
    wire: Callable[[Script], WireServer], name: str
) -> None:
    """What an endpoint calls its model stands in records; a key that it repeats does not."""
    key = "sk-proj-CANARY/0123456789abcdef"
    body = {**verdict(-0.1, -3.0), name: f"m {key}"}
    server = wire([Answer(body), Answer({"error": {"code": key}})])
    with OpenAI(base_url=server.url, api_key=key) as client:
        gate = Gate(ChatJudge(client, model="wire-model"))
        for _ in range(2):
            decision = gate.check("When?", ["In 1932."])
            assert "CANARY" not in json.dumps(decision.to_dict())
            assert "CANARY" not in repr(decision)
