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

_THREADS = 8


class _Aside:
    def __init__(self) -> None:
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self) -> None:
        """Without threads: in a forked child there are none."""
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="rag-guard-aside")


_aside = _Aside()


async def aside(call: Callable[[], T], seconds: float | None) -> "Future[T]":
    """``call`` on a thread of ours, waited for up to so many seconds; ``None`` = to its end.

    It goes on to its end whether or not anybody still waits, and even if the caller is cancelled:
    the result is done, or it is late.
    """
    future = _aside.threads.submit(copy_context().run, call)
    waiting = asyncio.wrap_future(future)
    # `wait` cancels nothing, and a future that nobody looks at any more must not complain.
    waiting.add_done_callback(_looked_at)
    await asyncio.wait([waiting], timeout=seconds)
    return future


def _looked_at(waiting: "asyncio.Future[T]") -> None:
    if not waiting.cancelled():
        waiting.exception()
