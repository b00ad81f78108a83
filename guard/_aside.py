"""Threads aside: for what may block and must not hold up an event loop, a cache or an observer.

They are ours alone. The loop's own executor is the application's, and where that is busy, a query
would wait for it beyond its deadline.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from guard._fork import renew_in_child

T = TypeVar("T")


class _Aside:
    def __init__(self, name: str, threads: int) -> None:
        self._name, self._threads = name, threads
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self) -> None:
        """Without threads: in a forked child there are none."""
        self.threads = ThreadPoolExecutor(self._threads, thread_name_prefix=self._name)


_aside = _Aside("rag-guard-aside", 8)
# Work on texts must not wait for a hung disk.
_working = _Aside("rag-guard-working", 4)


async def aside(call: Callable[[], T], seconds: float | None) -> "Future[T]":
    """``call`` on a thread of ours, waited for up to so many seconds; ``None`` = to its end.

    It goes on to its end whether or not anybody still waits, and even if the caller is cancelled:
    the result is done, or it is late.
    """
    return await _on(_aside, call, seconds)


async def worked_aside(call: Callable[[], T], seconds: float | None) -> "Future[T]":
    """As `aside`, for what keeps a processor busy and waits for nothing."""
    return await _on(_working, call, seconds)


async def _on(own: _Aside, call: Callable[[], T], seconds: float | None) -> "Future[T]":
    future = own.threads.submit(copy_context().run, call)
    waiting = asyncio.wrap_future(future)
    # `wait` cancels nothing, and a future that nobody looks at any more must not complain.
    waiting.add_done_callback(_looked_at)
    await asyncio.wait([waiting], timeout=seconds)
    return future


def _looked_at(waiting: "asyncio.Future[T]") -> None:
    if not waiting.cancelled():
        waiting.exception()
