"""A clarifier at every seam; what it may ask, and of chats, is in test_chat_engine."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from bridge import (
    ANSWER,
    CLARIFY,
    QUESTION,
    REFUSE,
    TYPES,
    WAYS,
    CountingLLM,
    FixedRetriever,
    a_gate,
    a_node,
    ask,
    bridge_nodes,
    node_ids,
    record_of,
)
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.llms import CompletionResponse
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import BaseSynthesizer, CompactAndRefine
from llama_index.core.schema import QueryBundle
from llama_index_instrumentation import get_dispatcher
from workflows import step
from workflows.events import StartEvent, StopEvent

from guard import ConfigError, Gate, Unmeasured
from guard.testing import Scripted
from guard_llama_index import (
    AnswerEvent,
    Clarifier,
    ClarifyEvent,
    ContextsEvent,
    ContextsInsufficient,
    GuardDecisionEvent,
    GuardedQueryEngine,
    GuardedQueryTool,
    GuardedSynthesizer,
    GuardedWorkflow,
    GuardPostprocessor,
    RefuseEvent,
)

pytestmark = pytest.mark.local

ASKED = "The bridge in Sydney or the one in Porto?"


def an_asker() -> CountingLLM:
    return CountingLLM(reply=lambda _prompt: ASKED)


def guarded_engine(gate: Gate, stream: bool, **options: Any) -> BaseQueryEngine:
    shelf = FixedRetriever(bridge_nodes())
    inner = RetrieverQueryEngine.from_args(shelf, llm=CountingLLM(), streaming=stream)
    return GuardedQueryEngine(inner, gate, **options)


def guarded_writer(gate: Gate, stream: bool, **options: Any) -> BaseQueryEngine:
    writer = CompactAndRefine(llm=CountingLLM(), streaming=stream)
    guarded = GuardedSynthesizer(writer, gate, **options)
    return RetrieverQueryEngine(FixedRetriever(bridge_nodes()), response_synthesizer=guarded)


SEAMS: dict[str, Callable[..., BaseQueryEngine]] = {
    "engine": guarded_engine,
    "synthesizer": guarded_writer,
}


@pytest.mark.parametrize("mode", ["before", "parallel"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seam", SEAMS)
def test_the_user_is_asked_what_would_help(seam: str, way: str, mode: str) -> None:
    asker, (gate, _) = an_asker(), a_gate(0.5)
    engine = SEAMS[seam](gate, "stream" in way, clarifier=Clarifier(asker), mode=mode)
    response, told = ask(engine, way)
    assert type(response) is TYPES[way]
    assert told == ASKED == record_of(response)["message"]
    assert record_of(response)["route"] == "clarify"
    assert node_ids(response) == ["bridge", "harbour"]
    [prompt] = asker.prompts
    assert QUESTION in prompt and "The bridge was opened in 1932." in prompt


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("seam", SEAMS)
@pytest.mark.parametrize(
    ("script", "told"), [(0.95, ANSWER), (0.05, REFUSE), (Unmeasured("No."), REFUSE)]
)
def test_it_is_asked_for_nothing_else(script: Scripted, told: str, seam: str, way: str) -> None:
    asker, (gate, _) = an_asker(), a_gate(script)
    engine = SEAMS[seam](gate, False, clarifier=Clarifier(asker))
    assert (ask(engine, way)[1], asker.prompts) == (told, [])


def test_in_shadow_mode_nobody_is_asked() -> None:
    asker, (gate, _) = an_asker(), a_gate(0.5, mode="shadow")
    engine = guarded_engine(gate, False, clarifier=Clarifier(asker))
    assert (ask(engine, "sync")[1], asker.prompts) == (ANSWER, [])


@pytest.mark.parametrize("way", ["sync", "async"])
def test_without_a_question_the_fixed_message_is_used(way: str) -> None:
    asker = CountingLLM(reply=lambda _prompt: "It was opened in 1932.")
    engine = guarded_engine(a_gate(0.5)[0], False, clarifier=Clarifier(asker))
    assert ask(engine, way)[1] == CLARIFY
    assert len(asker.prompts) == 1


@pytest.mark.parametrize("way", ["sync", "async"])
def test_after_retrieving_again_it_is_asked_once_of_all(way: str) -> None:
    asker = an_asker()
    shelf = FixedRetriever([a_node("It took eight years.", "years")])
    gate, _ = a_gate([0.5, 0.6])
    engine = guarded_engine(gate, False, clarifier=Clarifier(asker), retry_retrieval=shelf)
    response, told = ask(engine, way)
    assert told == ASKED and record_of(response)["first"]["message"] == CLARIFY
    [prompt] = asker.prompts
    assert "It took eight years." in prompt


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_writer_has_ended_when_it_is_asked(way: str) -> None:
    """In parallel, what is written on meanwhile would be paid for and thrown away."""
    said: list[str] = []

    class Endless(CountingLLM):
        """Writes until it is cancelled."""

        async def acomplete(
            self, prompt: str, formatted: bool = False, **kwargs: Any
        ) -> CompletionResponse:
            try:
                await asyncio.sleep(60)
            finally:
                said.append("ended")
            raise AssertionError

    def note(_prompt: str) -> str:
        said.append("asked")
        return ASKED

    inner = RetrieverQueryEngine.from_args(FixedRetriever(bridge_nodes()), llm=Endless())
    clarifier = Clarifier(CountingLLM(reply=note))
    engine = GuardedQueryEngine(inner, a_gate(0.5)[0], mode="parallel", clarifier=clarifier)
    assert ask(engine, way)[1] == ASKED
    assert said in (["ended", "asked"], ["asked"])  # The judge may have been first.


def test_another_retriever_keeps_it() -> None:
    engine = guarded_engine(a_gate(0.5)[0], False, clarifier=Clarifier(an_asker()))
    assert isinstance(engine, GuardedQueryEngine)
    assert ask(engine.with_retriever(FixedRetriever([a_node("Long.", "l")])), "sync")[1] == ASKED


def test_bare_texts() -> None:
    """A synthesizer asked for a text gives the question as that text."""
    writer = CompactAndRefine(llm=CountingLLM())
    guarded: BaseSynthesizer = GuardedSynthesizer(
        writer, a_gate(0.5)[0], clarifier=Clarifier(an_asker())
    )
    assert guarded.get_response(QUESTION, ["It is long."]) == ASKED
    assert asyncio.run(guarded.aget_response(QUESTION, ["It is long."])) == ASKED


def test_a_tool_asks_the_agents_user() -> None:
    engine = guarded_engine(a_gate(0.5)[0], False, clarifier=Clarifier(an_asker()))
    tool = GuardedQueryTool.from_defaults(engine)
    assert tool.call(QUESTION).content == ASKED
    assert asyncio.run(tool.acall(QUESTION)).content == ASKED
    assert tool.metadata.return_direct


class Rag(GuardedWorkflow):
    """Judges what it is started with."""

    @step
    async def begin(self, ev: StartEvent) -> ContextsEvent:
        found: ContextsEvent = ev.found
        return found

    @step
    async def end(self, ev: AnswerEvent | ClarifyEvent | RefuseEvent) -> StopEvent:
        assert ev.message == ev.decision.message
        return StopEvent(result=ev.message)


async def told_by(workflow: Rag, event: ContextsEvent) -> str:
    run: Any = workflow.run
    return str(await run(found=event))


def test_a_workflows_event_holds_it() -> None:
    """With what was said earlier, where the workflow tells it."""
    asker = an_asker()
    workflow = Rag(a_gate(0.5)[0], clarifier=Clarifier(asker))
    event = ContextsEvent(
        question="and him?", nodes=bridge_nodes(), history=[("user", "Who built it?")]
    )
    assert asyncio.run(told_by(workflow, event)) == ASKED
    assert "(user, earlier) Who built it?\nand him?" in asker.prompts[0]


@pytest.mark.parametrize("awaited", [False, True])
def test_a_postprocessors_error_says_it(awaited: bool) -> None:
    post: BaseNodePostprocessor = GuardPostprocessor(
        a_gate(0.5)[0], clarifier=Clarifier(an_asker())
    )
    query = QueryBundle(QUESTION)
    with pytest.raises(ContextsInsufficient, match="in Sydney or the one in Porto"):
        if awaited:
            asyncio.run(post.apostprocess_nodes(bridge_nodes(), query))
        else:
            post.postprocess_nodes(bridge_nodes(), query)


class Kept(BaseEventHandler):
    """Keeps the decisions."""

    decisions: list[GuardDecisionEvent] = []

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if isinstance(event, GuardDecisionEvent):
            self.decisions.append(event)


def test_events_hold_no_question_written_from_passages() -> None:
    """It is a text as they are; trap 44. The event tells the fixed message."""
    dispatcher, kept = get_dispatcher(), Kept()
    dispatcher.add_event_handler(kept)
    try:
        ask(guarded_engine(a_gate(0.5)[0], False, clarifier=Clarifier(an_asker())), "sync")
    finally:
        dispatcher.event_handlers.remove(kept)
    [event] = kept.decisions
    assert event.decision["message"] == CLARIFY


def guarded_workflow(gate: Gate, _stream: bool, **options: Any) -> GuardedWorkflow:
    return Rag(gate, **options)


@pytest.mark.parametrize("seam", [*SEAMS.values(), guarded_workflow])
def test_what_is_no_clarifier_is_refused(seam: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match="CountingLLM is not a clarifier") as caught:
        seam(a_gate(0.5)[0], False, clarifier=an_asker())
    assert caught.value.hint == "Pass Clarifier(llm)."
