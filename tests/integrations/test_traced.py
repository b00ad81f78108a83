"""A LlamaIndex application in a trace: spans nest in its own, a user's turn is one decision."""

import asyncio
from collections.abc import Generator, Sequence
from typing import Any

import pytest
from bridge import (
    ANSWER,
    MESSAGES,
    QUESTION,
    WAYS,
    CountingLLM,
    FixedRetriever,
    a_node,
    ask,
    bridge_nodes,
)
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import RetrieverQueryEngine
from telemetry import Telemetry, attributes, parent_id, problem, span_id

from guard import Gate, JudgeError, JudgeUnavailable, Policy, Retry
from guard.policy import OnUnmeasured
from guard.testing import Scripted, ScriptedJudge
from guard_llama_index import GuardedChatEngine, GuardedQueryEngine

pytestmark = pytest.mark.local

DOWN = JudgeUnavailable("It is down.")
CASES: dict[str, tuple[Scripted, OnUnmeasured, str, str]] = {
    "answer": (0.95, "refuse", "answer", "sufficient"),
    "clarify": (0.5, "refuse", "clarify", "uncertain"),
    "refuse": (0.05, "refuse", "refuse", "insufficient"),
    "let through": (DOWN, "answer", "answer", "unavailable"),
    "held back": (DOWN, "refuse", "refuse", "unavailable"),
    "raised": (DOWN, "raise", "raise", "unavailable"),
}


@pytest.fixture(autouse=True)
def loop_of_this_thread() -> Generator[None]:
    """A loop that is closed: LlamaIndex counts tokens on this thread's, and leaves its own open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def told() -> Telemetry:
    return Telemetry()


def a_gate(
    told: Telemetry, script: Scripted | Sequence[Scripted], choice: OnUnmeasured = "refuse"
) -> Gate:
    """A traced gate."""
    policy = Policy(messages=MESSAGES, on_unmeasured=choice)
    return Gate(
        ScriptedJudge(script), policy, retry=Retry(attempts=1), observers=[told.trace(texts=False)]
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["before", "parallel"])
@pytest.mark.parametrize("way", WAYS)
def test_a_query_engine(told: Telemetry, way: str, mode: Any, case: str) -> None:
    """One span inside the application's, one request inside that, one decision counted."""
    script, choice, route, reason = CASES[case]
    inner = RetrieverQueryEngine.from_args(
        FixedRetriever(bridge_nodes()), llm=CountingLLM(), streaming="stream" in way
    )
    engine = GuardedQueryEngine(inner, a_gate(told, script, choice), mode=mode)
    with told.tracers.get_tracer("app").start_as_current_span("app"):
        if route == "raise":
            with pytest.raises(JudgeError):
                ask(engine, way)
        else:
            _, text = ask(engine, way)
            assert (text == ANSWER) is (route == "answer")
    (query,), (request,), (app,) = told.checks, told.asks, told.of("app")
    assert (parent_id(query), parent_id(request)) == (span_id(app), span_id(query))
    known = attributes(query)
    assert (known["rag_guard.route"], known["rag_guard.reason"]) == (route, reason)
    failed = ("ERROR", reason) if reason == "unavailable" else ("UNSET", None)
    assert problem(query) == problem(request) == failed
    assert told.total("rag_guard.decisions") == 1
    assert told.total("rag_guard.decisions", route=route, reason=reason) == 1
    assert told.total("rag_guard.in_flight") == 0
    assert "bridge" not in told.everything()


@pytest.mark.parametrize("way", WAYS)
def test_a_second_retrieval_is_a_second_span_and_no_second_decision(
    told: Telemetry, way: str
) -> None:
    """Both judgements can be seen; what the user was shown is counted."""
    more = FixedRetriever([a_node("It was opened in March.", "month")])
    inner = RetrieverQueryEngine.from_args(
        FixedRetriever(bridge_nodes()), llm=CountingLLM(), streaming="stream" in way
    )
    engine = GuardedQueryEngine(inner, a_gate(told, [0.1, 0.95]), retry_retrieval=more)
    assert ask(engine, way)[1] == ANSWER
    routes = [attributes(one)["rag_guard.route"] for one in told.checks]
    assert routes == ["refuse", "answer"]
    assert told.total("rag_guard.decisions") == 1
    assert told.total("rag_guard.decisions", route="answer") == 1


def say(engine: GuardedChatEngine, way: str, message: str) -> str:
    """The reply to a message."""
    if way == "chat":
        return str(engine.chat(message))
    return str(asyncio.get_event_loop().run_until_complete(engine.achat(message)))


def a_chat(gate: Gate, **options: Any) -> GuardedChatEngine:
    """A conversation about the bridge."""
    # The default memory is an SQLite database that nobody closes.
    memory = ChatMemoryBuffer(token_limit=2000)
    inner = ContextChatEngine.from_defaults(
        FixedRetriever(bridge_nodes()), memory=memory, llm=CountingLLM()
    )
    return GuardedChatEngine(inner, gate, **options)


@pytest.mark.parametrize("way", ["chat", "achat"])
def test_a_turn_that_is_judged_twice_is_one_decision(told: Telemetry, way: str) -> None:
    """After a question back, the reply is judged with it, and alone where that does not do."""
    chat = a_chat(a_gate(told, [0.5, 0.1, 0.95]))
    with told.tracers.get_tracer("app").start_as_current_span("turn"):
        say(chat, way, QUESTION)
    with told.tracers.get_tracer("app").start_as_current_span("turn"):
        assert say(chat, way, "How long is it?") == ANSWER
    first, second = told.of("turn")
    parents = [parent_id(one) for one in told.checks]
    assert parents == [span_id(first), span_id(second), span_id(second)]
    assert told.total("rag_guard.decisions") == 2
    assert told.total("rag_guard.decisions", route="clarify") == 1
    assert told.total("rag_guard.decisions", route="answer") == 1
    assert told.total("rag_guard.in_flight") == 0


@pytest.mark.parametrize("way", ["chat", "achat"])
def test_what_the_user_was_told_is_counted(told: Telemetry, way: str) -> None:
    """A question back too many: the span has the route of the gate, the metric what was done."""
    chat = a_chat(a_gate(told, 0.5), max_clarifications=0)
    say(chat, way, QUESTION)
    assert attributes(told.checks[0])["rag_guard.reason"] == "uncertain"
    assert told.total("rag_guard.decisions") == 1
    spent = told.total("rag_guard.decisions", route="refuse", reason="clarifications_spent")
    assert spent == 1
