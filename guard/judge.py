"""The contract of a judge, written once for whoever implements one."""

from typing import Protocol, runtime_checkable

from guard.profile import Profile
from guard.query import Query
from guard.verdict import Verdict


@runtime_checkable
class Judge(Protocol):
    """Measures whether a query's contexts suffice to answer its question.

    The gate calls ``judge`` from `Gate.check` and ``ajudge`` from `Gate.acheck`, always with at
    least one non-blank context, possibly from many threads and tasks at once. Both return a
    `Verdict` or raise:

    - `JudgeUnavailable` (``retryable``) where another try may help: the gate tries again;
    - `JudgeRejected` where it cannot;
    - `Unmeasured` where the answer holds no usable verdict.

    Anything else that is raised counts as a bug in the judge and reaches the caller of the gate.
    A judge never retries on its own, and never turns trouble into a number.
    ``guard.testing.JudgeConformance`` holds the tests that every judge must pass.
    """

    @property
    def fingerprint(self) -> str:
        """Stable text over what verdicts depend on: model, prompt, labels, packing, signal."""
        ...

    @property
    def model(self) -> str | None:
        """The model's name for the record, or ``None``."""
        ...

    @property
    def cancellable(self) -> bool:
        """Whether ``judge`` itself returns within ``timeout`` and leaves nothing running.

        ``False`` makes the gate run ``judge`` on a worker thread, which is abandoned (and counted)
        when the deadline passes. ``ajudge`` must always end promptly when cancelled.
        """
        ...

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        """Measures one query within ``timeout`` seconds."""
        ...

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        """Measures one query within ``timeout`` seconds; cancelling it cancels the request."""
        ...


@runtime_checkable
class Fitted(Protocol):
    """A judge that brings thresholds of its own, for whoever has none yet."""

    @property
    def default_profile(self) -> Profile | None:
        """What a gate takes that was given neither a profile nor thresholds; ``None`` = nothing."""
        ...


@runtime_checkable
class Profiled(Protocol):
    """A judge whose verdicts may come from several judges, each with thresholds of its own."""

    def profile_of(self, verdict: Verdict) -> Profile | None:
        """The profile to route one of its verdicts by; ``None`` = the gate's policy holds."""
        ...
