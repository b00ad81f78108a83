"""Asking: one judge, one query, and never longer than so many seconds."""

import asyncio
from functools import partial

from guard.errors import out_of_time
from guard.judge import Judge
from guard.query import Query
from guard.verdict import Verdict
from guard.worker import Workers, shared_workers


def ask(judge: Judge, query: Query, seconds: float, workers: Workers = shared_workers) -> Verdict:
    """The judge's verdict; a judge that cannot be interrupted is left behind on a worker.

    Raises:
        JudgeError: it gave none, or not in time.
    """
    call = partial(judge.judge, query, timeout=seconds)
    verdict = call() if judge.cancellable else workers.call(call, seconds)
    return _require_verdict(verdict, judge)


async def aask(judge: Judge, query: Query, seconds: float) -> Verdict:
    """As `ask`; a judge that is too slow is cancelled."""
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
