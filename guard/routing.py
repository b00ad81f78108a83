"""Routing: from what a judge said of a query, or why it said nothing, to a route.

A gate, an evaluation and a replay all go through these lines, so that they cannot disagree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from guard.decision import Reason, Route
from guard.errors import UnmeasuredKind
from guard.policy import Policy
from guard.profile import Probability, Profile
from guard.thresholds import Thresholds
from guard.verdict import Verdict

ProfileOf = Callable[[Verdict], Profile | None]
"""The profile that a verdict is routed by; ``None`` = the policy's own thresholds."""


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a query goes, and by what.

    Attributes:
        route: ``None`` = the policy is to raise.
        reason: in one word.
        thresholds: those that applied; the policy's own where nothing was measured, or the profile
            is stale: then they did not.
        probability: calibrated if ``calibrated``, else the judge's own; ``None`` = not measured.
        calibrated: whether a fitted calibrator made it.
        stale: in a clause, why the profile is not for this verdict; ``None`` = it is, or there is
            none.
        divided: whether that is only because its contexts were judged in too many windows.
    """

    route: Route | None
    reason: Reason
    thresholds: Thresholds
    probability: Probability | None = None
    calibrated: bool = False
    stale: str | None = None
    divided: bool = False


def route_verdict(
    policy: Policy,
    profile: Profile | None,
    verdict: Verdict,
    lang: str | None,
    mismatch: str | None = None,
) -> Routed:
    """Routes a measured query.

    Args:
        policy: what applies where there is no profile, or where it is stale.
        profile: the one for this verdict, or ``None``.
        verdict: what the judge said.
        lang: the question's language as a BCP 47 tag, if known.
        mismatch: why no verdict of this judge fits the profile, if that was known before.
    """
    if not policy.leave_out_suspects:
        verdict = verdict.with_suspects_trusted()
    if profile is None:
        return _by_bounds(policy, policy.thresholds, Probability.of, verdict)
    if stale := mismatch or profile.difference(verdict, lang):
        divided = mismatch is None and profile.is_only_too_divided(verdict, lang)
        return Routed(
            policy.route_stale(divided=divided),
            Reason.STALE_PROFILE,
            policy.thresholds,
            Probability.of(verdict),
            stale=stale,
            divided=divided,
        )
    calibrated = profile.calibrator is not None
    return _by_bounds(policy, profile.thresholds, profile.calibrated, verdict, calibrated)


def _by_bounds(
    policy: Policy,
    thresholds: Thresholds,
    measure: Callable[[Verdict], Probability],
    verdict: Verdict,
    calibrated: bool = False,
) -> Routed:
    probability = measure(verdict)
    route, reason = policy.route(
        probability.low, probability.high, verdict.coverage, thresholds=thresholds
    )
    if verdict.has_suspects and route is not Route.ANSWER:
        trusted = measure(verdict.with_suspects_trusted())
        if trusted.low >= thresholds.answer_at:
            reason = Reason.SUSPECT_PASSAGES
    return Routed(route, reason, thresholds, probability, calibrated)


def route_unmeasured(policy: Policy, reason: Reason) -> Routed:
    """Routes a query without a verdict: nothing was retrieved, or the judge gave none."""
    if reason is Reason.NO_CONTEXTS:
        return Routed(Route.REFUSE, reason, policy.thresholds)
    route = policy.route_unmeasured(cast("UnmeasuredKind", reason.value))
    return Routed(route, reason, policy.thresholds)
