"""A loop: an event loop on a thread of its own, for synchronous calls of asynchronous clients.

Unlike a blocking call on a worker, a coroutine there can be cancelled, so nothing keeps running
once the deadline has passed.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, NamedTuple, TypeVar

from guard._fork import renew_in_child
from guard.errors import ConfigError, out_of_time

T = TypeVar("T")


class LoopThread:
    """One background event loop, started at its first use and again after a fork."""

    def __init__(self) -> None:
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self) -> None:
        """Without a loop: in a forked child, where it is called by itself, its thread is none."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None) -> T:
        """The result of ``work``, which is cancelled after ``timeout`` seconds (``None`` = never).

        Raises:
            JudgeUnavailable: kind ``timeout``.
            ConfigError: called on the loop itself.
        """
        if self._is_here():
            work.close()
            raise ConfigError(
                "A blocking call on rag-guard's own event loop would wait for itself.",
                hint="Inside a retriever or writer, await the asynchronous methods.",
            )
        future = asyncio.run_coroutine_threadsafe(_ended(work), self.loop())
        try:
            ended = future.result(timeout)
        except (TimeoutError, CancelledError):
            raise out_of_time() from None
        finally:
            future.cancel()
        if isinstance(ended, _Raised):
            raise ended.error
        return ended

    @property
    def running(self) -> asyncio.AbstractEventLoop | None:
        """The loop, if it was started in this process; takes no lock, and starts none."""
        return self._loop if self._pid == os.getpid() else None

    def _is_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self.loop()
        except RuntimeError:
            return False

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop itself, started if need be."""
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop = asyncio.new_event_loop()
                self._pid = os.getpid()
                thread = threading.Thread(
                    target=self._loop.run_forever, name="rag-guard-loop", daemon=True
                )
                thread.start()
            return self._loop


class _Raised(NamedTuple):
    error: Exception


async def _ended(work: Coroutine[Any, Any, T]) -> T | _Raised:
    """What the work returns or raises. Raised by a task that nobody waits for any more, asyncio
    would log the whole chain of errors, with what a server wrote."""
    try:
        return await work
    except Exception as error:
        return _Raised(error)


shared_loop = LoopThread()
"""The background loop of this process."""
