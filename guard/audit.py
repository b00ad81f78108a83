"""The audit: one record a line of every decision, without its texts unless they are asked for.

    gate = Gate(judge, observers=[AuditLog("audit.jsonl")])

A record is `guard.Decision.to_dict`: hashes in place of question and contexts. `guard.audit_file`
reads it. Each record is handed to the operating system before the query goes on, so that a killed
process loses at most the one in flight; a machine that loses power may lose the last seconds.

Any number of threads and processes may write one audit, forked ones too. On Windows and on file
systems without locks, one audit is for one process.

A process that was stopped while it held the file's lock holds up no other for long: a query waits
half a second at most, a whole one where texts are kept. Then records wait in memory, 5 MB of them
(some 4,000), and one query a second tries again, for 0.1 s; they are written in their order by the
first that gets the lock, at `AuditLog.close`, or at the interpreter's end. A process that is killed
meanwhile loses those that wait; a forked child leaves them to its parent.
"""

import json
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from numbers import Integral, Real
from pathlib import Path

from guard._require import require_number
from guard.audit_file import require_audit, text_files, texts_folder
from guard.decision import Decision
from guard.errors import ConfigError
from guard.line_file import LineFile, real_path

logger = logging.getLogger("guard")

MIN_BYTES, MAX_BYTES = 10_000, 10**15
MAX_DAYS = 36_500
# Seconds. A query waits for the sum of the first two at most, once for records, once for texts.
_WAIT, _SHORT_WAIT = 0.4, 0.1
_TRY_EVERY = 1.0
_MOST_WAITING = 5_000_000  # Bytes of lines.


class AuditLog:
    """Writes the record of every decision to a file. Only its owner can read what it writes.

    What cannot be written is counted and logged, once for each outage, and never raised: a full
    disk stops no query, nor does a process that holds the file's lock for good.

    Args:
        path: the file; made if it is not there, its folder is not. A link is followed once, here.
        texts: whether questions and contexts are kept as well, for review: in a folder beside it,
            ``audit.jsonl.texts``, in a file for each day.
        text_days: for how many days, today's included. Older files of texts are deleted here, and
            by whoever writes first on a new day; also where ``texts`` is off, since it may have
            been on before.
        max_bytes: before the file grows beyond this, it is renamed, with the time in its name, and
            a new one begun. Nothing deletes the old ones.

    Raises:
        ConfigError: the file cannot be opened or holds something else; no file can have its name;
            a number is out of range.
    """

    blocks = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        texts: bool = False,
        text_days: int = 30,
        max_bytes: int = 100_000_000,
    ) -> None:
        require_number("text_days", text_days, 1, MAX_DAYS, whole=True)
        require_number("max_bytes", max_bytes, MIN_BYTES, MAX_BYTES, whole=True)
        self.path = real_path(path)
        file = LineFile(self.path, max_bytes=max_bytes, require=require_audit)
        self._records = _Kept("Audit records", file)
        self._texts = _Texts(self.path, text_days, wanted=texts)
        try:
            self._records.file.open()
            self._texts.prepare()
        except OSError as error:
            raise ConfigError(
                f"The audit {str(path)!r} cannot be opened: {error.strerror}.",
                hint="Name a file in a folder that exists and that this user may write to.",
            ) from error
        _logs.add(self)
        for kept in (self._records, self._texts.kept):
            weakref.finalize(self, kept.end)

    @property
    def lost(self) -> int:
        """Records that this process could not write."""
        return self._records.lost

    @property
    def waiting(self) -> int:
        """Records that wait in memory, since another process holds the file's lock."""
        return self._records.waiting

    @property
    def lost_texts(self) -> int:
        """Texts that this process could not write."""
        return self._texts.kept.lost

    def observe(self, decision: Decision) -> None:
        """Writes one record, and the texts where they are kept."""
        # Not what the user was told: a model may have worded it from the passages.
        self._records.append(_line({**decision.to_dict(), "message": None}))
        self._texts.append(decision)

    def close(self) -> None:
        """Writes what waits, if it can be, and closes the files.

        A decision that comes after is written as well, and opens them anew.
        """
        self._records.close()
        self._texts.kept.close()

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin_anew(self) -> None:
        """In a forked child, where it is called by itself: shares neither file nor lock.

        A file opened before the fork has one lock for both; a thread that held ours is not here.
        """
        self._records.begin_anew()
        self._texts.kept.begin_anew()


_logs: "weakref.WeakSet[AuditLog]" = weakref.WeakSet()


def _begin_all_in_child() -> None:
    for log in list(_logs):
        log.begin_anew()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_begin_all_in_child)


class _Kept:
    """Lines on their way to a file, and how many could not be written.

    A line first takes its place among those that wait; then whoever has the file writes them all.
    """

    def __init__(
        self, name: str, file: LineFile, prepare: Callable[[], None] | None = None
    ) -> None:
        self.name, self.file, self._prepare = name, file, prepare
        self.lost = 0
        self._lost_before = 0  # This outage.
        self._is_down = False
        self._next_try = 0.0  # On the monotonic clock, after others held the lock.
        self.begin_anew()

    def begin_anew(self) -> None:
        """Without what waits: after a fork, that is the parent's."""
        self.file.close()
        self._writing, self._state = threading.Lock(), threading.Lock()
        self._lines, self._bytes = deque[bytes](), 0

    @property
    def waiting(self) -> int:
        return len(self._lines)

    def append(self, line: bytes) -> None:
        with self._state:
            self._lines.append(line)
            self._bytes += len(line)
            wait = self._patience()
        if wait:
            self._write(wait)
        else:
            self._lose_what_is_too_much()

    def close(self) -> None:
        self._write(_SHORT_WAIT, and_close=True)

    def end(self) -> None:
        """The last try."""
        self.close()
        if self._lines:
            lost = len(self._lines)
            self.lost += lost
            logger.error("%s: %d that waited are lost: %s.", self.name, lost, self.file.path)
            self._lines.clear()

    def _patience(self) -> float:
        """Seconds to wait for the file; after others held it long, 0 for all but one a second."""
        if not self._next_try:
            return _WAIT
        if (now := time.monotonic()) < self._next_try:
            return 0
        self._next_try = now + _TRY_EVERY
        return _SHORT_WAIT

    def _write(self, wait: float, *, and_close: bool = False) -> None:
        until = time.monotonic() + wait
        with self._held(wait) as is_held:
            if not is_held:
                self._wait_on("Another thread has long been writing to it")
                return
            if self._lines:
                self._write_all(until)
            if and_close:
                self.file.close()

    @contextmanager
    def _held(self, wait: float) -> Generator[bool]:
        is_held = self._writing.acquire(timeout=wait)
        try:
            yield is_held
        finally:
            if is_held:
                self._writing.release()

    def _write_all(self, until: float) -> None:
        if self._prepare is not None:
            self._prepare()
        while self._lines:
            try:
                # Not 0: the others' lines that came first may have taken all the time.
                self.file.append(self._lines[0], wait=max(_SHORT_WAIT, until - time.monotonic()))
            except TimeoutError as error:
                self._wait_on(error.strerror)
                return
            except OSError as error:
                self._is_lost(error.strerror)
            except ConfigError as error:  # Somebody put another file in its place.
                self._is_lost(error.message.rstrip("."))
            else:
                self._is_written()
            with self._state:
                self._bytes -= len(self._lines.popleft())

    def _wait_on(self, why: str | None) -> None:
        with self._state:
            self._next_try = time.monotonic() + _TRY_EVERY
        self._tell(f"wait in memory, and are lost beyond {_MOST_WAITING // 1_000_000} MB,", why)
        self._lose_what_is_too_much()

    def _is_lost(self, why: str | None) -> None:
        self._tell("are lost", why)
        with self._state:
            self.lost += 1

    def _tell(self, fate: str, why: str | None) -> None:
        with self._state:
            begins, self._is_down = not self._is_down, True
            if begins:
                self._lost_before = self.lost
        if begins:
            logger.error(
                "%s %s until this is mended: %s: %s.", self.name, fate, self.file.path, why
            )

    def _is_written(self) -> None:
        with self._state:
            ends, self._is_down, self._next_try = self._is_down, False, 0.0
            lost = self.lost - self._lost_before
        if ends:
            logger.warning("%s are written again; %d were lost.", self.name, lost)

    def _lose_what_is_too_much(self) -> None:
        with self._state:
            # Never the first, which somebody may be writing.
            while self._bytes > _MOST_WAITING and len(self._lines) > 1:
                self._bytes -= len(self._lines.pop())
                self.lost += 1


class _Texts:
    """Questions and contexts, a file for each day (UTC), where they are wanted at all.

    Attributes:
        kept: those on their way.
    """

    def __init__(self, audit: Path, days: int, *, wanted: bool) -> None:
        self._audit, self._days, self._wanted = audit, days, wanted
        self._folder = texts_folder(audit)
        self._today: date | None = None
        self.kept = _Kept("Texts of queries", LineFile(self._folder), self._ready)

    def prepare(self) -> None:
        """Makes the folder, and deletes what is too old.

        Raises:
            OSError: the folder cannot be made.
        """
        if self._wanted:
            self._make_folder()
        self._turn()

    def append(self, decision: Decision) -> None:
        if not self._wanted:
            self._turn()
            return
        query = decision.query
        texts = {"id": decision.id, "question": query.question, "contexts": query.contexts}
        self.kept.append(_line(texts))

    def _ready(self) -> None:
        self._turn()
        with suppress(OSError):  # What is wrong shows next.
            self._make_folder()

    def _make_folder(self) -> None:
        self._folder.mkdir(0o700, exist_ok=True)
        if self._folder.stat().st_mode & 0o077:
            self._folder.chmod(0o700)

    def _turn(self) -> None:
        if (today := _today()) == self._today:
            return
        self._today = today
        self.kept.file.close()
        self.kept.file = LineFile(self._folder / f"{today.isoformat()}.jsonl")
        try:
            self._delete_old(today)
        except OSError as error:
            logger.error(
                "Texts older than %d days cannot be deleted from %s: %s.",
                *(self._days, self._folder, error.strerror),
            )

    def _delete_old(self, today: date) -> None:
        last = today - timedelta(days=self._days)
        for path in text_files(self._audit):
            with suppress(ValueError, FileNotFoundError):  # No day; another process was first.
                if date.fromisoformat(path.stem) <= last:
                    path.unlink()


def _today() -> date:
    return datetime.now(UTC).date()


def _line(values: Mapping[str, object]) -> bytes:
    return json.dumps(values, default=_plain).encode("ascii") + b"\n"


def _plain(value: object) -> object:
    """A value of a kind that JSON does not know; numpy's numbers are such."""
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else str(value)
