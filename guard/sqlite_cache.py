"""A cache of verdicts in a file; see `guard.cache`."""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from guard._json import as_map
from guard._require import require_number
from guard.cache import MAX_ENTRIES
from guard.errors import ConfigError
from guard.verdict import Usage, Verdict

T = TypeVar("T")

# Seconds to wait for another's lock, and to leave the file alone after that was in vain: a miss
# costs one judgement, and waiting costs the deadline.
_PATIENCE, _REST = 0.1, 1.0
_OPENING = 5.0  # Seconds in which the file must be there when the cache is made.


class SqliteCache:
    """Keeps verdicts in a file, which several processes may share; the file is private.

    Args:
        path: the file; it is made if it does not exist, its folder is not.
        entries: how many at most; the oldest go.

    Raises:
        ConfigError: the file cannot be opened, or is no SQLite database.
    """

    blocks = True

    def __init__(self, path: str | os.PathLike[str], *, entries: int = 100_000) -> None:
        require_number("entries", entries, 1, MAX_ENTRIES, whole=True)
        self.path, self._entries = Path(path), entries
        self._lock = threading.Lock()
        self._file: sqlite3.Connection | None = None
        self._pid, self._rests_until = 0, 0.0
        try:
            self._open()
        except (OSError, ValueError, sqlite3.Error) as error:
            raise ConfigError(
                f"The cache {str(path)!r} cannot be opened ({error}).",
                hint="Name a file in a folder that exists and that this user may write to.",
            ) from error

    def get(self, key: str) -> Verdict | None:
        """The verdict kept under ``key``, or ``None``."""

        def found(file: sqlite3.Connection) -> Verdict | None:
            rows = file.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,))
            row = rows.fetchone()
            return None if row is None else _read(row[0])

        return self._used(found)

    def put(self, key: str, verdict: Verdict) -> None:
        """Keeps a verdict."""
        try:
            text = json.dumps(asdict(verdict))
        except (TypeError, ValueError):
            return  # A number of a kind that JSON does not know, as numpy has: not worth failing.

        def kept(file: sqlite3.Connection) -> None:
            with file:
                file.execute(_KEEP, (key, text))
                file.execute(_FORGET, (self._entries,))

        self._used(kept)

    def close(self) -> None:
        """Closes the file; it is opened again at the next use."""
        with self._lock:
            if self._file is not None and self._pid == os.getpid():
                self._file.close()
            self._file = None

    def __del__(self) -> None:
        # Forgotten without `close`; where construction failed there is nothing yet.
        if getattr(self, "_file", None) is not None:
            self.close()

    def _used(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What ``work`` makes of the file; ``None`` where that fails or would take too long."""
        if time.monotonic() < self._rests_until or not self._lock.acquire(timeout=_PATIENCE):
            return None
        try:
            return work(self._open())
        except sqlite3.OperationalError:  # Locked by others, most likely.
            self._rests_until = time.monotonic() + _REST
        except (sqlite3.Error, OSError):
            pass
        finally:
            self._lock.release()
        return None

    def _open(self) -> sqlite3.Connection:
        """The connection of this process: one must not be carried over a fork."""
        if self._file is None or self._pid != os.getpid():
            _create(self.path)
            if self._file is not None:
                _inherited.append(self._file)
            self._file = sqlite3.connect(self.path, timeout=_OPENING, check_same_thread=False)
            self._file.execute("PRAGMA schema_version")  # Raises where it is no database: not ours.
            _make_private(self.path)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute(_TABLE)
            self._file.commit()
            self._file.execute(f"PRAGMA busy_timeout = {round(1000 * _PATIENCE)}")
            self._pid = os.getpid()
        return self._file


def _create(path: Path) -> None:
    """Private before anything is in it; SQLite gives its side files the same mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _make_private(path: Path) -> None:
    # By its name: to close a descriptor of it would end the locks of this process's connections.
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            os.chmod(name, 0o600)  # It may have been there before; who can write can plant.


# Connections from before a fork: closing one in the child would end the parent's locks.
_inherited = list[sqlite3.Connection]()

_KEEP = (
    "INSERT INTO verdicts (key, verdict) VALUES (?, ?) "
    "ON CONFLICT (key) DO UPDATE SET verdict = excluded.verdict"
)
_FORGET = "DELETE FROM verdicts WHERE rowid <= (SELECT max(rowid) FROM verdicts) - ?"
_TABLE = "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL)"


def _read(text: str) -> Verdict | None:
    """A kept verdict; ``None`` where the file holds something else: it is asked again then."""
    try:
        fields: dict[str, Any] = dict(as_map(json.loads(text)))
        for name in _NOT_KEPT:
            del fields[name]
        usage = fields.pop("usage")
        runs: list[list[Any]] = fields.pop("unseen")
        unseen = tuple((first, last) for first, last in runs)
        spent = None if usage is None else Usage(**usage)
        verdict = Verdict(**fields, usage=spent, unseen=unseen)
        return verdict if _is_typed(verdict) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


# Of a chain, and what is looked for at each query anew.
_NOT_KEPT = (
    "tried",
    "suspects",
    "suspect_turns",
    "p_without",
    "low_without",
    "rest_unmeasured",
    "look_cut_short",
)
_NUMBERS = ("p_true", "low", "high", "mass", "coverage", "seen", "history_coverage")
_TEXTS = ("signal", "fingerprint")
_OPTIONAL_TEXTS = ("emitted", "model", "system_fingerprint")


def _is_typed(verdict: Verdict) -> bool:
    """Whether its fields are of the types that they should be; `Verdict` looks at ranges alone."""
    numbers = [getattr(verdict, name) for name in _NUMBERS]
    texts = [getattr(verdict, name) for name in _TEXTS]
    optional = [getattr(verdict, name) for name in _OPTIONAL_TEXTS]
    shares = (verdict.p_underspecified,)
    usage = verdict.usage or Usage()
    counts = (usage.input_tokens, usage.output_tokens, usage.cached_tokens)
    return (
        all(type(each) in (int, float) for each in numbers)
        and all(type(each) in (int, float, type(None)) for each in shares)
        and all(type(each) is str for each in texts)
        and all(type(each) in (str, type(None)) for each in optional)
        and all(type(each) in (int, type(None)) for each in counts)
        and all(type(each) is int for each in (usage.requests, verdict.windows))
        and all(list(map(type, run)) == [int, int] for run in verdict.unseen)
    )
