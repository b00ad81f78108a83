"""A deployment: every key that may be set, what its value must be, and the policy they make."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from guard.breaker import FAILURES, LONGEST, MAX_FAILURES, SECONDS
from guard.config.messages import messages_of
from guard.config.toml import dotted, written
from guard.decision import Mode
from guard.errors import ConfigError, UnmeasuredKind
from guard.judges import DEFAULT_SAMPLES, KNOWN, NO_USER
from guard.labels import TRUE_FALSE, Labels
from guard.limit import IN_FLIGHT, MAX_IN_FLIGHT, MAX_WAIT, WAIT
from guard.policy import (
    DEFAULT_ROUTE,
    DEFAULT_THRESHOLDS,
    MAX_DEADLINE,
    MIN_DEADLINE,
    Message,
    Messages,
    OnUnmeasured,
    Policy,
)
from guard.price import Price
from guard.prompt import Prompt
from guard.retry import Retry
from guard.thresholds import Thresholds
from guard.windows import AT_MOST, MAX_WINDOWS

MAX_SAMPLES = 200
THRESHOLDS = ("answer_at", "refuse_below")
_BRINGING = ("embedded",)
"""Kinds of judges that bring thresholds of their own."""

TWO_CHOICES = "a profile has thresholds of its own, and others stand beside it."
ONE_CHOICE = "Take `profile` away, or answer_at and refuse_below."

Texts = str | dict[str, str]
"""One text for all, or texts by language tag with ``default`` for the rest."""

Routes = OnUnmeasured | dict[Literal[UnmeasuredKind, "default"], OnUnmeasured]
"""One route (or ``raise``) for all that could not be measured, or one for each kind."""


def _address(text: str) -> str:
    """``text`` if an HTTP client will take it; a port out of range raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("not an address")
    if not text.isprintable() or " " in text:
        raise ValueError("white space or control characters")
    if "@" in parts.netloc:
        raise _told("user_in_address", "holds a user name.", NO_USER)
    return text


def _told(
    kind: Literal["user_in_address", "contradiction"],
    message: str,
    hint: str | None,
    **more: object,
) -> PydanticCustomError:
    """An error that says more than what a key must be; `guard.config.complaints` passes it on."""
    return PydanticCustomError(kind, "{message}", {"message": message, "hint": hint, **more})


class _Part(BaseModel):
    # Inputs are hidden because pydantic would print them in tracebacks.
    model_config = ConfigDict(
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
        strict=True,
    )


class LabelTexts(_Part):
    """The two words that the judge chooses from; see `guard.labels.Labels`."""

    true: str
    false: str


class MessageTexts(_Part):
    """What the user is told; ``None`` = rag-guard's own words."""

    refuse: Texts | None = None
    clarify: Texts | None = None
    unmeasured: Texts | None = None


class PriceKeys(_Part):
    """What the judge's tokens cost; see `guard.price.Price`."""

    input: float = Field(ge=0, le=1e9)
    output: float = Field(ge=0, le=1e9)
    cached: float | None = Field(default=None, ge=0, le=1e9)
    currency: str = Field(default="USD", pattern=r"\S")


class AuditKeys(_Part):
    """Where decisions are kept; see `guard.audit.AuditLog`."""

    path: str = Field(pattern=r"\S", description='the name of a file, e.g. "audit.jsonl"')
    texts: bool = Field(default=False, description="true or false")
    text_days: int = Field(
        default=30, ge=1, le=36_500, description="a whole number of days from 1 on, e.g. 30"
    )
    max_bytes: int = Field(
        default=100_000_000,
        ge=10_000,
        le=10**12,
        description="a whole number of bytes from 10000 on, e.g. 100000000",
    )


class Table(_Part):
    """One ``[deployment.NAME]`` table as it stands in a file; `Deployment` is a complete one.

    A description says what a key must be; errors repeat it.
    """

    extends: str | None = Field(
        default=None, description="the name of another deployment in this file"
    )
    judge: str | None = Field(
        default=None,
        pattern=r"\S",
        description="a judge's name: " + ", ".join(f'"{name}"' for name in KNOWN) + " or your own",
    )
    base_url: Annotated[str, AfterValidator(_address)] | None = Field(
        default=None, description='an address such as "http://127.0.0.1:8080/v1"'
    )
    api_key_env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description='the name of the variable that holds the key, e.g. "OPENAI_API_KEY"',
    )
    model_family: str | None = Field(
        default=None,
        pattern=r"\S",
        description="text: the model's family, where its name does not say it",
    )
    api_version: str | None = Field(
        default=None, pattern=r"\S", description='Azure\'s, as text, e.g. "2024-10-21"'
    )
    samples: int = Field(
        default=DEFAULT_SAMPLES,
        ge=3,
        le=MAX_SAMPLES,
        description=f"a whole number from 3 to {MAX_SAMPLES}, e.g. 20",
    )
    ask_underspecified: bool = Field(default=False, description="true or false")
    both_orders: bool = Field(default=False, description="true or false")
    fallback: str | None = Field(
        default=None,
        description="the name of another deployment in this file, asked where this one's judge "
        "gives no verdict",
    )
    cache: str | None = Field(
        default=None,
        pattern=r"\S",
        description='"memory", or the path of a file in which verdicts are kept',
    )
    answer_at: float = Field(
        default=DEFAULT_THRESHOLDS.answer_at,
        ge=0,
        le=1,
        description="a number from 0 to 1, e.g. 0.85",
    )
    refuse_below: float = Field(
        default=DEFAULT_THRESHOLDS.refuse_below,
        ge=0,
        le=1,
        description="a number from 0 to 1, e.g. 0.30",
    )
    profile: str | None = Field(
        default=None,
        pattern=r"\S",
        description='the path of a file that `rag-guard calibrate` wrote, e.g. "bot.profile.json"',
    )
    on_stale: OnUnmeasured | None = Field(
        default=None, description='"answer", "clarify", "refuse" or "raise"'
    )
    price: PriceKeys | None = Field(
        default=None,
        description="a table, by the million tokens: { input = 0.15, output = 0.60 }, and cached "
        "and currency where they differ",
    )
    deadline: float = Field(
        default=Policy().deadline,
        ge=MIN_DEADLINE,
        le=MAX_DEADLINE,
        description=f"seconds: a number from {MIN_DEADLINE:g} to {MAX_DEADLINE:.0f}, e.g. 3.0",
    )
    attempts: int = Field(
        default=Retry().attempts, ge=1, le=100, description="a whole number from 1 to 100, e.g. 3"
    )
    on_unmeasured: Routes = Field(
        default=DEFAULT_ROUTE,
        description='"answer", "clarify", "refuse" or "raise", '
        'or one for each kind: { timeout = "clarify", default = "refuse" }',
    )
    max_in_flight: int = Field(
        default=IN_FLIGHT,
        ge=1,
        le=MAX_IN_FLIGHT,
        description=f"a whole number from 1 to {MAX_IN_FLIGHT}, e.g. {IN_FLIGHT}",
    )
    max_wait: float = Field(
        default=WAIT,
        ge=0,
        le=MAX_WAIT,
        description=f"seconds: a number from 0 to {MAX_WAIT:g}, e.g. {WAIT}",
    )
    breaker_failures: int = Field(
        default=FAILURES,
        ge=0,
        le=MAX_FAILURES,
        description=f"a whole number from 1 to {MAX_FAILURES}, e.g. {FAILURES}; 0 = no breaker",
    )
    breaker_seconds: float = Field(
        default=SECONDS,
        ge=0,
        le=LONGEST,
        description=f"seconds: a number from 0 to {LONGEST:g}, e.g. {SECONDS}",
    )
    windows: int = Field(
        default=AT_MOST,
        ge=1,
        le=MAX_WINDOWS,
        description=f"a whole number from 1 to {MAX_WINDOWS}, e.g. {AT_MOST}",
    )
    leave_out_suspects: bool = Field(default=True, description="true or false")
    trace: bool = Field(default=False, description="true or false")
    trace_texts: bool = Field(default=False, description="true or false")
    mode: Mode = Field(default="enforce", description='"enforce" or "shadow"')
    canary: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="a number from 0 to 1, e.g. 0.1: the share of questions that it is enforced "
        "for",
    )
    audit: AuditKeys | None = Field(
        default=None,
        description='a table: { path = "audit.jsonl" }, and texts, text_days and max_bytes where '
        "they differ",
    )
    min_mass: float = Field(default=0.5, ge=0, le=1, description="a number from 0 to 1, e.g. 0.5")
    max_context_chars: int | None = Field(
        default=None,
        ge=1,
        le=10**9,
        description="characters: a whole number, at least 1, e.g. 20000",
    )
    labels: LabelTexts = Field(
        default=LabelTexts(true=TRUE_FALSE.true, false=TRUE_FALSE.false),
        description='two words: { true = "Yes", false = "No" }',
    )
    messages: MessageTexts = Field(
        default=MessageTexts(),
        description='a table: { refuse = "…", clarify = { default = "…", de = "…" } }',
    )


class Deployment(Table):
    """One deployment with all it inherits and every override; its keys are those of the file.

    Raises:
        pydantic.ValidationError: a value is of the wrong type or out of range, or two values
            contradict each other. `resolve` and `load_gate` turn it into a `ConfigError`.
    """

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        for keys, part in _PARTS:
            try:
                part(self)
            except ConfigError as error:
                raise _told("contradiction", error.message, error.hint, keys=keys) from error
        return self

    def policy(self) -> Policy:
        """The policy that these keys describe.

        Raises:
            ConfigError: a message names a function that cannot be imported.
        """
        routes = self.on_unmeasured
        return Policy(
            thresholds=_thresholds(self),
            on_unmeasured=routes if isinstance(routes, str) else dict(routes.items()),
            messages=messages_of(self.messages.model_dump(exclude_none=True)),
            deadline=self.deadline,
            mode=self.mode,
            on_stale=self.on_stale,
            canary=self.canary,
            leave_out_suspects=self.leave_out_suspects,
        )

    def thresholds(self) -> Thresholds:
        """The thresholds that these keys describe."""
        return _thresholds(self)

    def price_of_tokens(self) -> Price | None:
        """The price that these keys describe."""
        return None if self.price is None else Price(**self.price.model_dump())

    def prompt(self) -> Prompt:
        """The prompt that these keys describe."""
        return Prompt(labels=_labels(self), max_context_chars=self.max_context_chars)

    def to_toml(self, name: str) -> str:
        """These keys as a ``[deployment.NAME]`` table; loading it gives an equal deployment."""
        keys = self.model_dump(exclude_none=True)
        for key in unsuited(self.judge):
            if getattr(self, key) == Table.model_fields[key].default:
                keys.pop(key, None)  # Written beside this judge, it would be an error.
        for key in () if self.model_fields_set & {*THRESHOLDS} else THRESHOLDS:
            del keys[key]  # Nor may they stand beside a profile; and written, they would be set.
        lines = [f"{key} = {written(value)}" for key, value in keys.items()]
        return "\n".join([f"[{dotted('deployment', name)}]", *lines, ""])


def _thresholds(deployment: Deployment) -> Thresholds:
    if not deployment.model_fields_set & {*THRESHOLDS}:
        return DEFAULT_THRESHOLDS
    return Thresholds(answer_at=deployment.answer_at, refuse_below=deployment.refuse_below)


def _labels(deployment: Deployment) -> Labels:
    return Labels(true=deployment.labels.true, false=deployment.labels.false)


def _messages(deployment: Deployment) -> Messages:
    # Functions stay names here: nothing is imported before a gate is made.
    texts: dict[str, Message] = deployment.messages.model_dump(exclude_none=True)
    return Messages(**texts)


def _one_choice(deployment: Deployment) -> None:
    if deployment.profile is not None and deployment.model_fields_set & {*THRESHOLDS}:
        raise ConfigError(TWO_CHOICES, hint=ONE_CHOICE)


def _texts_of_a_trace(deployment: Deployment) -> None:
    if deployment.trace_texts and not deployment.trace:
        raise ConfigError(
            "trace_texts is on, and there is no trace to hold them.",
            hint="Write `trace = true` as well, or take trace_texts away.",
        )


# What the core checks of several keys at once, and which keys those are.
_PARTS: tuple[tuple[tuple[str, ...], Callable[[Deployment], object]], ...] = (
    (("answer_at", "refuse_below"), _thresholds),
    (("labels",), _labels),
    (("messages",), _messages),
    (("profile",), _one_choice),
    (("trace_texts",), _texts_of_a_trace),
)


_HTTP = ("openai", "azure", "decisions", "systemone", "samples")
_READING = (*_HTTP, "gguf")
"""Judges that read a prompt; a script reads nothing, and an encoder reads the texts alone."""

SUITED: Mapping[str, tuple[str, ...]] = {
    "model_family": ("openai", "azure", "samples"),
    "api_version": ("azure",),
    "samples": ("samples",),
    "ask_underspecified": ("decisions", "systemone"),
    "both_orders": ("openai", "azure"),
    "breaker_failures": _HTTP,
    "breaker_seconds": _HTTP,
    "min_mass": ("openai", "azure", "samples", "gguf"),
    "max_context_chars": _READING,
    "labels": _READING,
}
"""Keys that only some kinds of judges can use, and which; all others are for every judge."""

_KINDS = {"scripted", *(name.partition(":")[0] for name in KNOWN)}


def brings(judge: str | None) -> bool:
    """Whether a judge of this name may bring thresholds of its own."""
    return _kind(judge) in _BRINGING


def unsuited(judge: str | None) -> list[str]:
    """Keys of which a judge of this name can make nothing.

    What a plug-in makes of its options only it knows: for it there are none.
    """
    kind = _kind(judge)
    return [key for key, kinds in SUITED.items() if kind in _KINDS and kind not in kinds]


def _kind(judge: str | None) -> str:
    return (judge or "").partition(":")[0]
