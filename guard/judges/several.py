"""Several judges as one: a chain in which the next stands in for the last, or a mean of all."""

import asyncio
import hashlib
import json
import statistics
import time
from collections.abc import Coroutine, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypedDict

from guard.ask import aask, ask, asking
from guard.breaker import Breakable, one_query
from guard.errors import (
    ConfigError,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    NotAsked,
    Tried,
    Unmeasured,
    UnmeasuredKind,
)
from guard.flow import arun, run
from guard.judge import Fitted, Judge
from guard.judges import close
from guard.loop import shared_loop
from guard.odds import expit, logit
from guard.profile import Profile
from guard.query import Query
from guard.verdict import Usage, Verdict
from guard.worker import shared_workers

_SAMPLES = "samples:"  # How the fingerprints of sampled judges begin.
_LAST_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Link:
    """One judge of a chain.

    Attributes:
        judge: asked when all before it gave no verdict.
        profile: the thresholds for this judge; ``None`` = for the first judge those of the gate's
            policy, if they are set, for one with the same fingerprint whichever are the first
            one's, and otherwise those that it brings (`guard.judge.Fitted`).
    """

    judge: Judge
    profile: Profile | None = None


def _with_brought(link: Link, first: Link) -> Link:
    """A later link, with what its judge brings unless it is the first one's judge once more."""
    # What stands there may be no judge at all, which is told next.
    is_first_again = getattr(first.judge, "fingerprint", None) == getattr(
        link.judge, "fingerprint", None
    )
    if link.profile is not None or is_first_again:
        return link
    return Link(link.judge, _brought_by(link.judge))


def _brought_by(judge: Judge) -> Profile | None:
    return judge.default_profile if isinstance(judge, Fitted) else None


class _Ask(NamedTuple):
    judge: Judge
    query: Query
    seconds: float


class _About(TypedDict):
    hint: str | None
    kind: UnmeasuredKind
    status: int | None
    request_id: str | None


class Chain:
    """Judges one after the other: where one gives no verdict, the next is asked.

    All of it happens inside one deadline. Each judge but the last gets an equal share of what is
    left, so a slow one leaves room for the next. The verdict is that of one judge, never a mixture,
    and the gate routes it by the profile of that judge's link. ``Verdict.tried`` says who was asked
    before and why each was left.

        Chain([Link(hosted), Link(local, Profile(Thresholds(0.9, 0.2)))])

    Where none gives a verdict, the error of the last one is raised, with ``tried`` naming all. It
    is retryable if any of theirs was.

    Args:
        links: in the order in which they are asked; a bare judge is a link without a profile.
        check_profiles: ``False`` leaves a profile for another judge to the gate, which finds its
            verdicts stale: for policies with ``on_stale``.

    Raises:
        ConfigError: fewer than two links, a chain inside a chain, or a later judge without a
            profile that is not the first one at another address.
        ProfileMismatch: a profile was fitted for another judge than it stands beside, and
            ``check_profiles``.
    """

    cancellable = True

    def __init__(self, links: Sequence[Link | Judge], *, check_profiles: bool = True) -> None:
        each = [one if isinstance(one, Link) else Link(one) for one in links]
        self.links = (*each[:1], *(_with_brought(link, each[0]) for link in each[1:]))
        _require_links(self.links)
        if check_profiles:
            _require_own_profiles(self.links)
        self.model: str | None = self.links[0].judge.model
        self.fingerprint = _joint("chain", [link.judge.fingerprint for link in self.links])

    @property
    def default_profile(self) -> Profile | None:
        """What its first judge brings; ``None`` where that has a profile, or brings none."""
        return None if self.links[0].profile else _brought_by(self.links[0].judge)

    def profile_of(self, verdict: Verdict) -> Profile | None:
        """The profile of the link that gave this verdict; ``None`` = the gate's policy holds."""
        # By place, not by fingerprint: the same model elsewhere has the same one, and a judge that
        # wraps others may pass on theirs. As many were left as links stand before it; in a record
        # those of the rounds before are named as well, in each of which all links were left.
        link = self.links[len(verdict.tried) % len(self.links)]
        return self.links[0].profile if link.profile is None else link.profile

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        """Measures one query; see `guard.judge.Judge`."""
        return run(self._trip(query, timeout), lambda asked: ask(*asked))

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        """As `judge`; cancelling it cancels whichever judge is being asked."""
        return await arun(self._trip(query, timeout), lambda asked: aask(*asked))

    def close(self) -> None:
        """Closes every judge."""
        for link in self.links:
            close(link.judge)

    async def aclose(self) -> None:
        """Closes every judge."""
        await asyncio.to_thread(self.close)

    def _trip(self, query: Query, timeout: float) -> Generator[_Ask, Verdict, Verdict]:
        # Before the caller's own clock strikes, which would hide who was asked.
        end = time.monotonic() + timeout - min(_LAST_SECONDS, timeout / 4)
        tried, errors = list[Tried](), list[JudgeError]()
        for number, link in enumerate(self.links):
            started = time.monotonic()
            share = max(0.001, end - started) / (len(self.links) - number)
            try:
                verdict = yield _Ask(link.judge, query, share)
            except JudgeError as error:
                errors.append(error)
                tried.append(_tried(link.judge, error, time.monotonic() - started))
            else:
                model = verdict.model or link.judge.model
                return replace(verdict, model=model, tried=tuple(tried))
        late = time.monotonic() >= end
        raise _all_failed(errors, tried, wait=timeout if late else None) from errors[-1]


class Mean:
    """Several judges asked at once; their verdicts are averaged in log-odds.

    Averaging a judge over both orders of its labels (``Prompt(SWAPPED_TEMPLATE)``) takes out its
    preference for one place; averaging two models takes out some of each one's noise. Where one
    gives no verdict there is none: a mean of fewer would be another judge. A probability rounded to
    0 or 1 counts as the middle of its bounds; a bound of 0 or 1 is one of the mean as well.

    Args:
        judges: two or more, none of them a chain or a mean; sampled judges only among themselves.

    Raises:
        ConfigError: fewer than two judges, or ones that must not be mixed.
    """

    cancellable = True

    def __init__(self, judges: Sequence[Judge]) -> None:
        self.judges = tuple(judges)
        _require_many(self.judges, "A mean")
        _require_alike(self.judges)
        self.model: str | None = " + ".join(dict.fromkeys(str(one.model) for one in self.judges))
        self.fingerprint = _joint("mean", sorted(one.fingerprint for one in self.judges))

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        """Measures one query; see `guard.judge.Judge`."""
        # On a loop of ours: the first failure is to end the wait for all, and to cancel the others.
        return self.of(shared_loop.run(self._from_thread(query, timeout), timeout))

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        """As `judge`; cancelling it cancels all of them."""
        seconds = _a_little_less(timeout)
        calls = [aask(one, query, seconds) for one in self.judges]
        with one_query():
            return self.of(await _together(calls))

    def use_breaker(self, *, failures: int, seconds: float) -> None:
        """Does so for each of its judges that has one."""
        for one in self.judges:
            if isinstance(one, Breakable):
                one.use_breaker(failures=failures, seconds=seconds)

    def close(self) -> None:
        """Closes every judge."""
        for one in self.judges:
            close(one)

    async def aclose(self) -> None:
        """Closes every judge."""
        await asyncio.to_thread(self.close)

    async def _from_thread(self, query: Query, timeout: float) -> list[Verdict]:
        seconds = _a_little_less(timeout)

        def call(one: Judge) -> Coroutine[Any, Any, Verdict]:
            if one.cancellable:
                return aask(one, query, seconds)
            return _ask_on_a_worker(one, query, seconds)

        with one_query():
            return await _together([call(one) for one in self.judges])

    def of(self, verdicts: Sequence[Verdict]) -> Verdict:
        """The mean of one verdict from each judge."""
        p_true = _mean(map(_unrounded, verdicts))
        low, high = [one.low for one in verdicts], [one.high for one in verdicts]
        doubts = [one.p_underspecified for one in verdicts if one.p_underspecified is not None]
        return Verdict(
            p_true=p_true,
            # A bound as near as a rounding error must not come to lie on the other side.
            # Infinite odds outweigh all others: what nobody has bounded stays unbounded.
            low=0.0 if 0 in low else min(p_true, _mean(low)),
            high=1.0 if 1 in high else max(p_true, _mean(high)),
            mass=min(one.mass for one in verdicts),
            emitted=None,
            signal="mean",
            fingerprint=self.fingerprint,
            model=self.model,
            coverage=min(one.coverage for one in verdicts),
            history_coverage=min(one.history_coverage for one in verdicts),
            usage=Usage.total(one.usage for one in verdicts),
            p_underspecified=_mean(doubts) if len(doubts) == len(verdicts) else None,
        )


async def _ask_on_a_worker(judge: Judge, query: Query, timeout: float) -> Verdict:
    with asking(judge, timeout):
        return await shared_workers.acall(partial(judge.judge, query, timeout=timeout), timeout)


def _a_little_less(timeout: float) -> float:
    """Seconds for each of several judges: they are to end before their caller's own clock strikes.
    It would cancel them, and a cancelled request tells a breaker nothing."""
    return timeout - min(_LAST_SECONDS, timeout / 4)


def _unrounded(verdict: Verdict) -> float:
    """P(True); where an endpoint has rounded it to certainty, the middle of where it may lie."""
    return (verdict.low + verdict.high) / 2 if verdict.p_true in (0, 1) else verdict.p_true


def _mean(probabilities: Iterable[float]) -> float:
    return expit(statistics.fmean(map(logit, probabilities)))


async def _together(calls: Sequence[Coroutine[Any, Any, Verdict]]) -> list[Verdict]:
    """All results; the first failure is raised, and ends the others."""
    # Tasks take over the context in which they are made.
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


# ── A chain's record ─────────────────────────────────────────────────────────────────────────────


def _tried(judge: Judge, error: JudgeError, seconds: float) -> Tried:
    return Tried(judge.fingerprint, judge.model, error.kind, error.message, seconds)


def _all_failed(
    errors: Sequence[JudgeError], tried: Sequence[Tried], wait: float | None
) -> JudgeError:
    """The last one's error for all of them; retryable where one of them was.

    ``wait``: whoever had no time left need not try again within it.
    """
    last = errors[-1]
    why = ", ".join(f"{one.model or one.fingerprint}: {one.kind}" for one in tried)
    message = f"None of {len(tried)} judges gave a verdict ({why}). The last: {last.message}"
    about = _About(hint=last.hint, kind=last.kind, status=last.status, request_id=last.request_id)
    failure: JudgeError
    if all(isinstance(error, NotAsked) for error in errors):
        failure = NotAsked(message, hint=last.hint, kind=last.kind, retry_after=_soonest(errors))
    elif any(error.retryable for error in errors):
        failure = JudgeUnavailable(message, retry_after=wait or _soonest(errors), **about)
    else:
        # A judge's own kind of error may be made in another way than ours.
        known = (kind for kind in (JudgeRejected, Unmeasured) if isinstance(last, kind))
        failure = next(known, JudgeError)(message, **about)
    failure.tried = tuple(tried)
    return failure


def _soonest(errors: Sequence[JudgeError]) -> float | None:
    """Seconds until one of those that may serve later is to be asked again, where all say so."""
    retryable = [error for error in errors if isinstance(error, JudgeUnavailable | NotAsked)]
    waits = [error.retry_after for error in retryable]
    asked = [wait for wait in waits if wait is not None]
    return min(asked) if asked and len(asked) == len(retryable) else None


# ── What may stand together ──────────────────────────────────────────────────────────────────────


def _require_links(links: Sequence[Link]) -> None:
    _require_many([link.judge for link in links], "A chain")
    first = links[0].judge.fingerprint
    for number, link in enumerate(links):
        if isinstance(link.judge, Chain):
            raise ConfigError("A chain stands inside a chain.", hint="List its links instead.")
        if link.profile is None and link.judge.fingerprint != first:
            raise ConfigError(
                f"Judge {number + 1} of the chain ({link.judge.fingerprint}) has no profile.",
                hint="Thresholds for one judge are not thresholds for another: write "
                "Link(judge, Profile(Thresholds(answer_at=…, refuse_below=…))).",
            )


def _require_own_profiles(links: Sequence[Link]) -> None:
    for link in links:
        if link.profile is not None:
            link.profile.require_for(link.judge.fingerprint)


def _require_many(judges: Sequence[object], what: str) -> None:
    if len(judges) < 2:
        raise ConfigError(f"{what} needs at least two judges.", hint="Use the judge itself.")
    for one in judges:
        if not isinstance(one, Judge):
            raise ConfigError(f"{type(one).__name__} is not a judge.")


def _require_alike(judges: Sequence[Judge]) -> None:
    if any(isinstance(one, Chain) for one in judges):
        raise ConfigError(
            "A mean cannot hold a chain: nobody could say whose verdicts it averages.",
            hint="Make a chain of means instead.",
        )
    if any(hasattr(one, "judges") for one in judges):
        raise ConfigError(
            "A mean stands inside a mean, or another judge made of several.",
            hint="List its judges instead.",
        )
    sampled = [one.fingerprint.startswith(_SAMPLES) for one in judges]
    if any(sampled) and not all(sampled):
        raise ConfigError(
            "A mean cannot mix counted samples with measured probabilities.",
            hint="Put the sampled judge into a chain, with a profile of its own.",
        )


def _joint(kind: str, fingerprints: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(fingerprints).encode()).hexdigest()
    return f"{kind}:{digest[:16]}"
