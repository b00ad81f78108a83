"""A circuit breaker: an endpoint that keeps failing is left alone for a while.

    closed ──queries in a row fail──► open ──pause over──► half-open ──the probe is answered──►
                                        ▲                      │                        closed
                                        └──it fails: twice as long──┘

Queries then fail at once instead of waiting for their deadline, a chain asks its next judge at
once, and an endpoint that comes back is not run over: one query at a time tries it.
"""

import logging
import math
import threading
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from guard._fork import renew_in_child
from guard._require import require_number
from guard.errors import JudgeError, JudgeUnavailable, NotAsked

logger = logging.getLogger("guard")

State = Literal["closed", "open", "half_open"]

MAX_FAILURES, MAX_SECONDS = 10_000, 3600.0

FAILURES, SECONDS, LONGEST = 10, 2.0, 60.0
"""Unless set otherwise: failures in a row, seconds at first, seconds at most."""


class Breaker:
    """Counts how many queries in a row failed at one endpoint, and decides whether it may be asked.

    What counts is `JudgeUnavailable`: no connection, a time-out, HTTP 429 and 5xx; once a query,
    however often it was tried. Any answer ends the row, also one that holds no verdict: whoever
    answers is there. A cancelled query says nothing, nor does what went wrong before it was sent.

    A row of time-outs says only that the endpoint takes longer than those queries had: one that has
    more than twice their time is let through.

    Args:
        name: of the endpoint, for logs and metrics; without a key.
        failures: so many queries in a row open it.
        seconds: for how long at first. Each probe that fails doubles it, and a server's Retry-After
            lengthens it, never beyond ``longest``.
        longest: seconds.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = FAILURES,
        seconds: float = SECONDS,
        longest: float = LONGEST,
    ) -> None:
        require_number("failures", failures, 1, MAX_FAILURES, whole=True)
        require_number("longest", longest, 0, MAX_SECONDS)
        require_number("seconds", seconds, 0, longest)
        self.name, self.failures, self.seconds, self.longest = name, failures, seconds, longest
        self.begin_anew()
        renew_in_child(self)
        _breakers.add(self)

    def begin_anew(self) -> None:
        """Closed, whatever was; in a forked child it is called by itself."""
        # Re-entrant: the garbage collector may end an abandoned query anywhere, here too.
        self._lock = threading.RLock()
        self._failed = 0
        self._budget = 0.0  # Seconds that the failed ones had; without end if not all timed out.
        self._last: str | None = None
        self._pause = self.seconds
        self._until: float | None = None  # On the monotonic clock; ``None`` = closed.
        self._probe: _Pass | None = None
        self._probe_until = 0.0

    @property
    def state(self) -> State:
        """``half_open`` = the pause is over, and the endpoint has not proved itself yet."""
        until = self._until
        if until is None:
            return "closed"
        return "open" if time.monotonic() < until else "half_open"

    @contextmanager
    def asking(self, seconds: float) -> Generator[None]:
        """Around one request for a verdict that has so many seconds.

        Raises:
            NotAsked: kind ``circuit_open``; the block does not run.
        """
        pass_ = _pass.get() or _Pass()
        try:
            left = self._enter(pass_, seconds)
            if left is not None:
                raise self._not_asked(left)
            yield
        except JudgeUnavailable as error:
            self._note_failure(pass_, error, seconds)
            raise
        except JudgeError as error:
            (self._note_answer if error.answered else self._forget)(pass_)
            raise
        except BaseException:
            self._forget(pass_)
            raise
        self._note_answer(pass_)

    def _enter(self, pass_: "_Pass", seconds: float) -> float | None:
        """Seconds until it may be worth asking again; ``None`` = it may be asked."""
        now = time.monotonic()
        with self._lock:
            if self._until is None or seconds > 2 * self._budget:
                return None
            if now < self._until:
                return self._until - now
            # Whoever tries may hang for as long as its own deadline: others need not wait for that.
            if self._probe not in (None, pass_) and now < self._probe_until:
                return 0.0
            self._probe, self._probe_until = pass_, now + max(1.0, self._pause)
        return None

    def _note_failure(self, pass_: "_Pass", error: JudgeUnavailable, seconds: float) -> None:
        had = seconds if error.kind == "timeout" else math.inf
        with self._lock:
            is_probe, is_closed = pass_ is self._probe, self._until is None
            if is_closed or is_probe:
                self._budget = max(self._budget, had)
                self._failed += self not in pass_.failed_at
                pass_.failed_at.add(self)
            if not is_probe and not (is_closed and self._failed >= self.failures):
                return
            # In words: the error itself would keep its traceback, and so a query, alive.
            self._probe, self._last = None, (told := _in_words(error, self._failed))
            # Twice as long as the last time, where it was a probe that failed.
            self._pause = min(self.longest, self._pause * 2) if is_probe else self.seconds
            pause = min(self.longest, max(self._pause, error.retry_after or 0.0))
            self._until = time.monotonic() + pause
        logger.warning("%s is not asked for %.3g s: %s", self.name, pause, told)

    def _note_answer(self, pass_: "_Pass") -> None:
        with self._lock:
            if self._until is not None and pass_ is not self._probe:
                return  # Asked before it opened: old news.
            closes, self._until, self._probe = self._until is not None, None, None
            self._failed, self._last, self._pause, self._budget = 0, None, self.seconds, 0.0
        pass_.failed_at.discard(self)
        if closes:
            logger.warning("%s answers again.", self.name)

    def _forget(self, pass_: "_Pass") -> None:
        """The query was cancelled, or ended by a bug: another one may be the probe."""
        with self._lock:
            if pass_ is self._probe:
                self._probe = None

    def _not_asked(self, left: float) -> NotAsked:
        why = "" if self._last is None else f": {self._last}"
        # In whole seconds, or no two lines in a log would be alike.
        seconds = math.ceil(left)
        when = f"It is asked again within {seconds} s." if left else "One query is trying it now."
        return NotAsked(
            f"The judge was not asked, since {self.name} keeps failing{why} {when}",
            kind="circuit_open",
            hint="See why it fails; the breaker closes by itself once it answers.",
            retry_after=left,
        )


def _in_words(error: JudgeUnavailable, failed: int) -> str:
    return f"{failed} queries in a row, the last one {error.kind}. {error.message}"


_breakers: "weakref.WeakSet[Breaker]" = weakref.WeakSet()


def all_breakers() -> list[Breaker]:
    """Those of this process."""
    while True:
        try:
            return list(_breakers)
        except RuntimeError:  # Another thread has just made one; a lock would not survive a fork.
            continue


@lru_cache(maxsize=1024)
def breaker_for(
    base_url: str, model: str, account: str, failures: int = FAILURES, seconds: float = SECONDS
) -> Breaker:
    """The one breaker of this process for an address, a model and whoever asks there.

    Args:
        base_url, model: which endpoint.
        account: a hash that stands for key and headers: one tenant's spent limit is not another's.
        failures, seconds: as of `Breaker`; where they differ, so do the breakers.
    """
    return Breaker(name_of(base_url, model), failures=failures, seconds=seconds)


def name_of(base_url: str, model: str) -> str:
    """What an endpoint is called: its model and host; user, path or query may hold a secret."""
    try:
        parts = urlsplit(base_url)
        where = parts.hostname and ":".join(map(str, filter(None, (parts.hostname, parts.port))))
    except ValueError:
        where = None
    return f"{model} at {where}" if where else model


def breaker_of(judge: object) -> Breaker | None:
    """The breaker that a judge brings, if it has one: its attribute ``breaker``."""
    found: object = getattr(judge, "breaker", None)
    return found if isinstance(found, Breaker) else None


_ignored: ContextVar[bool] = ContextVar("rag_guard_breakers_ignored", default=False)


@contextmanager
def breakers_ignored() -> Generator[None]:
    """Every query is asked, and no failure counts: for tools that want to know how each one fares.

    It holds for what is asked on this thread or task.
    """
    token = _ignored.set(True)
    try:
        yield
    finally:
        _ignored.reset(token)


@dataclass(slots=True, eq=False)
class _Pass:
    """One query, as breakers see it.

    Attributes:
        failed_at: breakers that have counted it.
    """

    failed_at: set[Breaker] = field(default_factory=set[Breaker])


_pass: ContextVar[_Pass | None] = ContextVar("rag_guard_pass", default=None)


@contextmanager
def one_query() -> Generator[None]:
    """All that is asked inside is for one query: its attempts count as one failure, and two judges
    of a mean at one endpoint are one probe, of which a breaker would let through one only."""
    token = _pass.set(_pass.get() or _Pass())
    try:
        yield
    finally:
        with suppress(ValueError):  # As in `guard.ask.witnessed`.
            _pass.reset(token)


@runtime_checkable
class Breakable(Protocol):
    """A judge whose breaker can be set up."""

    def use_breaker(self, *, failures: int, seconds: float) -> None:
        """Puts another breaker in place of its own; ``failures`` of 0 = none."""
        ...


@contextmanager
def breaking(judge: object, seconds: float) -> Generator[None]:
    """Around one request to a judge, for so many seconds: through its breaker, if it has one."""
    breaker = breaker_of(judge)
    if breaker is None or _ignored.get():
        yield
        return
    with breaker.asking(seconds):
        yield
