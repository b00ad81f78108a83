"""Decisions in a storm of faults: how many a second, how far past the deadline, and how they end.

    python benchmarks/storm.py --checks 10000 --at-once 200

The server is `tests/storm_server.py`, in a process of its own. The excess is that of decisions that
took their whole deadline; it is the event loop's delay, most of it that of the openai SDK.
"""

import argparse
import asyncio
import http.client
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from openai import AsyncOpenAI

from guard import Decision, Gate, Policy, Retry
from guard.judges import ChatJudge
from guard.limit import Limit

SERVER = Path(__file__).parents[1] / "tests" / "storm_server.py"


@dataclass
class Tally:
    """What became of the queries.

    Attributes:
        reasons: how often each was given.
        excess: seconds past the deadline.
        megabytes: of resident memory, after each thousand.
    """

    reasons: Counter[str] = field(default_factory=Counter[str])
    excess: list[float] = field(default_factory=list[float])
    megabytes: list[int] = field(default_factory=list[int])

    def add(self, decision: Decision, deadline: float) -> None:
        """Counts one decision."""
        self.reasons[decision.reason.value] += 1
        if decision.elapsed_seconds > deadline:
            self.excess.append(decision.elapsed_seconds - deadline)
        if self.reasons.total() % 1000 == 0:
            self.megabytes.append(_resident() // 10**6)


def _resident() -> int:
    """Bytes; on Linux only."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(seed: int) -> Generator[int]:
    """The server's port; it ends with its standard input."""
    command = [sys.executable, str(SERVER), str(seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


async def _ask_each(gate: Gate, numbers: Iterator[int], tally: Tally) -> None:
    for number in numbers:
        question = f"When did number {number} open?"
        decision = await gate.acheck(question, [f"Number {number} opened late. " * 100])
        tally.add(decision, gate.policy.deadline)
        if decision.reason.value in ("circuit_open", "overloaded"):
            await asyncio.sleep(0.5)


async def storm(port: int, options: argparse.Namespace) -> Tally:
    """All queries, so many at once."""
    client = AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="storm")
    judge = ChatJudge(client, model="wire-model", close_clients=True)
    judge.use_breaker(failures=10, seconds=0.2)
    policy, limit = Policy(deadline=options.deadline), Limit(options.at_once, 0.1)
    gate = Gate(judge, policy, retry=Retry(3, 0.05, 0.2), limit=limit)
    tally, numbers = Tally(), iter(range(options.checks))
    async with asyncio.TaskGroup() as group:
        for _ in range(options.at_once):
            group.create_task(_ask_each(gate, numbers, tally))
    await judge.aclose()
    return tally


def _requests(port: int) -> str:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    line.request("GET", "/counts")
    return line.getresponse().read().decode()


def main() -> None:
    """Prints a few lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checks", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--deadline", type=float, default=2.5, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("guard").setLevel(logging.CRITICAL)
    with serving(options.seed) as port:
        started, worked = time.perf_counter(), time.process_time()
        tally = asyncio.run(storm(port, options))
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
        server = _requests(port)
    print(f"{options.checks / seconds:.0f} decisions/s; {seconds:.0f} s, {worked:.0f} s of work")
    if len(tally.excess) > 1:
        cuts = quantiles(tally.excess, n=100)
        shown = ", ".join(f"p{p} {cuts[p - 1] * 1000:.0f} ms" for p in (50, 95, 99))
        print(f"past the deadline: {shown} ({len(tally.excess)} decisions)")
    print("MB after each thousand:", *tally.megabytes)
    print("reasons:", dict(tally.reasons.most_common()))
    print("server:", server)


if __name__ == "__main__":
    main()
