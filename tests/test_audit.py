"""The audit is written: what is kept, by whom it can be read, what survives."""

import asyncio
import errno
import fcntl
import json
import logging
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from wire import Answer, Script, WireServer

from guard import Decision, Gate, JudgeRejected, JudgeUnavailable, Messages, Policy, Usage, Verdict
from guard import audit as audits
from guard.audit import AuditLog
from guard.audit_file import Audit, Record, texts_folder
from guard.errors import ConfigError
from guard.judge import Judge
from guard.line_file import LineFile, rotated
from guard.observer import Observer
from guard.outcomes import OutcomeFile
from guard.testing import Scripted, ScriptedJudge

CANARY = "sk-canary-0123456789"
QUESTION, CONTEXT = "zebra-question", "zebra-context"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def decided(script: Scripted = 0.9, question: str = QUESTION, *contexts: str) -> Decision:
    return Gate(ScriptedJudge(script)).check(question, contexts or [CONTEXT])


def write(log: AuditLog, count: int) -> list[str]:
    """Checks queries through a gate; gives the decisions' ids."""
    gate = Gate(ScriptedJudge(0.9), observers=[log])
    return [gate.check(f"{QUESTION} {n}", [CONTEXT]).id for n in range(count)]


def ids(path: Path) -> list[str]:
    return [record.id for record in Audit(path).records()]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def everything(folder: Path) -> bytes:
    return b"".join(each.read_bytes() for each in folder.rglob("*") if each.is_file())


@contextmanager
def full_disk(size: int = 0) -> Generator[None]:
    """No file can grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def as_nobody() -> Generator[Path]:
    """A folder, and whoever runs this has no more rights than its owner."""
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    with suppress(PermissionError):
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
        shutil.rmtree(folder)


# ── What is kept ─────────────────────────────────────────────────────────────────────────────────


def test_it_is_an_observer(path: Path) -> None:
    log = AuditLog(path)
    assert isinstance(log, Observer)
    assert log.blocks


def test_a_line_is_the_decision(path: Path) -> None:
    with AuditLog(path) as log:
        gate = Gate(ScriptedJudge([0.9, (0.2, 0.6)]), observers=[log], deployment="docs")
        decisions = [gate.check(QUESTION, [CONTEXT], lang="de") for _ in range(2)]
    assert lines(path) == [{**decision.to_dict(), "message": None} for decision in decisions]
    assert [(line["lang"], line["deployment"]) for line in lines(path)] == [("de", "docs")] * 2


def test_every_decision_has_a_line(path: Path) -> None:
    """Also those that raise, and those for which nothing was retrieved."""
    log = AuditLog(path)
    gate = Gate(ScriptedJudge(JudgeRejected("no")), Policy(on_unmeasured="raise"), observers=[log])
    with pytest.raises(JudgeRejected) as raised:
        gate.check(QUESTION, [CONTEXT])
    assert isinstance(raised.value.decision, Decision)
    nothing = gate.check(QUESTION, [])
    assert ids(path) == [raised.value.decision.id, nothing.id]
    assert [line["reason"] for line in lines(path)] == ["rejected", "no_contexts"]


def test_numbers_of_other_kinds(path: Path) -> None:
    """Judges of numpy's numbers are audited like others."""
    import numpy

    p: Any = numpy.float32(0.75)
    usage = Usage(input_tokens=numpy.int64(7))  # type: ignore[arg-type]
    verdict = Verdict(p, p, p, p, None, "scripted", "x", usage=usage)
    with AuditLog(path) as log:
        log.observe(decided(verdict))
    (record,) = Audit(path).records()
    assert record.verdict is not None and record.verdict.usage is not None
    assert (record.verdict.p_true, record.verdict.usage.input_tokens) == (0.75, 7)


ODD = "half \ud800 pair\x00\nline \u2028 end \x85 </script> \U0001d54f"


def test_odd_texts(path: Path) -> None:
    """Half a surrogate pair, NULs and ends of lines stay within their line, and come back."""
    decision = decided(0.9, ODD, ODD, "")
    with AuditLog(path, texts=True) as log:
        log.observe(decision)
    assert log.lost == log.lost_texts == 0
    assert ids(path) == [decision.id]
    assert Audit(path).texts([decision.id]) == {decision.id: (ODD, (ODD, ""))}
    assert everything(path.parent).count(b"\n") == 2
    assert everything(path.parent).isascii()


def test_after_close_nothing_is_lost(path: Path) -> None:
    log = AuditLog(path)
    log.close()
    log.close()
    written = write(log, 2)
    assert ids(path) == written


# ── Who can read it, and what is never in it ─────────────────────────────────────────────────────


def test_private_whatever_the_umask(path: Path) -> None:
    umask = os.umask(0)
    try:
        log = AuditLog(path, texts=True, max_bytes=10_000)
        write(log, 40)
    finally:
        os.umask(umask)
    files = [each for each in path.parent.rglob("*") if each.is_file()]
    assert len(files) > 3
    assert {mode(each) for each in files} == {0o600}
    assert mode(texts_folder(path)) == 0o700


def test_what_was_open_before_is_closed(path: Path) -> None:
    """Whoever made the file or the folder before, others cannot read what is written now."""
    path.touch(0o644)
    texts_folder(path).mkdir(0o755)
    write(AuditLog(path, texts=True), 1)
    assert (mode(path), mode(texts_folder(path))) == (0o600, 0o700)


def test_texts_only_where_asked_for(path: Path) -> None:
    write(AuditLog(path), 3)
    assert not texts_folder(path).exists()
    assert b"zebra" not in everything(path.parent)
    (id,) = write(AuditLog(path, texts=True), 1)
    assert b"zebra" not in path.read_bytes()
    (line,) = [json.loads(each) for each in everything(texts_folder(path)).splitlines()]
    assert line == {"id": id, "question": f"{QUESTION} 0", "contexts": [CONTEXT]}


@pytest.mark.parametrize("texts", [False, True])
def test_failures_tell_no_texts(path: Path, texts: bool) -> None:
    """Nor does the judge's own trouble bring them into the record."""
    with AuditLog(path, texts=texts) as log:
        log.observe(decided(JudgeUnavailable("It is down.")))
        log.observe(decided(JudgeRejected("It will not.")))
        log.observe(decided((0.1, 0.9)))
        log.observe(decided(0.0))
    assert len(lines(path)) == 4
    assert b"zebra" not in path.read_bytes()


@pytest.mark.wire
def test_no_key_is_in_it(
    path: Path, wire: Callable[[Script], WireServer], chat_judge: Callable[..., Judge]
) -> None:
    """Not even where the endpoint repeats it in its complaint."""
    body = {"error": {"message": f"Incorrect API key provided: {CANARY}."}}
    server = wire(Answer(body, status=401))
    with AuditLog(path, texts=True) as log:
        decision = Gate(chat_judge(server), observers=[log]).check(QUESTION, [CONTEXT])
    assert CANARY in str(server.requests[0].headers)
    assert ids(path) == [decision.id]
    assert CANARY.encode() not in everything(path.parent)


# ── Crashes ──────────────────────────────────────────────────────────────────────────────────────

HALF = b'{"id": "0123456789abcdef", "time": "20'


@pytest.mark.parametrize("half", [HALF, b"{", HALF + b"\n", b"\0\0\0"])
def test_half_a_line_spoils_no_neighbour(path: Path, half: bytes) -> None:
    log = AuditLog(path)
    first = write(log, 2)
    with open(path, "ab") as file:
        file.write(half)
    second = write(log, 2)
    audit = Audit(path)
    assert [record.id for record in audit.records()] == first + second
    assert audit.broken == 1
    assert half.strip() in path.read_bytes()


def test_half_a_first_line(path: Path) -> None:
    path.write_bytes(HALF)
    (id,) = write(AuditLog(path), 1)
    audit = Audit(path)
    assert [record.id for record in audit.records()] == [id]
    assert audit.broken == 1


# ── A full disk, a lost file, a locked one ───────────────────────────────────────────────────────


def test_a_full_disk(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It stops no query, is logged once, and leaves no half line behind."""
    log = AuditLog(path)
    first = write(log, 2)
    caplog.set_level(logging.WARNING)
    with full_disk(path.stat().st_size + 100):
        write(log, 5)
    assert log.lost == 5
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("guard", "ERROR")
    assert os.strerror(errno.EFBIG) in record.getMessage()
    caplog.clear()
    second = write(log, 2)
    assert [record.getMessage() for record in caplog.records] == [
        "Audit records are written again; 5 were lost."
    ]
    with full_disk():
        write(log, 1)
    assert log.lost == 6
    audit = Audit(path)
    assert [record.id for record in audit.records()] == first + second
    assert audit.broken == 0


def test_a_full_disk_for_texts(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Records are written as long as they can be, whatever becomes of the texts."""
    log = AuditLog(path, texts=True)
    with full_disk(20_000):
        for _ in range(3):
            log.observe(decided(0.9, QUESTION, "x" * 20_000))
    assert (log.lost, log.lost_texts) == (0, 3)
    assert len(caplog.records) == 1
    assert everything(texts_folder(path)) == b""


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_file_that_is_gone(path: Path, how: str) -> None:
    log = AuditLog(path)
    first = write(log, 1)
    other = path.with_name("elsewhere.jsonl")
    path.rename(other)
    if how == "deleted":
        other.unlink()
    if how == "replaced":
        path.touch(0o644)
    second = write(log, 1)
    assert ids(path) == second
    assert mode(path) == 0o600
    if how != "deleted":
        assert ids(other) == first


def test_a_folder_that_is_gone(path: Path) -> None:
    folder = path.parent / "folder"
    folder.mkdir()
    log = AuditLog(folder / path.name, texts=True)
    shutil.rmtree(folder)
    write(log, 2)
    assert (log.lost, log.lost_texts) == (2, 2)
    folder.mkdir()
    (id,) = write(log, 1)
    assert ids(folder / path.name) == [id]
    assert Audit(folder / path.name).texts([id])


def test_the_texts_folder_is_gone(path: Path) -> None:
    log = AuditLog(path, texts=True)
    write(log, 1)
    shutil.rmtree(texts_folder(path))
    (id,) = write(log, 1)
    assert [*Audit(path).texts([id])] == [id]
    assert log.lost_texts == 0


def test_it_waits_for_the_lock(path: Path) -> None:
    log = AuditLog(path)
    decision = decided()
    thread = threading.Thread(target=log.observe, args=[decision])
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        assert path.read_bytes() == b""
    thread.join(5)
    assert (ids(path), log.lost) == ([decision.id], 0)


HOLD = """
import fcntl, os, signal, sys
file = open(sys.argv[1], "rb")
fcntl.flock(file, fcntl.LOCK_EX)
os.kill(os.getpid(), signal.SIGSTOP)
"""


@contextmanager
def stopped_while_it_writes(path: Path) -> Generator[None]:
    """A real process that was stopped for good while it held the file's lock."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)]) as process:
        try:
            assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
            yield
        finally:
            process.kill()


def waits(log: AuditLog, count: int) -> tuple[list[str], list[float]]:
    """Ids of so many decisions, and how long the audit took for each, in seconds."""
    decisions, took = [decided() for _ in range(count)], list[float]()
    for decision in decisions:
        started = time.perf_counter()
        log.observe(decision)
        took.append(time.perf_counter() - started)
    return [decision.id for decision in decisions], took


def test_a_stopped_process_stops_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first one waits, the others do not; nothing is lost, and their order is kept."""
    log = AuditLog(path)
    with stopped_while_it_writes(path):
        written, took = waits(log, 100)
        assert 0.3 < took[0] < 1
        assert sum(took[1:]) < 0.4
        assert (log.waiting, log.lost, path.read_bytes()) == (100, 0, b"")
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "wait in memory" in caplog.text and "holds it locked" in caplog.text
    log.close()
    assert (ids(path), log.waiting) == (written, 0)
    written += write(log, 2)
    assert (ids(path), log.lost) == (written, 0)
    assert "Audit records are written again; 0 were lost." in caplog.text


def test_one_query_in_a_while_tries(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with what others left waiting; the file is written again without `close`."""
    clock = Clock()
    monkeypatch.setattr(audits, "time", clock)
    log = AuditLog(path)
    with stopped_while_it_writes(path):
        written, _ = waits(log, 2)
        clock.now += 1.1
        more, took = waits(log, 3)
        assert 0.05 < took[0] < 1
        assert sum(took[1:]) < 0.15
        written += more
    written += write(log, 1)
    assert log.waiting == 6
    clock.now += 1.1
    assert patience(log, 3) == [0.1, 0, 0]  # Of those that come at once.
    clock.now += 1.1
    written += write(log, 1)
    assert (ids(path), log.waiting, log.lost) == (written, 0, 0)


def patience(log: AuditLog, count: int) -> list[float]:
    kept = log._records  # pyright: ignore[reportPrivateUsage]
    return [kept._patience() for _ in range(count)]  # pyright: ignore[reportPrivateUsage]


class Clock:
    """Stands still unless it is put forward; or goes on whenever it is looked at."""

    def __init__(self, step: float = 0) -> None:
        self.now, self._step = 1000.0, step

    def monotonic(self) -> float:
        self.now += self._step
        return self.now


@pytest.mark.parametrize("texts", [False, True])
def test_in_an_event_loop(path: Path, texts: bool) -> None:
    """Nor do the waits of many at once add up, for the records, the texts, or both."""
    log = AuditLog(path, texts=texts)
    gate = Gate(ScriptedJudge(0.9), observers=[log])
    if texts:
        write(log, 1)
    (file,) = texts_folder(path).iterdir() if texts else [path]
    before = len(ids(path))

    async def check() -> float:
        started = time.perf_counter()
        await gate.acheck(QUESTION, [CONTEXT])
        return time.perf_counter() - started

    async def check_all() -> list[float]:
        return await asyncio.gather(*(check() for _ in range(100)))

    with stopped_while_it_writes(file):
        assert max(asyncio.run(check_all())) < 2  # 100 in a pool of few threads.
    log.close()
    assert len(set(ids(path))) == before + 100
    assert log.lost == log.lost_texts == 0
    assert len(Audit(path).texts(ids(path))) == (before + 100 if texts else 0)


def test_a_write_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another thread, e.g. on a network's file system: it is not waited for long, either."""
    monkeypatch.setattr(audits, "_WAIT", 0.05)
    log = AuditLog(path)
    decisions = [decided() for _ in range(10)]
    thread = threading.Thread(target=lambda: [*map(log.observe, decisions)], daemon=True)
    with log._records._held(1):  # pyright: ignore[reportPrivateUsage]
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
        assert log.waiting == 10
    log.close()
    assert ids(path) == [decision.id for decision in decisions]


@pytest.mark.parametrize("seconds", [0.0, 1.1])
def test_what_waits_has_a_limit(
    path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """The oldest are kept, and the others counted as lost, however seldom they come."""
    clock = Clock(step=seconds)
    monkeypatch.setattr(audits, "time", clock)
    monkeypatch.setattr(audits, "_WAIT", 0.01)
    monkeypatch.setattr(audits, "_SHORT_WAIT", 0.01)
    monkeypatch.setattr(audits, "_MOST_WAITING", 10_000)
    log = AuditLog(path)
    with stopped_while_it_writes(path):
        written, _ = waits(log, 50)
    kept = log.waiting
    assert 5 < kept < 20
    assert log.lost == 50 - kept
    log.close()
    assert ids(path) == written[:kept]
    assert path.stat().st_size <= 10_000


def test_a_few_thousand_can_wait() -> None:
    """As the docstring says."""
    line = len(json.dumps(decided().to_dict()))
    assert 3000 < audits._MOST_WAITING / line < 7000  # pyright: ignore[reportPrivateUsage]


END = """
import sys
from guard import Gate
from guard.audit import AuditLog
from guard.testing import ScriptedJudge

log = AuditLog(sys.argv[1])
print(Gate(ScriptedJudge(0.9), observers=[log]).check("Why?", ["Because."]).id, flush=True)
assert log.waiting == 1
input()
"""


@pytest.mark.parametrize("in_time", [True, False])
def test_what_waits_at_the_end(path: Path, in_time: bool) -> None:
    """It is written if it can be, and otherwise said to be lost."""
    path.touch()
    command = [sys.executable, "-c", END, str(path)]
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process, ExitStack() as stack:
        other = stack.enter_context(open(path, "rb"))
        fcntl.flock(other, fcntl.LOCK_EX)
        assert process.stdout is not None
        id = process.stdout.readline().strip()
        if in_time:
            other.close()
        told = process.communicate("\n", timeout=30)[1]
    assert process.returncode == 0
    assert ids(path) == ([id] if in_time else [])
    assert ("1 that waited are lost" in told) is not in_time


def test_what_waits_when_a_log_is_dropped(path: Path) -> None:
    log = AuditLog(path)
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        written = write(log, 3)
    del log
    assert ids(path) == written


# ── Rotation ─────────────────────────────────────────────────────────────────────────────────────


def test_rotation(path: Path) -> None:
    log = AuditLog(path, max_bytes=10_000)
    written = write(log, 40)
    files = rotated(path)
    assert len(files) > 2
    assert all(each.stat().st_size <= 10_000 for each in [*files, path])
    assert ids(path) == written
    for each in files:
        assert each.name.startswith("audit.20") and each.name.endswith("Z.jsonl")


def test_two_logs_rotate_one_file(path: Path) -> None:
    """Who did not rotate goes on in the new file, not in the one that was renamed."""
    one, other = AuditLog(path, max_bytes=10_000), AuditLog(path, max_bytes=10_000)
    written = [id for _ in range(20) for log in (one, other) for id in write(log, 1)]
    assert ids(path) == written
    assert all(each.stat().st_size <= 10_000 for each in rotated(path))


def test_a_clock_put_back(path: Path) -> None:
    """New names sort behind the old ones, and overwrite none."""
    future = path.with_name("audit.29990101T000000000000Z.jsonl")
    future.touch()
    written = write(AuditLog(path, max_bytes=10_000), 40)
    names = [each.name for each in rotated(path)]
    assert names[:2] == [future.name, "audit.29990101T000000000001Z.jsonl"]
    assert ids(path) == written


def test_a_name_at_the_end_of_time(path: Path) -> None:
    """None sorts behind it: the file grows on."""
    path.with_name("audit.99991231T235959999999Z.jsonl").touch()
    log = AuditLog(path, max_bytes=10_000)
    written = write(log, 20)
    assert (ids(path), len(rotated(path)), log.lost) == (written, 1, 0)


def test_names_of_others_are_left_alone(path: Path) -> None:
    for name in ("audit.old.jsonl", "audit.2026.jsonl", "xaudit.20261121T131500123456Z.jsonl"):
        path.with_name(name).write_text("not ours\n")
    written = write(AuditLog(path, max_bytes=10_000), 40)
    assert ids(path) == written


@pytest.mark.parametrize("name", ["audit", "a[1]*.jsonl", ".audit", "a b.log"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    written = write(AuditLog(path, texts=True, max_bytes=10_000), 40)
    assert ids(path) == written
    assert len(rotated(path)) > 1
    assert len(Audit(path).texts(written)) == 40


def test_where_it_cannot_be_renamed(caplog: pytest.LogCaptureFixture) -> None:
    """In a folder that has become read-only the file grows on, and that is said once."""
    with as_nobody() as folder:
        path = folder / "audit.jsonl"
        log = AuditLog(path, max_bytes=10_000)
        folder.chmod(0o500)
        written = write(log, 30)
        assert (ids(path), log.lost, rotated(path)) == (written, 0, [])
        assert len(caplog.records) == 1
        folder.chmod(0o700)
        written += write(log, 1)
        assert ids(path) == written
        assert len(rotated(path)) == 1


# ── Where it may be ──────────────────────────────────────────────────────────────────────────────


def test_a_link_is_followed(tmp_path: Path) -> None:
    """What it names is written and rotated; the link stays."""
    (tmp_path / "real").mkdir()
    link, real = tmp_path / "link.jsonl", tmp_path / "real" / "audit.jsonl"
    link.symlink_to(real)
    written = write(AuditLog(link, texts=True, max_bytes=10_000), 40)
    assert link.is_symlink()
    assert ids(link) == ids(real) == written
    assert len(rotated(real)) > 1
    assert len(Audit(link).texts(written)) == 40


@pytest.mark.parametrize("place", ["", "none/audit.jsonl", "file/audit.jsonl", "pipe", "zero"])
def test_where_it_cannot_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="cannot be opened: .*folder that exists"):
        AuditLog(tmp_path / place)


def test_a_read_only_folder() -> None:
    with as_nobody() as folder:
        folder.chmod(0o500)
        with pytest.raises(ConfigError, match=os.strerror(errno.EACCES)):
            AuditLog(folder / "audit.jsonl")


OTHERS = [
    b'{"id": "a", "question": "q", "contexts": []}\n',
    b'{"id": "a", "outcome": "wrong", "time": "x", "by": null}\n',
    b"a,b,c\n",
    b"\x89PNG\r\n\x1a\n\0\0",
    b"[1, 2]\n",
    b"7\n",
    b"\nimport os\n",
    b"\r\n \r\n\t\r\na,b,c\r\n",
    b'{\n  "name": "precious"\n}\n',
    b"{\n}\n",
    b"\0\0\nprecious",
    HALF + b"\nprecious\n",
]


@pytest.mark.parametrize("name", ["a\0b", "a\0b/audit.jsonl", "\ud800/audit.jsonl"])
def test_what_no_path_can_be(tmp_path: Path, name: str) -> None:
    for make in (AuditLog, Audit, OutcomeFile):
        with pytest.raises(ConfigError, match="is no path: .*Name a file"):
            make(tmp_path / name)
        with pytest.raises(ConfigError, match="is no path: .*Name a file"):
            make(name)


@pytest.mark.parametrize("content", OTHERS)
def test_a_file_of_something_else(path: Path, content: bytes) -> None:
    """It is neither written to nor made private."""
    path.write_bytes(content)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="does not hold decision records"):
        AuditLog(path)
    assert (path.read_bytes(), mode(path)) == (content, 0o644)


@pytest.mark.parametrize("content", OTHERS)
def test_another_file_in_its_place(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one that came later is neither written to nor made private; records are lost."""
    log = AuditLog(path)
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o644)
    write(log, 2)
    assert (path.read_bytes(), mode(path), log.lost) == (content, 0o644, 2)
    (record,) = caplog.records
    assert "does not hold decision records" in record.getMessage()
    path.unlink()
    written = write(log, 1)
    assert ids(path) == written


def test_it_begins_while_another_holds_the_lock(path: Path) -> None:
    """A service that starts does not wait for it."""
    write(AuditLog(path), 1)
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        started = time.monotonic()
        AuditLog(path)
        assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "options", [{"text_days": 0}, {"text_days": 1.5}, {"max_bytes": 9_999}, {"max_bytes": "1"}]
)
def test_numbers_out_of_range(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        AuditLog(path, **options)
    assert not path.exists()


# ── Texts have their day ─────────────────────────────────────────────────────────────────────────


def old_texts(path: Path, *names: str) -> Path:
    folder = texts_folder(path)
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("")
    return folder


DAY = date(2026, 3, 10)
NAMES = ("2026-03-03.jsonl", "2026-03-04.jsonl", "2026-03-09.jsonl")
FOREIGN = ("2026-01-01.txt", "x2026-01-01.jsonl", "2026-13-01.jsonl", "20260101.jsonl", "notes")


@pytest.mark.parametrize("texts", [False, True])
def test_old_texts_go_when_it_begins(
    path: Path, monkeypatch: pytest.MonkeyPatch, texts: bool
) -> None:
    """Seven days are today and six before; what is not ours stays."""
    monkeypatch.setattr(audits, "_today", lambda: DAY)
    folder = old_texts(path, *NAMES, *FOREIGN)
    AuditLog(path, texts=texts, text_days=7)
    assert {each.name for each in folder.iterdir()} == {NAMES[1], NAMES[2], *FOREIGN}


def test_old_texts_go_on_a_new_day(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "_today", lambda: DAY)
    log = AuditLog(path, texts=True, text_days=2)
    write(log, 1)
    for day in (11, 12):
        monkeypatch.setattr(audits, "_today", lambda day=day: date(2026, 3, day))
        write(log, 1)
    left = sorted(each.name for each in texts_folder(path).iterdir())
    assert left == ["2026-03-11.jsonl", "2026-03-12.jsonl"]
    assert len(Audit(path).texts(ids(path))) == 2


def test_texts_that_cannot_be_deleted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, since somebody relies on it; the query goes on."""
    (old_texts(path) / "2020-01-01.jsonl").mkdir()
    log = AuditLog(path, texts=True)
    assert "cannot be deleted" in caplog.text
    write(log, 1)
    assert log.lost == log.lost_texts == 0


@pytest.mark.parametrize("name", ["bot.log", "bot", "bot.jsonl.jsonl"])
def test_texts_of_another_audit_are_left_alone(tmp_path: Path, name: str) -> None:
    """Although its name differs in what follows the dot alone."""
    folder = old_texts(tmp_path / "bot.jsonl", "2020-01-01.jsonl")
    write(AuditLog(tmp_path / name, text_days=1), 1)
    assert len(list(folder.iterdir())) == 1
    assert folder.name == "bot.jsonl.texts"


def test_a_file_where_the_folder_should_be(path: Path) -> None:
    texts_folder(path).touch()
    with pytest.raises(ConfigError, match="cannot be opened"):
        AuditLog(path, texts=True)


# ── Threads and forks ────────────────────────────────────────────────────────────────────────────


def test_threads(path: Path) -> None:
    log = AuditLog(path, texts=True, max_bytes=50_000)
    written: list[str] = []
    threads = [threading.Thread(target=lambda: written.extend(write(log, 100))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids(path)) == sorted(written)
    assert len(set(written)) == 800
    assert len(Audit(path).texts(written)) == 800


def forked(work: Callable[[], object]) -> int:
    """The exit status of a forked child that does ``work``; it is killed after 5 s."""
    child = os.fork()
    if child == 0:
        status = 1
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_fork_while_a_thread_writes(path: Path) -> None:
    """The child gets locks that nobody will let go, and must not wait for them."""
    log = AuditLog(path, texts=True)
    first = write(log, 1)
    kept = log._records  # pyright: ignore[reportPrivateUsage]
    with kept._writing, kept._state:  # pyright: ignore[reportPrivateUsage]
        assert forked(lambda: write(log, 3)) == 0
    written = first + write(log, 1)
    assert set(written) < set(ids(path))
    assert len(ids(path)) == 5


def test_a_forks_lock_is_its_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharing the parent's open file would mean to share its lock: neither would wait."""
    monkeypatch.setattr(audits, "_WAIT", 0.05)
    log = AuditLog(path)
    write(log, 1)
    file = log._records.file.open()  # pyright: ignore[reportPrivateUsage]
    fcntl.flock(file, fcntl.LOCK_EX)

    def work() -> None:
        write(log, 1)
        assert log.waiting == 1

    assert forked(work) == 0


def test_what_waits_is_the_parents(path: Path) -> None:
    """Or a record would be written twice."""
    log = AuditLog(path)
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        written = write(log, 2)
    assert forked(log.close) == 0
    assert ids(path) == []
    log.close()
    assert ids(path) == written


def test_a_log_that_is_dropped_closes_its_file(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        AuditLog(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_durable_lines(path: Path) -> None:
    file = LineFile(path)
    file.append(b"a\nb\n", durable=True)
    assert path.read_bytes() == b"a\nb\n"


def test_records_come_back(path: Path) -> None:
    """Bit for bit, and whatever the judge said."""
    decisions = [decided(each) for each in (0.1 + 0.2, (1e-300, 0.5), JudgeRejected("no"))]
    with AuditLog(path) as log:
        for decision in decisions:
            log.observe(decision)
    for record, decision in zip(Audit(path).records(), decisions, strict=True):
        assert record == Record.from_dict(decision.to_dict())
        assert record.verdict == decision.verdict
        assert (record.low, record.high) == (decision.low, decision.high)


def test_what_a_model_told_the_user_is_not_kept(path: Path) -> None:
    """It may be worded from the passages."""
    policy = Policy(messages=Messages(refuse="Only the canary-passage speaks of it."))
    with AuditLog(path) as log:
        decision = Gate(ScriptedJudge(0.0), policy, observers=[log]).check("When?", ["At nine."])
    assert decision.message is not None and "canary-passage" in decision.message
    assert json.loads(path.read_text())["message"] is None
