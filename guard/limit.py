"""A limit on judgements in flight: beyond it queries wait a little, and are then turned away.

Without one, a judge that has become slow collects queries until memory or sockets run out, and each
of them waits for its whole deadline.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress

from guard._fork import renew_in_child
from guard._require import require_number
from guard.errors import NotAsked

MAX_IN_FLIGHT = 100_000
MAX_WAIT = 3600.0  # Seconds.

IN_FLIGHT, WAIT = 256, 1.0
"""Unless set otherwise; the wait in seconds."""


class Limit:
    """At most so many judgements at once; one limit serves threads and event loops alike.

    Whoever finds it reached waits in the order of arrival, and is turned away with the reason
    ``overloaded`` when the wait is over. As many may wait as may be in flight; all others are
    turned away at once.

    Args:
        in_flight: judgements at once, from the first request to the last retry; of a query that is
            judged in windows each one that is asked. Verdicts from a cache are none.
        wait: seconds that a query waits for its turn; part of its deadline. 0 = not at all.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(self, in_flight: int = IN_FLIGHT, wait: float = WAIT) -> None:
        require_number("in_flight", in_flight, 1, MAX_IN_FLIGHT, whole=True)
        require_number("wait", wait, 0, MAX_WAIT)
        self.max_in_flight = in_flight
        self.wait = wait
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self) -> None:
        """Forgets who is in flight: in a forked child, where it is called by itself, nobody is."""
        # Re-entrant: the garbage collector may end an abandoned query anywhere, here too.
        self._lock = threading.RLock()
        self._inside = set[Future[None]]()
        self._waiting = deque[Future[None]]()

    @property
    def in_flight(self) -> int:
        """Judgements at this moment."""
        return len(self._inside)

    @property
    def waiting(self) -> int:
        """Queries that wait for their turn at this moment."""
        return len(self._waiting)

    @contextmanager
    def held(self, budget: float) -> Generator[float]:
        """A place, for as long as the block runs; gives the seconds left of ``budget``.

        Raises:
            NotAsked: kind ``overloaded``.
        """
        end, turn = time.monotonic() + budget, Future[None]()
        try:
            self._join(turn)
            self._wait_for(turn, min(self.wait, budget))
            yield max(0.0, end - time.monotonic())
        finally:
            self._leave(turn)

    @asynccontextmanager
    async def aheld(self, budget: float) -> AsyncGenerator[float]:
        """As `held`, without blocking the event loop."""
        end, turn = time.monotonic() + budget, Future[None]()
        try:
            self._join(turn)
            if not turn.done():
                await self._await_for(turn, min(self.wait, budget))
            yield max(0.0, end - time.monotonic())
        finally:
            self._leave(turn)

    @contextmanager
    def spare(self, wanted: int) -> Generator[int]:
        """Places that nobody needs, for as long as the block runs: for whoever has a place already
        and could use more. Gives how many of those wanted there were; waits for none.
        """
        turns = list[Future[None]]()
        try:
            turns += self._take(wanted)
            yield len(turns)
        finally:
            for turn in turns:
                self._leave(turn)

    def _take(self, wanted: int) -> "list[Future[None]]":
        with self._lock:
            # While somebody waits none is free: whoever leaves passes the place on.
            free = self.max_in_flight - len(self._inside)
            turns = [Future[None]() for _ in range(min(wanted, free))]
            self._inside.update(turns)
        return turns

    def _wait_for(self, turn: "Future[None]", seconds: float) -> None:
        try:
            turn.result(seconds)
        except TimeoutError:
            raise self._turned_away(f"none of them ended within {seconds:g} s") from None

    async def _await_for(self, turn: "Future[None]", seconds: float) -> None:
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                # Shielded: a turn that was cancelled could not be given any more.
                await asyncio.shield(asyncio.wrap_future(turn))
        except TimeoutError:
            raise self._turned_away(f"none of them ended within {seconds:g} s") from None

    def _join(self, turn: "Future[None]") -> None:
        """Lets a turn be done once there is a place."""
        with self._lock:
            is_free = len(self._inside) < self.max_in_flight
            waits = not is_free and self.wait > 0 and len(self._waiting) < self.max_in_flight
            if is_free:
                self._inside.add(turn)
            elif waits:
                self._waiting.append(turn)
        if is_free:
            turn.set_result(None)
        elif not waits:
            raise self._turned_away(f"{self.waiting} others waited for their end")

    def _leave(self, turn: "Future[None]") -> None:
        """Gives the place to whoever has waited longest; or no longer waits for one."""
        with self._lock:
            if turn not in self._inside:
                with suppress(ValueError):  # From before a fork: it is in neither.
                    self._waiting.remove(turn)
                return
            self._inside.remove(turn)
            following = self._waiting.popleft() if self._waiting else None
            if following is not None:
                self._inside.add(following)
        if following is not None:
            following.set_result(None)

    def _turned_away(self, why: str) -> NotAsked:
        return NotAsked(
            f"The judge was not asked: {self.max_in_flight} judgements were in flight, and {why}.",
            hint="More came at once than max_in_flight and as many that wait: the judge is slow, "
            "or it was a burst.",
            retry_after=self.wait,
        )
