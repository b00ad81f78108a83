"""A workflow step: contexts in; an answer, a question back or a refusal out, as typed events."""

from collections.abc import Sequence
from typing import Annotated, Any, cast

from llama_index.core.schema import (
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    Node,
    NodeWithScore,
    QueryBundle,
    TextNode,
)
from pydantic import BeforeValidator
from workflows import Workflow, step
from workflows.events import Event

from guard import Decision, Gate, Route
from guard_llama_index.clarifier import Clarifier
from guard_llama_index.judging import Judging, Lang

_KINDS = {
    kind.class_name(): kind
    for kind in (TextNode, Node, IndexNode, ImageNode, Document, ImageDocument)
}


def _restored(value: object) -> object:
    """A node out of JSON; LlamaIndex writes down which class it had, but does not read it."""
    found = _object(value)
    node = _object(found.get("node"))
    if not node:
        return value
    return {**found, "node": _KINDS.get(node.get("class_name", ""), TextNode).from_dict(node)}


def _object(value: object) -> dict[str, Any]:
    return dict(cast("dict[str, Any]", value)) if isinstance(value, dict) else {}


Found = Annotated[NodeWithScore, BeforeValidator(_restored)]
"""A node of an event; it survives JSON, so that a workflow can wait for its user's reply."""


class ContextsEvent(Event):
    """Contexts were retrieved, and are to be judged.

    Attributes:
        question: the user's question.
        nodes: what was retrieved; may be empty.
        history: earlier ``(role, text)`` turns, oldest first.
    """

    question: str
    nodes: list[Found]
    history: Sequence[tuple[str, str]] = ()


class JudgedEvent(Event):
    """Contexts were judged; the workflow gets one of the three events below.

    Attributes:
        question: as asked.
        nodes: what was judged.
        decision: the record; holds the texts, unlike `guard.Decision.to_dict`.
        message: what the user is told in place of an answer; empty where one may be written.
    """

    question: str
    nodes: list[Found]
    decision: Decision
    message: str = ""


class AnswerEvent(JudgedEvent):
    """The contexts suffice, or the policy is not enforced: write the answer."""


class ClarifyEvent(JudgedEvent):
    """It is uncertain whether they suffice: ask back."""


class RefuseEvent(JudgedEvent):
    """They do not suffice: say so."""


class GuardedWorkflow(Workflow):
    """A workflow with a ready step that judges; a subclass adds what comes before and after.

        class Rag(GuardedWorkflow):
            @step
            async def retrieve(self, ev: StartEvent) -> ContextsEvent: ...

            @step
            async def answer(self, ev: AnswerEvent) -> StopEvent: ...

            @step
            async def tell(self, ev: ClarifyEvent | RefuseEvent) -> StopEvent:
                return StopEvent(result=ev.message)

        result = await Rag(gate, timeout=60).run(question="When was it built?")

    A workflow in which one of the three events has no step is refused by LlamaIndex before it runs
    (``WorkflowValidationError``), so no refusal can be forgotten.

    Args:
        gate: decides.
        lang: the language (BCP 47) of messages, or a function that tells it of a query.
        texts_in_events: whether `GuardDecisionEvent` carries question and passages.
        clarifier: writes the question to ask back; ``None`` = the policy's fixed message.
        options: of ``Workflow``, e.g. ``timeout`` in seconds for a whole run.

    Raises:
        ConfigError: ``gate`` is not a gate; or, from a run, the question is blank.
        JudgeError: from a run: a query could not be measured, and the policy says ``raise``.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        lang: Lang = None,
        texts_in_events: bool = False,
        clarifier: Clarifier | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._judging = Judging(gate, lang, texts_in_events, clarifier)

    @property
    def gate(self) -> Gate:
        """What decides."""
        return self._judging.gate

    @step
    async def judge_contexts(self, ev: ContextsEvent) -> AnswerEvent | ClarifyEvent | RefuseEvent:
        """What is to be done with a question and its contexts."""
        query = QueryBundle(ev.question)
        return judged(ev, await self._judging.ajudge(query, ev.nodes, ev.history))


def judged(ev: ContextsEvent, decision: Decision) -> AnswerEvent | ClarifyEvent | RefuseEvent:
    """The event of a decision; for steps of your own that ask a gate themselves."""
    if decision.passes:
        return AnswerEvent(question=ev.question, nodes=ev.nodes, decision=decision)
    kind = ClarifyEvent if decision.route is Route.CLARIFY else RefuseEvent
    message = decision.message or ""
    return kind(question=ev.question, nodes=ev.nodes, decision=decision, message=message)
