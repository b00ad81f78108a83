"""The gate: one query's trip from contexts to decision."""

import copy
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, TypeVar, cast

from guard._aside import aside, worked_aside
from guard._failure import described
from guard._require import require_instance
from guard.breaker import breaker_of
from guard.cache import Cache, cache_key, keepable
from guard.decision import Decision, Mode, Reason, Route
from guard.errors import ConfigError, JudgeError, ProfileMismatch, StaleProfile, Tried
from guard.flow import arun, run
from guard.judge import Fitted, Judge, Profiled
from guard.limit import Limit
from guard.measurement import Measurement, Notes
from guard.observer import Observer
from guard.policy import Policy
from guard.price import Price
from guard.profile import Probability, Profile
from guard.query import Query
from guard.retry import Retry
from guard.routing import Routed, route_unmeasured, route_verdict
from guard.suspicion import found as rule_in
from guard.suspicion import looked
from guard.throttle import Throttle
from guard.verdict import Usage, Verdict
from guard.watch import Watcher, watched
from guard.windows import Windows
from guard.worker import Workers, shared_workers

# Seconds between two lines in the log about queries that failed alike.
_COMPLAINING = 5.0

# Seconds that a decision waits for those who are told of it.
_TELLING = 1.0

_MOST_NAMED = 10  # Passages that a sentence names,
_SHORT = 20_000  # and how many characters those have whose rule is named.

_CUT_SHORT = (
    "Time was up before all texts had been looked at for what speaks to the judge, so nothing is "
    "answered: raise the deadline, or retrieve less."
)
_UNSEEN = (
    "Retrieve fewer passages, or raise `windows` (a profile holds for as many as it was fitted to)."
)
_PARTIAL = (
    "No one request held all of them: retrieve fewer or shorter passages, or use a judge that "
    "takes more at once."
)

T = TypeVar("T")

logger = logging.getLogger("guard")


@dataclass(slots=True)
class _Asked:
    """A query on its trip.

    Attributes:
        query: what is asked.
        mode: that the caller set.
        end: of its deadline, on the monotonic clock.
        notes: what happened so far.
        rest_notes: what happened where it was judged without its suspects; that another judge of a
            chain was asked there tells nothing of the verdict.
        is_rest: whether what speaks to the judge was left out of it.
    """

    query: Query
    mode: Mode | None
    end: float
    notes: Notes = field(default_factory=Notes)
    rest_notes: Notes = field(default_factory=Notes)
    is_rest: bool = False

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.end - time.monotonic())

    def without_suspects(self, verdict: Verdict) -> "_Asked":
        """The same without what speaks to the judge."""
        query = without_suspects(self.query, verdict)
        return replace(self, query=query, notes=self.rest_notes, is_rest=True)

    @property
    def attempts(self) -> int:
        """How often the judge was asked."""
        return self.notes.attempts + self.rest_notes.attempts


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
            profile on each link instead. ``None`` = the judge's own, if it brings one
            (`guard.judge.Fitted`) and the policy's thresholds were not set.
        price: of the judge's tokens, for the record.
        observers: are told of every decision, e.g. a `guard.audit.AuditLog`; those that are
            watchers as well (`guard.watch.Watcher`), e.g. a `guard.trace.Trace`, see each query
            from its beginning.
        limit: how many queries may be judged at once, and how long others wait for their turn.
        windows: how contexts are judged that the judge cannot take at once.

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
        windows: Windows | None = None,
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
        self._given = profile
        self._brought, self.profile = self._profiles()
        self.price = price
        self.observers = _observers(observers)
        self._watchers = tuple(one for one in self.observers if isinstance(one, Watcher))
        self.limit = Limit() if limit is None else limit
        require_instance("limit", self.limit, Limit)
        self.windows = Windows() if windows is None else windows
        require_instance("windows", self.windows, Windows)
        self._measurement = Measurement(self.judge, self.retry, self.limit, self.windows, workers)
        self._complaints = Throttle(_COMPLAINING)
        self._is_thorough = False
        self._mismatch = self._require_profile()
        if price is not None:
            require_instance("price", price, Price)

    def _profiles(self) -> tuple[Profile | None, Profile | None]:
        """What the judge brings, if nobody has set thresholds; and the profile of all verdicts."""
        is_wanted = self._given is None and not self.policy.has_thresholds
        brought = (
            self.judge.default_profile if is_wanted and isinstance(self.judge, Fitted) else None
        )
        is_for_all = not isinstance(self.judge, Profiled)
        return brought, brought if is_for_all and brought else self._given

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

    def with_policy(self, policy: Policy) -> "Gate":
        """The same gate with another policy.

        Raises:
            ProfileMismatch: as where a gate is made.
        """
        gate = copy.copy(self)
        gate.policy = policy
        gate._brought, gate.profile = gate._profiles()
        gate._mismatch = gate._require_profile()
        return gate

    def with_limit(self, limit: Limit) -> "Gate":
        """The same gate with another limit on judgements in flight."""
        gate = copy.copy(self)
        gate.limit = limit
        gate._measurement = self._measurement.with_limit(limit)
        return gate

    def thorough(self) -> "Gate":
        """The same gate, which judges without suspects whatever it would do with the query.

        For surveys, whose thresholds come later.
        """
        gate = copy.copy(self)
        gate._is_thorough = True
        return gate

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
            if self._wants_rest(measured.verdict, query.lang):
                measured = yield from self._with_rest(asked, measured)
        except JudgeError as error:
            return self._unmeasured(asked, started, error)
        return self._measured(asked, started, measured)

    def _wants_rest(self, verdict: Verdict, lang: str | None) -> bool:
        """Whether to ask what the judge says without the suspects."""
        if not verdict.has_suspects or verdict.look_cut_short:
            return False
        trusted = self.route(verdict.with_suspects_trusted(), lang)
        return self._is_thorough or trusted.route is Route.ANSWER

    def _with_rest(
        self, asked: _Asked, measured: _Measured
    ) -> Generator[_Asked, _Measured, _Measured]:
        """The verdict, and what it is without the suspects; as it was where nobody can tell."""
        whole, rest = measured.verdict, asked.without_suspects(measured.verdict)
        if rest.query.is_empty:
            return measured
        try:
            again = yield rest
        except JudgeError as error:
            return measured._replace(verdict=replace(whole, rest_unmeasured=error.kind))
        said, spent = again.verdict, _spent(measured, again)
        cached = measured.cached and again.cached
        if said.fingerprint != whole.fingerprint:
            # Another judge of a chain: its numbers are not comparable.
            kind = said.tried[0].kind if said.tried else "unavailable"
            return _Measured(replace(whole, rest_unmeasured=kind, usage=spent), cached)
        verdict = replace(whole, p_without=said.p_true, low_without=said.low, usage=spent)
        return _Measured(verdict, cached)

    def _measured(self, asked: _Asked, started: float, measured: _Measured) -> Decision:
        verdict, lang = measured.verdict, asked.query.lang
        profile = self.profile_of(verdict)
        routed = self.route(verdict, lang)
        probability = routed.probability or Probability.of(verdict)
        tried = (*asked.notes.left, *verdict.tried)
        facts = _Facts(verdict, probability, profile, tried, measured.cached)
        if routed.stale is not None:
            return self._stale(asked, started, routed, facts)
        return self._decision(asked, started, routed, _told(asked.query, facts, routed), facts)

    def profile_of(self, verdict: Verdict) -> Profile | None:
        """The profile that a verdict is routed by: a chain's judges have one each."""
        if not isinstance(self.judge, Profiled):
            return self.profile
        return self.judge.profile_of(verdict) or self._brought

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
        if asked.notes.attempts > 1:
            # One attempt of a chain is a round through all its judges.
            parts.insert(
                1, f"({asked.notes.attempts} {'rounds' if asked.notes.left else 'attempts'})"
            )
        if error.kind == "timeout":
            parts.insert(1, f"The deadline is {self.policy.deadline:g} s.")
        detail = " ".join(part for part in parts if part)
        decision = self._decision(asked, started, routed, detail, tried=tuple(asked.notes.left))
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
            message=self.policy.messages.text(
                route, query.lang, judged=routed.divided or not reason.unmeasured
            ),
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
            breaker=asked.rest_notes.breaker or asked.notes.breaker,
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
        # The price is that of one judge; after a fallback another one measured as well, and of what
        # failed nobody knows.
        if facts is None or facts.tried or facts.verdict.rest_unmeasured:
            return None
        return self.price.of(facts.verdict.usage)

    def _model_of(self, verdict: Verdict | None) -> str | None:
        # After a fallback the chain's own name is that of the judge that was down.
        return verdict.model if verdict is not None and verdict.tried else self.judge.model

    def _measure(self, asked: _Asked) -> _Measured:
        verdict, cached = self._found(asked)
        return _Measured(self._looked_at(asked, verdict), cached)

    def _found(self, asked: _Asked) -> tuple[Verdict, bool]:
        """The verdict, and whether it was in the cache."""
        if (cache := self.cache) is None:
            return self._verdict(asked), False
        key = self.key_of(asked.query)
        if (kept := cache.get(key)) is not None:
            return kept, True
        verdict = self._verdict(asked)
        if keepable(verdict):
            cache.put(key, verdict)
        return verdict, False

    def key_of(self, query: Query) -> str:
        """What a verdict is kept under; into how many windows contexts go changes it as well."""
        return cache_key(f"{self.judge.fingerprint} {self.windows.at_most}", query)

    def _looked_at(self, asked: _Asked, verdict: Verdict) -> Verdict:
        """The verdict, and what of the query speaks to the judge."""
        if not self.policy.leave_out_suspects or asked.is_rest:
            return verdict
        turns = [turn.text for turn in asked.query.history]
        passages, earlier = looked(asked.query.contexts, asked.end), looked(turns, asked.end)
        return replace(
            verdict,
            suspects=passages.suspects,
            suspect_turns=earlier.suspects,
            look_cut_short=not (passages.is_whole and earlier.is_whole),
        )

    def _verdict(self, asked: _Asked) -> Verdict:
        return self._measurement.verdict(asked.query, asked.seconds_left, asked.notes)

    async def _ameasure(self, asked: _Asked) -> _Measured:
        verdict, cached = await self._afound(asked)
        look = partial(self._looked_at, asked, verdict)
        if not asked.query.is_long:
            return _Measured(look(), cached)
        future = await worked_aside(look, asked.seconds_left)
        if future.cancel() or not future.done():
            return _Measured(replace(verdict, look_cut_short=True), cached)
        return _Measured(future.result(), cached)

    async def _afound(self, asked: _Asked) -> tuple[Verdict, bool]:
        if (cache := self.cache) is None:
            return await self._averdict(asked), False
        key = self.key_of(asked.query)
        kept = await _through(cache, partial(cache.get, key), asked.seconds_left)
        if kept is not None:
            return kept, True
        verdict = await self._averdict(asked)
        if keepable(verdict):
            await _through(cache, partial(cache.put, key, verdict), asked.seconds_left)
        return verdict, False

    async def _averdict(self, asked: _Asked) -> Verdict:
        return await self._measurement.averdict(asked.query, asked.seconds_left, asked.notes)


def without_suspects(query: Query, verdict: Verdict) -> Query:
    """A query without the passages and turns that a verdict names."""
    return replace(
        query,
        contexts=_without(query.contexts, verdict.suspects),
        history=_without(query.history, verdict.suspect_turns),
    )


def _without(each: Sequence[T], places: Sequence[int]) -> tuple[T, ...]:
    left_out = set(places)
    return tuple(one for at, one in enumerate(each) if at not in left_out)


def _spent(whole: _Measured, rest: _Measured) -> Usage:
    """What both cost; what is in the cache costs nothing, unless both are: then what they did."""
    asked = [one for one in (whole, rest) if not one.cached] or [whole, rest]
    return Usage.total(one.verdict.usage for one in asked)


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


def _told(query: Query, facts: _Facts, routed: Routed) -> str:
    """A measured decision's reason, in sentences."""
    verdict, cuts = facts.verdict, routed.thresholds
    told = [
        f"{_shown(facts.probability)}; "
        f"answer at {cuts.answer_at:g}, refuse below {cuts.refuse_below:g}."
    ]
    if verdict.windows > 1:
        told.append(f"Judged in {verdict.windows} windows, and the best passages together.")
    if verdict.coverage < 1:
        once = " at once" if verdict.windows > 1 else ""
        told.append(f"{_part(verdict.coverage)} of the contexts was judged{once}.")
    if verdict.windows > 1 and verdict.seen < 1:
        told.append(f"{_part(verdict.seen)} of them was judged at all.")
    if verdict.history_coverage < 1:
        told.append(f"{_part(verdict.history_coverage)} of the earlier turns was judged.")
    if routed.reason is Reason.PARTIAL_COVERAGE:
        told.append(_PARTIAL if verdict.seen == 1 else _UNSEEN)
    if verdict.look_cut_short:
        told.append(_CUT_SHORT)
    if verdict.has_suspects:
        told.append(_suspected(query, verdict))
    if facts.tried:
        told.append(_left(facts.tried))
    if routed.route is Route.CLARIFY and (verdict.p_underspecified or 0) > 0.5:
        told.append(f"The question may be under-specified (P = {verdict.p_underspecified:.2f}).")
    return " ".join(told)


def _suspected(query: Query, verdict: Verdict) -> str:
    """What speaks to the judge, and what the query is worth without it, in a sentence."""
    turns = [turn.text for turn in query.history]
    found = [
        *_named("passage", verdict.suspects, query.contexts),
        *_named("turn", verdict.suspect_turns, turns),
    ]
    is_one = len(found) == 1
    if len(found) > _MOST_NAMED:
        found[_MOST_NAMED:] = [f"{len(found) - _MOST_NAMED} more"]
    which = f"{', '.join(found)} {'speaks' if is_one else 'speak'} to the judge"
    return f"{which[0].upper()}{which[1:]}; {_rest(verdict, 'it' if is_one else 'them')}."


def _rest(verdict: Verdict, them: str) -> str:
    """What a query is worth without its suspects, in a clause."""
    if verdict.p_without is not None:
        return f"without {them}, P(sufficient) = {verdict.p_without:.4f}, uncalibrated"
    if verdict.rest_unmeasured is not None:
        return f"judging the rest failed: {verdict.rest_unmeasured}"
    return "what the rest is worth was not judged"


def _named(kind: str, places: Sequence[int], texts: Sequence[str]) -> Generator[str]:
    """Each place, from 1, with the name of the rule that a text breaks."""
    for number, place in enumerate(places):
        # Of very long ones that would take as long again.
        known = number < _MOST_NAMED and len(texts[place]) <= _SHORT
        rule = rule_in(texts[place]) if known else None
        yield f"{kind} {place + 1}" + (f' ("{rule}")' if rule else "")


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
