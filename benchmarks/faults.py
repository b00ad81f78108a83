"""How long after its deadline a query ends where the judge's endpoint fails: the excess.

    python benchmarks/faults.py [--n 30] [--deadline 0.2] [--max-p95 100] [--json]

Every fault runs into the deadline, through real sockets; the server is a process of its own. Each
is asked n times in each way: ``sync`` with a blocking client, whose call is left behind, or with
an asynchronous one, which can be cancelled; ``async``; and ``stream``, a LlamaIndex engine that
streams, up to the end of what it tells the user. Prints median, 95th percentile (nearest rank) and
maximum of the excess in milliseconds, and requests a query. Less than 0: it ended before, since
nothing more fitted. With --max-p95 it exits with 6 where the 95th percentile of all together is
higher.
"""

import argparse
import asyncio
import json
import logging
import math
import platform
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from openai import AsyncOpenAI, OpenAI

from guard import Gate, Policy, Retry
from guard.errors import JudgeUnavailable
from guard.judges import ChatJudge
from guard.worker import Workers
from guard_llama_index import GuardedQueryEngine
from guard_llama_index.answering import Mode

TOO_LATE = 6  # The exit code.
QUESTION, CONTEXTS = "When was it opened?", ["The bridge was opened in 1932."]
STEP, LASTING = 0.02, 1.0
"""Seconds between two pieces of what drips, and until the server has had enough of it."""
AT_ONCE = ("retry-after-30",)
"""Faults that no query waits for: the wait that is asked for does not fit."""

# ── The server ───────────────────────────────────────────────────────────────────────────────────

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
BOOM = b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}"
LATER = b"HTTP/1.1 429 No\r\ncontent-length: 2\r\nretry-after: 30\r\n\r\n{}"

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]


async def _hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def _drip(head: bytes, piece: bytes) -> Play:
    async def play(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(STEP)

    return play


def _say(data: bytes) -> Play:
    async def play(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return play


FAULTS: dict[str, Play] = {
    "hang": _hang,
    "drip": _drip(HEAD + b"content-length: 99999\r\n\r\n", b" "),
    "slow-headers": _drip(HEAD, b"x-slow: yes\r\n"),
    "endless-body": _drip(HEAD + b"connection: close\r\n\r\n", b" " * 2**18),
    "500-storm": _say(BOOM),
    "retry-after-30": _say(LATER),
}
"""What the server does, by the first part of the path."""


class Server:
    """Fails as the path says; counts what came."""

    def __init__(self) -> None:
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while True:
                play = FAULTS.get(await self._read(reader), self._tell)
                # Or calls that were left behind would go on, and be what is measured.
                async with asyncio.timeout(LASTING):
                    await play(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> str:
        """One request; the first part of its path."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().casefold().split("\r\n")
        lengths = [int(one.partition(":")[2]) for one in head if one.startswith("content-length")]
        await reader.readexactly(sum(lengths))
        name = head[0].split("/")[1].split()[0]
        self.requests += name in FAULTS
        return name

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = str(self.requests).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(told)
        await _say(head + told)(reader, writer)


async def serve() -> None:
    """Prints its port, and serves until it is ended."""
    server = await asyncio.start_server(Server().serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@dataclass(frozen=True)
class Endpoint:
    """The server, and how to ask it how many requests came."""

    port: int

    def url(self, fault: str) -> str:
        """The address that fails so."""
        return f"http://127.0.0.1:{self.port}/{fault}/v1"

    def requests(self) -> int:
        """How many came so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/requests") as reply:
            return int(reply.read())


@contextmanager
def served() -> Generator[Endpoint]:
    """The server, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield Endpoint(int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


# ── The ways to ask ──────────────────────────────────────────────────────────────────────────────


class FixedRetriever(BaseRetriever):
    """Finds the same node for every question."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(text=text)) for text in CONTEXTS]


def gate_at(url: str, client: type[OpenAI] | type[AsyncOpenAI], deadline: float) -> Gate:
    """A gate that tries as often as there is time for."""
    judge = ChatJudge(client(base_url=url, api_key="k"), model="m", close_clients=True)
    judge.use_breaker(failures=0)
    retry = Retry(attempts=100, first_wait=0.05, max_wait=0.05)
    return Gate(judge, Policy(deadline=deadline), retry=retry)


Ask = Callable[[], Awaitable[object]]


def sync(url: str, deadline: float, client: type[OpenAI] | type[AsyncOpenAI] = OpenAI) -> Ask:
    """From the thread of an application that knows no event loop."""
    gate = gate_at(url, client, deadline)

    async def ask() -> object:
        return gate.check(QUESTION, CONTEXTS)

    return ask


def awaited(url: str, deadline: float) -> Ask:
    """On the application's own event loop."""
    gate = gate_at(url, AsyncOpenAI, deadline)
    return lambda: gate.acheck(QUESTION, CONTEXTS)


def streamed(mode: Mode) -> Callable[[str, float], Ask]:
    """To the end of what a streaming engine tells the user."""

    def way(url: str, deadline: float) -> Ask:
        writer = RetrieverQueryEngine.from_args(FixedRetriever(), llm=MockLLM(), streaming=True)
        engine = GuardedQueryEngine(writer, gate_at(url, AsyncOpenAI, deadline), mode=mode)

        async def ask() -> object:
            response: Any = await engine.aquery(QUESTION)
            return [token async for token in response.response_gen]

        return ask

    return way


def crowded(url: str, deadline: float) -> Ask:
    """Where the only worker has been taken by a call that hangs."""
    gate, workers = gate_at(url, OpenAI, deadline), Workers(limit=1)
    with suppress(JudgeUnavailable):
        workers.call(partial(time.sleep, 3600), 0.01)
    gate = Gate(gate.judge, gate.policy, workers=workers)

    async def ask() -> object:
        return gate.check(QUESTION, CONTEXTS)

    return ask


WAYS: dict[str, Callable[[str, float], Ask]] = {
    "sync": sync,
    "sync, cancellable": partial(sync, client=AsyncOpenAI),
    "async": awaited,
    "stream, before": streamed("before"),
    "stream, parallel": streamed("parallel"),
}


# ── Measuring ────────────────────────────────────────────────────────────────────────────────────


def measure(endpoint: Endpoint, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each fault and way."""
    pairs = [(fault, name, way) for fault in FAULTS for name, way in WAYS.items()]
    pairs.append(("hang", "sync, no worker left", crowded))
    rows = list[dict[str, Any]]()
    for fault, name, way in pairs:
        ask = way(endpoint.url(fault), options.deadline)
        requests, excess = asyncio.run(_excess(endpoint, ask, options))
        rows.append({"fault": fault, "way": name, "requests": requests, "excess_ms": excess})
    return rows


async def _excess(
    endpoint: Endpoint, ask: Ask, options: argparse.Namespace
) -> tuple[float, list[float]]:
    """Requests a query, and each query's milliseconds after the deadline."""
    await ask()  # What is made but once is none of theirs.
    before, found = endpoint.requests(), list[float]()
    for _ in range(options.n):
        started = time.perf_counter()
        await ask()
        found.append((time.perf_counter() - started - options.deadline) * 1000)
    return (endpoint.requests() - before) / options.n, found


def summary(excess: list[float]) -> dict[str, float]:
    """Median, 95th percentile (nearest rank) and maximum."""
    ordered = sorted(excess)
    rank = math.ceil(0.95 * len(ordered)) - 1
    return {"p50": statistics.median(ordered), "p95": ordered[rank], "max": ordered[-1]}


def whole(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of all queries that were waited for; those that gave up at once would only flatter it."""
    late = (row for row in rows if row["fault"] not in AT_ONCE)
    return summary([one for row in late for one in row["excess_ms"]])


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description="Milliseconds after the deadline, by fault.")
    parser.add_argument("--n", type=int, default=30, help="queries a row")
    parser.add_argument("--deadline", type=float, default=0.2, help="seconds")
    parser.add_argument("--max-p95", type=float, help="ms; exit code 6 beyond it")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return asyncio.run(serve())
    logging.getLogger("guard").setLevel(logging.ERROR)
    with served() as endpoint:
        rows = measure(endpoint, options)
    found = whole(rows)
    if options.json:
        told = [{**row, **summary(row["excess_ms"])} for row in rows]
        print(json.dumps({"rows": told, "whole": found, "deadline": options.deadline}))
    else:
        _show(options, rows, found)
    if options.max_p95 is not None and found["p95"] > options.max_p95:
        sys.exit(TOO_LATE)


def _show(options: argparse.Namespace, rows: list[dict[str, Any]], found: dict[str, float]) -> None:
    print(
        f"{platform.machine()}, Python {platform.python_version()}, n = {options.n} a row; "
        f"deadline {options.deadline:g} s; milliseconds after it"
    )
    print(" " * 40 + "".join(f"{head:>10}" for head in ("median", "p95", "max", "requests")))
    for row in rows:
        figures = summary(row["excess_ms"])
        print(
            f"{row['fault']:16}{row['way']:24}{figures['p50']:>10.1f}{figures['p95']:>10.1f}"
            f"{figures['max']:>10.1f}{row['requests']:>10.1f}"
        )
    print(
        f"{'all that were waited for':40}{found['p50']:>10.1f}{found['p95']:>10.1f}"
        f"{found['max']:>10.1f}"
    )


if __name__ == "__main__":
    main()
