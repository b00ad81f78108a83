"""Many streams at once in one process: nothing is swapped, nothing is left behind."""

import asyncio
import gc
import os
from typing import Any

import pytest

from benchmarks import latency
from guard import Gate, Policy
from guard_llama_index import GuardedQueryEngine
from guard_llama_index.answering import Mode

pytestmark = [pytest.mark.local, pytest.mark.wire, pytest.mark.slow]

STREAMS = 200


def open_generators() -> int:
    return sum(map(latency.is_open, gc.get_objects()))


@pytest.mark.parametrize("mode", ["before", "parallel"])
def test_a_crowd_leaves_nothing_behind(mode: Mode) -> None:
    """Every stream has its own tokens; tasks, generators and sockets end with it."""

    async def crowd(endpoint: latency.Endpoint) -> list[tuple[int, int, int]]:
        async with latency.judge_of(endpoint) as judge:
            gate = Gate(judge, Policy(deadline=60.0))
            engine = GuardedQueryEngine(latency.engine_of(endpoint), gate, mode=mode)
            seen = list[tuple[int, int, int]]()
            for _ in range(3):
                asked = (f"When was bridge number {number} opened?" for number in range(STREAMS))
                # It raises where a token belongs to another question.
                await asyncio.gather(*(latency.first_token(engine, each) for each in asked))
                await asyncio.sleep(0.3)  # What closes by itself may do so.
                gc.collect()
                files = len(os.listdir("/proc/self/fd"))
                seen.append((len(asyncio.all_tasks()), open_generators(), files))
            client: Any = engine.engine
            await client._response_synthesizer._llm._aclient.close()
            return seen

    with latency.served("--judge", "0.05", "--first", "0.05", "--tokens", "5") as endpoint:
        first, *others = asyncio.run(crowd(endpoint))
    tasks, generators, files = first
    assert tasks == 1
    for one in others:
        assert one[:2] == (tasks, generators)
        assert one[2] <= files + 4  # Connections that are kept alive are used again.
