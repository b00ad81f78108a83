"""Parallel on a loopback server: what is held back, what ends, what is left behind."""

import asyncio
import gc
import importlib
import inspect
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from typing import Any

import openai
import pytest
from blockbuster import blockbuster_ctx
from bridge import (
    ANSWER,
    CLARIFY,
    MESSAGES,
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
    record_of,
)
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    StreamingResponse,
)
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.llms import LLM, CompletionResponse, CustomLLM, MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle
from pydantic import BaseModel
from wire import Answer, Json, Request, Script, WireServer, chat, delta

from guard import ConfigError, Gate, Policy, Query, Retry, Unmeasured, Verdict
from guard.loop import LoopThread, shared_loop
from guard.testing import Scripted, ScriptedJudge
from guard_llama_index import (
    GuardedChatEngine,
    GuardedQueryEngine,
    GuardedSynthesizer,
    lent,
)
from guard_llama_index.parallel import ReadAhead

pytestmark = [pytest.mark.local, pytest.mark.wire]

# It ships no types.
OpenAILike: Any = importlib.import_module("llama_index.llms.openai_like").OpenAILike

Wire = Callable[[Script], WireServer]
PATIENCE = 5.0  # Seconds until something that must happen counts as missing.


class HeldJudge(ScriptedJudge):
    """Says its line once ``until`` is true, and notes that in the journal."""

    def __init__(
        self,
        script: Scripted | Sequence[Scripted],
        until: Callable[[], object],
        journal: list[str],
    ) -> None:
        super().__init__(script)
        self._until, self._journal = until, journal

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        """Of the second verdict, which is not hidden behind anything."""
        assert self.queries, "Parallel takes the asynchronous path."
        self._journal.append("verdict")
        return super().judge(query, timeout=timeout)

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        while not self._until():
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)  # What could leak out has the time to.
        self._journal.append("verdict")
        return await super().ajudge(query, timeout=timeout)


class Scene:
    """A guarded engine, its model on a loopback server, and a journal of what happened when."""

    def __init__(self, wire: Wire, script: Script, *, streaming: bool) -> None:
        self.journal: list[str] = []
        self.server = wire(script)
        self.streaming = streaming
        self.llm: Any = OpenAILike(
            model="wire-model",
            api_base=self.server.url,
            api_key="sk-canary",
            max_retries=0,
            is_chat_model=True,
        )

    def engine(
        self, judge: ScriptedJudge, more: BaseRetriever | None = None, **options: Any
    ) -> GuardedQueryEngine:
        gate = Gate(judge, Policy(messages=MESSAGES, **options), retry=Retry(attempts=1))
        inner = RetrieverQueryEngine.from_args(
            FixedRetriever(bridge_nodes()), llm=self.llm, streaming=self.streaming
        )
        return GuardedQueryEngine(inner, gate, mode="parallel", retry_retrieval=more)

    def held(self, script: Scripted | Sequence[Scripted], until: Callable[[], object]) -> HeldJudge:
        return HeldJudge(script, until, self.journal)

    def words(self, count: int, pause: float = 0.0) -> Generator[Json]:
        """That many words, each noted as it is sent."""
        for number in range(count):
            self.journal.append(f"sent {number}")
            yield delta(f"{number} ")
            yield pause

    def sent(self, count: int = 1) -> bool:
        return sum(line.startswith("sent") for line in self.journal) >= count

    def read(self, engine: GuardedQueryEngine, way: str) -> RESPONSE_TYPE:
        """Asks, reads to the end, and closes the client; each token is noted as it is read."""
        if "async" in way:
            return asyncio.run(self.aread(engine))
        try:
            response = engine.query(QUESTION)
            if isinstance(response, StreamingResponse):
                for token in response.response_gen:
                    self.journal.append(f"read {token.strip()}")
            else:
                self.journal.append(f"read {response}")
            return response
        finally:
            shared_loop.run(self.close(), PATIENCE)

    async def aread(self, engine: GuardedQueryEngine) -> RESPONSE_TYPE:
        try:
            response = await engine.aquery(QUESTION)
            if isinstance(response, AsyncStreamingResponse):
                async for token in response.response_gen:
                    self.journal.append(f"read {token.strip()}")
            else:
                self.journal.append(f"read {response}")
            return response
        finally:
            await self.close()

    async def close(self) -> None:
        await self.llm._get_aclient().close()
        self.llm._aclient = None

    @property
    def told(self) -> str:
        """All that the consumer has read."""
        return " ".join(line[5:] for line in self.journal if line.startswith("read "))


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def a_writing_scene(wire: Wire, count: int) -> Scene:
    """One in which that many words are streamed."""

    def answer(_request: Request) -> Answer:
        return Answer(events=scene.words(count))

    scene = Scene(wire, answer, streaming=True)
    return scene


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "It did not happen."
        time.sleep(0.01)


async def auntil(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "It did not happen."
        await asyncio.sleep(0.01)


def whole(scene: "list[Scene]") -> Callable[[Request], Answer]:
    """Answers with the whole text, or with five words if streamed; noted as it is sent."""

    def answer(request: Request) -> Answer:
        if request.body.get("stream"):
            return Answer(events=scene[0].words(5))
        scene[0].journal.append("sent")
        return Answer(chat(content="0 1 2 3 4"))

    return answer


def finished(scene: Scene) -> bool:
    return bool(scene.server.requests) and scene.server.requests[0].done.is_set()


# ── What is held back ────────────────────────────────────────────────────────────────────────────


def a_finished_scene(wire: Wire, way: str) -> Scene:
    """One in which the whole answer is written before there is a verdict."""
    scenes: list[Scene] = []
    scenes.append(Scene(wire, whole(scenes), streaming="stream" in way))
    return scenes[0]


def test_nothing_is_visible_before_the_verdict(wire: Wire, way: str) -> None:
    """The transcript: all was sent, then came the verdict, and only then was anything read."""
    scene = a_finished_scene(wire, way)
    response = scene.read(scene.engine(scene.held(0.95, lambda: finished(scene))), way)
    assert (type(response), scene.told) == (TYPES[way], "0 1 2 3 4")
    kinds = [line.split()[0] for line in scene.journal]
    count = 5 if scene.streaming else 1
    assert kinds == ["sent"] * count + ["verdict"] + ["read"] * count
    assert record_of(response)["route"] == "answer"


ENDS: dict[str, tuple[Scripted, dict[str, Any], str | type[Exception]]] = {
    "clarify": (0.5, {}, CLARIFY),
    "refuse": (0.05, {}, REFUSE),
    "unmeasured": (Unmeasured("No."), {}, REFUSE),
    "raise": (Unmeasured("No."), {"on_unmeasured": "raise"}, Unmeasured),
    "bug": (ZeroDivisionError("A bug in the judge."), {}, ZeroDivisionError),
}


@pytest.mark.parametrize("case", ENDS)
def test_nothing_is_visible_without_a_verdict_for_it(wire: Wire, way: str, case: str) -> None:
    """Though the whole answer has been written, of it nothing reaches the consumer, ever."""
    script, options, end = ENDS[case]
    scene = a_finished_scene(wire, way)
    engine = scene.engine(scene.held(script, lambda: finished(scene)), **options)
    if isinstance(end, str):
        assert type(scene.read(engine, way)) is TYPES[way]
        assert scene.told == end
    else:
        with pytest.raises(end):
            scene.read(engine, way)
        assert scene.told == ""
    assert scene.sent()


def test_nothing_is_visible_if_the_judge_times_out(wire: Wire, way: str) -> None:
    """The deadline passes, and the policy's message comes in place of what was written."""
    scene = a_finished_scene(wire, way)
    response = scene.read(scene.engine(scene.held(0.95, lambda: False), deadline=0.5), way)
    assert (scene.told, record_of(response)["reason"]) == (REFUSE, "timeout")
    assert scene.sent()


def test_shadow_mode_answers_after_the_verdict(wire: Wire, way: str) -> None:
    """The answer passes, with what would have been decided."""
    scene = a_finished_scene(wire, way)
    engine = scene.engine(scene.held(0.05, lambda: finished(scene)), mode="shadow")
    response = scene.read(engine, way)
    assert scene.told == "0 1 2 3 4"
    assert (record_of(response)["route"], record_of(response)["enforced"]) == ("refuse", False)
    kinds = [line.split()[0] for line in scene.journal]
    assert kinds.index("verdict") < kinds.index("read")


# ── What ends ────────────────────────────────────────────────────────────────────────────────────

# A model that has not begun to write, and one that never stops.
WRITING = ("silent", "endless", "flood")


def a_running_scene(wire: Wire, way: str, writing: str) -> Scene:
    def answer(_request: Request) -> Answer:
        if writing == "silent" or not scene.streaming:
            return Answer(hang=True)
        return Answer(events=scene.words(10**9, 0.0 if writing == "flood" else 0.01))

    scene = Scene(wire, answer, streaming="stream" in way)
    return scene


def begun(scene: Scene, writing: str) -> bool:
    """Whether the model is asked, and has written what it writes for now."""
    if writing == "silent" or not scene.streaming:
        return bool(scene.server.requests)
    return scene.sent(1000 if writing == "flood" else 3)


def require_gone(scene: Scene) -> None:
    (request,) = scene.server.requests
    assert request.gone.wait(PATIENCE), "The generation goes on."


@pytest.mark.parametrize(
    ("way", "writing"),
    [
        ("sync", "silent"),
        ("async", "silent"),
        *((way, writing) for way in ("stream", "async stream") for writing in WRITING),
    ],
)
@pytest.mark.parametrize("case", ENDS)
def test_the_generation_really_ends(wire: Wire, way: str, case: str, writing: str) -> None:
    """Whatever the judge says but yes, the server sees its client go away."""
    script, options, end = ENDS[case]
    scene = a_running_scene(wire, way, writing)
    engine = scene.engine(scene.held(script, lambda: begun(scene, writing)), **options)
    if isinstance(end, str):
        scene.read(engine, way)
        assert scene.told == end
    else:
        with pytest.raises(end):
            scene.read(engine, way)
    require_gone(scene)


def test_the_generation_ends_before_the_refusal_is_told(wire: Wire, way: str) -> None:
    """Without help of the client's end: it stays open."""
    scene = a_running_scene(wire, way, "silent")
    engine = scene.engine(scene.held(0.05, lambda: begun(scene, "silent")))

    async def asked() -> None:
        await engine.aquery(QUESTION)
        await asyncio.to_thread(require_gone, scene)
        await scene.close()

    if "async" in way:
        asyncio.run(asked())
    else:
        engine.query(QUESTION)
        require_gone(scene)
        shared_loop.run(scene.close(), PATIENCE)


@pytest.mark.parametrize(
    ("way", "writing"),
    [("async", "silent"), *(("async stream", writing) for writing in WRITING)],
)
def test_cancelling_ends_judge_and_generation(wire: Wire, way: str, writing: str) -> None:
    """The caller's own cancellation, which is no decision."""
    scene = a_running_scene(wire, way, writing)
    engine = scene.engine(scene.held(0.95, lambda: False))

    async def cancelled() -> int:
        task = asyncio.ensure_future(engine.aquery(QUESTION))
        await auntil(lambda: begun(scene, writing))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await auntil(lambda: len(asyncio.all_tasks()) == 1)
        await auntil(scene.server.requests[0].gone.is_set)
        await scene.close()
        return len(asyncio.all_tasks())

    assert asyncio.run(cancelled()) == 1


def test_cancelling_during_a_refusal_is_not_lost() -> None:
    """A writer that takes its time to end does not swallow the cancellation of the caller."""
    ending: list[str] = []

    class Slow(CountingLLM):
        """Takes its time to end."""

        async def acomplete(
            self, prompt: str, formatted: bool = False, **kwargs: Any
        ) -> CompletionResponse:
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                ending.append("begins")
                await asyncio.sleep(0.2)
                raise
            return self.complete(prompt)

    inner = RetrieverQueryEngine.from_args(FixedRetriever(bridge_nodes()), llm=Slow())
    judge = ScriptedJudge(0.05, delay=0.05)
    engine = GuardedQueryEngine(inner, Gate(judge), mode="parallel")

    async def cancelled() -> None:
        task = asyncio.ensure_future(engine.aquery(QUESTION))
        await auntil(lambda: ending)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())


# ── What is left behind ──────────────────────────────────────────────────────────────────────────


def open_generators() -> int:
    return sum(inspect.isasyncgen(each) and each.ag_frame is not None for each in objects())


def open_sockets() -> int:
    return sum(issubclass(type(each), socket.socket) and each.fileno() != -1 for each in objects())


def objects() -> Iterable[Any]:
    gc.collect()
    return gc.get_objects()


ENDINGS = ("closed unread", "closed half-read", "forgotten unread", "forgotten half-read", "read")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("count", [20, 10**9])
def test_streams_leave_nothing_behind(wire: Wire, ending: str, count: int) -> None:
    """No task, no open generator, no socket; read to the end, closed early, or forgotten."""
    count = min(count, 1000) if ending == "read" else count
    scene = a_writing_scene(wire, count)
    engine = scene.engine(scene.held(0.95, lambda: scene.sent(10)))

    async def use() -> None:
        response = await engine.aquery(QUESTION)
        assert isinstance(response, AsyncStreamingResponse)
        stream = response.response_gen
        if "half" in ending:
            assert [await anext(stream) for _ in range(3)] == ["0 ", "1 ", "2 "]
        if ending == "read":
            assert len([token async for token in stream]) == count
        if "closed" in ending:
            await stream.aclose()
            assert [token async for token in stream] == []

    async def counted() -> None:
        before = open_generators(), open_sockets()
        await use()
        await auntil(lambda: len(asyncio.all_tasks()) == 1)
        await auntil(scene.server.requests[0].done.is_set)
        await scene.close()
        await auntil(lambda: (open_generators(), open_sockets()) == before)

    asyncio.run(counted())


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("count", [20, 10**9])
def test_blocking_streams_leave_nothing_behind(wire: Wire, ending: str, count: int) -> None:
    """The same for callers that block: nothing stays on the shared loop."""
    count = min(count, 1000) if ending == "read" else count
    scene = a_writing_scene(wire, count)
    engine = scene.engine(scene.held(0.95, lambda: scene.sent(10)))
    loop = shared_loop.loop()
    until(lambda: not asyncio.all_tasks(loop))
    before = open_generators(), open_sockets()

    def use() -> None:
        response = engine.query(QUESTION)
        assert isinstance(response, StreamingResponse)
        stream = response.response_gen
        if "half" in ending:
            assert [next(stream) for _ in range(3)] == ["0 ", "1 ", "2 "]
        if ending == "read":
            assert len(list(stream)) == count
        if "closed" in ending:
            stream.close()
            assert list(stream) == []

    use()
    until(lambda: not asyncio.all_tasks(loop))
    assert scene.server.requests[0].done.wait(PATIENCE)
    shared_loop.run(scene.close(), PATIENCE)
    until(lambda: (open_generators(), open_sockets()) == before)


# ── Errors of the writer ─────────────────────────────────────────────────────────────────────────

BOOM = Answer({"error": {"message": "boom"}}, status=500)


@pytest.mark.parametrize("script", [0.5, 0.05])
def test_a_failed_generation_hides_no_refusal(wire: Wire, way: str, script: float) -> None:
    """What was not to be answered needs no answer."""
    scene = Scene(wire, BOOM, streaming="stream" in way)
    response = scene.read(scene.engine(scene.held(script, lambda: finished(scene))), way)
    assert type(response) is TYPES[way]
    assert scene.told == (CLARIFY if script == 0.5 else REFUSE)


def test_a_failed_generation_surfaces_after_the_verdict(wire: Wire, way: str) -> None:
    """It is the caller's to handle, as without a guard."""
    scene = Scene(wire, BOOM, streaming="stream" in way)
    engine = scene.engine(scene.held(0.95, lambda: finished(scene)))
    with pytest.raises(openai.InternalServerError, match="boom"):
        scene.read(engine, way)
    assert scene.journal == ["verdict"]


@pytest.mark.parametrize("script", [0.95, 0.05])
@pytest.mark.parametrize("way", ["stream", "async stream"])
def test_a_stream_that_breaks_off(wire: Wire, way: str, script: float) -> None:
    """What came before is read, then the error is raised; on a refusal neither is seen."""

    def broken() -> Generator[Json]:
        yield from scene.words(3)
        raise ConnectionResetError

    answer = Answer(events=broken(), headers={"connection": "close"})
    scene = Scene(wire, answer, streaming=True)
    engine = scene.engine(scene.held(script, lambda: finished(scene)))
    if script < 0.5:
        scene.read(engine, way)
        assert scene.told == REFUSE
        return
    with pytest.raises(Exception, match="incomplete chunked read"):
        scene.read(engine, way)
    assert scene.told == "0 1 2"


# ── Order, and slow readers ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["stream", "async stream"])
def test_many_tokens_stay_in_order_for_a_slow_reader(wire: Wire, way: str) -> None:
    """Far more than are read ahead, some before the verdict, most after it."""
    scene = a_writing_scene(wire, 2000)
    engine = scene.engine(scene.held(0.95, lambda: scene.sent(1000)))

    async def aslowly() -> list[str]:
        response = await engine.aquery(QUESTION)
        assert isinstance(response, AsyncStreamingResponse)
        tokens = list[str]()
        async for token in response.response_gen:
            tokens.append(token)
            await asyncio.sleep(0.02 if len(tokens) % 200 == 0 else 0)
        await scene.close()
        return tokens

    def slowly() -> list[str]:
        response = engine.query(QUESTION)
        assert isinstance(response, StreamingResponse)
        tokens = list[str]()
        for token in response.response_gen:
            tokens.append(token)
            time.sleep(0.02 if len(tokens) % 200 == 0 else 0)
        shared_loop.run(scene.close(), PATIENCE)
        return tokens

    tokens = asyncio.run(aslowly()) if way == "async stream" else slowly()
    assert tokens == [f"{number} " for number in range(2000)]


def test_the_event_loop_is_not_held_up_on_the_wire(wire: Wire) -> None:
    """Real HTTP, real streams, and nothing blocks."""
    scene = a_writing_scene(wire, 20)
    engine = scene.engine(ScriptedJudge(0.95, delay=0.05))

    async def asked() -> str:
        async for _ in await scene.llm.astream_complete("?"):
            pass  # Imports and tokenizers are loaded.
        with blockbuster_ctx() as buster:
            # LlamaIndex counts the tokens of chat prompts on a thread, and blocks until it has.
            counting = ("llama_index/core/async_utils.py", "asyncio_run")
            for each in buster.functions.values():
                each.can_block_in(*counting)
            response = await engine.aquery(QUESTION)
            assert isinstance(response, AsyncStreamingResponse)
            told = "".join([token async for token in response.response_gen])
        await scene.close()
        return told

    assert asyncio.run(asked()).split() == [str(number) for number in range(20)]


# The reading ahead itself.


async def numbers(made: list[int], count: int = 10**9) -> AsyncGenerator[str]:
    for number in range(count):
        made.append(number)
        yield str(number)


def test_a_writer_waits_for_its_reader() -> None:
    """At most so many tokens ahead: an unread stream does not fill the memory."""

    async def ahead() -> None:
        made = list[int]()
        stream = ReadAhead(numbers(made))
        for read in range(3):
            for _ in range(1000):
                await asyncio.sleep(0)
            assert len(made) == 257 + read
            await anext(stream)
        await stream.aclose()

    asyncio.run(ahead())


def test_closing_wakes_whoever_waits() -> None:
    """A reader in another task, as in a server whose client goes away."""

    async def never() -> AsyncGenerator[str]:
        await asyncio.sleep(PATIENCE)
        yield "late"

    async def closed() -> list[list[str]]:
        stream = ReadAhead(never())

        async def rest() -> list[str]:
            return [token async for token in stream]

        readers = [asyncio.create_task(rest()) for _ in range(3)]
        await asyncio.sleep(0.01)
        await stream.aclose()
        return await asyncio.wait_for(asyncio.gather(*readers), PATIENCE)

    assert asyncio.run(closed()) == [[], [], []]


def test_a_stream_that_cancels_itself_ends() -> None:
    """Its reader does not wait for ever."""

    async def cancelled() -> AsyncGenerator[str]:
        yield "one"
        raise asyncio.CancelledError

    async def read() -> None:
        stream = ReadAhead(cancelled())
        assert await anext(stream) == "one"
        with pytest.raises(asyncio.CancelledError):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(read())


def test_throwing_into_a_stream_ends_it() -> None:
    """As into any generator."""

    async def thrown() -> list[int]:
        made = list[int]()
        stream = ReadAhead(numbers(made))
        await anext(stream)
        with pytest.raises(KeyError):
            await stream.athrow(KeyError("mine"))
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        return made

    assert asyncio.run(thrown())


# ── With the rest of the guard ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("second", [0.95, 0.05])
def test_retrieving_again(wire: Wire, way: str, second: float) -> None:
    """The first generation ends; the second, from the union, begins after its verdict only."""

    def answer(request: Request) -> Answer:
        if "eight years" not in str(request.body):
            return Answer(hang=True)
        scene.journal.append("sent")
        return Answer(events=scene.words(5)) if scene.streaming else Answer(chat(content=ANSWER))

    scene = Scene(wire, answer, streaming="stream" in way)
    judge = scene.held([0.5, second], lambda: scene.server.requests)
    more = FixedRetriever([a_node("It took eight years.", "years")])
    response = scene.read(scene.engine(judge, more), way)
    assert scene.server.requests[0].gone.wait(PATIENCE)
    assert record_of(response)["first"]["probability"] == 0.5
    assert record_of(response)["probability"] == second
    if second == 0.05:
        assert (scene.told, len(scene.server.requests)) == (REFUSE, 1)
        return
    assert scene.told == ("0 1 2 3 4" if scene.streaming else ANSWER)
    kinds = [line.split()[0] for line in scene.journal]
    assert kinds[:3] == ["verdict", "verdict", "sent"]


class Nested(BaseRetriever):
    """Asks a guarded engine for what to retrieve, and blocks."""

    engine: GuardedQueryEngine

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [a_node(str(self.engine.query(query_bundle)), "nested")]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_parallel_query_inside_another(way: str) -> None:
    """A retriever that asks a guarded engine blocks whoever retrieves, and not our loop."""
    inner = RetrieverQueryEngine.from_args(FixedRetriever(bridge_nodes()), llm=CountingLLM())
    nested: Any = Nested
    more: Any = nested()
    more.engine = GuardedQueryEngine(inner, a_gate(0.95)[0], mode="parallel")
    gate, judge = a_gate(0.05)
    engine = GuardedQueryEngine(inner, gate, mode="parallel", retry_retrieval=more)
    assert ask(engine, way)[1] == REFUSE
    assert judge.queries[1].contexts[-1] == ANSWER


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_closing_twice_ends_the_request_all_the_same(wire: Wire, turns: int) -> None:
    """A second one must not break in on the first; frameworks cancel and close in one breath."""

    def words(_request: Request) -> Answer:
        return Answer(events=scene.words(10_000, 0.001))

    scene = Scene(wire, words, streaming=True)

    async def closed() -> None:
        engine = scene.engine(scene.held(0.95, lambda: True))
        response = await engine.aquery(QUESTION)
        assert isinstance(response, AsyncStreamingResponse)
        stream = response.response_gen
        await anext(stream)
        first = asyncio.ensure_future(stream.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)
        second = asyncio.ensure_future(stream.aclose())
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([first, second])
        await stream.aclose()
        await auntil(scene.server.requests[0].gone.is_set)
        await scene.close()

    asyncio.run(closed())


async def endless() -> AsyncGenerator[str]:
    """Always has a token ready."""
    while True:
        yield "more "


def test_a_stream_that_never_waits_holds_up_nobody() -> None:
    """It cannot be cancelled for a while; others go on meanwhile."""

    async def steps() -> int:
        reader = ReadAhead(endless())
        await anext(reader)
        ending, taken = asyncio.ensure_future(reader.aclose()), 0
        while not ending.done():
            await asyncio.sleep(0)
            taken += 1
        return taken

    assert asyncio.run(steps()) > 100


# ── One model, two event loops ───────────────────────────────────────────────────────────────────

# Given by the caller, the client and its connections are his.
CLIENTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "none": lambda _url: {},
    "a client": lambda url: {
        "async_openai_client": openai.AsyncOpenAI(base_url=url, api_key="sk-canary")
    },
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("client", CLIENTS)
def test_one_model_for_blocking_and_awaited_queries(wire: Wire, stream: bool, client: str) -> None:
    """Each kind has connections of its own, and keeps them; both go on after the other."""
    whole = Answer(chat(content=ANSWER))
    server = wire(lambda _request: Answer(events=[delta(ANSWER)]) if stream else whole)
    llm: Any = OpenAILike(
        model="wire-model",
        api_base=server.url,
        api_key="sk-canary",
        max_retries=0,
        is_chat_model=True,
        **CLIENTS[client](server.url),
    )
    inner = RetrieverQueryEngine.from_args(
        FixedRetriever(bridge_nodes()), llm=llm, streaming=stream
    )
    engine = GuardedQueryEngine(inner, a_gate(0.95)[0], mode="parallel")
    given = llm._aclient

    async def awaited(times: int) -> list[str]:
        told = list[str]()
        for _ in range(times):
            response = await engine.aquery(QUESTION)
            if isinstance(response, AsyncStreamingResponse):
                response = await response.get_response()
            told.append(str(response))
        return told

    with asyncio.Runner() as runner:
        blocked = [str(engine.query(QUESTION)) for _ in range(2)]
        assert llm._aclient is given  # Blocking queries leave the model as it is.
        said = runner.run(awaited(2))
        blocked.append(str(engine.query(QUESTION)))
        said += runner.run(awaited(1))
        runner.run(llm._aclient.close())
    assert blocked == said == [ANSWER] * 3
    assert len(server.requests) == 6
    [ours] = [one for (_, number), one in lent.clients_by_model.items() if number == id(llm)]
    shared_loop.run(ours.close(), PATIENCE)


def test_a_models_connections_end_with_it(wire: Wire) -> None:
    """Applications that build their model for each request would collect sockets otherwise."""
    server = wire(Answer(chat(content=ANSWER)))

    def asked() -> openai.AsyncOpenAI:
        llm: Any = OpenAILike(
            model="wire-model", api_base=server.url, api_key="sk-canary", is_chat_model=True
        )
        inner = RetrieverQueryEngine.from_args(FixedRetriever(bridge_nodes()), llm=llm)
        engine = GuardedQueryEngine(inner, a_gate(0.95)[0], mode="parallel")
        assert str(engine.query(QUESTION)) == ANSWER
        clients: Iterable[openai.AsyncOpenAI] = lent.clients_by_model.values()
        return list(clients)[-1]

    gc.collect()
    before = list(lent.clients_by_model)
    client = asked()
    gc.collect()
    assert list(lent.clients_by_model) == before
    end = time.monotonic() + PATIENCE
    while not client.is_closed():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_stream_outlives_its_model(wire: Wire) -> None:
    """An application may build its engine for one request, and return the stream."""
    go_on = threading.Event()

    def words(_request: Request) -> Answer:
        def sent() -> Generator[Json]:
            yield delta("One ")
            yield 0.01
            assert go_on.wait(PATIENCE)
            yield delta("two.")

        return Answer(events=sent())

    server = wire(words)

    def stream() -> Generator[str, None, None]:
        llm: Any = OpenAILike(
            model="wire-model", api_base=server.url, api_key="sk-canary", is_chat_model=True
        )
        shelf = FixedRetriever(bridge_nodes())
        inner = RetrieverQueryEngine.from_args(shelf, llm=llm, streaming=True)
        response = GuardedQueryEngine(inner, a_gate(0.95)[0], mode="parallel").query(QUESTION)
        assert isinstance(response, StreamingResponse)
        return response.response_gen

    tokens = stream()
    assert next(tokens) == "One "
    gc.collect()
    go_on.set()
    assert list(tokens) == ["two."]
    del tokens
    gc.collect()


def test_a_collected_model_takes_no_lock() -> None:
    """The garbage collector may run anywhere, in the middle of the loop's own start as well."""
    loop: Any = LoopThread()
    with loop._lock:
        running = loop.running
    assert running is None
    started: asyncio.AbstractEventLoop = loop.loop()
    with loop._lock:
        assert loop.running is started
    started.call_soon_threadsafe(started.stop)
    while started.is_running():
        time.sleep(0.005)
    started.close()


def test_a_structured_model_has_connections_of_its_own_too(wire: Wire) -> None:
    llm: Any = OpenAILike(model="m", api_base=wire(Answer({})).url, api_key="k", is_chat_model=True)
    structured: Any = llm.as_structured_llm(Fact)
    inner = RetrieverQueryEngine.from_args(FixedRetriever([]), llm=structured)
    copied: Any = lent.lent(inner)
    inside = copied._response_synthesizer._llm
    assert (type(inside), inside.output_cls) == (type(structured), Fact)
    assert inside.llm._aclient is not None and llm._aclient is None

    class Mine(RetrieverQueryEngine):
        """Changes nothing about how it writes."""

    class Own(RetrieverQueryEngine):
        """Writes in a way of its own."""

        async def asynthesize(self, *args: Any, **kwargs: Any) -> RESPONSE_TYPE:
            raise NotImplementedError

    assert lent.lent(mine := Mine.from_args(FixedRetriever([]), llm=llm)) is not mine
    assert lent.lent(own := Own.from_args(FixedRetriever([]), llm=llm)) is own


def test_a_new_prompt_reaches_blocking_queries_too() -> None:
    """What answers on our loop is a copy, made anew for each query."""
    llm = CountingLLM()
    inner = RetrieverQueryEngine.from_args(FixedRetriever(bridge_nodes()), llm=llm)
    engine = GuardedQueryEngine(inner, a_gate(0.95)[0], mode="parallel")
    engine.query(QUESTION)
    name = "query_engine:response_synthesizer:text_qa_template"
    engine.update_prompts({name: PromptTemplate("Briefly: {context_str} {query_str}")})
    engine.query(QUESTION)
    assert [prompt.startswith("Briefly:") for prompt in llm.prompts] == [False, True]


class Blocking(CountingLLM):
    """A model whose asynchronous methods are those that CustomLLM has, which block."""

    acomplete = CustomLLM.acomplete
    astream_complete = CustomLLM.astream_complete


class Slowly(MockLLM):
    """LlamaIndex's model for tests, made to take its time."""

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError


class Fact(BaseModel):
    """What a structured model is asked for."""

    year: int


def structured() -> LLM:
    return Blocking().as_structured_llm(Fact)


@pytest.mark.parametrize("kind", [Blocking, Slowly, structured])
def test_a_model_that_blocks_is_refused(kind: Callable[[], LLM]) -> None:
    """Nothing could be written while the judge decides, nor cancelled."""
    llm, gate = kind(), a_gate(0.9)[0]
    inner: Any = RetrieverQueryEngine.from_args(FixedRetriever([]), llm=llm)
    memory = ChatMemoryBuffer(token_limit=1000)
    chat_engine = ContextChatEngine.from_defaults(FixedRetriever([]), llm=llm, memory=memory)
    for guard in (
        lambda: GuardedQueryEngine(inner, gate, mode="parallel"),
        lambda: GuardedSynthesizer(inner._response_synthesizer, gate, mode="parallel"),
        lambda: GuardedChatEngine(chat_engine, gate, mode="parallel"),
    ):
        with pytest.raises(ConfigError, match="(Blocking|Slowly) blocks in acomplete") as caught:
            guard()
        assert str(caught.value.hint).startswith('Use mode="before"')
    GuardedQueryEngine(inner, gate)


def test_llamaindexs_model_for_tests_is_not_refused() -> None:
    inner = RetrieverQueryEngine.from_args(FixedRetriever(bridge_nodes()), llm=MockLLM())
    engine = GuardedQueryEngine(inner, a_gate(0.95)[0], mode="parallel")
    assert "1932" in ask(engine, "sync")[1]
