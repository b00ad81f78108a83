"""Every fault × every policy on streaming engines: no token of an unjudged answer comes out."""

import asyncio
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import pytest
from bridge import ANSWER, MESSAGES, QUESTION, CountingLLM, FixedRetriever, bridge_nodes, node_ids
from cells import HURRIED, KEY, OVERRUN, Tally, metrics, require_nothing_passed, warm_up
from faulty import FAULTS, POLICIES, Fault, Server
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    StreamingResponse,
)
from llama_index.core.query_engine import RetrieverQueryEngine
from openai import AsyncOpenAI, OpenAI

from guard import Decision, Gate, JudgeError, Policy, Retry
from guard.judges import ChatJudge
from guard.observer import Observer
from guard.policy import OnUnmeasured
from guard.worker import shared_workers
from guard_llama_index import GuardedQueryEngine
from guard_llama_index.answering import Mode

pytestmark = [pytest.mark.local, pytest.mark.wire, pytest.mark.slow]

ATTEMPTS = 2
MODES: tuple[Mode, ...] = ("before", "parallel")


@pytest.fixture(autouse=True, scope="module")
def _warm() -> None:
    warm_up()


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Generator[None]:
    """Calls that a cell abandons end with its server."""
    yield
    end = time.monotonic() + 10
    while shared_workers.abandoned:
        assert time.monotonic() < end, f"{shared_workers.abandoned} calls never ended."
        time.sleep(0.005)


@dataclass
class StreamCell:
    """One fault under one policy in front of a writer that streams.

    Attributes:
        told: what came out of the stream, piece by piece.
        caught: the error that the caller got, if any.
        seconds: how long the caller waited for the end of the stream.
    """

    fault: Fault
    choice: str
    mode: Mode
    server: Server = field(init=False)
    judge: ChatJudge = field(init=False)
    writer: CountingLLM = field(default_factory=CountingLLM)
    response: RESPONSE_TYPE | None = None
    told: list[str] = field(default_factory=list[str])
    caught: JudgeError | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"on_unmeasured = {self.choice}, mode = {self.mode}"

    def engine(self, observers: Sequence[Observer]) -> GuardedQueryEngine:
        policy = Policy(
            deadline=self.fault.deadline,
            on_unmeasured=cast("OnUnmeasured", self.choice),
            messages=MESSAGES,
        )
        gate = Gate(self.judge, policy, retry=Retry(ATTEMPTS, **HURRIED), observers=observers)
        inner = RetrieverQueryEngine.from_args(
            FixedRetriever(bridge_nodes()), llm=self.writer, streaming=True
        )
        return GuardedQueryEngine(inner, gate, mode=self.mode)

    def open(self) -> None:
        self.server = self.fault.serve()
        clients = [kind(base_url=self.server.url, api_key=KEY) for kind in (OpenAI, AsyncOpenAI)]
        client, async_client = cast("tuple[OpenAI, AsyncOpenAI]", clients)
        self.judge = ChatJudge(
            client, model="wire-model", async_client=async_client, close_clients=True
        )

    def close(self) -> None:
        self.server.close()
        with suppress(RuntimeError):
            self.judge.close()

    def query(self, observers: Sequence[Observer]) -> None:
        started = time.monotonic()
        try:
            self.response = self.engine(observers).query(QUESTION)
            if isinstance(self.response, StreamingResponse):
                self.told.extend(self.response.response_gen)
        except JudgeError as error:
            self.caught = error
        self.seconds = time.monotonic() - started

    async def aquery(self, observers: Sequence[Observer]) -> None:
        started = time.monotonic()
        try:
            self.response = await self.engine(observers).aquery(QUESTION)
            if isinstance(self.response, AsyncStreamingResponse):
                self.told.extend([piece async for piece in self.response.response_gen])
        except JudgeError as error:
            self.caught = error
        self.seconds = time.monotonic() - started

    def complaints(self, kind: type) -> Generator[str]:
        """What is not as it must be."""
        wanted = self._raised() if self.choice == "raise" else self._streamed(kind)
        for name, (found, right) in {**wanted, **self._counted()}.items():
            if found != right:
                yield f"{name}: {found!r}, not {right!r}"
        if self.seconds > self.fault.deadline + OVERRUN:
            yield f"{self.seconds:.2f} s, where the deadline is {self.fault.deadline} s"

    def _raised(self) -> dict[str, tuple[object, object]]:
        error = self.caught
        decided = error.decision if error is not None else None
        reason = decided.reason if isinstance(decided, Decision) else None
        return {
            "raised": (error and error.kind, self.fault.reason),
            "reason": (reason, self.fault.reason),
            "told": (self.told, []),
        }

    def _streamed(self, kind: type) -> dict[str, tuple[object, object]]:
        if self.response is None or self.response.metadata is None:
            return {"response": (self.response, "one with a record")}
        record = self.response.metadata["guard"]
        message = MESSAGES.text(Policy().route_unmeasured("timeout"), None, judged=False)
        return {
            "type": (type(self.response), kind),
            "told": ("".join(self.told), ANSWER if self.choice == "answer" else message),
            "sources": (node_ids(self.response), ["bridge", "harbour"]),
            "record": ((record["reason"], record["route"]), (self.fault.reason, self.choice)),
            "numbers": ([record[one] for one in ("probability", "low", "high")], [None] * 3),
        }

    def _counted(self) -> dict[str, tuple[object, object]]:
        found: dict[str, tuple[object, object]] = {
            "requests": (self.server.requests, self.fault.requests(ATTEMPTS))
        }
        if self.mode == "before":
            # Not even written: a refusal costs no tokens.
            found["written"] = (len(self.writer.prompts), int(self.choice == "answer"))
        return found


@pytest.mark.parametrize("way", ["query", "aquery"])
@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str, way: str) -> None:
    """The policy's message or error in place of the answer, as a stream, with its sources; with the
    policy ``answer`` the answer, and a record that says that it was not measured."""
    cells = [StreamCell(FAULTS[name], choice, mode) for choice in POLICIES for mode in MODES]
    tally, (traces, counted) = Tally(), metrics()
    for cell in cells:
        cell.open()
    try:
        (_from_threads if way == "query" else _from_a_loop)(cells, [tally, *traces])
        kind = StreamingResponse if way == "query" else AsyncStreamingResponse
        wrong = [f"{cell}: {one}" for cell in cells for one in cell.complaints(kind)]
        assert not wrong, "\n".join(wrong)
        require_nothing_passed(cells, tally.counts, counted())
    finally:
        for cell in cells:
            cell.close()


def _from_threads(cells: Sequence[StreamCell], observers: Sequence[Observer]) -> None:
    with ThreadPoolExecutor(len(cells)) as pool:
        for asked in [pool.submit(cell.query, observers) for cell in cells]:
            asked.result()


def _from_a_loop(cells: Sequence[StreamCell], observers: Sequence[Observer]) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(cell.aquery(observers) for cell in cells))

    asyncio.run(all_at_once())
