"""The gate: one query's trip from contexts to decision."""

import copy
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, TypeVar, cast

from guard._aside import aside
from guard._failure import described
from guard._require import require_instance
from guard.ask import aask, ask
from guard.breaker import breaker_of, one_query
from guard.cache import Cache, cache_key, keepable
from guard.decision import BreakerState, Decision, Mode, Reason, Route
from guard.errors import (
    ConfigError,
    JudgeError,
    JudgeUnavailable,
    NotAsked,
    ProfileMismatch,
    StaleProfile,
    Tried,
)
from guard.flow import arun, run
from guard.judge import Judge, Profiled
from guard.limit import Limit
from guard.observer import Observer
from guard.policy import Policy
from guard.price import Price
from guard.profile import Probability, Profile
from guard.query import Query
from guard.retry import Retry
from guard.routing import Routed, route_unmeasured, route_verdict
from guard.throttle import Throttle
from guard.verdict import Verdict
from guard.watch import Watcher, watched
from guard.worker import Workers, shared_workers

# Seconds between two lines in the log about queries that failed alike.
_COMPLAINING = 5.0

# Seconds that a decision waits for those who are told of it.
_TELLING = 1.0

T = TypeVar("T")

logger = logging.getLogger("guard")


@dataclass(slots=True)
class _Asked:
    """A query on its trip.

    Attributes:
        query: what is asked.
        mode: that the caller set.
        end: of its deadline, on the monotonic clock.
        left: the judges of a chain that gave no verdict in the rounds that failed.
        attempts: how often the judge was asked.
        breaker: the state of its breaker before the last time.
        failure: what became of the last attempt.
    """

    query: Query
    mode: Mode | None
    end: float
    left: list[Tried] = field(default_factory=list[Tried])
    attempts: int = 0
    breaker: BreakerState | None = None
    failure: JudgeUnavailable | None = None

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.end - time.monotonic())

    def begin(self, judge: Judge) -> None:
        """Notes an attempt."""
        breaker = breaker_of(judge)
        self.attempts += 1
        self.breaker = None if breaker is None else breaker.state

    def failed(self, error: JudgeError) -> None:
        """Notes what became of it."""
        if isinstance(error, NotAsked):
            self.attempts -= 1
            self.breaker = "open" if self.breaker else None
        elif isinstance(error, JudgeUnavailable):
            self.failure = error
        elif not error.answered:
            self.attempts -= 1  # Nothing was sent.
        self.left.extend(error.tried)

    def cause(self, error: NotAsked) -> JudgeError:
        """Why there is no verdict, where an attempt was made before the breaker opened."""
        return self.failure or error


class _Measured(NamedTuple):
    """A verdict, and whether it came from the cache."""

    verdict: Verdict
    cached: bool


class _Facts(NamedTuple):
    """What is known of a measured query."""

    verdict: Verdict
    probability: Probability
    profile: Profile | None
    tried: tuple[Tried, ...]
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
        profile: the judge's calibrator and thresholds, which beat the policy's. It goes stale by
            itself: where a verdict's judge, signal, served model, backend or language is not what
            it was fitted to, neither is applied, and ``policy.on_stale`` decides. Chains have a
            profile on each link instead.
        price: of the judge's tokens, for the record.
        observers: are told of every decision, e.g. a `guard.audit.AuditLog`; those that are
            watchers as well (`guard.watch.Watcher`), e.g. a `guard.trace.Trace`, see each query
            from its beginning.
        limit: how many queries may be judged at once, and how long others wait for their turn.

    Raises:
        ConfigError: an argument is not what it must be, e.g. ``judge`` is not a judge.
        ProfileMismatch: the profile is for another judge, and ``policy.on_stale`` is ``None``.
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
        profile: Profile | None = None,
        price: Price | None = None,
        observers: Iterable[Observer] = (),
        limit: Limit | None = None,
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
        self.profile = profile
        self.price = price
        self.observers = _observers(observers)
        self._watchers = tuple(one for one in self.observers if isinstance(one, Watcher))
        self.limit = Limit() if limit is None else limit
        require_instance("limit", self.limit, Limit)
        self._workers = workers
        self._complaints = Throttle(_COMPLAINING)
        self._mismatch = self._require_profile()
        if price is not None:
            require_instance("price", price, Price)

    def _require_profile(self) -> str | None:
        """In a clause, why no verdict will fit the profile, where the policy allows for that."""
        if self.profile is None:
            return None
        require_instance("profile", self.profile, Profile)
        if isinstance(self.judge, Profiled):
            raise ConfigError(
                "A chain has a profile on each link, not one for all.",
                hint="Write Link(judge, profile) for its first judge too.",
            )
        try:
            self.profile.require_for(self.judge.fingerprint)
        except ProfileMismatch as error:
            if self.policy.on_stale is None:
                raise
            logger.warning("The profile is stale. %s", error.message)
            return f"its judge is {self.profile.fingerprint}, not {self.judge.fingerprint}"
        self._warn_of_other_routes(self.profile)
        return None

    def _warn_of_other_routes(self, profile: Profile) -> None:
        """The thresholds hold all the same, but not the promise over all queries."""
        routes = self.policy.routes_unmeasured()
        if profile.certificate is not None and (kinds := profile.certificate.broken_by(routes)):
            logger.warning(
                "The profile's promise does not hold here: it was certified with other routes for "
                "%s. Certify with this policy, or send these where they went then.",
                ", ".join(kinds),
            )

    def unobserved(self) -> "Gate":
        """The same gate, but nobody is told of its decisions; whoever watches queries still does.

        For surveys, which are no queries of users, and for callers of `tell`.
        """
        gate = copy.copy(self)
        gate.observers = ()
        return gate

    def check(
        self,
        question: str,
        contexts: Iterable[str],
        *,
        history: Sequence[tuple[str, str]] = (),
        lang: str | None = None,
        mode: Mode | None = None,
    ) -> Decision:
        """Judges one query and decides its route.

        Args:
            question: the user's question.
            contexts: the retrieved passages, as the answering model will see them.
            history: earlier ``(role, text)`` turns, oldest first.
            lang: the question's language (BCP 47), which chooses the message.
            mode: whether this decision is enforced, where one turn of a user is judged more than
                once and a canary must not change sides between; ``None`` = as the policy says. See
                `Policy.mode_of`.

        Raises:
            ConfigError: the question is blank, or something is not text.
            JudgeError: the query could not be measured, or the profile is stale (`StaleProfile`),
                and the policy says ``raise``.
        """
        query = Query.of(question, contexts, history=history, lang=lang)
        with watched(self._watchers, query, self.deployment) as watching:
            decision, error = _outcome(partial(run, self._trip(query, mode), self._measure))
            watching.decided(decision)
        self.tell(decision)
        if error is not None:
            raise error
        return decision

    async def acheck(
        self,
        question: str,
        contexts: Iterable[str],
        *,
        history: Sequence[tuple[str, str]] = (),
        lang: str | None = None,
        mode: Mode | None = None,
    ) -> Decision:
        """As `check`. Cancelling it cancels the judge's request, and is never a decision."""
        query = Query.of(question, contexts, history=history, lang=lang)
        with watched(self._watchers, query, self.deployment) as watching:
            decision, error = await _aoutcome(arun(self._trip(query, mode), self._ameasure))
            watching.decided(decision)
        await self.atell(decision)
        if error is not None:
            raise error
        return decision

    def tell(self, decision: Decision) -> None:
        """Tells the observers of a decision that they have not heard of.

        For callers that decide on an `unobserved` gate, because one turn of a user takes several
        decisions: they tell of the one that the user was shown.
        """
        for observer in self.observers:
            _tell(observer, decision)

    async def atell(self, decision: Decision) -> None:
        """As `tell`; those that block are off the event loop, after the others, and are waited for
        a second at most.

        Cancelling it keeps nobody from being told: the decision is made, and would otherwise be in
        the metrics but not in the audit.
        """
        for observer in self.observers:
            if not observer.blocks:
                _tell(observer, decision)
        slow = [observer for observer in self.observers if observer.blocks]
        if slow:
            await aside(partial(_tell_each, slow, decision), _TELLING)

    def route(self, verdict: Verdict, lang: str | None) -> Routed:
        """Where a query with this verdict goes; nobody is asked, and nobody told."""
        return route_verdict(self.policy, self.profile_of(verdict), verdict, lang, self._mismatch)

    def _trip(self, query: Query, mode: Mode | None) -> _Trip:
        started, end = time.perf_counter(), time.monotonic() + self.policy.deadline
        asked = _Asked(query, mode, end)
        if query.is_empty:
            detail = "Nothing was retrieved; the judge was not asked."
            routed = route_unmeasured(self.policy, Reason.NO_CONTEXTS)
            return self._decision(asked, started, routed, detail)
        try:
            measured = yield asked
        except JudgeError as error:
            return self._unmeasured(asked, started, error)
        return self._measured(asked, started, measured)

    def _measured(self, asked: _Asked, started: float, measured: _Measured) -> Decision:
        verdict, lang = measured.verdict, asked.query.lang
        profile = self.profile_of(verdict)
        routed = self.route(verdict, lang)
        probability = routed.probability or Probability.of(verdict)
        tried = (*asked.left, *verdict.tried)
        facts = _Facts(verdict, probability, profile, tried, measured.cached)
        if routed.stale is not None:
            return self._stale(asked, started, routed, facts)
        return self._decision(asked, started, routed, _told(facts, routed), facts)

    def profile_of(self, verdict: Verdict) -> Profile | None:
        """The profile that a verdict is routed by: a chain's judges have one each."""
        return self.judge.profile_of(verdict) if isinstance(self.judge, Profiled) else self.profile

    def _stale(self, asked: _Asked, started: float, routed: Routed, facts: _Facts) -> Decision:
        why = f"The profile is stale: {routed.stale}."
        detail = f"{why} {_shown(facts.probability)}, uncalibrated; no threshold was applied."
        decision = self._decision(asked, started, routed, detail, facts)
        logger.warning("query %s: %s", decision.id, why)
        if routed.route is None and decision.enforced:
            error = StaleProfile(why, hint="Make one for what is judged now, or set on_stale.")
            error.tried, error.decision = facts.tried, decision
            raise error
        return decision

    def _unmeasured(self, asked: _Asked, started: float, error: JudgeError) -> Decision:
        routed = route_unmeasured(self.policy, Reason(error.kind))
        parts = [error.message, error.hint]
        if asked.attempts > 1:
            # One attempt of a chain is a round through all its judges.
            parts.insert(1, f"({asked.attempts} {'rounds' if asked.left else 'attempts'})")
        if error.kind == "timeout":
            parts.insert(1, f"The deadline is {self.policy.deadline:g} s.")
        detail = " ".join(part for part in parts if part)
        decision = self._decision(asked, started, routed, detail, tried=tuple(asked.left))
        self._log_unmeasured(decision, error.kind)
        if routed.route is None and decision.enforced:
            error.decision = decision
            raise error
        return decision

    def _log_unmeasured(self, decision: Decision, kind: str) -> None:
        """In an outage one line of a kind in a few seconds, with a count; an audit has them all."""
        held = self._complaints.held_back(kind)
        route = "raised" if decision.route is None else decision.route.value
        breaker = breaker_of(self.judge)
        told = [
            f"query {decision.id}{f' of {self.deployment}' if self.deployment else ''} not "
            f"measured, {kind}: {decision.detail}",
            f"Route: {route}.",
            f"Judge: {breaker.name}." if breaker else "",
            f"{held} more since the last such line." if held else "",
        ]
        level = logging.DEBUG if held is None else logging.WARNING
        logger.log(level, "%s", " ".join(part for part in told if part))

    def _decision(
        self,
        asked: _Asked,
        started: float,
        routed: Routed,
        detail: str,
        facts: _Facts | None = None,
        tried: tuple[Tried, ...] = (),
    ) -> Decision:
        verdict = None if facts is None else facts.verdict
        query, route, reason = asked.query, routed.route, routed.reason
        decision = Decision(
            id=uuid.uuid4().hex,
            time=datetime.now(UTC),
            route=route,
            reason=reason,
            detail=detail,
            message=self.policy.messages.text(route, query.lang, judged=not reason.unmeasured),
            probability=None if facts is None else facts.probability.p,
            low=None if facts is None else facts.probability.low,
            high=None if facts is None else facts.probability.high,
            verdict=verdict,
            calibrated=routed.calibrated,
            thresholds=routed.thresholds,
            mode=asked.mode or self.policy.mode_of(query.question_hash),
            deployment=self.deployment,
            model=self._model_of(verdict),
            fingerprint=self.judge.fingerprint if verdict is None else verdict.fingerprint,
            cached=facts is not None and facts.cached,
            elapsed_seconds=time.perf_counter() - started,
            query=query,
            tried=tried if facts is None else facts.tried,
            profile=self.profile if facts is None else facts.profile,
            cost=self._cost(asked, facts),
            currency=None if self.price is None else self.price.currency,
            attempts=asked.attempts,
            breaker=asked.breaker,
        )
        logger.debug("query %s: %s, %s", decision.id, decision.route, decision.reason)
        if verdict is not None and verdict.tried:
            # Or a judge could be down for weeks without anybody noticing.
            logger.warning("query %s fell back: %s", decision.id, _left(verdict.tried))
        return decision

    def _cost(self, asked: _Asked, facts: _Facts | None) -> float | None:
        if self.price is None:
            return None
        if not asked.attempts:
            return 0.0
        # The price is that of one judge; after a fallback another one measured as well.
        return None if facts is None or facts.tried else self.price.of(facts.verdict.usage)

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
        with self.limit.held(asked.seconds_left) as seconds, one_query():
            try:
                return self.retry.call(partial(self._attempt, asked), seconds)
            except NotAsked as error:
                raise asked.cause(error) from None

    def _attempt(self, asked: _Asked, seconds: float) -> Verdict:
        asked.begin(self.judge)
        try:
            return ask(self.judge, asked.query, seconds, self._workers)
        except JudgeError as error:
            asked.failed(error)
            raise

    async def _ameasure(self, asked: _Asked) -> _Measured:
        if (cache := self.cache) is None:
            return _Measured(await self._averdict(asked), cached=False)
        key = cache_key(self.judge.fingerprint, asked.query)
        kept = await _through(cache, partial(cache.get, key), asked.seconds_left)
        if kept is not None:
            return _Measured(kept, cached=True)
        verdict = await self._averdict(asked)
        if keepable(verdict):
            await _through(cache, partial(cache.put, key, verdict), asked.seconds_left)
        return _Measured(verdict, cached=False)

    async def _averdict(self, asked: _Asked) -> Verdict:
        async with self.limit.aheld(asked.seconds_left) as seconds:
            with one_query():
                try:
                    return await self.retry.acall(partial(self._aattempt, asked), seconds)
                except NotAsked as error:
                    raise asked.cause(error) from None

    async def _aattempt(self, asked: _Asked, seconds: float) -> Verdict:
        asked.begin(self.judge)
        try:
            return await aask(self.judge, asked.query, seconds)
        except JudgeError as error:
            asked.failed(error)
            raise


def _outcome(decide: Callable[[], Decision]) -> tuple[Decision, JudgeError | None]:
    """The decision, and the error to raise where the policy is to."""
    try:
        return decide(), None
    except JudgeError as error:
        return _recorded(error), error


async def _aoutcome(decide: Awaitable[Decision]) -> tuple[Decision, JudgeError | None]:
    try:
        return await decide, None
    except JudgeError as error:
        return _recorded(error), error


def _recorded(error: JudgeError) -> Decision:
    if isinstance(error.decision, Decision):
        return error.decision
    raise error


def _tell(observer: Observer, decision: Decision) -> None:
    try:
        observer.observe(decision)
    except Exception as error:
        logger.error("query %s: an observer failed: %s", decision.id, described(error))


def _tell_each(observers: Iterable[Observer], decision: Decision) -> None:
    for observer in observers:
        _tell(observer, decision)


async def _through(cache: Cache, call: Callable[[], T], seconds: float) -> T | None:
    """A call of a cache, on a thread where it may hold up the event loop; ``None`` = it is late,
    which is as good as a miss."""
    if not cache.blocks:
        return call()
    future = await aside(call, seconds)
    return future.result() if future.done() else None


def _told(facts: _Facts, routed: Routed) -> str:
    """A measured decision's reason, in sentences."""
    verdict, cuts = facts.verdict, routed.thresholds
    told = [
        f"{_shown(facts.probability)}; "
        f"answer at {cuts.answer_at:g}, refuse below {cuts.refuse_below:g}."
    ]
    if verdict.coverage < 1:
        told.append(f"{_part(verdict.coverage)} of the contexts was judged.")
    if facts.tried:
        told.append(_left(facts.tried))
    if routed.route is Route.CLARIFY and (verdict.p_underspecified or 0) > 0.5:
        told.append(f"The question may be under-specified (P = {verdict.p_underspecified:.2f}).")
    return " ".join(told)


def _shown(probability: Probability) -> str:
    p, low, high = probability
    return f"P(sufficient) = {p:.4f} in [{low:.4f}, {high:.4f}]"


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


def _observers(observers: object) -> tuple[Observer, ...]:
    given: tuple[object, ...] = (observers,)
    if isinstance(observers, Iterable):
        given = tuple(cast("Iterable[object]", observers))
    for each in given:
        if not isinstance(each, Observer) or isinstance(each, type):
            raise ConfigError(
                f"{type(each).__name__} is not an observer.",
                hint='Pass a list of them, e.g. observers=[guard.audit.AuditLog("audit.jsonl")].',
            )
    return cast("tuple[Observer, ...]", given)


def _require_judge(judge: object) -> None:
    if not isinstance(judge, Judge):
        raise ConfigError(
            f"{type(judge).__name__} is not a judge.",
            hint="Wrap a client, e.g. guard.judges.ChatJudge(client, model=…).",
        )
