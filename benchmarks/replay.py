"""How long does a replay take, and how much memory? An audit of made-up decisions, replayed.

    python benchmarks/replay.py [--records 100000]

It prints seconds for writing the audit and for replaying it as ``rag-guard replay`` does, and the
peak of Python's own memory during the replay (tracemalloc, in a run of its own), for a tenth of the
records too: where memory is flat, the two peaks are the same.
"""

import argparse
import json
import platform
import random
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from guard import Gate, Policy, Thresholds
from guard.audit_file import Audit, Record
from guard.replay import Tally, replay
from guard.testing import ScriptedJudge

NEW = Policy(thresholds=Thresholds(answer_at=0.7, refuse_below=0.2))


def write(path: Path, records: int) -> None:
    """An audit of so many decisions; ids and probabilities are by lot, all else is one decision."""
    lot = random.Random(0)
    decision = Gate(ScriptedJudge(0.5), deployment="bot").check("When?", ["In 1932."]).to_dict()
    with path.open("w", encoding="utf-8") as file:
        for _ in range(records):
            p = lot.random()
            bounds = dict.fromkeys(
                ("probability", "low", "high", "p_true", "raw_low", "raw_high"), p
            )
            route, reason = Policy().route(p, p)
            made = {"id": f"{lot.getrandbits(128):032x}", "route": route, "reason": reason}
            file.write(json.dumps({**decision, **bounds, **made}) + "\n")


def replayed(records: Iterator[Record]) -> Tally:
    """What the command does, but for printing."""
    tally = Tally()
    for one in replay(records, NEW):
        tally.add(one)
    return tally


def peak(path: Path, records: int) -> float:
    """Bytes at most while so many records are replayed."""
    tracemalloc.start()
    replayed(islice(Audit(path).records(), records))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def main() -> None:
    """Runs the benchmark and prints what it took."""
    parser = argparse.ArgumentParser(description="How long does a replay take?")
    parser.add_argument("--records", type=int, default=100_000)
    records = parser.parse_args().records
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.jsonl"
        write(path, records)
        started = time.perf_counter()
        tally = replayed(Audit(path).records())
        seconds = time.perf_counter() - started
        few, all_of_them = peak(path, records // 10), peak(path, records)
    print(
        f"Python {platform.python_version()}: {tally.n:,} records replayed in {seconds:.1f} s, "
        f"{tally.changed:,} change sides; memory at most {all_of_them / 1e6:.2f} MB, with a tenth "
        f"of the records {few / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    main()
