"""Events: each decision on LlamaIndex's dispatcher, without texts unless they are asked for."""

from typing import Any

from llama_index.core.instrumentation.events import BaseEvent

from guard import Decision


class GuardDecisionEvent(BaseEvent):
    """A query was judged.

    Attributes:
        decision: the record, `guard.Decision.to_dict`: hashes in place of texts.
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
    def of(cls, decision: Decision, *, texts: bool) -> "GuardDecisionEvent":
        """The event of one decision."""
        record = decision.to_dict()
        if not texts:
            return cls(decision=record)
        query = decision.query
        return cls(decision=record, question=query.question, contexts=list(query.contexts))
