"""A file that many threads and processes append lines to, each line whole; readable by its owner.

Every append holds a lock on the file. Half a line, left by a process that was killed while writing,
is ended before the next one begins, so that it spoils no neighbour. A file that somebody has moved,
deleted or replaced is noticed at the next append, and begun anew.

Windows and some network file systems have no such locks: there, one file is for one process.
"""

import errno
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from guard.errors import ConfigError

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("guard")

WAIT_SECONDS = 5.0
"""How long an append waits for the lock: who holds it may have been stopped, even for good."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.005
_LONGEST_LINE = 64 * 2**20  # Bytes: what has no end of line must not fill the memory.
_STAMP = r"[0-9]{8}T[0-9]{12}Z"
_STAMP_FORMAT = "%Y%m%dT%H%M%S%fZ"
_STAMPED = re.compile(rf"\.({_STAMP})(?:\.[^.]*)?$")


class LineFile:
    """Lines of one file. Not for several threads at once; for several processes.

    Args:
        path: need not exist; its folder must.
        max_bytes: a file that would grow beyond this is renamed, see `rotated`, and a new one
            begun; ``None`` = it grows for ever.
        require: is given the path and the file as often as it is opened, and raises where it is not
            to be written to; it is not even made private then.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int | None = None,
        require: Callable[[Path, BinaryIO], None] | None = None,
    ) -> None:
        self.path = path
        self._require = require
        self._max_bytes = max_bytes
        self._file: int | None = None
        self._cannot_rotate = False

    def __del__(self) -> None:
        self.close()

    def open(self) -> int:
        """The file's descriptor; it is made, private, if it is not there.

        Raises:
            OSError: it cannot be opened for reading and writing, or is no regular file.
            ConfigError: what ``require`` raised.
        """
        if self._file is None:
            self._file = _opened(self.path, self._require)
        return self._file

    def close(self) -> None:
        """Closes the file; the next `append` opens it again."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def append(self, lines: bytes, *, wait: float = WAIT_SECONDS, durable: bool = False) -> None:
        """Writes lines, all of them or none.

        Args:
            lines: each with its line feed.
            wait: seconds for which others may hold the lock.
            durable: whether it is on the disk when this returns, and not only with the system.

        Raises:
            OSError: they could not be written.
            ConfigError: what ``require`` raised.
        """
        try:
            until = time.monotonic() + wait
            file = self._held(until)
            if self._would_overflow(file, len(lines)):
                file = self._renewed(until)
            _write(file, lines)
            if durable:
                os.fsync(file)
        finally:
            self._release()

    def _held(self, until: float) -> int:
        """The file that now has this path, under its lock."""
        while True:
            file = self.open()
            _lock(file, until)
            if _is_current(file, self.path):
                return file
            self.close()  # Moved, deleted or replaced.

    def _release(self) -> None:
        if self._file is not None:
            _unlock(self._file)

    def _would_overflow(self, file: int, more: int) -> bool:
        size = os.fstat(file).st_size
        return self._max_bytes is not None and 0 < size and size + more > self._max_bytes

    def _renewed(self, until: float) -> int:
        """The next file, under its lock; the old one where it cannot be renamed."""
        if sys.platform == "win32":
            self.close()  # There no open file can be renamed.
        try:
            os.rename(self.path, _next_name(self.path))
        except (OSError, OverflowError) as error:  # No name sorts behind the end of time.
            why = error.strerror if isinstance(error, OSError) else error
            if not self._cannot_rotate:
                logger.warning("%s grows on; it cannot be renamed: %s.", self.path, why)
            self._cannot_rotate = True
        else:
            self._cannot_rotate = False
            self.close()
        return self._held(until)


def _opened(path: Path, require: Callable[[Path, BinaryIO], None] | None) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        mode = os.fstat(file).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        if require is not None:
            with open(file, "rb", closefd=False) as whole:
                require(path, whole)
        if sys.platform != "win32" and stat.S_IMODE(mode) & 0o077:
            os.fchmod(file, 0o600)  # It was there before; who can write can plant.
    except BaseException:
        os.close(file)
        raise
    return file


def _write(file: int, lines: bytes) -> None:
    size = os.lseek(file, 0, os.SEEK_END)
    if size and not _ends_whole(file):
        lines = b"\n" + lines
    try:
        # Not through a buffer, which a crash would lose.
        while lines:
            lines = lines[os.write(file, lines) :]
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, size)
        raise


def _ends_whole(file: int) -> bool:
    os.lseek(file, -1, os.SEEK_END)
    return os.read(file, 1) == b"\n"


def _is_current(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


# ── Locking ──────────────────────────────────────────────────────────────────────────────────────


def _lock(file: int, until: float, *, shared: bool = False) -> None:
    """Waits for the lock.

    Raises:
        TimeoutError: others hold it, even at the time ``until`` of the monotonic clock.
    """
    pause = _FIRST_PAUSE
    while not _try_lock(file, shared):
        if time.monotonic() >= until:
            raise TimeoutError(errno.ETIMEDOUT, "Another process holds it locked")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _try_lock(file: int, shared: bool) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # Some network file systems have no locks.
    return True


def _unlock(file: int) -> None:
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


# ── Names ────────────────────────────────────────────────────────────────────────────────────────


def real_path(path: str | os.PathLike[str]) -> Path:
    """Where a path leads once links are followed; nothing need be there.

    Raises:
        ConfigError: no file can have that name.
    """
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:
        why = f"{str(path):.200}"
        raise ConfigError(
            f"{why!r} is no path: {error}.",
            hint="Name a file, in characters that the file system knows, without NUL.",
        ) from error


def beside(path: Path, mark: str) -> Path:
    """The name of what goes with a file: ``a.outcomes.jsonl`` is beside ``a.jsonl``."""
    return path.with_name(f"{path.stem}.{mark}{path.suffix}")


def rotated(path: Path) -> list[Path]:
    """The files that once had this path, oldest first: ``a.20261121T131500123456Z.jsonl``.

    Raises:
        OSError: the folder cannot be read.
    """
    name = re.compile(rf"{re.escape(path.stem)}\.{_STAMP}{re.escape(path.suffix)}")
    return sorted(path.parent / each for each in os.listdir(path.parent) if name.fullmatch(each))


def rotated_at(path: Path) -> datetime | None:
    """When a file got its name of `rotated`; nothing in it is younger. ``None`` = it has none."""
    stamp = _STAMPED.search(path.name)
    try:
        return stamp and datetime.strptime(stamp[1], _STAMP_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def _next_name(path: Path) -> Path:
    """A name that sorts behind those there are, also after the clock was put back."""
    taken = [at for at in map(rotated_at, rotated(path)) if at is not None]
    now = max([datetime.now(UTC), *(at + timedelta(microseconds=1) for at in taken[-1:])])
    return beside(path, now.strftime(_STAMP_FORMAT))


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────


def lines_of(file: BinaryIO, *, wait: float = WAIT_SECONDS) -> Iterator[bytes]:
    """The lines that a file holds now; only what a crash has left is half a line.

    Args:
        file: open for reading, at its beginning.
        wait: seconds for which others may be writing; after that, their line may be half.

    Raises:
        OSError: it cannot be read.
    """
    left = _settled_size(file, wait)
    while left > 0 and (line := file.readline(min(left, _LONGEST_LINE))):
        left -= len(line)
        yield line


@dataclass
class LeftOut:
    """Lines that could not be read, since who wrote them was killed.

    Attributes:
        count: of them.
        first: where the first `NAMED` of them stand, as ``FILE, line N``.
    """

    NAMED = 10

    count: int = 0
    first: list[str] = field(default_factory=list[str])

    def add(self, place: object) -> None:
        """Counts one more."""
        self.count += 1
        if self.count <= self.NAMED:
            self.first.append(str(place))


_START = b'{"id": "'  # Of every line that we write.


def may_be_half(line: bytes) -> bool:
    """Whether it may be the beginning of one of our lines, rather than what somebody else wrote.

    After a power failure a file may hold NULs.
    """
    start = line.strip(b"\0\r\n ")
    return start.startswith(_START) or _START.startswith(start)


def _settled_size(file: BinaryIO, wait: float) -> int:
    """The size in bytes at a moment when nobody is writing."""
    with suppress(TimeoutError):
        _lock(file.fileno(), time.monotonic() + wait, shared=True)
    try:
        return os.fstat(file.fileno()).st_size
    finally:
        _unlock(file.fileno())
