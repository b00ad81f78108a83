"""A survey: a judge's judgement of every row of a data set, kept as each one comes.

Judgements go to a file of JSON lines, the first of which says what it is. A survey that was ended,
by Ctrl-C, a crash or a full disk, goes on where it was: what is in the file is not asked again,
but for rows that failed because of the endpoint or the key (`PASSING`).
"""

import errno
import json
import os
import sys
import threading
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from guard._json import as_map, as_text
from guard._require import require_number
from guard.breaker import breakers_ignored
from guard.dataset import Dataset, Row
from guard.decision import Decision, Reason
from guard.errors import UNMEASURED_KINDS, ConfigError, JudgeError, UnmeasuredKind
from guard.gate import Gate
from guard.judgement import Judgement
from guard.limit import Limit
from guard.suspicion import VERSION as SUSPICION

if sys.platform != "win32":
    import fcntl

FORMAT = "rag-guard judgements 1"
"""What the first line of a file says that it is; another number is another format."""

PASSING: tuple[UnmeasuredKind, ...] = (
    "timeout",
    "unavailable",
    "rate_limited",
    "rejected",
    "overloaded",
    "circuit_open",
)
"""Why a row failed, where that says more of the endpoint, the key or the hour than of the row: such
rows are asked again by the next survey."""

HOPELESS: tuple[UnmeasuredKind, ...] = ("unavailable", "rejected")
"""Why every row fails where the endpoint is dead, or key or model are wrong."""

FAILURES_AT_MOST = 10
"""So many rows in a row may fail for one of `HOPELESS` before any was measured."""

MAX_WORKERS = 1024
_SIGNALS_EVERY_SECONDS = 0.2

Progress = Callable[[int, int], object]
"""Is told how many rows are done, and of how many."""


def survey(
    gate: Gate,
    dataset: Dataset,
    *,
    path: str | os.PathLike[str] | None = None,
    workers: int = 8,
    progress: Progress | None = None,
    retry_unmeasured: bool = False,
    starting: Callable[[Sequence[Row]], object] | None = None,
) -> list[Judgement]:
    """Asks the gate's judge about every row, in the data set's order.

    Rows that could not be measured are kept as such. A bug in the judge surfaces once the queries
    in flight have ended, and Ctrl-C at once; what came until then is in the file.

    Args:
        gate: its policy matters only by its deadline, and by whether suspects are looked for;
            routes are not kept. A cache makes times short that were long.
        dataset: the rows.
        path: a file that keeps the judgements, made private to this user where it is theirs. If it
            is there, rows in it are not asked again, unless their question, contexts or history
            have changed; their labels, groups and languages may. One that can only be read serves
            as long as no row must be asked. ``None`` = nothing is kept.
        workers: queries in flight at most.
        progress: called with ``(done, total)``, first with what the file holds, then after every
            row, from the thread that called `survey`.
        retry_unmeasured: whether all rows that the file holds as not measured are asked again;
            else only those that failed for a reason of `PASSING`.
        starting: called with the rows that will be asked, before the first one is.

    Raises:
        ConfigError: the file cannot be read or written, is something else, is another judge's, or
            is in use by another survey: nothing in it is overwritten. Or the endpoint is dead, or
            key or model are wrong: the first rows (`FAILURES_AT_MOST`) all failed for one reason
            of `HOPELESS`, and no row was measured. What came until then is in the file.
    """
    require_number("workers", workers, 1, MAX_WORKERS, whole=True)
    # Rows are no queries of users: no audit is to hold them.
    # Nor is one turned away.
    # And what it is worth without suspects is asked whatever it would be routed.
    gate = gate.unobserved().with_limit(Limit(workers)).thorough()
    kept = _Kept() if path is None else _opened(Path(path), gate.judge.fingerprint, dataset)
    try:
        again = UNMEASURED_KINDS if retry_unmeasured else PASSING
        asked = [row for row in dataset.rows if not kept.has(gate, row, again)]
        if asked:
            kept.require_writable()
        if starting is not None:
            starting(asked)
        hope = _Hope(_known_to_fail(gate, asked, dataset, kept), is_kept=path is not None)
        told = _told(progress, len(dataset.rows), len(asked))
        _ask_all(gate, asked, kept, workers, hope, told)
        return [kept.judgements[_mark(gate, row)] for row in dataset.rows]
    finally:
        kept.close()


def _told(progress: Progress | None, total: int, left: int) -> Callable[[], None]:
    """Tells of the rows that need not be asked, and then, at every call, of one more."""
    done = total - left

    def one_more() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    if progress is not None:
        progress(done, total)
    return one_more


def require_any(judgements: Sequence[Judgement]) -> None:
    """Raises `ConfigError` where each row failed for one reason of `HOPELESS`, however few."""
    reasons = {each.reason for each in judgements}
    if len(reasons) == 1 and reasons <= {*HOPELESS}:
        raise _hopeless(judgements[0], len(judgements))


def _known_to_fail(gate: Gate, asked: Sequence[Row], dataset: Dataset, kept: "_Kept") -> set[str]:
    """Ids of rows that failed before where most others are measured: it may well lie with them."""
    ids = {row.id for row in asked}
    others = (kept.judgements[_mark(gate, row)] for row in dataset.rows if row.id not in ids)
    measured = sum(other.verdict is not None for other in others)
    again = {row.id for row in asked if _mark(gate, row) in kept.judgements}
    return again if len(again) <= measured else set()


def _hopeless(last: Judgement, count: int, *, is_kept: bool = True) -> ConfigError:
    kept = " What came is kept, and the same command asks again." if is_kept else ""
    return ConfigError(
        f"No row could be measured: the first {count} failed, all of them with {last.reason}, e.g. "
        f"{last.detail}",
        hint=f"Check the key, the model's name and --base-url: rag-guard doctor.{kept}",
    )


class _Hope:
    """Gives up where the first rows all fail for one reason that all others would fail for.

    Args:
        known_to_fail: ids of rows that say nothing of the others.
        is_kept: whether a file keeps what came.
    """

    def __init__(self, known_to_fail: Collection[str], *, is_kept: bool) -> None:
        self._known_to_fail, self._is_kept = known_to_fail, is_kept
        self._measured = False
        self._reason: str | None = None
        self._failed = 0

    def lost(self, judgement: Judgement) -> ConfigError | None:
        """Why to give up after this row, if there is no hope any more."""
        self._measured |= judgement.verdict is not None
        says_nothing = judgement.reason == Reason.NO_CONTEXTS or judgement.id in self._known_to_fail
        if self._measured or says_nothing:
            return None
        if judgement.reason != self._reason:
            self._reason, self._failed = judgement.reason, 0
        self._failed += 1
        if self._reason not in HOPELESS or self._failed < FAILURES_AT_MOST:
            return None
        return _hopeless(judgement, self._failed, is_kept=self._is_kept)


# ── Asking ───────────────────────────────────────────────────────────────────────────────────────


def _ask_all(
    gate: Gate,
    rows: Sequence[Row],
    kept: "_Kept",
    workers: int,
    hope: _Hope,
    one_more: Callable[[], None],
) -> None:
    """Asks about ``rows`` on threads, each of which keeps what it gets.

    Python raises Ctrl-C in the main thread only, so it cannot come between an answer and its line
    in the file. The threads are daemons: nobody who wants to leave waits for a slow judge.
    """
    hand = _Hand(rows, hope)
    threads = [
        threading.Thread(target=hand.work, args=(gate, kept), name="rag-guard-survey", daemon=True)
        for _ in range(min(workers, len(rows)))
    ]
    try:
        for thread in threads:
            thread.start()
        for _ in rows:
            if (error := hand.next_ended()) is not None:
                hand.stop()
                for thread in threads:
                    thread.join()
                raise error
            one_more()
    finally:
        hand.stop()


class _Hand:
    """Hands out rows, one by one, to whichever thread is free, while there is hope."""

    def __init__(self, rows: Sequence[Row], hope: "_Hope") -> None:
        self._ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self._hope = hope
        self._lock = threading.Lock()
        self._left: Iterator[Row] = iter(rows)

    def next_ended(self) -> BaseException | None:
        """Waits for one more row to have been asked: what went wrong, or ``None``."""
        while True:
            # A signal that comes just before the wait begins does not interrupt it.
            with suppress(Empty):
                return self._ended.get(timeout=_SIGNALS_EVERY_SECONDS)

    def stop(self) -> None:
        """Nothing is handed out any more."""
        with self._lock:
            self._left = iter(())

    def work(self, gate: Gate, kept: "_Kept") -> None:
        """Asks about rows until none is left."""
        while (row := self._next()) is not None:
            try:
                judgement = Judgement.of(row, _decide(gate, row))
                kept.add(_mark(gate, row), judgement)
            except BaseException as error:
                error.add_note(f"This was at {row.place}.")
                self._ended.put(error)
                return
            self._ended.put(self._lost(judgement))

    def _lost(self, judgement: Judgement) -> ConfigError | None:
        with self._lock:
            error = self._hope.lost(judgement)
            if error is not None:
                self._left = iter(())
            return error

    def _next(self) -> Row | None:
        with self._lock:
            return next(self._left, None)


def _decide(gate: Gate, row: Row) -> Decision:
    query = row.query
    try:
        # Each row is to be asked, and no breaker is to open: `_Hope` gives up in time.
        with breakers_ignored():
            return gate.check(
                query.question, query.contexts, history=query.history, lang=query.lang
            )
    except JudgeError as error:
        # The policy is to raise; the record of the failure is there all the same.
        if isinstance(error.decision, Decision):
            return error.decision
        raise


class _Mark(NamedTuple):
    """What a judgement is kept by: two sets may use one id for different rows.

    Attributes:
        key: changes with the row's question, contexts and history, on which the judgement depends.
    """

    id: str
    key: str


def _mark(gate: Gate, row: Row) -> _Mark:
    rules = f" {SUSPICION}" if gate.policy.leave_out_suspects else ""
    return _Mark(row.id, gate.key_of(row.query) + rules)


def _lacks_rest(kept: Judgement, again: Collection[str]) -> bool:
    """Whether what a row is worth without its suspects could not be measured, but may be now."""
    verdict = kept.verdict
    if verdict is None:
        return False
    return verdict.look_cut_short or verdict.rest_unmeasured in again


# ── Keeping ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Kept:
    """Judgements, and the file that keeps them, if there is one.

    Attributes:
        judgements: the last one of each row.
        path: the file's, for errors.
        file: its descriptor, open for appending and locked; ``None`` = no file, or closed.
        unwritable: why the file can only be read; ``None`` = it can be written.
    """

    judgements: dict[_Mark, Judgement] = field(default_factory=dict[_Mark, Judgement])
    path: Path | None = None
    file: int | None = None
    unwritable: OSError | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def has(self, gate: Gate, row: Row, again: Collection[str]) -> bool:
        """Whether ``row`` need not be asked; its label, group and language are made the row's.

        Args:
            again: reasons for which a row without a verdict is asked again.
        """
        mark = _mark(gate, row)
        kept = self.judgements.get(mark)
        if kept is None or kept.reason in again or _lacks_rest(kept, again):
            return False
        now = replace(kept, sufficient=row.sufficient, group=row.group, lang=row.query.lang)
        if now != kept:
            self.add(mark, now)
        return True

    def require_writable(self) -> None:
        """Raises `ConfigError` where the file can only be read."""
        if self.unwritable is not None:
            why = f"{str(self.path)!r} can only be read ({self.unwritable.strerror})"
            raise ConfigError(
                f"{why}, and not all verdicts are in it.",
                hint="Make it writable, or name another file.",
            )

    def end_line(self) -> None:
        """Ends the file's last line, of which a crash has left all but the end."""
        if self.file is not None and self.unwritable is None:
            os.write(self.file, b"\n")

    def cut(self, size: int) -> None:
        """Takes out of the file what is behind its first ``size`` bytes."""
        if self.file is not None and self.unwritable is None:
            os.ftruncate(self.file, size)

    def add(self, mark: _Mark, judgement: Judgement) -> None:
        """Keeps a judgement; the file does where it can be written and is not closed yet."""
        values = {**judgement.to_dict(), "key": mark.key}
        with self.lock:
            if self.path is not None and self.file is not None and self.unwritable is None:
                _append(self.path, self.file, values)
            self.judgements[mark] = judgement

    def close(self) -> None:
        """Closes the file, which unlocks it."""
        with self.lock:
            if self.file is not None:
                os.close(self.file)
            self.file = None


def _append(path: Path, file: int, values: Mapping[str, object]) -> None:
    line = json.dumps(values, default=_number).encode() + b"\n"
    with _told_of(path, "written", "What came before is kept. Make room, then run the same again."):
        # Not through a buffer, which a crash would lose.
        while line:
            line = line[os.write(file, line) :]


def _number(value: Any) -> int | float:
    """A number of a kind that JSON does not know, as numpy has."""
    return int(value) if isinstance(value, Integral) else float(value)


@contextmanager
def _told_of(path: Path, what: str, hint: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        problem = f"{str(path)!r} cannot be {what}: {error.strerror}."
        raise ConfigError(problem, hint=hint) from error


def _opened(path: Path, fingerprint: str, dataset: Dataset) -> _Kept:
    """The file, locked, with what it holds; it is made if it is not there."""
    kept = _Kept(path=path)
    try:
        with _told_of(path, "opened", _FOLDER_HINT):
            kept.file, kept.unwritable = _opened_file(path)
        _lock(path, kept.file)
        header = {"format": FORMAT, "fingerprint": fingerprint, "dataset": dataset.version}
        with open(os.dup(kept.file), "rb") as lines, _told_of(path, "read", _FOLDER_HINT):
            start = _begun(kept, lines.readline(), header)
            kept.judgements = _judgements(kept, lines, start)
    except BaseException:
        kept.close()
        raise
    return kept


def _opened_file(path: Path) -> tuple[int, OSError | None]:
    """The file's descriptor, and why it can only be read, where it can."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        try:
            return os.open(path, os.O_RDONLY), error
        except OSError:
            raise error from None


_FOLDER_HINT = "Name a file in a folder that exists and that this user may write to."


def _lock(path: Path, file: int) -> None:
    """Keeps other surveys out until the file is closed, or this process ends."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"{str(path)!r} is in use by another survey.",
            hint="Wait for it to end, or name another file.",
        ) from None
    except OSError:
        return  # Some network file systems have no locks.


def _begun(kept: _Kept, first: bytes, header: Mapping[str, object]) -> int:
    """How many bytes the first line takes; it is written where the file has none."""
    assert kept.path is not None and kept.file is not None
    ours = json.dumps(header).encode() + b"\n"
    if not first.endswith(b"\n") and ours.startswith(first):
        # New, or a crash came while the first line was being written.
        kept.require_writable()
        os.ftruncate(kept.file, 0)
        _append(kept.path, kept.file, header)
        return len(ours)
    _require_same(kept.path, _parsed(first), header)
    if kept.unwritable is None:
        # It may have been there before; who can write can plant. Not all may change it.
        with suppress(PermissionError):
            kept.path.chmod(0o600)
    if not first.endswith(b"\n"):
        kept.end_line()
    return len(first)


def _require_same(path: Path, found: Mapping[str, object], header: Mapping[str, object]) -> None:
    if found.get("format") != FORMAT:
        raise ConfigError(
            f"{str(path)!r} does not begin as a file of judgements in this format ({FORMAT}).",
            hint="It is left as it is. Name another file.",
        )
    if found.get("fingerprint") != header["fingerprint"]:
        raise ConfigError(
            f"{str(path)!r} holds judgements of {found.get('fingerprint')!r:.200}, not of "
            f"{header['fingerprint']}.",
            hint="It is left as it is. Name another file, or use the judge that it is of.",
        )


def _judgements(kept: _Kept, lines: Iterable[bytes], start: int) -> dict[_Mark, Judgement]:
    """The last judgement of each row; what a crash cut off is taken out of the file."""
    found = dict[_Mark, Judgement]()
    for number, line in enumerate(lines, start=2):
        values, is_ended = _parsed(line), line.endswith(b"\n")
        if not values and not is_ended:
            kept.cut(start)
            break
        start += len(line)
        mark, judgement = _line(f"{kept.path}, line {number}", values)
        found[mark] = judgement
        if not is_ended:
            kept.end_line()
    return found


def _line(place: str, values: Mapping[str, object]) -> tuple[_Mark, Judgement]:
    try:
        judgement = Judgement.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", hint=error.hint) from error
    # Without a key the row counts as changed.
    return _Mark(judgement.id, as_text(values.get("key")) or ""), judgement


def _parsed(line: bytes) -> Mapping[str, object]:
    """The object on a line; an empty one where there is none."""
    try:
        return as_map(json.loads(line))
    except (ValueError, RecursionError):
        return {}
