"""A policy: from probability and bounds, or from a failure to measure, to a route."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

from guard._json import as_map
from guard._require import require_instance, require_number, require_one_of
from guard.decision import Mode, Reason, Route
from guard.errors import UNMEASURED_KINDS, ConfigError, UnmeasuredKind
from guard.thresholds import Thresholds

OnUnmeasured = Literal["answer", "clarify", "refuse", "raise"]
"""What to do with a query that could not be measured."""

Message = str | Mapping[str, str]
"""One text for all, or texts by language tag with ``default`` for the rest."""

DEFAULT_ROUTE: OnUnmeasured = "refuse"
MIN_DEADLINE, MAX_DEADLINE = 0.001, 86_400.0
"""Seconds: a millisecond, and a day; much longer waits overflow the clocks of threads."""
DEFAULT_THRESHOLDS = Thresholds(answer_at=0.85, refuse_below=0.30)


@dataclass(frozen=True, slots=True)
class Messages:
    """What the user is told.

    Attributes:
        clarify: asks the user back.
        refuse: says that the documents do not hold the answer.
        unmeasured: takes the place of both where nothing was judged, so that an outage of the
            judge is not told as a lack of documents.
    """

    clarify: Message = (
        "I found something related, but not enough to answer this with confidence. "
        "Could you rephrase the question or add detail?"
    )
    refuse: Message = "I don't have enough information in my documents to answer that."
    unmeasured: Message = "I cannot check my documents right now. Please try again later."

    def __post_init__(self) -> None:
        for name in ("clarify", "refuse", "unmeasured"):
            message: Message = getattr(self, name)
            _require_texts(f"messages.{name}", message)
            object.__setattr__(self, name, _own(message))
            if not isinstance(message, str) and "default" not in message:
                raise ConfigError(
                    f"messages.{name} has texts by language but no `default`.",
                    hint=f'Add messages.{name}.default = "…" for every other language.',
                )

    def text(self, route: Route | None, lang: str | None, *, judged: bool = True) -> str | None:
        """The message for a route in a language; ``None`` where the user gets the answer itself."""
        if route not in (Route.CLARIFY, Route.REFUSE):
            return None
        message = self.clarify if route is Route.CLARIFY else self.refuse
        message = message if judged else self.unmeasured
        return message if isinstance(message, str) else _by_language(message, lang)


def _own(value: str | Mapping[str, str]) -> object:
    """A mapping's unchangeable copy: what the caller does to theirs later changes no value."""
    return MappingProxyType(dict(value)) if isinstance(value, Mapping) else value


def _require_texts(name: str, message: object) -> None:
    texts = list(as_map(message).values()) or [message]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfigError(
            f"{name} is blank, or not text.",
            hint="Write a text, or a mapping from language to text with a `default`.",
        )


def _by_language(texts: Mapping[str, str], lang: str | None) -> str:
    # "zh-Hant-TW" falls back on "zh-Hant", that on "zh", and that on "default" (RFC 4647).
    by_tag = {tag.casefold(): text for tag, text in texts.items()}
    tag = (lang or "").casefold()
    while tag and tag not in by_tag:
        tag = tag.rpartition("-")[0]
    return by_tag.get(tag, texts["default"])


@dataclass(frozen=True, slots=True)
class Policy:
    """What a deployment does with what was, or was not, measured.

    Attributes:
        thresholds: the two cut-offs.
        on_unmeasured: a route or ``"raise"`` for queries that could not be measured; or one for
            each kind (`guard.errors.UNMEASURED_KINDS`), with ``default`` for the rest
            (``"refuse"`` unless given). Such a decision has no probability, whatever its route.
        messages: what the user is told on ``clarify`` and ``refuse``.
        deadline: seconds for the whole trip of one query: requests, retries and waits.
        mode: ``"enforce"``, or ``"shadow"``: decide and record, but let every answer through.

    Raises:
        ConfigError: an unknown kind or route, or a deadline that is not positive.
    """

    thresholds: Thresholds = DEFAULT_THRESHOLDS
    on_unmeasured: OnUnmeasured | Mapping[str, OnUnmeasured] = DEFAULT_ROUTE
    messages: Messages = field(default_factory=Messages)
    deadline: float = 10.0
    mode: Mode = "enforce"

    def __post_init__(self) -> None:
        require_instance("thresholds", self.thresholds, Thresholds)
        require_instance("messages", self.messages, Messages)
        require_one_of("mode", self.mode, get_args(Mode))
        require_number("deadline", self.deadline, MIN_DEADLINE, MAX_DEADLINE)
        object.__setattr__(self, "on_unmeasured", _own(self.on_unmeasured))
        for kind, choice in self._choices.items():
            require_one_of("on_unmeasured kind", kind, (*UNMEASURED_KINDS, "default"))
            require_one_of(f"on_unmeasured.{kind}", choice, get_args(OnUnmeasured))

    @property
    def _choices(self) -> Mapping[str, OnUnmeasured]:
        choices = self.on_unmeasured
        return choices if isinstance(choices, Mapping) else {"default": choices}

    def route(
        self,
        low: float,
        high: float,
        coverage: float = 1.0,
        *,
        thresholds: Thresholds | None = None,
    ) -> tuple[Route, Reason]:
        """The route of a measured query.

        Args:
            low, high: bounds in [0, 1] on its calibrated probability.
            coverage: share in (0, 1] of the contexts that was judged. What was not seen may hold
                the evidence, so a partly judged query can be answered but not refused.
            thresholds: those of the judge that measured it; ``None`` = the policy's own.
        """
        cuts = self.thresholds if thresholds is None else thresholds
        if low >= cuts.answer_at:
            return Route.ANSWER, Reason.SUFFICIENT
        if high < cuts.refuse_below:
            if coverage < 1:
                return Route.CLARIFY, Reason.PARTIAL_COVERAGE
            return Route.REFUSE, Reason.INSUFFICIENT
        return Route.CLARIFY, Reason.UNCERTAIN

    def route_unmeasured(self, kind: UnmeasuredKind) -> Route | None:
        """The route of a query that could not be measured; ``None`` = raise the judge's error."""
        choices = self._choices
        choice = choices.get(kind) or choices.get("default", DEFAULT_ROUTE)
        return None if choice == "raise" else Route(choice)
