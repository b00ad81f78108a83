"""GuardPostprocessor in LlamaIndex's own pipelines."""

import asyncio
import copy
import json
import pickle
from pathlib import Path
from typing import Any, cast

import pytest
from bridge import (
    ANSWER,
    CLARIFY,
    QUESTION,
    REFUSE,
    CountingLLM,
    FixedRetriever,
    as_kept,
    bridge_nodes,
)
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore
from parts import MESSAGES, OUTAGE, a_gate, an_engine, queries_of

from guard import ConfigError, Gate, GuardError, Policy, Unmeasured
from guard.audit import AuditLog
from guard.testing import Scripted, ScriptedJudge
from guard_llama_index import (
    ContextsInsufficient,
    GuardedChatEngine,
    GuardedQueryEngine,
    GuardPostprocessor,
    response_of,
)

pytestmark = pytest.mark.local

STOPPED: dict[str, tuple[Scripted, str]] = {
    "clarify": (0.5, CLARIFY),
    "refuse": (0.05, REFUSE),
    "unmeasured": (Unmeasured("No."), OUTAGE),
}


def processed(gate: Gate, nodes: list[NodeWithScore], mode: str) -> list[NodeWithScore]:
    last = GuardPostprocessor(gate)
    if mode == "sync":
        return last.postprocess_nodes(nodes, query_str=QUESTION)
    return asyncio.run(last.apostprocess_nodes(nodes, query_str=QUESTION))


def asked(engine: Any, mode: str) -> str:
    return str(engine.query(QUESTION) if mode == "sync" else asyncio.run(engine.aquery(QUESTION)))


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("options", [{}, {"mode": "shadow"}, {"canary": 0.0}])
def test_nodes_that_may_pass_are_the_same(mode: str, options: dict[str, Any]) -> None:
    """Sufficient nodes, and any in shadow mode, go on unchanged."""
    nodes = bridge_nodes()
    gate = a_gate(0.05 if options else 0.95, **options)
    assert processed(gate, nodes, mode) is nodes
    assert "file: bridge" in queries_of(gate)[0].contexts[0]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("case", STOPPED)
def test_insufficient_nodes_raise_out_of_the_engine(case: str, mode: str) -> None:
    """A real engine stops before it writes; whoever catches it has message, nodes and record."""
    script, message = STOPPED[case]
    writer = CountingLLM()
    engine = an_engine(writer, node_postprocessors=[GuardPostprocessor(a_gate(script))])
    with pytest.raises(ContextsInsufficient) as caught:
        asked(engine, mode)
    response = response_of(caught.value)
    assert isinstance(caught.value, GuardError)
    assert str(caught.value) == str(response) == message
    assert [each.node_id for each in response.source_nodes] == ["bridge", "harbour"]
    assert response.source_nodes == caught.value.nodes
    record = (response.metadata or {})["guard"]
    assert record == caught.value.decision.to_dict() | {"suspect_nodes": list[str]()}
    assert writer.prompts == []


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("options", [{}, {"canary": 1.0}, {"on_unmeasured": "raise"}])
@pytest.mark.parametrize("case", STOPPED)
def test_what_is_raised_is_audited_once(
    case: str, options: dict[str, Any], mode: str, tmp_path: Path
) -> None:
    """One record, that of the error."""
    with AuditLog(tmp_path / "audit.jsonl") as audit:
        policy = Policy(messages=MESSAGES, **options)
        gate = Gate(ScriptedJudge(STOPPED[case][0]), policy, observers=[audit])
        with pytest.raises((ContextsInsufficient, Unmeasured)) as caught:
            processed(gate, bridge_nodes(), mode)
    records = [json.loads(line) for line in audit.path.read_text().splitlines()]
    assert records == [as_kept(cast("Any", caught.value).decision.to_dict())]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("options", [{}, {"mode": "shadow"}, {"canary": 0.0}])
def test_what_passes_is_audited_once(mode: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Sufficient nodes, and any that are let through."""
    with AuditLog(tmp_path / "audit.jsonl") as audit:
        judge = ScriptedJudge(0.05 if options else 0.95)
        processed(Gate(judge, Policy(**options), observers=[audit]), bridge_nodes(), mode)
    records = [json.loads(line) for line in audit.path.read_text().splitlines()]
    assert [each["enforced"] for each in records] == [not options]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_no_nodes_never_become_empty_response(mode: str) -> None:
    """LlamaIndex calls postprocessors with an empty list too; the judge is not asked."""
    gate = a_gate(0.95)
    engine = an_engine(CountingLLM(), nodes=[], node_postprocessors=[GuardPostprocessor(gate)])
    with pytest.raises(ContextsInsufficient, match=REFUSE):
        asked(engine, mode)
    assert queries_of(gate) == []


@pytest.mark.parametrize("kind", [ContextChatEngine, CondensePlusContextChatEngine])
@pytest.mark.parametrize("nodes", [[], None])
def test_chat_engines_do_not_fall_back_on_earlier_nodes(kind: Any, nodes: Any) -> None:
    """Not even where LlamaIndex is handed nodes of an earlier turn; the memory stays clean."""
    writer = CountingLLM()
    engine = kind.from_defaults(
        retriever=FixedRetriever(bridge_nodes() if nodes is None else nodes),
        llm=writer,
        memory=cast("Any", ChatMemoryBuffer).from_defaults(),
        node_postprocessors=[GuardPostprocessor(a_gate(0.05))],
    )
    earlier = {"prev_chunks": bridge_nodes()} if kind is ContextChatEngine else {}
    with pytest.raises(ContextsInsufficient):
        engine.chat(QUESTION, **earlier)
    with pytest.raises(ContextsInsufficient):
        asyncio.run(engine.achat(QUESTION, **earlier))
    assert (writer.prompts, engine.chat_history) == ([], [])


def test_sufficient_nodes_are_answered_from() -> None:
    """An engine with the postprocessor answers as without it."""
    engine = an_engine(CountingLLM(), node_postprocessors=[GuardPostprocessor(a_gate(0.95))])
    assert asked(engine, "sync") == asked(engine, "async") == ANSWER


def test_policy_raise_reaches_the_caller() -> None:
    """An outage is the judge's error where the policy says so."""
    with pytest.raises(Unmeasured):
        processed(a_gate(Unmeasured("No."), on_unmeasured="raise"), bridge_nodes(), "sync")


def test_it_is_a_component_as_llamaindex_wants() -> None:
    """The callback manager can be set, and nothing of the gate is serialized."""
    last = GuardPostprocessor(a_gate(0.95), lang=lambda query: query.query_str[:2])
    manager = CallbackManager([])
    last.callback_manager = manager
    assert last.callback_manager is manager
    assert json.loads(last.to_json()) == {"class_name": "GuardPostprocessor"}
    last.postprocess_nodes(bridge_nodes(), query_str="de?")
    assert queries_of(last.gate)[0].lang == "de"


def test_wrong_arguments_are_the_callers_mistake() -> None:
    """No gate, or no question."""
    with pytest.raises(ConfigError, match="not a gate"):
        GuardPostprocessor(cast("Any", "gate"))
    with pytest.raises(ConfigError, match="without the question"):
        GuardPostprocessor(a_gate(0.95)).postprocess_nodes(bridge_nodes())


def test_the_error_can_be_copied() -> None:
    """It travels between processes with all that it carries."""
    with pytest.raises(ContextsInsufficient) as caught:
        processed(a_gate(0.05), bridge_nodes(), "sync")
    for twin in (copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert (str(twin), twin.decision) == (REFUSE, caught.value.decision)
        assert twin.nodes == caught.value.nodes


@pytest.mark.parametrize("guard", [GuardedQueryEngine, GuardedChatEngine])
def test_a_guard_around_it_is_refused(guard: Any) -> None:
    """It would raise inside, where its user expects a message."""
    gate, writer = a_gate(0.05), CountingLLM()
    posts: list[BaseNodePostprocessor] = [GuardPostprocessor(gate)]
    memory = ChatMemoryBuffer(token_limit=1000)
    inner: Any = an_engine(writer, node_postprocessors=posts)
    if guard is GuardedChatEngine:
        inner = ContextChatEngine.from_defaults(
            FixedRetriever([]), memory=memory, llm=writer, node_postprocessors=posts
        )
    with pytest.raises(ConfigError, match="has a GuardPostprocessor already") as caught:
        guard(inner, gate)
    assert "leave it out of node_postprocessors" in str(caught.value.hint)
