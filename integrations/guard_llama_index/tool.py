"""A tool for agents whose refusal is the end of the agent's run."""

import logging
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response import schema
from llama_index.core.tools import QueryEngineTool, ToolMetadata, ToolOutput
from llama_index.core.tools.query_engine import DEFAULT_DESCRIPTION, DEFAULT_NAME

from guard import ConfigError, Decision, Gate, JudgeError, Route
from guard_llama_index.query_engine import GuardedQueryEngine
from guard_llama_index.responses import Response

logger = logging.getLogger("guard")

_RESPONSES = (schema.Response, schema.PydanticResponse)

# The tool whose latest call in this task was an answer. LlamaIndex reads `metadata.return_direct`
# right after the call, in the task that made it; calls side by side have a task each.
_answered: ContextVar["GuardedQueryTool | None"] = ContextVar("_answered", default=None)


class GuardedQueryTool(QueryEngineTool):
    """A guarded query engine as a tool; no agent can answer over its refusal.

        tool = GuardedQueryTool.from_defaults(engine, name="docs", description="The handbook.")
        agent = FunctionAgent(tools=[tool], llm=llm)

    To an agent a tool's output is a text like any other: told "I don't have enough information",
    a model answers from its own knowledge. So on ``clarify`` and ``refuse`` the run ends, the
    policy's message is the agent's answer, and the model is not asked again. LlamaIndex calls that
    ``return_direct`` and reads it from the tool, not from the call's output; but it reads it after
    the call, so this tool decides it call by call. It is ``True`` until a call in this task has
    answered. An agent of your own must read it after each call, as LlamaIndex's do.

    On ``answer`` the agent goes on with the tool's answer, as with any tool; ``return_direct=True``
    makes it the agent's own answer, word for word. A query that fails ends the run like one that
    could not be measured, also where the policy says ``raise``: an agent catches what a tool
    raises, tells it to the model, and lets it go on. The error is then in ``ToolOutput.exception``.

    ``ToolOutput.raw_output`` is the response: its ``source_nodes``, and ``metadata["guard"]`` with
    the record. `responses_in` finds it in what an agent's run came to.

    What no tool can prevent: an agent that never calls it; and a model that hands off to another
    agent and calls this tool in one turn, since LlamaIndex may let the hand-off go first.

    Args:
        query_engine: a `GuardedQueryEngine`, or an engine that it can guard, beside ``gate``.
        metadata: name and description for the model, and ``return_direct`` for answers.
        resolve_input_errors: whether arguments that are not ``input`` are asked as they stand.
        gate: decides; only where ``query_engine`` is not guarded yet.

    Raises:
        ConfigError: neither a guarded engine nor a gate; or both.
    """

    def __init__(
        self,
        query_engine: BaseQueryEngine,
        metadata: ToolMetadata,
        resolve_input_errors: bool = True,
        *,
        gate: Gate | None = None,
    ) -> None:
        self._engine = _guarded(query_engine, gate)
        self._always = metadata.return_direct
        direct = replace(metadata, return_direct=True)
        super().__init__(self._engine, direct, resolve_input_errors)

    @classmethod
    def from_defaults(
        cls,
        query_engine: BaseQueryEngine,
        name: str | None = None,
        description: str | None = None,
        return_direct: bool = False,
        resolve_input_errors: bool = True,
        *,
        gate: Gate | None = None,
    ) -> "GuardedQueryTool":
        """A tool by name and description; ``return_direct`` is about answers."""
        metadata = ToolMetadata(
            name=name or DEFAULT_NAME,
            description=description or DEFAULT_DESCRIPTION,
            return_direct=return_direct,
        )
        return cls(query_engine, metadata, resolve_input_errors, gate=gate)

    @property
    def metadata(self) -> ToolMetadata:
        """Name, description, and whether the latest call, in this task, ends the agent's run."""
        if _answered.get() is self and not self._always:
            return replace(self._metadata, return_direct=False)
        return self._metadata

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """The answer, or the policy's message."""
        _answered.set(None)  # Whoever blocks gets no more than that: answers end the run too.
        query = self._get_query_str(*args, **kwargs)
        try:
            response = self._engine.query(query)
            if isinstance(response, schema.StreamingResponse):
                response = response.get_response()
        except Exception as error:
            return self._failed(query, error)
        return self._output(query, response)

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """As `call`; this is what agents use."""
        _answered.set(None)
        query = self._get_query_str(*args, **kwargs)
        try:
            response = await self._engine.aquery(query)
            if isinstance(response, schema.AsyncStreamingResponse):
                response = await response.get_response()
        except Exception as error:
            return self._failed(query, error)
        if _is_answer(response):
            _answered.set(self)
        return self._output(query, response)

    def _output(
        self, query: str, response: Response, exception: Exception | None = None
    ) -> ToolOutput:
        return ToolOutput(
            content=str(response),
            tool_name=self.metadata.get_name(),
            raw_input={"input": query},
            raw_output=response,
            exception=exception,
        )

    def _failed(self, query: str, error: Exception) -> ToolOutput:
        # Not `is_error`: LlamaIndex ignores `return_direct` then, and the model would go on.
        logger.error("tool %s: %s", self.metadata.get_name(), type(error).__name__)
        decision = error.decision if isinstance(error, JudgeError) else None
        known = decision if isinstance(decision, Decision) else None
        lang = known.query.lang if known else None
        message = self._engine.gate.policy.messages.text(Route.REFUSE, lang, judged=False)
        metadata = {"guard": known.to_dict()} if known else None
        return self._output(query, schema.Response(message, metadata=metadata), error)


def responses_in(output: object) -> list[Response]:
    """The responses of guarded tools behind an agent's output, in the order of their calls.

        output = await agent.run(user_msg="When was it built?")
        for response in responses_in(output):
            print(response.metadata["guard"]["route"], response.source_nodes)

    LlamaIndex keeps them in two places: with the calls where the agent went on, and as the
    output's ``raw`` where the tool's message was the end of the run; then earlier calls of the run
    are not among them.
    """
    calls = (getattr(each, "tool_output", None) for each in getattr(output, "tool_calls", ()))
    found = [getattr(call, "raw_output", None) for call in calls]
    last = getattr(output, "raw", None)
    if not any(one is last for one in found):
        found.append(last)
    return [one for one in found if isinstance(one, _RESPONSES) and "guard" in (one.metadata or {})]


def _guarded(engine: BaseQueryEngine, gate: Gate | None) -> GuardedQueryEngine:
    if gate is not None:
        return GuardedQueryEngine(engine, gate)  # Which refuses an engine that is guarded already.
    if not isinstance(engine, GuardedQueryEngine):
        raise ConfigError(
            f"{type(engine).__name__} is not guarded.",
            hint="Pass GuardedQueryEngine(engine, gate), or the gate beside the engine.",
        )
    return engine


def _is_answer(response: Response) -> bool:
    record = (response.metadata or {}).get("guard", {})
    return record.get("route") == Route.ANSWER or record.get("enforced") is False
