"""Verdict and answer begin alike, so that the second prompt costs only its task."""

import asyncio
import importlib
import os
from collections.abc import Callable, Generator
from typing import Any, cast

import pytest
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent
from llama_index.core.llms import LLM, MockLLM
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine
from llama_index.core.response_synthesizers import (
    get_response_synthesizer,  # pyright: ignore[reportUnknownVariableType]
)
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.llms.openai_like import OpenAILike  # type: ignore[import-untyped]
from llama_index_instrumentation import get_dispatcher
from local_model import weights
from openai import AsyncOpenAI, OpenAI
from wire import Answer, Request, Script, WireServer, chat, token, verdict

from guard import ConfigError, Gate, Policy, Prompt, Thresholds, Windows
from guard.judges import ChatJudge
from guard.prompt import EVIDENCE_TEMPLATE, SWAPPED_TEMPLATE
from guard.testing import ScriptedJudge
from guard_llama_index import ANSWER_TEMPLATE, GuardedQueryEngine, GuardedSynthesizer

pytestmark = pytest.mark.local

Wire = Callable[[Script], WireServer]
NODES = [
    NodeWithScore(
        node=TextNode(
            text=f"Fact {number}: the harbour of town {number} was opened in {1800 + number}, "
            "after long works on its quay {and} its wall.",
            metadata={"file": f"{number}.txt"},
        )
    )
    for number in range(12)
]
QUESTION = "When was the harbour of town 7 opened?"


@pytest.fixture(autouse=True)
def loop_of_this_thread() -> Generator[None]:
    """A loop that is closed: LlamaIndex counts tokens on this thread's, and leaves its own open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    asyncio.set_event_loop(None)


class Found(BaseRetriever):
    """Finds the same nodes for every question."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return NODES


class Clients:
    """The clients of a writer, closed after use."""

    def __init__(self, url: str) -> None:
        self.blocking = OpenAI(base_url=url, api_key="k", max_retries=0)
        self.awaited = AsyncOpenAI(base_url=url, api_key="k", max_retries=0)
        self.llm: Any = cast("Any", OpenAILike)(
            model="m",
            api_base=url,
            api_key="k",
            is_chat_model=True,
            max_retries=0,
            max_tokens=4,
            openai_client=self.blocking,
            async_openai_client=self.awaited,
        )

    def ask(self, engine: BaseQueryEngine, *, awaited: bool) -> Any:
        """The response to the question."""
        if not awaited:
            response = engine.query(QUESTION)
            self.blocking.close()
            return response

        async def asked() -> Any:
            response = await engine.aquery(QUESTION)
            await self.awaited.close()
            return response

        return asyncio.get_event_loop().run_until_complete(asked())


def engine_of(llm: LLM, gate: Gate, seam: str) -> BaseQueryEngine:
    """A guarded engine that shares the beginning of its prompts."""
    writer = get_response_synthesizer(llm=llm, text_qa_template=ANSWER_TEMPLATE)
    if seam == "synthesizer":
        guarded = GuardedSynthesizer(writer, gate, share_prefix=True)
        return RetrieverQueryEngine(Found(), response_synthesizer=guarded)
    inner = RetrieverQueryEngine(Found(), response_synthesizer=writer)
    return GuardedQueryEngine(inner, gate, share_prefix=True)


def both(request: Request) -> Answer:
    """A verdict to the judge, an answer to the writer."""
    if request.body.get("logprobs"):
        return Answer(verdict(-0.001, -9.0))
    return Answer(chat(token("1807", -0.1)))


@pytest.mark.parametrize("seam", ["engine", "synthesizer"])
@pytest.mark.parametrize("awaited", [False, True])
def test_trap_45_verdict_and_answer_share_their_prefix(
    wire: Wire, seam: str, awaited: bool
) -> None:
    """Passages and question are the same bytes at the same place; sources stay what they were."""
    server = wire(both)
    client = AsyncOpenAI(base_url=server.url, api_key="k")
    judge, clients = ChatJudge(client, model="m", close_clients=True), Clients(server.url)
    response = clients.ask(engine_of(clients.llm, Gate(judge), seam), awaited=awaited)
    judge.close()
    first, second = (request.body["messages"] for request in server.requests)
    assert [len(first), len(second)] == [1, 1] and first[0]["role"] == second[0]["role"] == "user"
    shared = os.path.commonprefix([first[0]["content"], second[0]["content"]])
    assert QUESTION in shared
    assert all(each.node.get_content() in shared for each in NODES)
    assert response.source_nodes == NODES
    assert set(response.metadata) == {*(each.node.node_id for each in NODES), "guard"}


def test_every_template_of_ours_begins_with_the_evidence() -> None:
    """Both orders of the labels do; a template of one's own need not."""
    assert Prompt().shares_evidence and Prompt(template=SWAPPED_TEMPLATE).shares_evidence
    own = Prompt(template="{query_str} {context_str} {true_label} {false_label}")
    assert not own.shares_evidence
    assert EVIDENCE_TEMPLATE


@pytest.mark.parametrize("seam", ["engine", "synthesizer"])
def test_a_judge_without_such_a_prompt_is_refused(seam: str) -> None:
    """At construction: there is nothing to share."""
    with pytest.raises(ConfigError, match="no prompt whose beginning"):
        engine_of(MockLLM(), Gate(ScriptedJudge(0.9)), seam)


@pytest.mark.parametrize("seam", ["engine", "synthesizer"])
def test_what_cannot_share_is_told(seam: str) -> None:
    """Another template shares nothing; in parallel both prompts are read at once."""
    judge = ChatJudge(OpenAI(base_url="http://127.0.0.1:9/v1", api_key="k"), model="m")
    plain = get_response_synthesizer(llm=MockLLM())
    ours = get_response_synthesizer(llm=MockLLM(), text_qa_template=ANSWER_TEMPLATE)
    for writer, mode, match in (
        (plain, "before", "does not begin"),
        (ours, "parallel", "same time"),
    ):
        options: Any = {"share_prefix": True, "mode": mode}
        with pytest.raises(ConfigError, match=match):
            if seam == "synthesizer":
                GuardedSynthesizer(writer, Gate(judge), **options)
            else:
                engine = RetrieverQueryEngine(Found(), response_synthesizer=writer)
                GuardedQueryEngine(engine, Gate(judge), **options)
    judge.close()


def test_evidence_that_would_be_cut_is_not_shared(wire: Wire) -> None:
    """Where the writing model takes less than the judge, the question is in every prompt."""
    server = wire(both)
    client = AsyncOpenAI(base_url=server.url, api_key="k")
    judge, clients = ChatJudge(client, model="m", close_clients=True), Clients(server.url)
    clients.llm.context_window = 900
    response = clients.ask(engine_of(clients.llm, Gate(judge), "engine"), awaited=False)
    judge.close()
    assert response.source_nodes == NODES
    writings = [request.prompt for request in server.requests[1:]]
    assert writings and all(QUESTION in prompt for prompt in writings)
    assert "begins]" not in writings[0]


@pytest.mark.parametrize("policy", [Policy(mode="shadow"), Policy(on_unmeasured="answer")])
def test_what_passes_unjudged_is_written_without_it(wire: Wire, policy: Policy) -> None:
    """No passage fits the judge: nobody is refused, so the answer is written from the nodes."""
    server = wire(both)
    client = AsyncOpenAI(base_url=server.url, api_key="k")
    prompt = Prompt(max_context_chars=5)
    judge = ChatJudge(client, model="m", prompt=prompt, close_clients=True)
    clients = Clients(server.url)
    gate = Gate(judge, policy, windows=Windows(1))
    response = clients.ask(engine_of(clients.llm, gate, "engine"), awaited=False)
    judge.close()
    assert str(response) == "1807" and response.metadata["guard"]["probability"] is None


def test_sources_are_what_was_shown(wire: Wire) -> None:
    """What the judge was not shown, the answer does not see, and is no source of it."""
    server = wire(both)
    client = AsyncOpenAI(base_url=server.url, api_key="k")
    prompt = Prompt(max_context_chars=300)
    judge = ChatJudge(client, model="m", prompt=prompt, close_clients=True)
    clients = Clients(server.url)
    response = clients.ask(engine_of(clients.llm, Gate(judge), "engine"), awaited=False)
    judge.close()
    shown = server.requests[-1].prompt
    assert 0 < len(response.source_nodes) < len(NODES)
    assert all(
        (each in response.source_nodes) == (each.node.get_content() in shown) for each in NODES
    )


def test_an_engine_that_splits_its_nodes_is_refused() -> None:
    """Its prompt cannot hold what the judge's holds."""
    judge = ChatJudge(OpenAI(base_url="http://127.0.0.1:9/v1", api_key="k"), model="m")
    writer = get_response_synthesizer(llm=MockLLM())
    engine = CitationQueryEngine(Found(), llm=MockLLM(), response_synthesizer=writer)
    with pytest.raises(ConfigError, match="splits its nodes"):
        GuardedQueryEngine(engine, Gate(judge), share_prefix=True)
    judge.close()


class Replies(BaseEventHandler):
    """Keeps the raw reply of every chat."""

    raw: list[Any] = []

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """Keeps it."""
        if isinstance(event, LLMChatEndEvent) and event.response is not None:
            self.raw.append(event.response.raw)


@pytest.fixture
def replies() -> Generator[Replies]:
    """Listens to every chat of LlamaIndex."""
    handler, root = Replies(raw=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.fixture
def llama() -> Generator[str]:
    """A real llama.cpp server on loopback."""
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.n_ctx, params.n_parallel, params.verbosity = 4096, 1, 0
    params.hostnames, params.port = ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


def test_llama_cpp_reuses_what_the_judge_has_read(llama: str, replies: Replies) -> None:
    """At least 95 % of the contexts' tokens are hits in the second call."""
    client = AsyncOpenAI(base_url=llama, api_key="k")
    judge = ChatJudge(client, model="m", min_mass=0.0, close_clients=True)
    always = Policy(thresholds=Thresholds(0.0, 0.0), deadline=60.0)
    clients = Clients(llama)
    engine = engine_of(clients.llm, Gate(judge, always), "synthesizer")
    response = clients.ask(engine, awaited=False)
    judge.close()
    usage = replies.raw[-1].usage
    assert response.metadata["guard"]["route"] == "answer"
    assert usage.prompt_tokens_details.cached_tokens >= 0.95 * usage.prompt_tokens
