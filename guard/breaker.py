"""A circuit breaker: an endpoint that keeps failing is left alone for a while.

    closed ──failures in a row──► open ──pause over──► half-open ──the probe has an answer──► closed
                                    ▲                      │
                                    └──────it fails, twice the pause──┘

Queries then fail at once instead of waiting for their deadline, a chain asks its next judge at
once, and an endpoint that comes back is not run over: one query at a time tries it.
"""

import logging
import threading
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import Literal, Protocol, runtime_checkable

from guard._fork import renew_in_child
from guard._require import require_number
from guard.errors import JudgeError, JudgeUnavailable, NotAsked

logger = logging.getLogger("guard")

State = Literal["closed", "open", "half_open"]

MAX_FAILURES, MAX_SECONDS = 10_000, 3600.0

FAILURES, SECONDS, LONGEST = 10, 2.0, 60.0
"""Unless set otherwise: failures in a row, seconds at first, seconds at most."""


class Breaker:
    """Counts how often asking one endpoint failed in a row, and decides whether it may be asked.

    What counts is `JudgeUnavailable`: no connection, a time-out, HTTP 429 and 5xx. Any answer ends
    the row, also one that holds no verdict: whoever answers is there. A cancelled query says
    nothing.

    Args:
        name: of the endpoint, for logs and metrics; without a key.
        failures: so many in a row open it.
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
        self._lock = threading.Lock()
        self._failed = 0
        self._last: str | None = None
        self._pause = self.seconds
        self._until: float | None = None  # On the monotonic clock; ``None`` = closed.
        self._probe: object | None = None

    @property
    def state(self) -> State:
        """``half_open`` = the pause is over, and the endpoint has not proved itself yet."""
        until = self._until
        if until is None:
            return "closed"
        return "open" if time.monotonic() < until else "half_open"

    @contextmanager
    def asking(self) -> Generator[None]:
        """Around one request for a verdict.

        Raises:
            NotAsked: kind ``circuit_open``; the block does not run.
        """
        pass_ = self._enter()
        try:
            yield
        except JudgeUnavailable as error:
            self._note_failure(pass_, error)
            raise
        except JudgeError as error:
            if isinstance(error, NotAsked):
                self._forget(pass_)
            else:
                self._note_answer(pass_)
            raise
        except BaseException:
            self._forget(pass_)
            raise
        self._note_answer(pass_)

    def _enter(self) -> object:
        pass_ = _joint_pass.get() or object()
        with self._lock:
            if self._until is None:
                return pass_
            left = self._until - time.monotonic()
            if left > 0 or self._probe not in (None, pass_):
                raise self._not_asked(max(0.0, left))
            self._probe = pass_
        return pass_

    def _note_failure(self, pass_: object, error: JudgeUnavailable) -> None:
        with self._lock:
            is_probe, is_closed = pass_ is self._probe, self._until is None
            self._failed += is_closed or is_probe
            if not is_probe and not (is_closed and self._failed >= self.failures):
                return
            # In words: the error itself would keep its traceback, and so a query, alive.
            self._probe, self._last = None, _in_words(error, self._failed)
            # Twice as long as the last time, where it was a probe that failed.
            self._pause = min(self.longest, self._pause * 2) if is_probe else self.seconds
            pause = min(self.longest, max(self._pause, error.retry_after or 0.0))
            self._until = time.monotonic() + pause
        logger.warning(
            "%s is not asked for %.3g s: %s", self.name, pause, _in_words(error, self._failed)
        )

    def _note_answer(self, pass_: object) -> None:
        with self._lock:
            if self._until is not None and pass_ is not self._probe:
                return  # Asked before it opened: old news.
            closes, self._until, self._probe = self._until is not None, None, None
            self._failed, self._last, self._pause = 0, None, self.seconds
        if closes:
            logger.warning("%s answers again.", self.name)

    def _forget(self, pass_: object) -> None:
        """The query was cancelled, or ended by a bug: another one may be the probe."""
        with self._lock:
            if pass_ is self._probe:
                self._probe = None

    def _not_asked(self, left: float) -> NotAsked:
        why = "" if self._last is None else f": {self._last}"
        when = f"It is asked again in {left:.3g} s." if left else "One query is trying it now."
        return NotAsked(
            f"The judge was not asked, since {self.name} keeps failing{why} {when}",
            kind="circuit_open",
            hint="See why it fails; the breaker closes by itself once it answers.",
            retry_after=left,
        )


def _in_words(error: JudgeUnavailable, failed: int) -> str:
    return f"{failed} failures in a row, the last one {error.kind}. {error.message}"


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
    host = base_url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    return f"{model} at {host}" if host else model


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


_joint_pass: ContextVar[object | None] = ContextVar("rag_guard_joint_pass", default=None)


@contextmanager
def one_probe() -> Generator[None]:
    """All that is asked inside counts as one probe: a mean needs each of its judges, two of which
    may be at one endpoint, and would never get past a breaker that lets one of them try."""
    token = _joint_pass.set(object())
    try:
        yield
    finally:
        with suppress(ValueError):  # As in `guard.ask.witnessed`.
            _joint_pass.reset(token)


@runtime_checkable
class Breakable(Protocol):
    """A judge whose breaker can be set up."""

    def use_breaker(self, *, failures: int, seconds: float) -> None:
        """Puts another breaker in place of its own; ``failures`` of 0 = none."""
        ...


@contextmanager
def breaking(judge: object) -> Generator[None]:
    """Around one request to a judge: through its breaker, if it has one."""
    breaker = breaker_of(judge)
    if breaker is None or _ignored.get():
        yield
        return
    with breaker.asking():
        yield
