"""The gate: one query's trip from contexts to decision."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

from guard._require import require_instance
from guard.ask import aask, ask
from guard.cache import Cache, cache_key, keepable
from guard.decision import Decision, Reason, Route
from guard.errors import UNMEASURED_KINDS, ConfigError, JudgeError, Tried
from guard.flow import arun, run
from guard.judge import Judge, Profiled
from guard.policy import Policy
from guard.profile import Profile
from guard.query import Query
from guard.retry import Retry
from guard.thresholds import Thresholds
from guard.verdict import Verdict
from guard.worker import Workers, shared_workers

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("guard")


class _Asked(NamedTuple):
    """A query, and the judges of a chain that gave no verdict in the rounds that failed."""

    query: Query
    left: list[Tried]


class _Measured(NamedTuple):
    """A verdict, and whether it came from the cache."""

    verdict: Verdict
    cached: bool


_Trip = Generator[_Asked, _Measured, Decision]


class Gate:
    """Decides, before an answer is written, whether it may be.

    One gate serves any number of threads and tasks.

        gate = Gate(judge, Policy(thresholds=Thresholds(answer_at=0.85, refuse_below=0.30)))
        decision = gate.check("When was it built?", ["The bridge was opened in 1932."])

    Args:
        judge: measures P(sufficient context); see `guard.judge.Judge`.
        policy: what follows from the measurement, and from a failure to measure.
        retry: which failures are tried again. Clients must not retry on their own as well.
        cache: keeps verdicts, so that the same judge is not asked the same thing twice.
        deployment: a name for the record.
        workers: threads for a ``judge`` that cannot be interrupted. Chains and means ask theirs on
            the shared ones.

    Raises:
        ConfigError: an argument is not what it must be, e.g. ``judge`` is not a judge.
    """

    def __init__(
        self,
        judge: Judge,
        policy: Policy | None = None,
        *,
        retry: Retry | None = None,
        cache: Cache | None = None,
        deployment: str | None = None,
        workers: Workers = shared_workers,
    ) -> None:
        _require_judge(judge)
        self.judge = judge
        self.policy = Policy() if policy is None else policy
        self.retry = Retry() if retry is None else retry
        require_instance("policy", self.policy, Policy)
        require_instance("retry", self.retry, Retry)
        _require_cache(cache)
        self.cache = cache
        self.deployment = deployment
        self._workers = workers

    def check(
        self,
        question: str,
        contexts: Iterable[str],
        *,
        history: Sequence[tuple[str, str]] = (),
        lang: str | None = None,
    ) -> Decision:
        """Judges one query and decides its route.

        Args:
            question: the user's question.
            contexts: the retrieved passages, as the answering model will see them.
            history: earlier ``(role, text)`` turns, oldest first.
            lang: the question's language (BCP 47), which chooses the message.

        Raises:
            ConfigError: the question is blank, or something is not text.
            JudgeError: the query could not be measured and the policy says ``raise``.
        """
        query = Query.of(question, contexts, history=history, lang=lang)
        return run(self._trip(query), self._measure)

    async def acheck(
        self,
        question: str,
        contexts: Iterable[str],
        *,
        history: Sequence[tuple[str, str]] = (),
        lang: str | None = None,
    ) -> Decision:
        """As `check`. Cancelling it cancels the judge's request, and is never a decision."""
        query = Query.of(question, contexts, history=history, lang=lang)
        return await arun(self._trip(query), self._ameasure)

    def _trip(self, query: Query) -> _Trip:
        started = time.perf_counter()
        if query.is_empty:
            detail = "Nothing was retrieved; the judge was not asked."
            return self._decision(query, started, Route.REFUSE, Reason.NO_CONTEXTS, detail)
        asked = _Asked(query, [])
        try:
            measured = yield asked
        except JudgeError as error:
            return self._unmeasured(asked, started, error)
        return self._measured(asked, started, measured)

    def _measured(self, asked: _Asked, started: float, measured: _Measured) -> Decision:
        verdict = measured.verdict
        profile = self._profile_of(verdict)
        cuts = self.policy.thresholds if profile is None else profile.thresholds
        route, reason = self.policy.route(
            verdict.low, verdict.high, verdict.coverage, thresholds=cuts
        )
        tried = (*asked.left, *verdict.tried)
        detail = _told(verdict, cuts, route, tried)
        decision = self._decision(
            asked.query,
            started,
            route,
            reason,
            detail,
            verdict,
            cuts,
            tried=tried,
            cached=measured.cached,
        )
        if verdict.tried:
            # Or a judge could be down for weeks without anybody noticing.
            logger.warning("query %s fell back: %s", decision.id, _left(verdict.tried))
        return decision

    def _profile_of(self, verdict: Verdict) -> Profile | None:
        """A profile of the judge's own for this verdict: a chain's later judges have one each."""
        return self.judge.profile_of(verdict) if isinstance(self.judge, Profiled) else None

    def _unmeasured(self, asked: _Asked, started: float, error: JudgeError) -> Decision:
        route = self.policy.route_unmeasured(error.kind)
        parts = [error.message, error.hint]
        if error.attempts > 1:
            # One attempt of a chain is a round through all its judges.
            parts.insert(1, f"({error.attempts} {'rounds' if asked.left else 'attempts'})")
        if error.kind == "timeout":
            parts.insert(1, f"The deadline is {self.policy.deadline:g} s.")
        detail = " ".join(part for part in parts if part)
        decision = self._decision(
            asked.query, started, route, Reason(error.kind), detail, tried=tuple(asked.left)
        )
        logger.warning("query %s not measured, %s: %s", decision.id, error.kind, detail)
        if route is None and decision.enforced:
            error.decision = decision
            raise error
        return decision

    def _decision(
        self,
        query: Query,
        started: float,
        route: Route | None,
        reason: Reason,
        detail: str,
        verdict: Verdict | None = None,
        cuts: Thresholds | None = None,
        tried: tuple[Tried, ...] = (),
        cached: bool = False,
    ) -> Decision:
        decision = Decision(
            id=uuid.uuid4().hex,
            time=datetime.now(UTC),
            route=route,
            reason=reason,
            detail=detail,
            message=self.policy.messages.text(
                route, query.lang, judged=reason.value not in UNMEASURED_KINDS
            ),
            probability=None if verdict is None else verdict.p_true,
            low=None if verdict is None else verdict.low,
            high=None if verdict is None else verdict.high,
            verdict=verdict,
            calibrated=False,  # Until profiles exist, no calibrator can stand in between.
            thresholds=cuts or self.policy.thresholds,
            mode=self.policy.mode,
            deployment=self.deployment,
            model=self._model_of(verdict),
            fingerprint=self.judge.fingerprint if verdict is None else verdict.fingerprint,
            cached=cached,
            elapsed_seconds=time.perf_counter() - started,
            query=query,
            tried=tried,
        )
        logger.debug("query %s: %s, %s", decision.id, decision.route, decision.reason)
        return decision

    def _model_of(self, verdict: Verdict | None) -> str | None:
        # After a fallback the chain's own name is that of the judge that was down.
        return verdict.model if verdict is not None and verdict.tried else self.judge.model

    def _measure(self, asked: _Asked) -> _Measured:
        if (cache := self.cache) is None:
            return _Measured(self._verdict(asked), cached=False)
        key = cache_key(self.judge.fingerprint, asked.query)
        if (kept := cache.get(key)) is not None:
            return _Measured(kept, cached=True)
        verdict = self._verdict(asked)
        if keepable(verdict):
            cache.put(key, verdict)
        return _Measured(verdict, cached=False)

    def _verdict(self, asked: _Asked) -> Verdict:
        return self.retry.call(partial(self._attempt, asked), self.policy.deadline)

    def _attempt(self, asked: _Asked, seconds: float) -> Verdict:
        try:
            return ask(self.judge, asked.query, seconds, self._workers)
        except JudgeError as error:
            asked.left.extend(error.tried)
            raise

    async def _ameasure(self, asked: _Asked) -> _Measured:
        if (cache := self.cache) is None:
            return _Measured(await self._averdict(asked), cached=False)
        key = cache_key(self.judge.fingerprint, asked.query)
        if (kept := await _through(cache, cache.get, key)) is not None:
            return _Measured(kept, cached=True)
        verdict = await self._averdict(asked)
        if keepable(verdict):
            await _through(cache, cache.put, key, verdict)
        return _Measured(verdict, cached=False)

    async def _averdict(self, asked: _Asked) -> Verdict:
        return await self.retry.acall(partial(self._aattempt, asked), self.policy.deadline)

    async def _aattempt(self, asked: _Asked, seconds: float) -> Verdict:
        try:
            return await aask(self.judge, asked.query, seconds)
        except JudgeError as error:
            asked.left.extend(error.tried)
            raise


async def _through(cache: Cache, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A call of a cache, on a thread where it may hold up the event loop."""
    if cache.blocks:
        return await asyncio.to_thread(call, *args, **kwargs)
    return call(*args, **kwargs)


def _told(verdict: Verdict, cuts: Thresholds, route: Route, tried: Sequence[Tried]) -> str:
    """A measured decision's reason, in sentences; ``tried`` are the judges left in all rounds."""
    told = [
        f"P(sufficient) = {verdict.p_true:.4f} in [{verdict.low:.4f}, {verdict.high:.4f}]; "
        f"answer at {cuts.answer_at:g}, refuse below {cuts.refuse_below:g}."
    ]
    if verdict.coverage < 1:
        told.append(f"{_part(verdict.coverage)} of the contexts was judged.")
    if tried:
        told.append(_left(tried))
    if route is Route.CLARIFY and (verdict.p_underspecified or 0) > 0.5:
        told.append(f"The question may be under-specified (P = {verdict.p_underspecified:.2f}).")
    return " ".join(told)


def _part(coverage: float) -> str:
    """A share below 1, in words: one that rounds to nothing is not nothing, nor 99.9 % all."""
    if coverage < 0.01:
        return "Less than 1 %"
    return f"Only {min(coverage, 0.99) * 100:.0f} %"


def _left(tried: Iterable[Tried]) -> str:
    """Which judges were left before the verdict came, in a sentence."""
    left = ", ".join(f"{one.model or one.fingerprint} ({one.kind})" for one in tried)
    return f"No verdict came from {left}."


def _require_cache(cache: object) -> None:
    if cache is not None and not isinstance(cache, Cache):
        raise ConfigError(
            f"{type(cache).__name__} is not a cache.",
            hint="Pass guard.cache.MemoryCache(), or guard.sqlite_cache.SqliteCache(path).",
        )


def _require_judge(judge: object) -> None:
    if not isinstance(judge, Judge):
        raise ConfigError(
            f"{type(judge).__name__} is not a judge.",
            hint="Wrap a client, e.g. guard.judges.ChatJudge(client, model=…).",
        )
