"""Asking: one judge, one query, never longer than so many seconds, and through its breaker."""

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Protocol, TypeVar

from guard._failure import described
from guard.breaker import breaking
from guard.errors import out_of_time
from guard.judge import Judge
from guard.query import Query
from guard.verdict import Verdict
from guard.worker import Workers, shared_workers

T = TypeVar("T")

logger = logging.getLogger("guard")


class Witness(Protocol):
    """Whoever sees each request to a judge."""

    def asking(self, judge: Judge) -> AbstractContextManager[None]:
        """Around one request; left with whatever that raises."""
        ...


_witnesses: ContextVar[tuple[Witness, ...]] = ContextVar("rag_guard_witnesses", default=())


def ask(judge: Judge, query: Query, seconds: float, workers: Workers = shared_workers) -> Verdict:
    """The judge's verdict; a judge that cannot be interrupted is left behind on a worker.

    Raises:
        JudgeError: it gave none, or not in time.
    """
    with asking(judge, seconds):
        call = partial(judge.judge, query, timeout=seconds)
        verdict = call() if judge.cancellable else workers.call(call, seconds)
        return _require_verdict(verdict, judge)


async def aask(judge: Judge, query: Query, seconds: float) -> Verdict:
    """As `ask`; a judge that is too slow is cancelled."""
    with asking(judge, seconds):
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                verdict = await judge.ajudge(query, timeout=seconds)
        except TimeoutError:
            if not scope.expired():
                raise  # The judge's own error: a bug in it, which must surface.
            raise out_of_time() from None
        return _require_verdict(verdict, judge)


def _require_verdict(verdict: object, judge: Judge) -> Verdict:
    if not isinstance(verdict, Verdict):
        raise TypeError(f"{type(judge).__name__} returned {type(verdict).__name__}, not a Verdict.")
    return verdict


# ── Who sees it ──────────────────────────────────────────────────────────────────────────────────


@contextmanager
def asking(judge: Judge, seconds: float) -> Generator[None]:
    """Around one request to a judge that has so many seconds: its witnesses see it, and its breaker
    may forbid it.

    Raises:
        NotAsked: kind ``circuit_open``.
    """
    with ExitStack() as stack:
        for witness in _witnesses.get():
            entered(stack, lambda one=witness: one.asking(judge))  # type: ignore[misc]
        stack.enter_context(breaking(judge, seconds))
        yield


@contextmanager
def witnessed(witnesses: tuple[Witness, ...]) -> Generator[None]:
    """What is asked inside, on this thread or task and those that it starts, is seen by them."""
    token = _witnesses.set(witnesses)
    try:
        yield
    finally:
        # A coroutine whose loop is gone is closed by the garbage collector, in another context.
        with suppress(ValueError):
            _witnesses.reset(token)


def entered(stack: ExitStack, make: Callable[[], AbstractContextManager[T]]) -> T | None:
    """Enters somebody else's context; what it raises by itself is logged, and changes nothing."""

    def leave(
        kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            context.__exit__(kind, error, trace)
        except Exception as own:
            if own is not error:
                logger.error("A watcher failed: %s", described(own))

    try:
        context = make()
        found = context.__enter__()
    except Exception as own:
        logger.error("A watcher failed: %s", described(own))
        return None
    stack.push(leave)
    return found
