"""GuardedWorkflow: its ready step in real workflows."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
from bridge import ANSWER, CLARIFY, QUESTION, REFUSE, CountingLLM, as_kept, bridge_nodes
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.schema import (
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    Node,
    NodeWithScore,
    TextNode,
)
from llama_index_instrumentation import get_dispatcher
from parts import MESSAGES, OUTAGE, a_gate, queries_of
from pydantic import Field, ValidationError
from workflows import Context, Workflow, step
from workflows.context.serializers import JsonSerializer
from workflows.errors import WorkflowValidationError
from workflows.events import StartEvent, StopEvent

from guard import ConfigError, Gate, Messages, Policy, Unmeasured
from guard.audit import AuditLog
from guard.testing import Scripted, ScriptedJudge
from guard_llama_index import (
    AnswerEvent,
    Clarifier,
    ClarifyEvent,
    ContextsEvent,
    GuardDecisionEvent,
    GuardedWorkflow,
    JudgedEvent,
    RefuseEvent,
    judged,
)

pytestmark = pytest.mark.local


class Told(StopEvent):
    """What the user reads, and the event that it came of."""

    text: str
    of: Any


class Rag(GuardedWorkflow):
    """Retrieves, answers, asks back and refuses, each in a step of its own."""

    def __init__(self, gate: Gate, nodes: list[Any] | None = None, **options: Any) -> None:
        super().__init__(gate, **options)
        self.writer = CountingLLM()
        self.nodes = bridge_nodes() if nodes is None else nodes

    @step
    async def retrieve(self, ev: StartEvent) -> ContextsEvent:
        return ContextsEvent(
            question=ev.get("question"), nodes=self.nodes, history=[("user", "Hello.")]
        )

    @step
    async def answer(self, ev: AnswerEvent) -> Told:
        return Told(text=str(await self.writer.acomplete(ev.question)), of=ev)

    @step
    async def ask_back(self, ev: ClarifyEvent) -> Told:
        return Told(text=ev.message, of=ev)

    @step
    async def refuse(self, ev: RefuseEvent) -> Told:
        return Told(text=ev.message, of=ev)


def ran(workflow: Workflow, question: str = QUESTION) -> Any:
    async def run() -> Any:
        return await cast("Coroutine[Any, Any, Any]", workflow.run(question=question))

    return asyncio.run(run())


CASES: dict[str, tuple[Scripted, dict[str, Any], type[JudgedEvent], str]] = {
    "answer": (0.95, {}, AnswerEvent, ANSWER),
    "clarify": (0.5, {}, ClarifyEvent, CLARIFY),
    "refuse": (0.05, {}, RefuseEvent, REFUSE),
    "unmeasured": (Unmeasured("No."), {}, RefuseEvent, OUTAGE),
    "asked back": (Unmeasured("No."), {"on_unmeasured": "clarify"}, ClarifyEvent, OUTAGE),
    "shadow": (0.05, {"mode": "shadow"}, AnswerEvent, ANSWER),
    "nothing of a canary": (0.05, {"canary": 0.0}, AnswerEvent, ANSWER),
    "all of a canary": (0.05, {"canary": 1.0}, RefuseEvent, REFUSE),
}


@pytest.mark.parametrize("case", CASES)
def test_a_decision_becomes_its_event(case: str) -> None:
    """A real workflow takes the branch of the decision, with all that it needs there."""
    script, options, kind, text = CASES[case]
    workflow = Rag(a_gate(script, **options))
    result = ran(workflow)
    assert (type(result.of), result.text) == (kind, text)
    assert result.of.message == ("" if kind is AnswerEvent else text)
    assert [each.node_id for each in result.of.nodes] == ["bridge", "harbour"]
    assert result.of.question == QUESTION
    route = {"answer": "answer", "clarify": "clarify", "asked back": "clarify"}.get(case, "refuse")
    assert result.of.decision.route == route
    assert len(workflow.writer.prompts) == (kind is AnswerEvent)
    query = queries_of(workflow.gate)[0]
    assert (query.question, query.history) == (QUESTION, (("user", "Hello."),))
    assert query.contexts[0].startswith("file: bridge")


@pytest.mark.parametrize("case", CASES)
def test_a_decision_is_audited_once(case: str, tmp_path: Path) -> None:
    """As its event has it, the question that is asked back included."""
    script, options, _, _ = CASES[case]
    asker = Clarifier(CountingLLM(reply=lambda _: "Which of them?"))
    with AuditLog(tmp_path / "audit.jsonl") as audit:
        policy = Policy(messages=MESSAGES, **options)
        gate = Gate(ScriptedJudge(script), policy, observers=[audit])
        result = ran(Rag(gate, clarifier=asker))
    [record] = map(json.loads, audit.path.read_text().splitlines())
    assert record == as_kept(result.of.decision.to_dict())
    assert result.text == (result.of.decision.message if result.of.message else ANSWER)


def test_no_nodes_are_refused_unasked() -> None:
    """The judge is not asked about nothing."""
    workflow = Rag(a_gate(0.95), [])
    assert ran(workflow).text == REFUSE
    assert queries_of(workflow.gate) == []


def test_policy_raise_fails_the_run(tmp_path: Path) -> None:
    """An outage is the judge's own error where the policy says so; it is audited all the same."""
    with AuditLog(tmp_path / "audit.jsonl") as audit:
        policy = Policy(on_unmeasured="raise")
        with pytest.raises(Unmeasured):
            ran(Rag(Gate(ScriptedJudge(Unmeasured("No.")), policy, observers=[audit])))
    [record] = map(json.loads, audit.path.read_text().splitlines())
    assert (record["route"], record["reason"]) == (None, "no_logprobs")


class Forgetful(GuardedWorkflow):
    """Does nothing about refusals."""

    @step
    async def retrieve(self, ev: StartEvent) -> ContextsEvent:
        return ContextsEvent(question=QUESTION, nodes=[])

    @step
    async def tell(self, ev: AnswerEvent | ClarifyEvent) -> StopEvent:
        return StopEvent(result=ev.message)


def test_no_refusal_can_be_forgotten() -> None:
    """LlamaIndex refuses a workflow in which an event of the gate has no step."""
    with pytest.raises(WorkflowValidationError, match="RefuseEvent"):
        ran(Forgetful(a_gate(0.95)))


class OnceAtATime(Workflow):
    """Has a judging step of its own, without the base class."""

    gate = a_gate(0.05)

    @step
    async def retrieve(self, ev: StartEvent) -> ContextsEvent:
        return ContextsEvent(question=QUESTION, nodes=bridge_nodes())

    @step(num_workers=1)
    async def judge(self, ev: ContextsEvent) -> AnswerEvent | ClarifyEvent | RefuseEvent:
        texts = [each.get_content() for each in ev.nodes]
        return judged(ev, await self.gate.acheck(ev.question, texts))

    @step
    async def tell(self, ev: AnswerEvent | ClarifyEvent | RefuseEvent) -> StopEvent:
        return StopEvent(result=ev.message)


def test_a_step_of_ones_own() -> None:
    """`judged` makes the event of a decision that somebody else took."""
    assert ran(OnceAtATime()) == REFUSE


@pytest.mark.parametrize("case", ["answer", "clarify", "refuse", "unmeasured"])
def test_events_survive_json(case: str) -> None:
    """A workflow may be stored between its steps, e.g. until the user has replied."""
    event = ran(Rag(a_gate(CASES[case][0]))).of
    serializer = JsonSerializer()
    twin = serializer.deserialize(serializer.serialize(event))
    assert type(twin) is type(event)
    assert (twin.decision, twin.message) == (event.decision, event.message)
    assert twin.nodes == event.nodes


@pytest.mark.parametrize("kind", [TextNode, Node, IndexNode, ImageNode, Document, ImageDocument])
def test_nodes_of_every_kind_survive_json(kind: Any) -> None:
    """Those of LlamaIndex; each comes back as what it was."""
    text = {"index_id": "i", "text": "Opened."} if kind is IndexNode else {"text": "Opened."}
    text = {} if kind is Node else text
    node = cast("Any", kind)(metadata={"file": "a"}, **text)
    event = ContextsEvent(
        question=QUESTION, nodes=[NodeWithScore(node=node, score=0.5)], history=[("user", "Hi.")]
    )
    twin = JsonSerializer().deserialize(JsonSerializer().serialize(event))
    assert type(twin.nodes[0].node) is kind
    assert (twin.question, list(twin.history)) == (QUESTION, [("user", "Hi.")])
    assert twin.nodes == event.nodes


def test_events_are_typed() -> None:
    """What is missing or of another type is told at once."""
    with pytest.raises(ValidationError):
        cast("Any", ContextsEvent)(question=QUESTION)
    with pytest.raises(ValidationError):
        RefuseEvent(question=QUESTION, nodes=[], decision=cast("Any", "refuse"))
    with pytest.raises(ConfigError, match="not a gate"):
        Rag(cast("Any", "gate"))
    with pytest.raises(ConfigError, match="blank"):
        ran(Rag(a_gate(0.95)), " ")


class Ear(BaseEventHandler):
    """Keeps the guard's events."""

    heard: list[GuardDecisionEvent] = Field(default_factory=list[GuardDecisionEvent])

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if isinstance(event, GuardDecisionEvent):
            self.heard.append(event)


def test_language_and_events_are_as_everywhere() -> None:
    """The message is in the question's language, and the decision is on the dispatcher."""
    ear, root = Ear(), get_dispatcher()
    before = list(root.event_handlers)
    root.add_event_handler(ear)
    try:
        messages = Messages(refuse={"de": "Steht nicht darin.", "default": REFUSE})
        gate = Gate(ScriptedJudge(0.05), Policy(messages=messages))
        result = ran(Rag(gate, lang="de", texts_in_events=True))
    finally:
        root.event_handlers = before
    assert result.text == "Steht nicht darin."
    record = result.of.decision.to_dict() | {"suspect_nodes": list[str]()}
    assert [one.decision for one in ear.heard] == [record]
    assert ear.heard[0].question == QUESTION


class Fan(GuardedWorkflow):
    """Judges many questions in one run."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> ContextsEvent | None:
        for number in range(20):
            ctx.send_event(ContextsEvent(question=f"{number}?", nodes=bridge_nodes()))
        return None

    @step
    async def tell(
        self, ctx: Context, ev: AnswerEvent | ClarifyEvent | RefuseEvent
    ) -> StopEvent | None:
        told: list[str] = await ctx.store.get("told", default=[])
        told.append(f"{ev.question} {ev.decision.query.question} {type(ev).__name__}")
        await ctx.store.set("told", told)
        return StopEvent(result=told) if len(told) == 20 else None


def test_many_questions_in_one_run_swap_nothing() -> None:
    """Each decision stays with its question."""
    judge = ScriptedJudge(lambda query: 0.95 if int(query.question[:-1]) % 2 else 0.05)
    told = ran(Fan(Gate(judge)))
    kinds = ("RefuseEvent", "AnswerEvent")
    assert sorted(told) == sorted(f"{one}? {one}? {kinds[one % 2]}" for one in range(20))
