"""Events: each decision on LlamaIndex's dispatcher, without texts unless they are asked for."""

from collections.abc import Sequence
from typing import Any

from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.schema import NodeWithScore

from guard import Decision
from guard_llama_index.suspects import record_of


class GuardDecisionEvent(BaseEvent):
    """A query was judged.

    Attributes:
        decision: the record, `guard.Decision.to_dict`: hashes in place of texts. And the ids of
            nodes that speak to the judge, ``suspect_nodes``; of a guarded citation engine's nodes
            those of its pieces.
        question: the question; ``None`` unless texts were asked for.
        contexts: the passages; ``None`` unless texts were asked for.
    """

    decision: dict[str, Any]
    question: str | None = None
    contexts: list[str] | None = None

    @classmethod
    def class_name(cls) -> str:
        """The name under which handlers know it."""
        return "GuardDecisionEvent"

    @classmethod
    def of(
        cls, decision: Decision, *, texts: bool, nodes: Sequence[NodeWithScore] = ()
    ) -> "GuardDecisionEvent":
        """The event of one decision, on these nodes."""
        record = record_of(decision, nodes)
        if not texts:
            return cls(decision=record)
        query = decision.query
        return cls(decision=record, question=query.question, contexts=list(query.contexts))
