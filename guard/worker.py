"""Workers: threads for calls that cannot be interrupted.

A blocking HTTP call ends when the server pleases: SDK time-outs count per read, so a body that
drips a byte a second never runs into one. The deadline is kept by leaving such a call behind on its
thread. It is counted, and keeps its slot until it ends, so the number of threads stays bounded.
"""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from guard._fork import renew_in_child
from guard.errors import JudgeError, JudgeUnavailable, NotAsked, out_of_time

T = TypeVar("T")

_POLL_SECONDS = 0.01
_LAST_SECONDS = 0.1


@dataclass(slots=True)
class _Job(Generic[T]):
    """One call on its thread, waited for until it ends or is left behind."""

    function: Callable[[], T]
    slots: threading.BoundedSemaphore
    future: "Future[T]" = field(default_factory=lambda: Future[T]())
    ended: bool = False
    left_behind: bool = False

    def result(self, end: float) -> T:
        """What the function returns or raises, waited for until ``end``."""
        try:
            return self.future.result(max(0.0, end - time.monotonic()))
        except TimeoutError:
            # The function's own TimeoutError must surface; only a missing result is ours.
            if self.future.done():
                return self.future.result()
            raise out_of_time() from None


class Workers:
    """A bounded set of daemon threads, one for each call in flight.

    Attributes:
        limit: calls in flight at most, abandoned ones included.
    """

    def __init__(self, limit: int = 256) -> None:
        self.limit = limit
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self) -> None:
        """Without calls: in a forked child, where it is called by itself, no thread runs."""
        self._slots = threading.BoundedSemaphore(self.limit)
        self._lock = threading.Lock()
        self._abandoned = 0

    @property
    def abandoned(self) -> int:
        """Calls still running that nobody waits for any more."""
        return self._abandoned

    def call(self, function: Callable[[], T], timeout: float) -> T:
        """``function()`` on a worker, for at most ``timeout`` seconds.

        Raises:
            JudgeUnavailable: kind ``timeout``: no result in time.
            NotAsked: kind ``overloaded``: no free slot in time.
        """
        end = time.monotonic() + timeout
        job = self._start_by(end, function, timeout)
        try:
            return job.result(end)
        finally:
            self._leave(job)

    def call_each(
        self, functions: Iterable[Callable[[], T]], timeout: float
    ) -> list[T | JudgeError]:
        """What each function returns, all called at once; or the error that `call` would raise.

        Whatever else one of them raises is a bug in it, and is raised.
        """
        end = time.monotonic() + timeout
        jobs = list[_Job[T] | JudgeError]()
        try:
            for function in functions:
                jobs.append(_caught(partial(self._start_by, end, function, timeout)))
            return [
                job if isinstance(job, JudgeError) else _caught(partial(job.result, end))
                for job in jobs
            ]
        finally:
            for job in jobs:
                if not isinstance(job, JudgeError):
                    self._leave(job)

    async def acall(self, function: Callable[[], T], timeout: float) -> T:
        """As `call`, without blocking the event loop; cancelling it abandons the call."""
        end = time.monotonic() + timeout
        # Before the caller's own clock strikes, which would hide what it was that took so long.
        patience = end - min(_LAST_SECONDS, timeout / 4)
        while not self._slots.acquire(blocking=False):
            if time.monotonic() >= patience:
                raise self._no_slot(timeout)
            await asyncio.sleep(_POLL_SECONDS)
        job = self._start(function)
        scope = asyncio.timeout(max(0.0, end - time.monotonic()))
        try:
            async with scope:
                return await asyncio.wrap_future(job.future)
        except TimeoutError:
            if not scope.expired():
                raise
            raise out_of_time() from None
        finally:
            self._leave(job)

    def _start_by(self, end: float, function: Callable[[], T], timeout: float) -> _Job[T]:
        """Runs ``function`` once there is a slot for it, waited for until ``end``."""
        if not self._slots.acquire(timeout=max(0.0, end - time.monotonic())):
            raise self._no_slot(timeout)
        return self._start(function)

    def _start(self, function: Callable[[], T]) -> _Job[T]:
        """Runs ``function`` on a thread of its own; the caller has taken a slot for it."""
        job = _Job(function, slots=self._slots)
        # From here on the future cannot be cancelled, only left behind.
        job.future.set_running_or_notify_cancel()
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._work, job), name="rag-guard-judge", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            self._slots.release()
            raise NotAsked(
                "No thread could be started for a call that blocks.",
                hint="The machine's or container's limit on threads is reached; an AsyncOpenAI "
                "client needs none.",
            ) from None
        except BaseException:
            self._slots.release()
            raise
        return job

    def _work(self, job: _Job[T]) -> None:
        try:
            result = job.function()
        except BaseException as error:
            self._end(job)
            job.future.set_exception(error)
        else:
            self._end(job)
            job.future.set_result(result)

    def _end(self, job: _Job[T]) -> None:
        with self._lock:
            job.ended = True
            self._abandoned -= job.left_behind
        job.slots.release()

    def _leave(self, job: _Job[T]) -> None:
        """Nobody waits for ``job`` any more; if it still runs, it counts as abandoned."""
        with self._lock:
            if not job.ended:
                job.left_behind = True
                self._abandoned += 1

    def _no_slot(self, timeout: float) -> NotAsked:
        what, left = f"All {self.limit} workers are busy", self.abandoned
        if left:
            what = f"{what}, {left} of them with abandoned calls"
            hint = "The judge hangs. With an AsyncOpenAI client, acheck() can cancel its calls."
        else:
            hint = "Make fewer calls at once, or use an AsyncOpenAI client: its calls need none."
        return NotAsked(f"{what}.", hint=hint, retry_after=timeout)


def _caught(call: Callable[[], T]) -> T | JudgeError:
    try:
        return call()
    except (JudgeUnavailable, NotAsked) as error:
        return error


shared_workers = Workers()
"""The workers of this process; gates and judges share them so that the bound holds for all."""

fan_out_workers = Workers(1024)
"""Those for the many requests of one query.

Whoever makes them holds a slot of `shared_workers` meanwhile. If they needed slots there as well,
enough callers at once would take all, and every one would wait for the others.
"""
