"""GuardedQueryTool in LlamaIndex's own agents, on models that follow a script."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from bridge import ANSWER, CLARIFY, QUESTION, REFUSE, CountingLLM, as_kept
from llama_index.core.agent.workflow import (
    AgentOutput,
    AgentWorkflow,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.base.response.schema import Response
from llama_index.core.llms import CompletionResponse
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import FunctionTool, QueryEngineTool, ToolMetadata, ToolOutput
from parts import MESSAGES, OUTAGE, a_gate, an_engine, queries_of
from pydantic import Field

from guard import ConfigError, Gate, Policy, Query, Unmeasured
from guard.audit import AuditLog
from guard.testing import Scripted, ScriptedJudge
from guard_llama_index import GuardedQueryEngine, GuardedQueryTool

pytestmark = [
    pytest.mark.local,
    # LlamaIndex's agents use what pydantic and its workflows deprecate.
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step"),
]

OWN_KNOWLEDGE = "From my own knowledge: in 1899."


class Call(NamedTuple):
    """A call of a tool."""

    name: str
    arguments: dict[str, Any]


Turn = str | list[Call]


class Actor(FunctionCallingLLM):
    """Calls tools as its script says, then answers; keeps what it was told."""

    script: list[Turn]
    seen: list[list[ChatMessage]] = Field(default_factory=list[list[ChatMessage]])

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_function_calling_model=True, is_chat_model=True)

    def _next(self, messages: Sequence[ChatMessage]) -> ChatResponse:
        self.seen.append(list(messages))
        turn = self.script[len(self.seen) - 1]
        text, calls = (turn, []) if isinstance(turn, str) else ("", turn)
        message = ChatMessage(role="assistant", content=text)
        message.additional_kwargs["calls"] = calls
        return ChatResponse(message=message)

    async def achat_with_tools(self, *args: Any, **kwargs: Any) -> ChatResponse:
        return self._next(kwargs["chat_history"])

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._next(messages)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        calls = response.message.additional_kwargs["calls"]
        return [
            ToolSelection(tool_id=f"call-{number}", tool_name=name, tool_kwargs=arguments)
            for number, (name, arguments) in enumerate(calls)
        ]

    # What no agent here uses.

    def _prepare_chat_with_tools(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise NotImplementedError

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        raise NotImplementedError

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        raise NotImplementedError

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        raise NotImplementedError

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


def docs(question: str = QUESTION, name: str = "docs") -> Call:
    """A call of the guarded tool."""
    return Call(name, {"input": question})


def a_tool(
    script: Any, name: str = "docs", return_direct: bool = False, **options: Any
) -> GuardedQueryTool:
    gate = script if isinstance(script, Gate) else a_gate(script, **options)
    engine = GuardedQueryEngine(an_engine(CountingLLM()), gate)
    return GuardedQueryTool.from_defaults(engine, name, "The bridge.", return_direct)


def opened_only(query: Query) -> float:
    return 0.95 if "opened" in query.question else 0.05


AGENTS = ("function", "workflow", "react")


def run_agent(
    kind: str, tools: list[Any], script: list[Turn]
) -> tuple[AgentOutput, Actor, list[ToolCallResult]]:
    """What a real agent gives, the model it asked, and what its tools gave."""
    llm = Actor(script=[_as_react(turn) for turn in script] if kind == "react" else script)
    agent_class = ReActAgent if kind == "react" else FunctionAgent
    one = agent_class(name="one", description="It.", tools=tools, llm=llm, streaming=False)
    agent = AgentWorkflow(agents=[one]) if kind == "workflow" else one

    async def run() -> tuple[AgentOutput, list[ToolCallResult]]:
        handler = cast("Any", agent).run(user_msg=QUESTION)
        results = [ev async for ev in handler.stream_events() if isinstance(ev, ToolCallResult)]
        return cast("AgentOutput", await handler), results

    output, results = asyncio.run(run())
    return output, llm, results


def _as_react(turn: Turn) -> str:
    if isinstance(turn, str):
        return f"Thought: I can answer.\nAnswer: {turn}"
    name, arguments = turn[0]
    return f'Thought: I need it.\nAction: {name}\nAction Input: {{"input": "{arguments["input"]}"}}'


STOPPED: dict[str, tuple[Scripted, dict[str, Any], str]] = {
    "clarify": (0.5, {}, CLARIFY),
    "refuse": (0.05, {}, REFUSE),
    "unmeasured": (Unmeasured("No."), {}, OUTAGE),
    "raise": (Unmeasured("No."), {"on_unmeasured": "raise"}, OUTAGE),
    "canary": (0.05, {"canary": 1.0}, REFUSE),
}


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("case", STOPPED)
def test_no_agent_answers_over_a_refusal(case: str, kind: str) -> None:
    """The run ends with the policy's message, and the model is not asked again."""
    script, options, message = STOPPED[case]
    tool = a_tool(script, **options)
    output, llm, results = run_agent(kind, [tool], [[docs()], OWN_KNOWLEDGE])
    assert output.response.content == message
    assert len(llm.seen) == 1
    assert results[0].return_direct and not results[0].tool_output.is_error
    response = cast("Response", results[0].tool_output.raw_output)
    assert output.raw is response
    if case != "raise":
        assert [each.node_id for each in response.source_nodes] == ["bridge", "harbour"]
        assert (response.metadata or {})["guard"]["message"] == message


AUDITED: dict[str, tuple[Scripted, dict[str, Any], str]] = {
    **STOPPED,
    "answer": (0.95, {}, ANSWER),
    "shadow": (0.05, {"mode": "shadow"}, ANSWER),
    "nothing of a canary": (0.05, {"canary": 0.0}, ANSWER),
}


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("case", AUDITED)
def test_a_call_is_audited_once(case: str, way: str, tmp_path: Path) -> None:
    """With the record that its output has."""
    script, options, message = AUDITED[case]
    with AuditLog(tmp_path / "audit.jsonl") as audit:
        policy = Policy(messages=MESSAGES, **options)
        tool = a_tool(Gate(ScriptedJudge(script), policy, observers=[audit]))
        called = tool.call(QUESTION) if way == "sync" else asyncio.run(tool.acall(QUESTION))
    assert called.content == message
    records = [json.loads(line) for line in audit.path.read_text().splitlines()]
    assert records == [as_kept(called.raw_output.metadata["guard"])]


@pytest.mark.parametrize("kind", AGENTS)
def test_the_plain_tool_is_answered_over(kind: str) -> None:
    """Why the tool exists: LlamaIndex's own lets the model go on."""
    engine = GuardedQueryEngine(an_engine(CountingLLM()), a_gate(0.05))
    tool = QueryEngineTool.from_defaults(engine, "docs", "The bridge.")
    output, llm, _ = run_agent(kind, [tool], [[docs()], OWN_KNOWLEDGE])
    assert (output.response.content, len(llm.seen)) == (OWN_KNOWLEDGE, 2)


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("options", [{}, {"mode": "shadow"}, {"canary": 0.0}])
def test_an_agent_goes_on_with_an_answer(kind: str, options: dict[str, Any]) -> None:
    """The model reads the tool's answer, and the run ends with what it makes of it."""
    tool = a_tool(0.05 if options else 0.95, **options)
    output, llm, results = run_agent(kind, [tool], [[docs()], "It was in 1932, I read."])
    assert output.response.content == "It was in 1932, I read."
    assert not results[0].return_direct
    assert results[0].tool_output.content == ANSWER
    assert ANSWER in str(llm.seen[1][-1].content)


@pytest.mark.parametrize("kind", AGENTS)
def test_an_answer_can_be_the_agents_own(kind: str) -> None:
    """With return_direct=True the tool's answer is the last word, too."""
    tool = a_tool(0.95, return_direct=True)
    output, llm, _ = run_agent(kind, [tool], [[docs()], OWN_KNOWLEDGE])
    assert (output.response.content, len(llm.seen)) == (ANSWER, 1)


@pytest.mark.parametrize("kind", AGENTS)
def test_a_refusal_after_an_answer_ends_the_run(kind: str) -> None:
    """Each call has its own verdict; the earlier answer is not a pass for the later one."""
    tool = a_tool(opened_only)
    turns: list[Turn] = [[docs()], [docs("Who designed it?")], OWN_KNOWLEDGE]
    output, llm, results = run_agent(kind, [tool], turns)
    assert (output.response.content, len(llm.seen)) == (REFUSE, 2)
    assert [one.return_direct for one in results] == [False, True]


@pytest.mark.parametrize("kind", ["function", "workflow"])
@pytest.mark.parametrize("order", [1, -1])
def test_one_refusal_among_calls_side_by_side(kind: str, order: int) -> None:
    """An answer given at the same time, by this tool or another, does not cover it."""
    gate = a_gate(opened_only)
    tools = [a_tool(gate), a_tool(gate, "more"), FunctionTool.from_defaults(today)]
    calls = [docs(), docs(name="more"), Call("today", {}), docs("Who designed it?")]
    output, llm, _ = run_agent(kind, tools, [calls[::order], OWN_KNOWLEDGE])
    assert (output.response.content, len(llm.seen)) == (REFUSE, 1)
    assert len(queries_of(gate)) == 3


def today() -> str:
    """The day."""
    return "Monday"


@pytest.mark.parametrize("kind", AGENTS)
def test_an_engine_that_fails_is_not_answered_over(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """LlamaIndex would tell the model of the error, and let it go on."""
    tool = a_tool(0.95)

    async def aretrieve(*_: Any) -> Any:
        raise ConnectionError("key sk-canary")

    monkeypatch.setattr(GuardedQueryEngine, "aretrieve", aretrieve)
    output, llm, results = run_agent(kind, [tool], [[docs()], OWN_KNOWLEDGE])
    assert (output.response.content, len(llm.seen)) == (OUTAGE, 1)
    assert isinstance(results[0].tool_output.exception, ConnectionError)
    assert "tool docs: ConnectionError" in caplog.text
    assert "canary" not in caplog.text


def called(tool: GuardedQueryTool, mode: str) -> ToolOutput:
    return tool(QUESTION) if mode == "sync" else asyncio.run(tool.acall(input=QUESTION))


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("script", "text"), [(0.95, ANSWER), (0.05, REFUSE)])
def test_output_holds_the_response(script: float, text: str, streaming: bool, mode: str) -> None:
    """Text, sources and record, also where the engine streams."""
    engine = an_engine(CountingLLM(), streaming=streaming)
    tool = GuardedQueryTool.from_defaults(engine, gate=a_gate(script), name="docs")
    output = called(tool, mode)
    assert (output.content, output.tool_name) == (text, "docs")
    assert (output.raw_input, output.is_error) == ({"input": QUESTION}, False)
    assert output.raw_output.response == text
    assert [each.node_id for each in output.raw_output.source_nodes] == ["bridge", "harbour"]
    assert output.raw_output.metadata["guard"]["probability"] == script
    assert tool.metadata.return_direct  # Outside of the task that got an answer.


def test_synchronous_failures_are_messages_too() -> None:
    """With the record, where there is one."""
    output = called(a_tool(Unmeasured("No."), on_unmeasured="raise"), "sync")
    assert output.content == OUTAGE
    assert output.raw_output.metadata["guard"]["reason"] == "no_logprobs"
    output = a_tool(0.95)(" ")
    assert (output.content, output.raw_output.metadata) == (OUTAGE, None)
    assert isinstance(output.exception, ConfigError)


def test_many_agents_share_a_tool() -> None:
    """In one loop, at once: every second question is refused, and only those."""

    def verdict(query: Query) -> float:
        return 0.95 if int(query.question) % 2 else 0.05

    tool = a_tool(verdict)

    async def ask(number: int) -> tuple[str | None, int]:
        llm = Actor(script=[[docs(str(number))], f"Made of it: {number}"])
        agent = FunctionAgent(tools=[tool], llm=llm, streaming=False)
        output = await cast("Any", agent).run(user_msg=QUESTION)
        return output.response.content, len(llm.seen)

    async def all_at_once() -> list[tuple[str | None, int]]:
        return await asyncio.gather(*map(ask, range(50)))

    assert asyncio.run(all_at_once()) == [
        (f"Made of it: {number}", 2) if number % 2 else (REFUSE, 1) for number in range(50)
    ]


def test_only_the_latest_call_of_a_task_counts() -> None:
    """Of this tool, and in this task; everywhere else the tool ends the run."""
    tool, other = a_tool(opened_only), a_tool(opened_only, "more")

    async def in_one_task() -> list[bool]:
        told: list[bool] = []
        for question in (QUESTION, "Who designed it?", QUESTION, " "):
            await tool.acall(input=question)
            told.append(tool.metadata.return_direct)
            assert other.metadata.return_direct
        return told

    assert asyncio.run(in_one_task()) == [False, True, False, True]
    assert tool.metadata.return_direct


def test_only_guarded_engines() -> None:
    """An engine without a gate, or with two, is the caller's mistake."""
    guarded = GuardedQueryEngine(an_engine(CountingLLM()), a_gate(0.95))
    with pytest.raises(ConfigError, match="not guarded"):
        GuardedQueryTool.from_defaults(an_engine(CountingLLM()))
    with pytest.raises(ConfigError, match="already guarded"):
        GuardedQueryTool.from_defaults(guarded, gate=a_gate(0.95))
    tool = GuardedQueryTool(guarded, ToolMetadata("The bridge.", "docs"))
    assert isinstance(tool, QueryEngineTool)
    assert (tool.query_engine, tool.metadata.name) == (guarded, "docs")


def test_a_refused_call_is_not_taken_for_the_answer_before_it() -> None:
    """In one task, synchronous or not: each call begins anew."""
    engine = an_engine(CountingLLM())
    tool = GuardedQueryTool.from_defaults(engine, gate=a_gate(lambda query: 0.95), name="docs")
    refusing = GuardedQueryTool.from_defaults(engine, gate=a_gate(0.05), name="other")

    async def both() -> list[bool]:
        found = list[bool]()
        await tool.acall(input=QUESTION)
        found.append(tool.metadata.return_direct)
        await refusing.acall(input=QUESTION)
        found += [tool.metadata.return_direct, refusing.metadata.return_direct]
        await tool.acall(input=QUESTION)
        await asyncio.to_thread(refusing.call, QUESTION)
        return found

    assert asyncio.run(both()) == [False, True, True]
