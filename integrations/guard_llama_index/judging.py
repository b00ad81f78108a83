"""Judging: what every seam does before an answer is written, in one place."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher

from guard import ConfigError, Decision, Gate, JudgeError
from guard.decision import Mode
from guard_llama_index.clarifier import Clarifier
from guard_llama_index.events import GuardDecisionEvent
from guard_llama_index.responses import texts_of

dispatcher = get_dispatcher(__name__)

Lang = str | Callable[[QueryBundle], str | None] | None
Turns = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One query to judge. Its texts are not part of its ``repr``: tracers record arguments."""

    query: QueryBundle = field(repr=False)
    nodes: Sequence[NodeWithScore] = field(repr=False)
    history: Turns = field(default=(), repr=False)
    mode: Mode | None = None


@dataclass(frozen=True, slots=True)
class Judging:
    """A gate, and what an application wants of it.

    One query may take several decisions; the gate's observers are told of one, which its caller
    gets: an audit says what was done, and no more.

    Attributes:
        gate: decides.
        lang: the language (BCP 47) of messages, or a function that tells it of a query.
        texts_in_events: whether `GuardDecisionEvent` carries question and passages.
        clarifier: writes the question to ask back; ``None`` = the policy's fixed message.
    """

    gate: Gate
    lang: Lang = None
    texts_in_events: bool = False
    clarifier: Clarifier | None = None

    def __post_init__(self) -> None:
        _require_gate(self.gate)
        _require_lang(self.lang)
        _require_flag(self.texts_in_events)
        _require_clarifier(self.clarifier)

    def judge(
        self, query: QueryBundle, nodes: Sequence[NodeWithScore], history: Turns = ()
    ) -> Decision:
        """The one decision of a query, as its caller gets it."""
        decision = self.begin(query, nodes, history)
        return decision if decision.passes else self.conclude(decision)

    async def ajudge(
        self, query: QueryBundle, nodes: Sequence[NodeWithScore], history: Turns = ()
    ) -> Decision:
        """As `judge`."""
        decision = await self.abegin(query, nodes, history)
        return decision if decision.passes else await self.aconclude(decision)

    def begin(
        self, query: QueryBundle, nodes: Sequence[NodeWithScore], history: Turns = ()
    ) -> Decision:
        """The first decision of a query; concluded, if it passes or raises. Else another may be
        made, and the last is to be concluded."""
        try:
            decision = self.decide(query, nodes, history)
        except JudgeError as error:
            if isinstance(error.decision, Decision):
                self.report(error.decision)
            raise
        return self.conclude(decision) if decision.passes else decision

    async def abegin(
        self, query: QueryBundle, nodes: Sequence[NodeWithScore], history: Turns = ()
    ) -> Decision:
        """As `begin`."""
        try:
            decision = await self.adecide(query, nodes, history)
        except JudgeError as error:
            if isinstance(error.decision, Decision):
                await self.areport(error.decision)
            raise
        return await self.aconclude(decision) if decision.passes else decision

    def decide(
        self,
        query: QueryBundle,
        nodes: Sequence[NodeWithScore],
        history: Turns = (),
        mode: Mode | None = None,
    ) -> Decision:
        """One decision; also an event, inside a span of its own. No observer is told.

        Args:
            query: the question.
            nodes: what is judged.
            history: earlier turns.
            mode: of the first decision, for any other: a canary must not change sides between.
        """
        return _decide(self, Asked(query, nodes, history, mode))

    async def adecide(
        self,
        query: QueryBundle,
        nodes: Sequence[NodeWithScore],
        history: Turns = (),
        mode: Mode | None = None,
    ) -> Decision:
        """As `decide`."""
        return await _adecide(self, Asked(query, nodes, history, mode))

    # Apart from deciding: only the last decision of a query asks its user, and by then no writer
    # may be at work. The event is out, with the fixed message: what a model wrote of the passages
    # is a text as they are.

    def conclude(self, decision: Decision) -> Decision:
        """The last decision of a query, as its caller gets it; the observers are told."""
        decision = self.asking_back(decision)
        self.report(decision)
        return decision

    async def aconclude(self, decision: Decision) -> Decision:
        """As `conclude`."""
        decision = await self.aasking_back(decision)
        await self.areport(decision)
        return decision

    def report(self, decision: Decision) -> None:
        """Tells the gate's observers of what was done; once a query."""
        self.gate.tell(decision)

    async def areport(self, decision: Decision) -> None:
        """As `report`."""
        await self.gate.atell(decision)

    def asking_back(self, decision: Decision) -> Decision:
        """A decision against an answer, its message a question written for it if that can be."""
        return self.clarifier.reword(decision) if self.clarifier else decision

    async def aasking_back(self, decision: Decision) -> Decision:
        """As `asking_back`."""
        return await self.clarifier.areword(decision) if self.clarifier else decision

    def language(self, query: QueryBundle) -> str | None:
        """The language of a query's messages."""
        return self.lang(query) if callable(self.lang) else self.lang

    def tell(self, decision: Decision, nodes: Sequence[NodeWithScore]) -> Decision:
        """Puts a decision on nodes on the dispatcher."""
        event = GuardDecisionEvent.of(decision, texts=self.texts_in_events, nodes=nodes)
        dispatcher.event(event)
        return decision

    @contextmanager
    def telling(self, nodes: Sequence[NodeWithScore]) -> Generator[None]:
        """Puts the decision of a query that was not measured there too, if the policy raises."""
        try:
            yield
        except JudgeError as error:
            if isinstance(error.decision, Decision):
                self.tell(error.decision, nodes)
            raise


def _require_gate(gate: object) -> None:
    if not isinstance(gate, Gate):
        raise ConfigError(f"{type(gate).__name__} is not a gate.", hint="Pass a guard.Gate.")


def _require_flag(texts_in_events: object) -> None:
    if not isinstance(texts_in_events, bool):
        why = f"`texts_in_events` is {texts_in_events!r:.40}, not True or False."
        raise ConfigError(why, hint="It decides whether events hold your users' texts.")


def _require_lang(lang: object) -> None:
    if lang is not None and not isinstance(lang, str) and not callable(lang):
        raise ConfigError(
            f"`lang` is {type(lang).__name__}, neither text nor a function.",
            hint='Pass a BCP 47 tag such as "de", or a function from QueryBundle to one.',
        )


def _require_clarifier(clarifier: object) -> None:
    if clarifier is not None and not isinstance(clarifier, Clarifier):
        name = type(clarifier).__name__
        raise ConfigError(f"{name} is not a clarifier.", hint="Pass Clarifier(llm).")


@dispatcher.span
def _decide(judging: Judging, asked: Asked) -> Decision:
    with judging.telling(asked.nodes):
        decision = judging.gate.unobserved().check(
            asked.query.query_str,
            texts_of(asked.nodes),
            history=asked.history,
            lang=judging.language(asked.query),
            mode=asked.mode,
        )
    return judging.tell(decision, asked.nodes)


@dispatcher.span
async def _adecide(judging: Judging, asked: Asked) -> Decision:
    with judging.telling(asked.nodes):
        decision = await judging.gate.unobserved().acheck(
            asked.query.query_str,
            texts_of(asked.nodes),
            history=asked.history,
            lang=judging.language(asked.query),
            mode=asked.mode,
        )
    return judging.tell(decision, asked.nodes)
