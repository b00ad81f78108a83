"""Time to first token and tokens spent, side by side: unguarded, before, parallel, cached, and what
one would reach for otherwise.

    python benchmarks/latency.py [--queries 40] [--judge 0.3] [--first 0.4] [--streams 0] [--llama]

A LlamaIndex engine over fixed nodes streams from a chat endpoint with set delays
(benchmarks/delay_server.py, a process of its own). All kinds of engines take turns in one run, so
that what the machine does meanwhile is shared by all. With --streams N it also opens N streams at
once, guarded and not, and prints throughput, memory, and what is left open afterwards. With --llama
the same is measured on a real llama.cpp (SmolLM2-135M, whose every verdict is let pass), where the
shared prefix shows: judge and writer read the same passages.
"""

import argparse
import asyncio
import gc
import importlib
import inspect
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.evaluation import FaithfulnessEvaluator
from llama_index.core.query_engine import RetrieverQueryEngine, RetryQueryEngine
from llama_index.core.response_synthesizers import (
    get_response_synthesizer,  # pyright: ignore[reportUnknownVariableType]
)
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.llms.openai_like import OpenAILike  # type: ignore[import-untyped]
from openai import AsyncOpenAI

from guard import Gate, Policy, Thresholds
from guard.cache import MemoryCache
from guard.judges import ChatJudge
from guard_llama_index import ANSWER_TEMPLATE, GuardedQueryEngine
from guard_llama_index.answering import Mode

ROUNDS = 5  # Of streams at once, of each kind.
NODES = [
    NodeWithScore(node=TextNode(text=f"The bridge number {number} was opened in {1900 + number}."))
    for number in range(4)
]
QUESTION = "When was bridge number {} opened?"
GRADE = (
    "Is this document relevant to the question? Answer yes or no.\n{document}\nQuestion: {question}"
)

Ask = Callable[[str], Awaitable[None]]


class FixedRetriever(BaseRetriever):
    """Finds the same nodes for every question."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return NODES


class FreshRetriever(BaseRetriever):
    """Finds other nodes for every question, so that no prompt was read before."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        text = (
            "{0}: the harbour with the number {1} has a quay of {1} metres and a lamp at its end. "
        )
        return [
            NodeWithScore(node=TextNode(text=text.format(query_bundle.query_str, number) * 4))
            for number in range(6)
        ]


@dataclass(frozen=True)
class Endpoint:
    """The server, and how to ask it what it has done."""

    port: int

    @property
    def url(self) -> str:
        """Its address for clients."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, int]:
        """Requests, tokens, streams cut off."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats") as reply:
            found: dict[str, int] = json.loads(reply.read())
        return found


@contextmanager
def served(*options: str) -> Generator[Endpoint]:
    """The delay server, in a process of its own."""
    script = str(Path(__file__).parent / "delay_server.py")
    process = subprocess.Popen(
        [sys.executable, script, *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield Endpoint(int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def engine_of(
    endpoint: Endpoint,
    *,
    streaming: bool = True,
    reuse_client: bool = True,
    retriever: BaseRetriever | None = None,
    **options: Any,
) -> RetrieverQueryEngine:
    """An engine that streams from the endpoint."""
    llm = OpenAILike(
        model="m",
        api_base=endpoint.url,
        api_key="k",
        is_chat_model=True,
        max_retries=0,
        max_tokens=16,
        reuse_client=reuse_client,
    )
    writer = get_response_synthesizer(llm=llm, streaming=streaming, **options)
    return RetrieverQueryEngine(retriever or FixedRetriever(), response_synthesizer=writer)


@asynccontextmanager
async def judge_of(endpoint: Endpoint, **options: Any) -> AsyncGenerator[ChatJudge]:
    """A judge on the same endpoint."""
    client = AsyncOpenAI(base_url=endpoint.url, api_key="k")
    judge = ChatJudge(client, model="m", close_clients=True, **options)
    yield judge
    await judge.aclose()


async def first_token(engine: BaseQueryEngine, question: str) -> tuple[float, float]:
    """Seconds until the first token, and until the last."""
    started = time.perf_counter()
    response: Any = await engine.aquery(question)
    first, tokens = 0.0, list[str]()
    async for token in response.response_gen:
        first = first or time.perf_counter() - started
        tokens.append(token)
    if not tokens:
        raise RuntimeError("Nothing was streamed.")
    _require_own(question, tokens)
    return first, time.perf_counter() - started


def _require_own(question: str, tokens: list[str]) -> None:
    """Raises where a token belongs to another question: the delay server numbers them."""
    number = re.fullmatch(r"When was bridge number (\d+) opened\?", question)
    numbered = (re.fullmatch(r"(\d+)\.\d+ ?", one) for one in tokens)
    strange = [one[0] for one in numbered if one and number and one[1] != number[1]]
    if strange:
        raise RuntimeError(f"{question} got {strange[0]!r}.")


def kinds_of(endpoint: Endpoint, judge: ChatJudge) -> dict[str, Callable[[str], Awaitable[Any]]]:
    """Every kind of engine, as a function that gives first and last token's times."""
    cached = GuardedQueryEngine(engine_of(endpoint), Gate(judge, cache=MemoryCache()))
    engines = {
        "unguarded": engine_of(endpoint),
        "before": GuardedQueryEngine(engine_of(endpoint), Gate(judge)),
        "parallel": GuardedQueryEngine(engine_of(endpoint), Gate(judge), mode="parallel"),
    }
    kinds: dict[str, Callable[[str], Awaitable[Any]]] = {
        name: partial(first_token, engine) for name, engine in engines.items()
    }
    # The same question every time, the first one before the run.
    kinds["cached"] = lambda _question: first_token(cached, QUESTION.format("0"))
    kinds["graded (CRAG)"] = graded(endpoint)
    kinds["faithfulness + retry"] = faithful(endpoint)
    return kinds


def graded(endpoint: Endpoint) -> Callable[[str], Awaitable[tuple[float, float]]]:
    """An LLM grades each node before the answer, as LlamaIndex's corrective RAG does."""
    engine = engine_of(endpoint)
    llm = engine._response_synthesizer._llm  # pyright: ignore[reportPrivateUsage]

    async def ask(question: str) -> tuple[float, float]:
        started = time.perf_counter()
        for each in NODES:
            document = each.node.get_content()
            await llm.acomplete(GRADE.format(document=document, question=question), max_tokens=1)
        waited = time.perf_counter() - started
        first, last = await first_token(engine, question)
        return waited + first, waited + last

    return ask


def faithful(endpoint: Endpoint) -> Callable[[str], Awaitable[tuple[float, float]]]:
    """The whole answer is judged afterwards and written again if it fails (here it passes at once):
    nothing can be shown before that."""
    # Its evaluator makes an event loop a query, over which no client can be kept.
    plain = engine_of(endpoint, streaming=False, reuse_client=False)
    llm = plain._response_synthesizer._llm  # pyright: ignore[reportPrivateUsage]
    engine = RetryQueryEngine(plain, FaithfulnessEvaluator(llm=llm))

    async def ask(question: str) -> tuple[float, float]:
        started = time.perf_counter()
        await asyncio.to_thread(engine.query, question)  # Its asynchronous path blocks.
        seconds = time.perf_counter() - started
        return seconds, seconds

    return ask


async def measure(endpoint: Endpoint, queries: int) -> list[dict[str, Any]]:
    """All kinds in turn, ``queries`` times."""
    async with judge_of(endpoint) as judge:
        kinds = kinds_of(endpoint, judge)
        times: dict[str, list[float]] = {name: [] for name in kinds}
        spent = {name: [0, 0, 0] for name in kinds}
        for ask in kinds.values():
            await ask(QUESTION.format("0"))  # Connections, and the cache.
        for number in range(queries):
            for name, ask in kinds.items():
                before = endpoint.stats()
                first, _ = await ask(QUESTION.format(number))
                after = endpoint.stats()
                times[name].append(first)
                for place, key in enumerate(("verdicts", "answers", "tokens_in")):
                    spent[name][place] += after[key] - before[key]
        return [_row(name, times, spent[name], queries) for name in kinds]


def _row(
    name: str, times: dict[str, list[float]], spent: list[int], queries: int
) -> dict[str, Any]:
    p50, ordered = statistics.median(times[name]), sorted(times[name])
    verdicts, answers, tokens = (number / queries for number in spent)
    return {
        "kind": name,
        "first_p50": p50,
        "first_p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "ratio": p50 / statistics.median(times["unguarded"]),
        "judgements": verdicts,
        "writings": answers,
        "tokens_in": tokens,
    }


async def refused(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What a refusal costs in tokens written, before and in parallel."""
    found: dict[str, dict[str, float]] = {}
    modes: tuple[Mode, ...] = ("before", "parallel")
    for mode in modes:
        with served(*_delays(options), "--true", "-7") as endpoint:
            async with judge_of(endpoint) as judge:
                engine = GuardedQueryEngine(engine_of(endpoint), Gate(judge), mode=mode)
                for number in range(10):
                    await first_token(engine, QUESTION.format(number))
            await asyncio.sleep(0.1)
            stats = endpoint.stats()
            found[mode] = {
                "writings": stats["answers"] / 10,
                "tokens_out": stats["tokens_out"] / 10,
            }
    return found


async def crowd(endpoint: Endpoint, streams: int) -> list[dict[str, Any]]:
    """So many streams at once, in several rounds: seconds for all, and what they leave behind.

    With each guarded kind what is fair to compare it with: unguarded, and one more call each, after
    or beside it.
    """
    rows = list[dict[str, Any]]()
    async with judge_of(endpoint) as judge:
        patient = Gate(judge, Policy(deadline=120.0))
        plain, client = engine_of(endpoint), AsyncOpenAI(base_url=endpoint.url, api_key="k")
        parallel = GuardedQueryEngine(engine_of(endpoint), patient, mode="parallel")
        before = GuardedQueryEngine(engine_of(endpoint), patient)
        kinds: dict[str, Callable[[str], Awaitable[Any]]] = {
            "unguarded": lambda question: first_token(plain, question),
            "after 1 more call": lambda question: _after_a_call(client, plain, question),
            "before": lambda question: first_token(before, question),
            "beside 1 more call": lambda question: _beside_a_call(client, plain, question),
            "parallel": lambda question: first_token(parallel, question),
        }
        for _ in range(ROUNDS):
            for name, ask in kinds.items():
                rows.append(await _rush(name, ask, streams))
        await client.close()
    return rows


async def _after_a_call(client: AsyncOpenAI, engine: BaseQueryEngine, question: str) -> None:
    await _a_call(client, question)
    await first_token(engine, question)


async def _beside_a_call(client: AsyncOpenAI, engine: BaseQueryEngine, question: str) -> None:
    await asyncio.gather(_a_call(client, question), first_token(engine, question))


async def _a_call(client: AsyncOpenAI, question: str) -> None:
    passages = "\n".join(each.node.get_content() for each in NODES)
    await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": f"{passages}\n{question}"}],
        logprobs=True,
        top_logprobs=20,
    )


# What is guarded, and what to compare it with.
FAIR = {"before": "after 1 more call", "parallel": "beside 1 more call"}


def compared(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Throughput of the guarded kinds over that of the unguarded ones of the same round."""
    speeds = {
        name: [row["streams_per_second"] for row in rows if row["kind"] == name]
        for name in {row["kind"] for row in rows}
    }
    found = dict[str, dict[str, float]]()
    for name, other in FAIR.items() if rows else ():
        ratios = sorted(one / two for one, two in zip(speeds[name], speeds[other], strict=True))
        found[name] = {
            "median": statistics.median(ratios),
            "lowest": ratios[0],
            "highest": ratios[-1],
        }
    return found


async def _rush(name: str, ask: Callable[[str], Awaitable[Any]], streams: int) -> dict[str, Any]:
    started = time.perf_counter()
    await asyncio.gather(*(ask(QUESTION.format(number)) for number in range(streams)))
    seconds = time.perf_counter() - started
    await asyncio.sleep(1.0)  # What closes by itself may do so.
    gc.collect()
    return {
        "kind": name,
        "seconds": seconds,
        "streams_per_second": streams / seconds,
        "tasks_left": len(asyncio.all_tasks()) - 1,
        "generators_left": sum(map(is_open, gc.get_objects())),
        "files_open": len(os.listdir("/proc/self/fd")),
        "memory_mb": int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20,
    }


def is_open(one: object) -> bool:
    """Whether it is an asynchronous generator that has not ended (one keeps the judge's client)."""
    return inspect.isasyncgen(one) and one.ag_frame is not None


async def on_llama(queries: int) -> list[dict[str, Any]]:
    """Time to first token on a real model: the passages are what takes the time."""
    with llama() as endpoint:
        async with judge_of(endpoint, min_mass=0.0) as judge:
            gate = Gate(judge, Policy(thresholds=Thresholds(0.0, 0.0), deadline=120.0))
            fresh = FreshRetriever()
            engines: dict[str, BaseQueryEngine] = {
                "unguarded": engine_of(endpoint, retriever=fresh),
                "before": GuardedQueryEngine(engine_of(endpoint, retriever=fresh), gate),
                "before, shared prefix": GuardedQueryEngine(
                    engine_of(endpoint, retriever=fresh, text_qa_template=ANSWER_TEMPLATE),
                    gate,
                    share_prefix=True,
                ),
                "parallel": GuardedQueryEngine(
                    engine_of(endpoint, retriever=fresh), gate, mode="parallel"
                ),
            }
            times: dict[str, list[float]] = {name: [] for name in engines}
            for number in range(queries):
                for name, engine in engines.items():
                    first, _ = await first_token(engine, QUESTION.format(f"{name} {number}"))
                    times[name].append(first)
    none = dict.fromkeys(engines, [0, 0, 0])
    return [_row(name, times, none[name], queries) for name in engines]


@contextmanager
def llama() -> Generator[Endpoint]:
    """A real llama.cpp server, in this process."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from local_model import weights

    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.n_ctx, params.n_parallel, params.verbosity = 8192, 2, 0
    params.hostnames, params.port = ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    yield Endpoint(int(str(server.listening_address).rpartition(":")[2]))
    del server


def _delays(options: argparse.Namespace) -> list[str]:
    names = ("judge", "first", "gap", "tokens")
    return [part for name in names for part in (f"--{name}", str(getattr(options, name)))]


def main() -> None:
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(description="Time to first token, guarded and not.")
    parser.add_argument("--queries", type=int, default=40)
    for name, default in (("judge", 0.3), ("first", 0.4), ("gap", 0.005)):
        parser.add_argument(f"--{name}", type=float, default=default, help="seconds")
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--llama", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with served(*_delays(options)) as endpoint:
        rows = asyncio.run(measure(endpoint, options.queries))
        rush = asyncio.run(crowd(endpoint, options.streams)) if options.streams else []
    cost = asyncio.run(refused(options))
    real = asyncio.run(on_llama(options.queries)) if options.llama else []
    if options.json:
        found = {"first_token": rows, "refusal": cost, "crowd": rush, "llama": real}
        print(json.dumps({**found, "throughput": compared(rush)}))
        return
    _show(options, rows, cost, rush)
    for row in real:
        figures = (row["first_p50"], row["first_p95"], row["ratio"])
        print(f"llama.cpp, {row['kind']:22}" + "".join(f"{one:>11.3f}" for one in figures))


def _show(
    options: argparse.Namespace,
    rows: list[dict[str, Any]],
    cost: dict[str, dict[str, float]],
    rush: list[dict[str, Any]],
) -> None:
    print(
        f"{platform.machine()}, Python {platform.python_version()}, n = {options.queries} a row; "
        f"judge {options.judge} s, first token {options.first} s"
    )
    heads = ("first p50", "p95", "ratio", "judged", "written", "tokens in")
    print(" " * 22 + "".join(f"{head:>11}" for head in heads))
    for row in rows:
        print(
            f"{row['kind']:22}{row['first_p50']:>10.3f}s{row['first_p95']:>10.3f}s"
            f"{row['ratio']:>11.3f}{row['judgements']:>11.1f}{row['writings']:>11.1f}"
            f"{row['tokens_in']:>11.0f}"
        )
    for mode, spent in cost.items():
        print(f"a refusal, {mode}: {spent['tokens_out']:.1f} tokens written")
    for row in rush:
        print(
            f"{row['kind']:22}{row['streams_per_second']:>8.0f} streams/s, {row['seconds']:.2f} s, "
            f"left: {row['tasks_left']} tasks, {row['generators_left']} generators, "
            f"{row['files_open']} files; {row['memory_mb']:.0f} MB"
        )
    for name, ratio in compared(rush).items():
        print(
            f"throughput, {name} to {FAIR[name]}: median {ratio['median']:.3f} "
            f"({ratio['lowest']:.3f} to {ratio['highest']:.3f}, {ROUNDS} rounds)"
        )


if __name__ == "__main__":
    main()
