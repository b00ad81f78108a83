"""The errors of rag-guard, one tree.

    GuardError
    ├── ConfigError            a file, variable or argument is wrong (raised at construction)
    │   └── ProfileMismatch    fitted for another model, prompt, signal or packing
    └── JudgeError             this query could not be measured; the policy decides its route
        ├── JudgeUnavailable   worth another try: timeout, HTTP 429, 5xx, no connection
        ├── JudgeRejected      another try is pointless: key, model name, bad request, spent quota
        ├── NotAsked           it was not even asked: too many at once, or its breaker is open
        ├── Unmeasured         the judge answered, but its answer holds no usable verdict
        └── StaleProfile       the judge answered, but the profile was fitted to something else

What a client raised stays reachable as ``original``.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar, get_args

J = TypeVar("J", bound="JudgeError")

UnmeasuredKind = Literal[
    "timeout",
    "unavailable",
    "rate_limited",
    "rejected",
    "no_logprobs",
    "low_mass",
    "refusal",
    "content_filter",
    "context_too_long",
    "malformed",
    "overloaded",
    "circuit_open",
]
"""Why a query could not be measured; a policy may name a route for each."""

UNMEASURED_KINDS: tuple[UnmeasuredKind, ...] = get_args(UnmeasuredKind)


@dataclass(frozen=True, slots=True)
class Tried:
    """A judge of a chain that gave no verdict, so that the next one was asked.

    Attributes:
        fingerprint: the judge's.
        model: the judge's model as requested, or ``None``.
        kind: why it was left, one of `UNMEASURED_KINDS`.
        detail: why, in a sentence.
        seconds: how long it took.
    """

    fingerprint: str
    model: str | None
    kind: UnmeasuredKind
    detail: str
    seconds: float


class GuardError(Exception):
    """Anything rag-guard raises on purpose.

    Attributes:
        message: what happened, in one line, without secrets or passages.
        hint: what to do about it, or ``None``.
        retryable: whether the same call may succeed a moment later.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} {self.hint}"


class ConfigError(GuardError, ValueError):
    """The caller's configuration or arguments are wrong; raised before any query is judged."""


class ProfileMismatch(ConfigError):
    """A profile was fitted for another judge than the one it is used with."""


class JudgeError(GuardError):
    """A query could not be measured.

    Attributes:
        kind: which of `UNMEASURED_KINDS` this is; the policy routes by it.
        status: the HTTP status, where there was one.
        request_id: the provider's id of the failed request, where it sent one.
        attempts: how many requests were made before giving up; set by the retry.
        tried: set by a chain: its judges, and why each gave no verdict.
        decision: set by the gate when its policy is to raise: the record of this query.
        answered: whether it says that somebody answered at the endpoint. ``False`` for what was
            found wrong before anything was sent.
        original: what the client raised. No traceback shows it: it may hold the key, or passages.
    """

    default_kind: ClassVar[UnmeasuredKind] = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        kind: UnmeasuredKind | None = None,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind: UnmeasuredKind = kind or self.default_kind
        self.status = status
        self.request_id = request_id
        self.attempts = 1
        self.tried: tuple[Tried, ...] = ()
        self.decision: object | None = None
        self.answered = not self.retryable
        self.original: BaseException | None = None


class JudgeUnavailable(JudgeError):
    """The judge could not be reached, or asked us to come back later.

    Attributes:
        retry_after: seconds the server asked us to wait, or ``None``.
    """

    retryable = True
    default_kind = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        kind: UnmeasuredKind | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, kind=kind, status=status, request_id=request_id)
        self.retry_after = retry_after


class JudgeRejected(JudgeError):
    """The judge will not serve this request however often it is sent."""

    default_kind = "rejected"


class NotAsked(JudgeError):
    """The judge was not asked, so that load or a dead endpoint is not made worse.

    Not retried: whoever is turned away is told at once.

    Attributes:
        retry_after: seconds until it may be worth asking again, or ``None``.
    """

    default_kind = "overloaded"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        kind: UnmeasuredKind | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, kind=kind)
        self.retry_after = retry_after
        self.answered = False


class Unmeasured(JudgeError):
    """The judge answered, but no probability can honestly be read from the answer."""

    default_kind = "no_logprobs"


class StaleProfile(JudgeError):
    """There is a verdict, but the profile is not for it, and the policy is to raise then.

    Its ``kind`` is ``rejected``, since another try is pointless; what is done with such queries is
    `guard.Policy.on_stale`'s choice, not ``on_unmeasured``'s.
    """

    default_kind = "rejected"


def before_asking(error: J) -> J:
    """``error``, marked: it was found before anything was sent."""
    error.answered = False
    return error


def out_of_time() -> JudgeUnavailable:
    """The error for a verdict that did not come in time."""
    return JudgeUnavailable(
        "No verdict came in time.",
        kind="timeout",
        hint="See why the judge is slow, or raise the deadline.",
    )
