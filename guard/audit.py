"""The audit: one record a line of every decision, without its texts unless they are asked for.

    gate = Gate(judge, observers=[AuditLog("audit.jsonl")])

A record is `guard.Decision.to_dict`: hashes in place of question and contexts. `guard.audit_file`
reads it. Each record is handed to the operating system before the query goes on, so that a killed
process loses at most the one in flight; a machine that loses power may lose the last seconds.

Any number of threads and processes may write one audit, forked ones too. On Windows and on file
systems without locks, one audit is for one process.
"""

import json
import logging
import os
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from numbers import Integral, Real
from pathlib import Path

from guard._require import require_number
from guard.audit_file import require_audit, text_files, texts_folder
from guard.decision import Decision
from guard.errors import ConfigError
from guard.line_file import WAIT_SECONDS, LineFile

logger = logging.getLogger("guard")

MIN_BYTES, MAX_BYTES = 10_000, 10**15
MAX_DAYS = 36_500
_WAIT_WHEN_DOWN = 0.1  # Seconds: what failed last time must not hold up every query.


class AuditLog:
    """Writes the record of every decision to a file. Only its owner can read what it writes.

    What cannot be written is counted and logged, once for each outage, and never raised: a full
    disk stops no query.

    Args:
        path: the file; made if it is not there, its folder is not. A link is followed once, here.
        texts: whether questions and contexts are kept as well, for review: in a folder beside it,
            ``audit.texts``, in a file for each day.
        text_days: for how many days, today's included. Older files of texts are deleted here, and
            by whoever writes first on a new day; also where ``texts`` is off, since it may have
            been on before.
        max_bytes: before the file grows beyond this, it is renamed, with the time in its name, and
            a new one begun. Nothing deletes the old ones.

    Raises:
        ConfigError: the file cannot be opened or holds something else; a number is out of range.
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
        self.path = Path(os.path.realpath(path))
        self._lock = threading.Lock()
        self._records = _Kept("Audit records", LineFile(self.path, max_bytes=max_bytes))
        self._texts = _Texts(self.path, text_days, wanted=texts)
        try:
            require_audit(self.path)
            self._records.file.open()
            self._texts.prepare()
        except OSError as error:
            raise ConfigError(
                f"The audit {str(path)!r} cannot be opened: {error.strerror}.",
                hint="Name a file in a folder that exists and that this user may write to.",
            ) from error
        _logs.add(self)

    @property
    def lost(self) -> int:
        """Records that this process could not write."""
        return self._records.lost

    @property
    def lost_texts(self) -> int:
        """Texts that this process could not write."""
        return self._texts.lost

    def observe(self, decision: Decision) -> None:
        """Writes one record, and the texts where they are kept."""
        line = _line(decision.to_dict())
        with self._lock:
            self._records.append(line)
            self._texts.append(decision)

    def close(self) -> None:
        """Closes the files. A decision that comes after is written as well, and opens them anew."""
        with self._lock:
            self._records.file.close()
            self._texts.close()

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin_anew(self) -> None:
        """In a forked child, where it is called by itself: shares neither file nor lock.

        A file opened before the fork has one lock for both; a thread that held ours is not here.
        """
        self._lock = threading.Lock()
        self._records.file.close()
        self._texts.close()


_logs: "weakref.WeakSet[AuditLog]" = weakref.WeakSet()


def _begin_all_in_child() -> None:
    for log in list(_logs):
        log.begin_anew()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_begin_all_in_child)


class _Kept:
    """Lines that go to a file if they can, and how many could not."""

    def __init__(self, name: str, file: LineFile) -> None:
        self.name, self.file = name, file
        self.lost = 0
        self._lost_before = 0  # This outage.
        self._is_down = False

    def append(self, line: bytes) -> None:
        try:
            self.file.append(line, wait=_WAIT_WHEN_DOWN if self._is_down else WAIT_SECONDS)
        except OSError as error:
            self._failed(error)
        else:
            self._worked()

    def _failed(self, error: OSError) -> None:
        if not self._is_down:
            self._lost_before = self.lost
            logger.error(
                "%s are lost until this is mended: %s: %s.",
                *(self.name, self.file.path, error.strerror),
            )
        self._is_down = True
        self.lost += 1

    def _worked(self) -> None:
        if self._is_down:
            lost = self.lost - self._lost_before
            logger.warning("%s are written again; %d were lost.", self.name, lost)
        self._is_down = False


class _Texts:
    """Questions and contexts, a file for each day (UTC), where they are wanted at all."""

    def __init__(self, audit: Path, days: int, *, wanted: bool) -> None:
        self._audit, self._days, self._wanted = audit, days, wanted
        self._folder = texts_folder(audit)
        self._today: date | None = None
        self._kept = _Kept("Texts of queries", LineFile(self._folder))

    @property
    def lost(self) -> int:
        return self._kept.lost

    def prepare(self) -> None:
        """Makes the folder, and deletes what is too old.

        Raises:
            OSError: the folder cannot be made.
        """
        if self._wanted:
            self._make_folder()
        self._turn(_today())

    def append(self, decision: Decision) -> None:
        if (today := _today()) != self._today:
            self._turn(today)
        if not self._wanted:
            return
        with suppress(OSError):  # What is wrong shows next.
            self._make_folder()
        query = decision.query
        texts = {"id": decision.id, "question": query.question, "contexts": query.contexts}
        self._kept.append(_line(texts))

    def close(self) -> None:
        self._kept.file.close()

    def _make_folder(self) -> None:
        self._folder.mkdir(0o700, exist_ok=True)
        if self._folder.stat().st_mode & 0o077:
            self._folder.chmod(0o700)

    def _turn(self, today: date) -> None:
        self._today = today
        self._kept.file.close()
        self._kept.file = LineFile(self._folder / f"{today.isoformat()}.jsonl")
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
