"""The embedded judge beside a local GGUF judge, on the same queries, in one run, one thread each.

    python benchmarks/embedded.py [--queries 5] [--gguf PATH] [--json]

Both take turns, so that what the machine does meanwhile is shared; the ratio is what to trust. The
GGUF judge reads its prompt around the same texts, which is most of a short query. No query comes
twice: llama.cpp would find it read already. Milliseconds are medians; the ratio is the median over
pairs, with the 95 % interval of a bootstrap over them; that of processor time owes little to what
else runs. Memory and the time to load are those of a process of its own for each judge. Takes a
minute or two, most of it the GGUF judge's.
"""

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from guard import Decision, Gate, Policy, Query
from guard.judges import EmbeddedJudge, GgufJudge
from guard.weights import TOKENIZER

ROOT = Path(__file__).parent.parent
LENGTHS = {"short": 32, "middle": 256, "long": 500}
"""Tokens of a query, as the embedded judge counts them, at most."""

PASSAGE_TOKENS = 80
SETS = {"embedded": ((10, 5), (40, 5)), "gguf": ((10, 1),)}
"""Sets of so many passages, so often. Forty would keep the GGUF judge busy for minutes."""

CROWD = {"embedded": 40, "gguf": 2}
"""Queries for the throughput."""

RESAMPLES = 2000
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
TIMEOUT = 600.0

WORDS = (
    ("baker", "carpenter", "sailor", "teacher", "painter", "doctor", "fisherman", "gardener"),
    ("young", "quiet", "famous", "retired", "busy", "careful", "cheerful", "stubborn"),
    ("northern", "southern", "eastern", "western", "upper", "lower", "inner", "outer"),
    ("two boats", "a brown dog", "many books", "an apple tree", "some bees", "a small shop"),
)
"""Of which passages are made."""

Judge = EmbeddedJudge | GgufJudge
_numbers = count()


def tokens_of(judge: EmbeddedJudge) -> Callable[[str], int]:
    """A function that counts a text's tokens."""
    from guard.encoding import Encoding

    encoding = Encoding((judge.weights.folder / TOKENIZER).read_text("utf-8"))
    return lambda text: len(encoding.piece(text))


def passage(tokens: Callable[[str], int], most: int) -> str:
    """A new text of so many tokens, or few less; no two begin alike."""
    # Few digits: llama.cpp's model takes one token for each, which would be unfair to it.
    text, dice = "", random.Random(next(_numbers))
    while True:
        trade, kind, side, what = (dice.choice(words) for words in WORDS)
        more = f"A {kind} {trade} of the {side} harbour keeps {what} near the old quay."
        if text and tokens(f"{text} {more}") > most:
            return text
        text = f"{text} {more}".strip()


def query_of(tokens: Callable[[str], int], most: int) -> Query:
    """One question about one passage."""
    question = "Who built the quay?"
    return Query.of(question, [passage(tokens, most - tokens(question) - 3)])


def pairs(judges: Mapping[str, Judge], queries: Sequence[Query]) -> dict[str, Any]:
    """Both judges on the same queries, in turn."""
    seconds = {name: list[float]() for name in judges}
    busy = dict.fromkeys(judges, 0.0)
    read = dict.fromkeys(judges, 0)
    for place, query in enumerate(queries):
        # Whoever comes second finds the processor as the other has left it.
        for name in sorted(judges, reverse=bool(place % 2)):
            started, worked = time.perf_counter(), time.process_time()
            verdict = judges[name].judge(query, timeout=TIMEOUT)
            seconds[name].append(time.perf_counter() - started)
            busy[name] += time.process_time() - worked
            read[name] = max(read[name], (verdict.usage and verdict.usage.input_tokens) or 0)
    ratios = [slow / fast for slow, fast in zip(seconds["gguf"], seconds["embedded"], strict=True)]
    return {
        "tokens": read,
        "ms": {name: 1000 * statistics.median(each) for name, each in seconds.items()},
        "cores": {name: busy[name] / sum(each) for name, each in seconds.items()},
        "processor_ratio": busy["gguf"] / busy["embedded"],
        "ratio": statistics.median(ratios),
        "ratio_interval": interval(ratios),
        "ratio_lowest": min(ratios),
        "n": len(queries),
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of their median, by a bootstrap."""
    dice = random.Random(0)
    medians = sorted(
        statistics.median(dice.choices(values, k=len(values))) for _ in range(RESAMPLES)
    )
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def throughput(judge: Judge, queries: Sequence[Query], workers: int) -> float:
    """Verdicts a second through a gate, asked by so many threads at once."""
    gate = Gate(judge, Policy(deadline=TIMEOUT))

    def ask(query: Query) -> Decision:
        return gate.check(query.question, query.contexts)

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        found = [*pool.map(ask, queries)]
    seconds = time.perf_counter() - started
    if not all(one.verdict for one in found):
        raise RuntimeError(f"Not measured: {found[0].detail}")
    return len(queries) / seconds


def sets(judge: Judge, make: Callable[[], str], passages: int, times: int) -> dict[str, Any]:
    """Sets of so many passages through a gate, which divides what its judge cannot take.

    The first one is told apart: how much the judge takes is found out by it.
    """
    gate, seconds, windows = Gate(judge, Policy(deadline=TIMEOUT)), list[float](), 0
    for _ in range(times):
        contexts = [make() for _ in range(passages)]
        started = time.perf_counter()
        decision = gate.check("Who built the quay?", contexts)
        seconds.append(time.perf_counter() - started)
        if decision.verdict is None:
            raise RuntimeError(decision.detail)
        windows = decision.verdict.windows
    later = 1000 * statistics.median(seconds[1:]) if times > 1 else None
    return {
        "passages": passages,
        "first_ms": 1000 * seconds[0],
        "later_ms": later,
        "windows": windows,
    }


def alone(name: str, gguf: str) -> dict[str, float]:
    """What one judge costs a process of its own: seconds to load, and memory."""
    command = [sys.executable, __file__, "--alone", name, "--gguf", gguf]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_alone(name: str, gguf: str) -> dict[str, float]:
    """The same, in this process."""
    started = time.perf_counter()
    judge = loaded(name, gguf)
    seconds = time.perf_counter() - started
    tokens = tokens_of(judge if isinstance(judge, EmbeddedJudge) else EmbeddedJudge(threads=1))
    before = peak_mb()
    judge.judge(query_of(tokens, LENGTHS["long"]), timeout=TIMEOUT)
    judge.close()
    return {"load_s": seconds, "loaded_mb": before, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """The most memory that this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def loaded(name: str, gguf: str) -> Judge:
    """A judge of one thread."""
    return EmbeddedJudge(threads=1) if name == "embedded" else GgufJudge(gguf, threads=1)


def machine() -> dict[str, Any]:
    """Where all this holds."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (one.partition(":") for one in lines)}
    flags = facts.get("flags", facts.get("Features", "")).split()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": facts.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": load,
        "date": datetime.now(UTC).date().isoformat(),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, in one run."""
    names = ("embedded", "gguf")
    found: dict[str, Any] = {"machine": machine(), "gguf": Path(options.gguf).name}
    found["alone"] = {name: alone(name, options.gguf) for name in names}
    judges = {name: loaded(name, options.gguf) for name in names}
    embedded = judges["embedded"]
    assert isinstance(embedded, EmbeddedJudge)
    tokens = tokens_of(embedded)
    for judge in judges.values():
        judge.judge(query_of(tokens, LENGTHS["short"]), timeout=TIMEOUT)  # Once to warm up.
    found["queries"] = {
        name: pairs(judges, [query_of(tokens, most) for _ in range(options.queries)])
        for name, most in LENGTHS.items()
    }
    found["verdicts_per_second"] = {
        name: {
            workers: throughput(judge, [query_of(tokens, 256) for _ in range(CROWD[name])], workers)
            for workers in (1, 2)
        }
        for name, judge in judges.items()
    }
    make = partial(passage, tokens, PASSAGE_TOKENS)
    found["sets"] = {
        name: [sets(judge, make, passages, times) for passages, times in SETS[name]]
        for name, judge in judges.items()
    }
    for judge in judges.values():
        judge.close()
    return found


def show(found: dict[str, Any]) -> None:
    """Prints the tables."""
    here = found["machine"]
    print(
        f"{here['processor']}, {here['cores']} cores, {' '.join(here['flags']) or 'flags unknown'}"
    )
    print(f"{here['system']}, Python {here['python']}, {here['date']}, load {here['load_average']}")
    print(f"embedded beside {found['gguf']}, one thread each\n")
    print(
        f"{'query':8}{'n':>4}{'tokens':>13}{'embedded':>13}{'gguf':>13}{'ratio':>8}  95 % interval"
    )
    for name, row in found["queries"].items():
        one, two = (row["tokens"][each] for each in ("embedded", "gguf"))
        fast, slow = (f"{row['ms'][each]:.1f} ms" for each in ("embedded", "gguf"))
        low, high = row["ratio_interval"]
        print(
            f"{name:8}{row['n']:>4}{f'{one} / {two}':>13}{fast:>13}{slow:>13}{row['ratio']:>8.1f}"
            f"  {low:.1f} to {high:.1f}, lowest {row['ratio_lowest']:.1f}; "
            f"of processor time {row['processor_ratio']:.1f}"
        )
    for name in ("embedded", "gguf"):
        print(f"\n{name}")
        _show_one(name, found)


def _show_one(name: str, found: dict[str, Any]) -> None:
    own, rates = found["alone"][name], found["verdicts_per_second"][name]
    cores = (row["cores"][name] for row in found["queries"].values())
    print(
        f"  loaded in {own['load_s']:.2f} s; cores used: {', '.join(f'{one:.2f}' for one in cores)}"
    )
    print(f"  memory {own['loaded_mb']:.0f} MB loaded, {own['peak_mb']:.0f} MB at its peak")
    for workers, rate in rates.items():
        print(f"  {rate:.1f} verdicts a second with {workers} threads asking (256 tokens)")
    for row in found["sets"][name]:
        later = "" if row["later_ms"] is None else f", later {row['later_ms']:.0f} ms"
        took = f"first {row['first_ms']:.0f} ms{later}; windows: {row['windows']}"
        print(f"  {row['passages']} passages of {PASSAGE_TOKENS} tokens: {took}")


def default_gguf() -> str:
    """The model of the tests."""
    sys.path.insert(0, str(ROOT / "tests"))
    from local_model import weights

    return str(weights())


def main() -> None:
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(description="The embedded judge beside a local GGUF judge.")
    parser.add_argument("--queries", type=int, default=5, help="of each length")
    parser.add_argument("--gguf", help="a model file; else that of the tests")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", choices=("embedded", "gguf"), help="load and memory of one only")
    options = parser.parse_args()
    options.gguf = options.gguf or default_gguf()
    if options.alone:
        print(json.dumps(measure_alone(options.alone, options.gguf)))
        return
    found = measure(options)
    print(json.dumps(found)) if options.json else show(found)


if __name__ == "__main__":
    main()
