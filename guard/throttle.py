"""A throttle for log lines: in an outage all queries fail alike, and the first line says it."""

import threading
import time

from guard._fork import renew_in_child


class Throttle:
    """Lets one line of a kind through in so many seconds, and counts the others.

    Args:
        seconds: between two lines of one kind.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self) -> None:
        """As if nothing had been said; in a forked child it is called by itself."""
        self._lock = threading.RLock()
        self._next = dict[str, float]()
        self._held = dict[str, int]()

    def held_back(self, kind: str) -> int | None:
        """How many lines of this kind were held back before this one; ``None`` = so is this."""
        now = time.monotonic()
        with self._lock:
            if now < self._next.get(kind, 0.0):
                self._held[kind] = self._held.get(kind, 0) + 1
                return None
            self._next[kind] = now + self._seconds
            return self._held.pop(kind, 0)
