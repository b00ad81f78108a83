"""What tests of the LlamaIndex adapter share: a question about a bridge, and who answers it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, cast

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.llms import (
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    CustomLLM,
    LLMMetadata,
)
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from pydantic import Field

from guard import Gate, Messages, Policy, Query
from guard.testing import Scripted, ScriptedJudge

QUESTION = "When was the bridge opened?"
ANSWER = "In 1932."
CLARIFY, REFUSE = "Which bridge do you mean?", "My documents do not say."
MESSAGES = Messages(clarify=CLARIFY, refuse=REFUSE, unmeasured=REFUSE)
WAYS = ("sync", "async", "stream", "async stream")
TYPES: dict[str, type] = {
    "sync": Response,
    "async": Response,
    "stream": StreamingResponse,
    "async stream": AsyncStreamingResponse,
}


class CountingLLM(CustomLLM):
    """Says ``reply`` of the prompt after ``seconds``, letter by letter if streamed, and keeps every
    prompt."""

    prompts: list[str] = Field(default_factory=list[str])
    reply: Callable[[str], str] = lambda _prompt: ANSWER
    seconds: float = 0.0

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.prompts.append(prompt)
        time.sleep(self.seconds)
        return CompletionResponse(text=self.reply(prompt))

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        self.prompts.append(prompt)
        await asyncio.sleep(self.seconds)
        return CompletionResponse(text=self.reply(prompt))

    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        text = self.complete(prompt).text
        return (CompletionResponse(text=text, delta=letter) for letter in text)

    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        text = (await self.acomplete(prompt)).text

        async def letters() -> AsyncGenerator[CompletionResponse]:
            for letter in text:
                yield CompletionResponse(text=text, delta=letter)

        return letters()


class FixedRetriever(BaseRetriever):
    """Retrieves the same nodes for every question, and keeps the questions."""

    def __init__(self, nodes: Sequence[NodeWithScore]) -> None:
        cast("Any", super()).__init__()  # LlamaIndex's parameters there are half typed.
        self.nodes = nodes
        self.questions: list[str] = []

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        self.questions.append(query_bundle.query_str)
        return list(self.nodes)


def a_node(text: str, name: str, **metadata: str) -> NodeWithScore:
    return NodeWithScore(node=TextNode(text=text, id_=name, metadata=dict(metadata)), score=0.5)


def bridge_nodes() -> list[NodeWithScore]:
    return [
        a_node("The bridge was opened in 1932.", "bridge", file="bridge.txt"),
        a_node("It spans the harbour.", "harbour", file="harbour.txt"),
    ]


def a_gate(
    script: Scripted | Sequence[Scripted] | Callable[[Query], Scripted], **options: Any
) -> tuple[Gate, ScriptedJudge]:
    judge = ScriptedJudge(script)
    return Gate(judge, Policy(messages=MESSAGES, **options)), judge


def ask(engine: BaseQueryEngine, way: str) -> tuple[RESPONSE_TYPE, str]:
    """The response, and its text, read to the end of its stream."""
    if "async" not in way:
        response = engine.query(QUESTION)
        return response, str(response)

    async def asked() -> tuple[RESPONSE_TYPE, str]:
        response = await engine.aquery(QUESTION)
        if isinstance(response, AsyncStreamingResponse):
            return response, str(await response.get_response())
        return response, str(response)

    return asyncio.run(asked())


def as_kept(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as an audit keeps it: without what the user was told, and what a seam adds."""
    beside = ("first", "clarifications", "suspect_nodes")
    kept = {key: value for key, value in record.items() if key not in beside}
    return {**kept, "message": None}


def record_of(response: RESPONSE_TYPE) -> dict[str, Any]:
    assert response.metadata is not None
    return cast("dict[str, Any]", response.metadata["guard"])


def node_ids(response: RESPONSE_TYPE) -> list[str]:
    return [each.node.node_id for each in response.source_nodes]
