"""A client judge: what all judges that post through an ``openai`` client have in common."""

import asyncio
import hashlib
import json
import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import Any

from guard.breaker import FAILURES, SECONDS, Breaker
from guard.cut import Cuts
from guard.errors import ConfigError
from guard.flow import arun, run
from guard.judges.connection import Connection, Post
from guard.loop import shared_loop
from guard.prompt import Rendered
from guard.query import Query
from guard.verdict import Verdict
from guard.worker import shared_workers

_LEAST_SECRET = 8  # Characters: less tells nothing of a key.

Conversation = Generator[Post, list[object], Verdict]
"""One judgement: yields what to post, is sent the replies, returns the verdict."""


class ClientJudge:
    """Drives one conversation, described once, through whichever client there is.

    A subclass says what the words are (`render`) and how a judgement goes (`conversation`).

    Args:
        connection: where to post.
        model: the model's name, for requests and the record.
        signal: the first part of the fingerprint.
        parts: everything else that verdicts depend on; JSON-ready.

    Attributes:
        breaker: leaves an endpoint alone that keeps failing; shared by all judges of this process
            with the same address, model and key. ``None`` = none.

    Raises:
        ConfigError: a blank ``model``.
    """

    def __init__(self, connection: Connection, *, model: str, signal: str, parts: object) -> None:
        _require_model(model)
        self.model: str | None = model
        self.name = model
        self.connection = connection
        self.breaker: Breaker | None = None
        self._cuts = Cuts()
        self.use_breaker()
        self.fingerprint = fingerprint_of(signal, model, parts)

    def use_breaker(self, *, failures: int = FAILURES, seconds: float = SECONDS) -> None:
        """Puts a breaker with these numbers in place of its own; see `guard.breaker.Breaker`.

        Args:
            failures: so many in a row open it; 0 = no breaker.
            seconds: for how long at first.
        """
        find = self.connection.breaker_for
        self.breaker = find(self.name, failures, seconds) if failures else None

    def render(self, query: Query) -> Rendered:
        """The words for one query."""
        raise NotImplementedError

    def conversation(self, rendered: Rendered) -> Conversation:
        """One judgement, as a generator for `guard.flow`."""
        raise NotImplementedError

    @property
    def cancellable(self) -> bool:
        """Whether `judge` can be interrupted: with an asynchronous client alone, it can."""
        return not self.connection.blocks

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        """Measures one query; see `guard.judge.Judge`."""
        self.connection.require_open()
        if not self.connection.blocks:
            # An asynchronous client alone: its coroutine runs on a loop of ours, cancellably.
            return shared_loop.run(self.ajudge(query, timeout=timeout), timeout)
        end = time.monotonic() + timeout
        post = partial(self.connection.post, end=end)
        rendered = self.render(query)
        with self._cuts.noted(rendered.text):
            verdict = run(self.conversation(rendered), post)
            self._cuts.require_none(rendered.text, verdict.usage)
        return self._clean(verdict)

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        """Measures one query; cancelling it closes the HTTP request."""
        self.connection.require_open()
        if not self.connection.awaits:
            # A blocking client alone: it cannot be cancelled, only left behind on its thread.
            return await shared_workers.acall(partial(self.judge, query, timeout=timeout), timeout)
        end = time.monotonic() + timeout
        rendered = await self._rendered(query)
        post = partial(self.connection.apost, end=end)
        with self._cuts.noted(rendered.text):
            verdict = await arun(self.conversation(rendered), post)
            self._cuts.require_none(rendered.text, verdict.usage)
        return self._clean(verdict)

    def close(self) -> None:
        """Closes connections; later queries are rejected.

        On a running event loop it does not wait for those of that loop; `aclose` does.
        """
        self.connection.close()

    async def aclose(self) -> None:
        """Closes connections of the running event loop, and all others of this judge."""
        await asyncio.to_thread(self.close)

    def _clean(self, verdict: Verdict) -> Verdict:
        """Without names in which the endpoint repeats a key: they stand in records and traces."""
        secrets = self.connection.secrets
        odd: dict[str, Any] = {
            name: None
            for name in ("model", "system_fingerprint", "emitted")
            if any(_shows(getattr(verdict, name), secret) for secret in secrets)
        }
        return replace(verdict, **odd) if odd else verdict

    async def _rendered(self, query: Query) -> Rendered:
        if query.is_long:
            return await asyncio.to_thread(self.render, query)
        return self.render(query)


def _shows(name: str | None, secret: str) -> bool:
    """Whether a name holds a secret, or a good part of it."""
    if name is None or len(name) < _LEAST_SECRET:
        return False
    return secret in name or name in secret


def fingerprint_of(signal: str, model: str, parts: object) -> str:
    """A short text over everything that verdicts depend on; ``parts`` is JSON-ready."""
    digest = hashlib.sha256(json.dumps([model, parts], sort_keys=True).encode()).hexdigest()
    return f"{signal}:{model}:{digest[:16]}"


def _require_model(model: object) -> None:
    if not isinstance(model, str) or not model.strip():
        raise ConfigError(
            "`model` is blank or not text.", hint="Pass the model's (or deployment's) name."
        )
