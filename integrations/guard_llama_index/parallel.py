"""Parallel: an answer is written while the judge decides, and not one token leaves before.

judge  ──────────────► verdict ── answer ──► tokens held so far, then all others as they come
writer ──►▒▒▒▒ held        └───── else ────► the writer is cancelled, its HTTP request ends
"""

import asyncio
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, TypeVar

from llama_index.core.base.response import schema

from guard import Decision
from guard.loop import shared_loop
from guard_llama_index.responses import Nodes, Response, recorded

T = TypeVar("T")

# Tokens written ahead of a slow reader; the writer then waits.
_AHEAD = 256

# Tokens after which others get their turn: a stream that never waits could not be cancelled
# otherwise. At each token, it would cost a twentieth of what a thousand streams at once can do.
_UNBROKEN = 16

# Seconds that a cancelled stream may take to get to where it waits.
_UNWINDING = 1.0


async def answered_in_parallel(
    decide: Coroutine[Any, Any, Decision],
    write: Coroutine[Any, Any, Response],
    judged: Callable[[Decision], Nodes],
) -> Response | Decision:
    """The answer if the decision lets it pass; else the decision.

    Args:
        decide: the judgement.
        write: the answer; what it streams is held back until the verdict.
        judged: the nodes that a decision is on, for the record.
    """
    writing = asyncio.create_task(_begun(write))
    try:
        decision = await decide
        if decision.passes:
            return recorded(await writing, decision, judged(decision))
    except BaseException:
        await _dropped(writing, write)
        raise
    await _dropped(writing, write)
    return decision


async def _begun(write: Coroutine[Any, Any, Response]) -> Response:
    """The answer; a stream is read ahead, since many writers begin only when they are read."""
    response = await write
    if isinstance(response, schema.AsyncStreamingResponse):
        response.response_gen = ReadAhead(response.response_gen)
    return response


async def _dropped(writing: "asyncio.Task[Response]", write: Coroutine[Any, Any, Response]) -> None:
    """Ends the writing, whatever it has come to; what it raised meanwhile is nobody's answer."""
    await _ended(writing)
    write.close()  # The judge may have been so quick that it was never begun.
    if writing.cancelled() or writing.exception() is not None:
        return
    response = writing.result()
    if isinstance(response, schema.AsyncStreamingResponse):
        with suppress(Exception):
            await response.response_gen.aclose()


async def _ended(task: "asyncio.Future[Any]") -> None:
    task.cancel()
    await _done(task)


async def _done(task: "asyncio.Future[Any]") -> None:
    # Awaiting the task itself would hide that the caller was cancelled meanwhile.
    while not task.done():
        await asyncio.wait([task])


class ReadAhead(AsyncGenerator[str]):
    """A stream that is read by a task of its own, and ends with whoever reads this.

    A class and not a generator function: the ``finally`` of one that was never begun does not run,
    and the stream below would go on.
    """

    def __init__(self, stream: AsyncGenerator[str]) -> None:
        self._stream = stream
        self._queue = queue = asyncio.Queue[str | BaseException]()
        self._room = asyncio.Semaphore(_AHEAD)
        self._task = asyncio.create_task(_read(stream, queue, self._room))
        # However it ends, cancelled before its first step too, whoever waits is told.
        self._task.add_done_callback(lambda task: queue.put_nowait(_end_of(task)))
        # Forgotten unread, it ends as well: the task must not hold on to this object.
        self._forgotten = weakref.finalize(self, _cancel, self._task)
        self._closed = False

    async def asend(self, value: None) -> str:
        """The next token; what the stream raises is raised here."""
        if self._closed:
            raise StopAsyncIteration
        try:
            one = await self._queue.get()
        except BaseException:
            await self.aclose()
            raise
        if isinstance(one, str):
            self._room.release()
            return one
        closed = self._closed
        self._queue.put_nowait(one)  # Others may wait as well.
        await self.aclose()
        raise StopAsyncIteration if closed else one

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> str:
        """Ends the stream, and raises."""
        await self.aclose()
        raise typ

    async def aclose(self) -> None:
        """Ends the stream; what it was waiting for is cancelled."""
        self._forgotten.detach()
        if not self._closed:
            # Once: a second time would come in between while the stream is being closed.
            self._task.cancel()
        self._closed = True
        await _done(self._task)
        await self._stream.aclose()


async def _read(
    stream: AsyncGenerator[str],
    queue: "asyncio.Queue[str | BaseException]",
    room: asyncio.Semaphore,
) -> None:
    async with aclosing(stream):
        try:
            unbroken = 0
            async for token in stream:
                await room.acquire()
                queue.put_nowait(token)
                unbroken = (unbroken + 1) % _UNBROKEN
                if unbroken == 0:
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            await _cancelled_inside(stream)
            raise


async def _cancelled_inside(stream: AsyncGenerator[str]) -> None:
    """Cancels a stream that was not waiting for anything when its reader was cancelled.

    Closing it would end the outermost generator only: openai's response below is part of a cycle,
    and stays open until the garbage collector comes by. So the stream goes on to where it waits.
    """
    end = time.monotonic() + _UNWINDING
    while time.monotonic() < end:  # One that never waits cannot be cancelled.
        token = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)  # It is done now, or waits; and others get their turn.
        waits = not token.done()
        if waits:
            await _ended(token)
        # Looked at in any case, or asyncio would complain that nobody did.
        if token.cancelled() or token.exception() is not None or waits:
            return


def _end_of(task: "asyncio.Task[None]") -> BaseException:
    """What the reader of a stream gets after its last token."""
    if task.cancelled():
        return asyncio.CancelledError()
    return task.exception() or StopAsyncIteration()


def _cancel(task: "asyncio.Task[None]") -> None:
    with suppress(RuntimeError):  # The loop may be closed, and its tasks with it.
        task.get_loop().call_soon_threadsafe(task.cancel)


# ── For callers that block ───────────────────────────────────────────────────────────────────────


def blocking(
    answer: Callable[[], Coroutine[Any, Any, Response | Decision]],
) -> Response | Decision:
    """What comes of ``answer`` on the shared loop, for a caller who does not await.

    A stream of tokens becomes a generator.
    """
    response = _run(answer)
    if not isinstance(response, schema.AsyncStreamingResponse):
        return response
    return schema.StreamingResponse(
        BlockingStream(response.response_gen),
        source_nodes=response.source_nodes,
        metadata=response.metadata,
    )


class BlockingStream(Generator[str, None, None]):
    """A stream of the shared loop, read from another thread."""

    def __init__(self, stream: AsyncGenerator[str]) -> None:
        self._stream = stream

    def send(self, value: None) -> str:
        """The next token."""
        try:
            return _run(lambda: _next(self._stream))
        except StopAsyncIteration:
            raise StopIteration from None

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> str:
        """Ends the stream, and raises."""
        _run(lambda: _end(self._stream))
        raise typ


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return shared_loop.run(work(), None)


async def _next(stream: AsyncGenerator[str]) -> str:
    return await anext(stream)


async def _end(stream: AsyncGenerator[str]) -> None:
    await stream.aclose()
