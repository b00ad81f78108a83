"""A label file: what people said of rows, one JSON line each, on disk before the next is asked.

Labels are rows as `guard.dataset` reads them, with ``sampling``, ``annotator`` and ``labelled_at``
(ISO 8601, UTC) besides. A row that a person skipped has no label, so it is no row of the data set:
skips stand in a file next to it, ``labels.skipped.jsonl`` for ``labels.jsonl``, by id alone.

People may write one file at once: each change reads it again and writes it under a lock on it.
One person has one sitting at a time in a file (`LabelFile.sitting`). There are no locks on Windows
and on file systems without them: there, one file is for one person at a time.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from guard._json import as_map, as_text
from guard.dataset import Row
from guard.errors import ConfigError
from guard.labelling import Pick

if sys.platform != "win32":
    import fcntl


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a label file.

    Attributes:
        id: the row's.
        annotator: who said it.
        sufficient: what they said; ``None`` = they skipped the row.
        labelled_at: when, ISO 8601 in UTC.
        place: where it stands, e.g. ``"labels.jsonl, line 3"``.
        line: the JSON as it stands there.
    """

    id: str
    annotator: str
    sufficient: bool | None
    labelled_at: str
    place: str
    line: str


class LabelFile:
    """The labels in one file, and the skips in the one next to it.

    Opening one drops a line that a crash left half written: its row is asked again.

    Args:
        path: of the labels; need not exist yet. New files can be read by their owner alone.

    Raises:
        ConfigError: it holds something else than labels; it stays as it was.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skips = path.with_name(f"{path.stem}.skipped{path.suffix}")
        self.entries()

    def entries(self, annotator: str | None = None) -> list[Entry]:
        """What was said, skips included, oldest first; by one annotator if named."""
        with self._held(os.O_RDONLY) as held:
            return _oldest_first(held, annotator)

    @contextmanager
    def sitting(self, annotator: str) -> Generator[None]:
        """Keeps other sittings of the same person out: both would ask for the same labels.

        Raises:
            ConfigError: there is one already.
        """
        # Beside the labels, which others may add to meanwhile.
        name = hashlib.sha256(annotator.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        path = self.path.with_name(f".{self.path.name}.{name}.lock")
        lock = _sole(path, self.path, annotator)
        try:
            yield
        finally:
            if lock is not None:
                path.unlink(missing_ok=True)
                os.close(lock)

    def add(
        self, row: Row, sufficient: bool | None, picked: Pick, annotator: str, *, blind: bool = True
    ) -> None:
        """Writes one label, or one skip (``None``); it is on disk when this returns.

        Args:
            blind: ``False`` where the judge's verdict on this row had been shown before.
        """
        said = {
            "sampling": picked.sampling,
            "annotator": annotator,
            "labelled_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        if not blind:
            said["revised"] = "after the verdict was shown"
        if sufficient is None:
            _add(self.skips, {"id": row.id, "skipped": True, **said})
        else:
            _add(self.path, {**_fields(row), "sufficient": sufficient, **said})

    def undo(self, annotator: str, ids: Collection[str]) -> str | None:
        """Takes back the annotator's last label or skip among ``ids``; says of which row."""
        with self._held(os.O_RDWR) as held:
            last = [entry for entry in _oldest_first(held, annotator) if entry.id in ids][-1:]
            for entry in last:
                path = self.skips if entry.sufficient is None else self.path
                _rewrite(path, [each for each in _entries(path) if each != entry])
                return entry.id
            return None

    def mark_random(self, annotator: str, ids: Collection[str]) -> None:
        """Marks the annotator's labels of rows that a larger draw has now reached by lot.

        Left as they were, the random part would lack just the rows near the thresholds; marked
        before all rows drawn earlier are answered, it would have too many of them.
        """
        with self._held(os.O_RDWR) as held:
            entries = _entries(self.path) if self.path in held else []
            marked = [
                _as_random(each) if each.annotator == annotator and each.id in ids else each
                for each in entries
            ]
            if marked != entries:
                _rewrite(self.path, marked)

    @contextmanager
    def _held(self, flags: int) -> Generator[list[Path], None, None]:
        """Locks both files; gives those that are there, whole. One made since is not looked at."""
        paths = self.path, self.skips
        for path in paths:
            _mend(path)
        with ExitStack() as locks:
            yield [path for path in paths if locks.enter_context(_locked(path, flags))]


def _oldest_first(paths: Sequence[Path], annotator: str | None) -> list[Entry]:
    found = [entry for path in paths for entry in _entries(path)]
    if annotator is not None:
        found = [entry for entry in found if entry.annotator == annotator]
    return sorted(found, key=lambda entry: entry.labelled_at)


def _as_random(entry: Entry) -> Entry:
    fields = as_map(json.loads(entry.line))
    if fields.get("sampling") == "random":
        return entry
    return replace(entry, line=json.dumps({**fields, "sampling": "random"}))


def _fields(row: Row) -> dict[str, object]:
    """A row as a line of a data set; what is empty is left out."""
    query = row.query
    fields: dict[str, object] = {
        "id": row.id,
        "question": query.question,
        "contexts": query.contexts,
        "group": row.group,
    }
    if query.lang is not None:
        fields["lang"] = query.lang
    if query.history:
        fields["history"] = [list(turn) for turn in query.history]
    if row.answers:
        fields["answers"] = row.answers
    return fields


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────

_HINT = "Name another file with -o; rag-guard label writes only into files of its own."


def _entries(path: Path) -> list[Entry]:
    lines = _read(path).split("\n")
    return [
        _entry(f"{path}, line {number}", line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _entry(place: str, line: str) -> Entry:
    try:
        fields = as_map(json.loads(line))
    except (ValueError, RecursionError):
        raise ConfigError(f"{place}: not valid JSON.", hint=_HINT) from None
    id, annotator, at = (as_text(fields.get(key)) for key in ("id", "annotator", "labelled_at"))
    said = fields.get("sufficient")
    if not id or annotator is None or at is None or not _is_said(said, fields):
        raise ConfigError(f"{place}: not a label of rag-guard label.", hint=_HINT)
    return Entry(id, annotator, said if isinstance(said, bool) else None, at, place, line)


def _is_said(said: object, fields: Mapping[str, object]) -> bool:
    return isinstance(said, bool) or (said is None and fields.get("skipped") is True)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _not_opened(path, os.O_RDONLY, error) from error
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8 (byte {error.start})."
        raise ConfigError(message, hint=_HINT) from None


def _mend(path: Path) -> None:
    """Ends the last line, or drops it where it is half a label."""
    if not _read(path).rpartition("\n")[2]:
        return
    with _locked(path, os.O_RDWR):
        # What seemed to be cut may have been somebody's label on its way.
        whole, _, last = _read(path).rpartition("\n")
        if last:
            _end(path, whole, last)


def _end(path: Path, whole: str, last: str) -> None:
    entries = [_entry(f"{path}, line {n}", each) for n, each in _lines(whole)]
    with suppress(ConfigError):
        entries.append(_entry(f"{path}, last line", last))
    if len(entries) > len(_lines(whole)) or _is_half(last):
        _rewrite(path, entries)


def _lines(text: str) -> list[tuple[int, str]]:
    return [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]


_START = '{"id": '


def _is_half(line: str) -> bool:
    """Whether it is the start of a label, rather than a line of somebody else's file."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line[: len(_START)] == _START[: len(line)]
    return False


# ── Locking ──────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _locked(path: Path, flags: int) -> Generator[bool, None, None]:
    """Keeps other writers out, and readers too unless it is only read; ``False`` = no such file."""
    if sys.platform == "win32":  # There an open file could not be replaced either.
        yield path.exists()
        return
    try:
        file = _open_locked(path, flags)
    except OSError as error:
        raise _not_opened(path, flags, error) from error
    try:
        yield file is not None
    finally:
        if file is not None:
            os.close(file)


def _open_locked(path: Path, flags: int) -> int | None:
    """The file under its lock, which ends when it is closed; ``None`` = there is no such file."""
    while True:
        try:
            file = os.open(path, flags, 0o600)
        except FileNotFoundError:
            return None
        try:
            _lock(file, flags)
            is_current = _is_current(file, path)
        except BaseException:
            os.close(file)
            raise
        if is_current:
            return file
        os.close(file)  # Another took its place while this waited.


def _sole(path: Path, labels: Path, annotator: str) -> int | None:
    """The lock of a sitting, held until it is closed; ``None`` = there are no locks."""
    if sys.platform == "win32":
        return None
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _not_written(path, error) from error
        try:
            _lock_at_once(file)
            if _is_current(file, path):
                return file
        except BlockingIOError:
            os.close(file)
            raise ConfigError(
                f"{labels} is being written by another rag-guard label, for {annotator:.40}.",
                hint="End that one first; who else labels names themselves with --annotator.",
            ) from None
        os.close(file)  # The other one ended, and took the lock's file with it.


def _lock_at_once(file: int) -> None:
    """Raises `BlockingIOError` where another has it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass  # Some network file systems have no locks.


def _lock(file: int, flags: int) -> None:
    if sys.platform != "win32":
        with suppress(OSError):  # Some network file systems have no locks.
            fcntl.flock(file, fcntl.LOCK_EX if flags & os.O_RDWR else fcntl.LOCK_SH)


def _is_current(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _not_opened(path: Path, flags: int, error: OSError) -> ConfigError:
    if flags & os.O_RDWR:
        return _not_written(path, error)
    return ConfigError(f"{path} cannot be read: {error.strerror}.", hint=_HINT)


# ── Writing ──────────────────────────────────────────────────────────────────────────────────────


def _add(path: Path, fields: Mapping[str, object]) -> None:
    _mend(path)  # Else it would be written behind half a line that another's crash has left.
    with _locked(path, os.O_RDWR | os.O_CREAT):
        _append(path, fields)


def _append(path: Path, fields: Mapping[str, object]) -> None:
    line = f"{json.dumps(fields)}\n".encode()
    try:
        with open(path, "ab", opener=_private) as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _not_written(path, error) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _rewrite(path: Path, entries: Sequence[Entry]) -> None:
    """Puts a new file in the old one's place: a crash leaves the one or the other."""
    target = path.resolve()  # Else a link would be replaced, not what it names.
    text = "".join(f"{entry.line}\n" for entry in entries)
    try:
        mode = target.stat().st_mode & 0o777
        # A file of mkstemp can be read by its owner alone until it gets the old one's mode.
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            _fill(handle, text)
            os.chmod(name, mode)
            os.replace(name, target)
        except OSError:
            os.unlink(name)
            raise
    except OSError as error:
        raise _not_written(path, error) from error


def _fill(handle: int, text: str) -> None:
    with open(handle, "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _not_written(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path} cannot be written: {error.strerror}.",
        hint="Labels given before are kept. Make room or name another file with -o.",
    )
