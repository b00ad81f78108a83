"""A decision: what is done with one query, and the record of why."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from guard.errors import UNMEASURED_KINDS, Tried
from guard.profile import Profile
from guard.query import Query
from guard.thresholds import Thresholds
from guard.verdict import Verdict

Mode = Literal["enforce", "shadow"]
BreakerState = Literal["closed", "half_open", "open"]


class Route(StrEnum):
    """What happens to a query."""

    ANSWER = "answer"
    CLARIFY = "clarify"
    REFUSE = "refuse"


class Reason(StrEnum):
    """Why a query took its route: eight reasons of its own, and one for each way not to measure."""

    SUFFICIENT = "sufficient"
    UNCERTAIN = "uncertain"
    INSUFFICIENT = "insufficient"
    NO_CONTEXTS = "no_contexts"
    PARTIAL_COVERAGE = "partial_coverage"
    SUSPECT_PASSAGES = "suspect_passages"
    STALE_PROFILE = "stale_profile"
    CLARIFICATIONS_SPENT = "clarifications_spent"

    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    RATE_LIMITED = "rate_limited"
    REJECTED = "rejected"
    NO_LOGPROBS = "no_logprobs"
    LOW_MASS = "low_mass"
    REFUSAL = "refusal"
    CONTENT_FILTER = "content_filter"
    CONTEXT_TOO_LONG = "context_too_long"
    MALFORMED = "malformed"
    OVERLOADED = "overloaded"
    CIRCUIT_OPEN = "circuit_open"

    @property
    def unmeasured(self) -> bool:
        """Whether nothing that can be relied on was measured, although the judge was asked."""
        return self is Reason.STALE_PROFILE or self.value in UNMEASURED_KINDS


@dataclass(frozen=True, slots=True)
class Decision:
    """The record of one query; every adapter, the command line and the logs show this one.

    Attributes:
        id: unique, 32 hexadecimal digits.
        time: when the decision was made, UTC.
        route: what is done; ``None`` only where the policy is to raise the judge's error.
        reason: why, in one word.
        detail: why, in a sentence for whoever runs the system; holds no passage, question or key.
        message: what the user is told on ``clarify`` and ``refuse``; ``None`` on ``answer``.
        probability: P(sufficient context) in [0, 1], calibrated where ``calibrated`` says so;
            ``None`` = not measured. With the reason ``stale_profile`` it is the judge's own, and
            decided nothing.
        low, high: bounds on it that the judge's unseen probability mass allows; ``low`` owes
            nothing to a passage that speaks to the judge, see `Verdict.own_low`.
        verdict: what the judge said, before calibration; ``None`` = not measured.
        calibrated: whether a fitted calibrator stands between ``verdict`` and ``probability``.
        thresholds: the cut-offs that applied; where nothing was measured, or the profile is stale,
            the policy's own, which did not.
        mode: ``enforce``, or ``shadow`` (decided and recorded, never acted on).
        deployment: the name of the deployment, or ``None``.
        model: the judge's model as requested, or ``None`` where there is none; after a fallback,
            that of the judge that measured.
        fingerprint: of the judge that measured it; of the gate's judge where none did.
        cached: whether the verdict came from a cache.
        elapsed_seconds: wall-clock time of the whole trip, retries and waits included.
        query: the query itself; never part of `to_dict`.
        tried: judges of a chain that gave no verdict, in order and over all rounds, and why each
            was left.
        profile: the profile that applied, or that would have if it were not stale; ``None`` = none.
        cost: of the verdict, in ``currency``; 0 where the judge was not asked, ``None`` = unknown,
            or no price was given.
        currency: in which ``cost`` is; ``None`` = no price was given.
        attempts: how often the judge was asked, retries included; rounds where it is a chain. 0
            where the verdict was in the cache, or the judge was not to be asked.
        breaker: the state of its breaker before the last attempt: with ``half_open`` this query
            was the one that tried whether the endpoint answers again. ``None`` where it was not
            asked, or has none; a chain's judges have one each, and ``tried`` tells of them.
    """

    id: str
    time: datetime
    route: Route | None
    reason: Reason
    detail: str
    message: str | None
    probability: float | None
    low: float | None
    high: float | None
    verdict: Verdict | None
    calibrated: bool
    thresholds: Thresholds
    mode: Mode
    deployment: str | None
    model: str | None
    fingerprint: str
    cached: bool
    elapsed_seconds: float
    query: Query = field(repr=False)
    tried: tuple[Tried, ...] = ()
    profile: Profile | None = field(default=None, repr=False)
    cost: float | None = None
    currency: str | None = None
    attempts: int = 0
    breaker: BreakerState | None = None

    @property
    def enforced(self) -> bool:
        """Whether the route is acted on (``False`` in shadow mode)."""
        return self.mode == "enforce"

    @property
    def passes(self) -> bool:
        """Whether the answer may be written: the route is ``answer``, or nothing is enforced."""
        return self.route is Route.ANSWER or not self.enforced

    @property
    def measured(self) -> bool:
        """Whether a probability stands behind the route."""
        return self.probability is not None and not self.unmeasured

    @property
    def unmeasured(self) -> bool:
        """Whether the judge was asked and gave nothing to rely on (an empty set is never asked).

        Either it gave no usable verdict, or the profile is not for the one it gave.
        """
        return self.reason.unmeasured

    def to_dict(self) -> dict[str, object]:
        """The record as JSON-ready values. Question and contexts appear only as SHA-256 hashes."""
        verdict = self.verdict
        return {
            "id": self.id,
            "time": self.time.isoformat(),
            "route": None if self.route is None else self.route.value,
            "enforced": self.enforced,
            "reason": self.reason.value,
            "detail": self.detail,
            "probability": self.probability,
            "low": self.low,
            "high": self.high,
            "p_true": verdict and verdict.p_true,
            "raw_low": verdict and verdict.low,
            "raw_high": verdict and verdict.high,
            "mass": verdict and verdict.mass,
            "emitted": verdict and verdict.emitted,
            "signal": verdict and verdict.signal,
            "model": (verdict and verdict.model) or self.model,
            "served_model": verdict and verdict.model,
            "system_fingerprint": verdict and verdict.system_fingerprint,
            "fingerprint": self.fingerprint,
            "calibrated": self.calibrated,
            "profile": self.profile and self.profile.name,
            "answer_at": self.thresholds.answer_at,
            "refuse_below": self.thresholds.refuse_below,
            "deployment": self.deployment,
            "mode": self.mode,
            "coverage": verdict and verdict.coverage,
            "windows": verdict and verdict.windows,
            "seen": verdict and verdict.seen,
            "unseen": verdict and [list(run) for run in verdict.unseen],
            "history_coverage": verdict and verdict.history_coverage,
            "suspects": verdict and list(verdict.suspects),
            "suspect_hashes": verdict and self.query.hashes_of(verdict.suspects),
            "suspect_turns": verdict and list(verdict.suspect_turns),
            "p_without": verdict and verdict.p_without,
            "low_without": verdict and verdict.low_without,
            "rest_unmeasured": verdict and verdict.rest_unmeasured,
            "look_cut_short": verdict and verdict.look_cut_short,
            "cached": self.cached,
            "attempts": self.attempts,
            "breaker": self.breaker,
            "elapsed_seconds": self.elapsed_seconds,
            "usage": verdict and verdict.usage and asdict(verdict.usage),
            "cost": self.cost,
            "currency": self.currency,
            "p_underspecified": verdict and verdict.p_underspecified,
            "tried": [asdict(each) for each in self.tried],
            "message": self.message,
            "lang": self.query.lang,
            "question_hash": self.query.question_hash,
            "contexts_hash": self.query.contexts_hash,
        }
