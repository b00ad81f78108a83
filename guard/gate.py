"""The gate: one query's trip from contexts to decision."""

import logging
import time
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from guard._require import require_instance
from guard.ask import aask, ask
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

logger = logging.getLogger("guard")

_Trip = Generator[Query, Verdict, Decision]


class Gate:
    """Decides, before an answer is written, whether it may be.

    One gate serves any number of threads and tasks.

        gate = Gate(judge, Policy(thresholds=Thresholds(answer_at=0.85, refuse_below=0.30)))
        decision = gate.check("When was it built?", ["The bridge was opened in 1932."])

    Args:
        judge: measures P(sufficient context); see `guard.judge.Judge`.
        policy: what follows from the measurement, and from a failure to measure.
        retry: which failures are tried again. Clients must not retry on their own as well.
        deployment: a name for the record.
        workers: threads for judges that cannot be interrupted.

    Raises:
        ConfigError: an argument is not what it must be, e.g. ``judge`` is not a judge.
    """

    def __init__(
        self,
        judge: Judge,
        policy: Policy | None = None,
        *,
        retry: Retry | None = None,
        deployment: str | None = None,
        workers: Workers = shared_workers,
    ) -> None:
        _require_judge(judge)
        self.judge = judge
        self.policy = Policy() if policy is None else policy
        self.retry = Retry() if retry is None else retry
        require_instance("policy", self.policy, Policy)
        require_instance("retry", self.retry, Retry)
        self.deployment = deployment
        self._workers = workers
        # A chain's later judges have thresholds of their own.
        none: Mapping[str, Profile] = {}
        self._profiles = judge.profiles if isinstance(judge, Profiled) else none

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
        try:
            verdict = yield query
        except JudgeError as error:
            return self._unmeasured(query, started, error)
        return self._measured(query, started, verdict)

    def _measured(self, query: Query, started: float, verdict: Verdict) -> Decision:
        profile = self._profiles.get(verdict.fingerprint)
        cuts = self.policy.thresholds if profile is None else profile.thresholds
        route, reason = self.policy.route(
            verdict.low, verdict.high, verdict.coverage, thresholds=cuts
        )
        detail = _told(verdict, cuts, route)
        decision = self._decision(query, started, route, reason, detail, verdict, cuts)
        if verdict.tried:
            # Or a judge could be down for weeks without anybody noticing.
            logger.warning("query %s fell back: %s", decision.id, _left(verdict))
        return decision

    def _unmeasured(self, query: Query, started: float, error: JudgeError) -> Decision:
        route = self.policy.route_unmeasured(error.kind)
        parts = [error.message, error.hint]
        if error.attempts > 1:
            parts.insert(1, f"({error.attempts} attempts)")
        if error.kind == "timeout":
            parts.insert(1, f"The deadline is {self.policy.deadline:g} s.")
        detail = " ".join(part for part in parts if part)
        decision = self._decision(
            query, started, route, Reason(error.kind), detail, tried=error.tried
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
            model=self.judge.model,
            fingerprint=self.judge.fingerprint if verdict is None else verdict.fingerprint,
            cached=False,
            elapsed_seconds=time.perf_counter() - started,
            query=query,
            tried=tried if verdict is None else verdict.tried,
        )
        logger.debug("query %s: %s, %s", decision.id, decision.route, decision.reason)
        return decision

    def _measure(self, query: Query) -> Verdict:
        return self.retry.call(partial(self._attempt, query), self.policy.deadline)

    def _attempt(self, query: Query, seconds: float) -> Verdict:
        return ask(self.judge, query, seconds, self._workers)

    async def _ameasure(self, query: Query) -> Verdict:
        return await self.retry.acall(partial(self._aattempt, query), self.policy.deadline)

    async def _aattempt(self, query: Query, seconds: float) -> Verdict:
        return await aask(self.judge, query, seconds)


def _told(verdict: Verdict, cuts: Thresholds, route: Route) -> str:
    """A measured decision's reason, in sentences."""
    told = [
        f"P(sufficient) = {verdict.p_true:.4f} in [{verdict.low:.4f}, {verdict.high:.4f}]; "
        f"answer at {cuts.answer_at:g}, refuse below {cuts.refuse_below:g}."
    ]
    if verdict.coverage < 1:
        told.append(f"Only {verdict.coverage:.0%} of the contexts was judged.")
    if verdict.tried:
        told.append(_left(verdict))
    if route is Route.CLARIFY and (verdict.p_underspecified or 0) > 0.5:
        told.append(f"The question may be under-specified (P = {verdict.p_underspecified:.2f}).")
    return " ".join(told)


def _left(verdict: Verdict) -> str:
    """Which judges were left before this verdict came, in a sentence."""
    left = ", ".join(f"{one.model or one.fingerprint} ({one.kind})" for one in verdict.tried)
    return f"No verdict came from {left}."


def _require_judge(judge: object) -> None:
    if not isinstance(judge, Judge):
        raise ConfigError(
            f"{type(judge).__name__} is not a judge.",
            hint="Wrap a client, e.g. guard.judges.ChatJudge(client, model=…).",
        )
