"""Parts that tests of the LlamaIndex integration build pipelines from, beside those of `bridge`."""

from collections.abc import Callable
from typing import Any, cast

from bridge import CLARIFY, REFUSE, CountingLLM, FixedRetriever, bridge_nodes
from llama_index.core.query_engine import RetrieverQueryEngine

from guard import Gate, Messages, Policy, Query
from guard.testing import Scripted, ScriptedJudge

OUTAGE = "My documents are closed."
MESSAGES = Messages(clarify=CLARIFY, refuse=REFUSE, unmeasured=OUTAGE)


def a_gate(script: Scripted | Callable[[Query], Scripted], **options: Any) -> Gate:
    """A gate whose judge says what it is told to, and that tells an outage from a refusal."""
    return Gate(ScriptedJudge(script), Policy(messages=MESSAGES, **options))


def queries_of(gate: Gate) -> list[Query]:
    """What a gate's judge was asked."""
    return cast("ScriptedJudge", gate.judge).queries


def an_engine(writer: CountingLLM, **options: Any) -> RetrieverQueryEngine:
    """LlamaIndex's own engine on the two nodes about the bridge."""
    shelf = FixedRetriever(options.pop("nodes", bridge_nodes()))
    return RetrieverQueryEngine.from_args(shelf, llm=writer, **options)
