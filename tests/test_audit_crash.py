"""Eight processes write one audit and are killed in the middle of it."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import tracemalloc
import uuid
from pathlib import Path

import pytest

from guard import Gate
from guard.audit import AuditLog
from guard.audit_file import Audit
from guard.line_file import rotated
from guard.testing import ScriptedJudge

pytestmark = pytest.mark.slow

PROCESSES, RECORDS, KILLS = 8, 5_000, 3
MARKS = ("zebra-question", "zebra-context", "sk-canary-0123456789")

WORK = f"""
import os, sys
from guard import Gate
from guard.audit import AuditLog
from guard.testing import ScriptedJudge

log = AuditLog(sys.argv[1], max_bytes=2_000_000)
gate = Gate(ScriptedJudge(lambda query: len(query.question) % 100 / 100), observers=[log])
for n in range(int(sys.argv[2])):
    decision = gate.check("{MARKS[0]} " + n % 90 * "x", ["{MARKS[1]}", "{MARKS[2]}"])
    os.write(1, decision.id.encode() + b"\\n")
assert log.lost == 0
"""


class Writer(threading.Thread):
    """Writes records by a process, which is killed now and then, and then by the next one.

    Attributes:
        told: ids of the records that a process had written, by its own word.
        killed: how many were killed.
    """

    def __init__(self, path: Path, seed: int) -> None:
        super().__init__()
        self.told: list[str] = []
        self.killed = 0
        self._path, self._chance = path, random.Random(seed)

    def run(self) -> None:
        for _ in range(KILLS):
            self._write(RECORDS, kill_after=self._chance.randrange(1, RECORDS // KILLS))
        self._write(RECORDS - len(self.told), kill_after=None)

    def _write(self, records: int, kill_after: int | None) -> None:
        command = [sys.executable, "-c", WORK, str(self._path), str(records)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for number, line in enumerate(process.stdout, start=1):
                self.told.append(line.decode().strip())
                if number == kill_after:
                    process.send_signal(signal.SIGKILL)
        self.killed += process.returncode == -signal.SIGKILL


def test_none_is_lost_but_those_in_flight(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writers = [Writer(path, seed) for seed in range(PROCESSES)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    kills = sum(writer.killed for writer in writers)
    told = [id for writer in writers for id in writer.told]
    audit = Audit(path)
    written = [record.id for record in audit.records()]
    assert kills > PROCESSES
    assert len(rotated(path)) > 10
    assert len(told) == len(set(told)) >= PROCESSES * RECORDS
    assert len(written) == len(set(written))
    assert set(told) <= set(written)
    # Killed between the record and its report, or within the record: one at a time.
    assert len(written) - len(told) + audit.broken <= kills
    _require_whole(tmp_path, kills)


def _require_whole(folder: Path, kills: int) -> None:
    """Every line is a record, or the start of one that a kill cut off; none holds a text or key."""
    halves = 0
    for file in folder.rglob("*"):
        data = file.read_bytes()
        assert not any(mark.encode() in data for mark in MARKS)
        for line in data.splitlines():
            try:
                json.loads(line)
            except ValueError:
                halves += 1
                assert line.startswith(b'{"id": "'[: len(line)])
                assert line.count(b'"question_hash"') <= 1
    assert halves <= kills


def test_texts_are_there_where_asked_for(tmp_path: Path) -> None:
    """What is searched for above would be found."""
    with AuditLog(tmp_path / "audit.jsonl", texts=True) as log:
        Gate(ScriptedJudge(1.0), observers=[log]).check(MARKS[0], MARKS[1:])
    data = b"".join(each.read_bytes() for each in tmp_path.rglob("*.jsonl"))
    assert all(mark.encode() in data for mark in MARKS)


def test_a_hundred_thousand_records_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog(path) as log:
        Gate(ScriptedJudge((0.4, 0.6)), observers=[log]).check(MARKS[0], MARKS[1:])
    fields = json.loads(path.read_bytes())
    with open(path, "w", encoding="ascii") as file:
        for _ in range(100_000):
            file.write(json.dumps({**fields, "id": uuid.uuid4().hex}) + os.linesep)
    tracemalloc.start()
    try:
        assert sum(1 for _ in Audit(path).records()) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
