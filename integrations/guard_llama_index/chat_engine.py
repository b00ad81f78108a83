"""A chat engine that has its contexts judged before it answers."""

import copy
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.chat_engine.types import (
    AgentChatResponse,
    BaseChatEngine,
    StreamingAgentChatResponse,
)
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle

from guard import ConfigError, Decision, Gate, JudgeError, Messages, Query, Reason, Route
from guard._require import require_number
from guard.decision import Mode as PolicyMode
from guard.flow import arun, run
from guard_llama_index.answering import Answering, Mode
from guard_llama_index.clarifier import Clarifier, asks_back
from guard_llama_index.judging import Judging, Lang, Turns
from guard_llama_index.postprocessor import require_unjudged
from guard_llama_index.suspects import record_of
from guard_llama_index.synthesizer import GuardedSynthesizer

State = Mapping[str, Any]
History = list[ChatMessage] | None
Chunks = list[NodeWithScore] | None
R = TypeVar("R")

# Of the conversation, where the engine does not condense it: what "and him?" may refer to.
_TURNS, _TURN_CHARACTERS = 6, 1000
_ROLES = (MessageRole.USER, MessageRole.ASSISTANT)


class GuardedChatEngine(BaseChatEngine):
    """Chats as the engine inside does, but lets it answer only where the contexts suffice.

        engine = index.as_chat_engine(chat_mode="condense_plus_context", llm=llm)
        chat = GuardedChatEngine(engine, gate, clarifier=Clarifier(llm))
        response = chat.chat("When was it built?")
        response.metadata["guard"]["route"]            # "clarify"
        str(response)                                  # "Which of the two bridges do you mean?"
        chat.chat("The one in Sydney.")                # judged together with the open question

    On ``clarify`` and ``refuse`` no word of an answer is generated, and nothing is put into the
    engine's memory: neither the message nor the turn that it replies to. Every response has the
    sources, and the record (`Decision.to_dict`) as ``response.metadata["guard"]``, streaming ones
    included, which have no ``metadata`` in LlamaIndex.

    What is judged is the stand-alone question where the engine condenses the conversation, else the
    message with the last turns.

    After ``clarify`` the question is open: the next turn is joined to it and to what we asked, and
    that is retrieved for and judged. Where that cannot be answered, the turn is judged once more as
    it stands, since it may ask something new; if so, the record holds both, the former under
    ``first``. The gate's observers are told of the one that the user is told. Once answered, all of
    it is kept in memory, as it was said. What could not be measured leaves the open question open.

    In a canary, the words that the user typed decide whether a turn is enforced, however often it
    is judged.

    At most ``max_clarifications`` questions are asked back in a conversation, which `reset` ends,
    whatever the user writes; where one more would be asked, the engine refuses. The record then
    says what was done, ``"route": "refuse"``, and why: ``"reason": "clarifications_spent"``, with
    the verdict as it was. ``"clarifications"``, beside the record, counts the questions asked back,
    the one at hand included.

    One of these is one conversation, as with the engine inside; calls may overlap. Where it is made
    anew for each request, keep `state` beside the engine's memory, and pass it.

    Args:
        engine: a ContextChatEngine or CondensePlusContextChatEngine. It is never changed, except
            for its memory.
        gate: decides.
        clarifier: writes the question to ask back; ``None`` = the policy's fixed message.
        max_clarifications: questions asked back in a conversation, at most; 0 = none.
        lang: the language (BCP 47) of messages, or a function that tells it of a query.
        mode: ``"before"``, or ``"parallel"``: write while the judge decides, and hold it back; see
            `GuardedSynthesizer` for what that asks of the model.
        texts_in_events: whether `GuardDecisionEvent` carries question and passages.
        drop_suspects: whether an answer is written without the nodes that speak to the judge; see
            `GuardedSynthesizer`. What is in the memory, or said in it, stays there.
        state: of the conversation so far, as `state` gave it.

    Raises:
        ConfigError: ``engine`` cannot be guarded, or another argument is not what it must be; or a
            message is blank.
        JudgeError: a turn could not be measured, and the policy says ``raise``.
    """

    def __init__(
        self,
        engine: BaseChatEngine,
        gate: Gate,
        *,
        clarifier: Clarifier | None = None,
        max_clarifications: int = 3,
        lang: Lang = None,
        mode: Mode = "before",
        texts_in_events: bool = False,
        drop_suspects: bool = False,
        state: State | None = None,
    ) -> None:
        _require_guardable(engine)
        require_unjudged(engine)
        require_number("max_clarifications", max_clarifications, 0, 100, whole=True)
        self._engine = engine
        judging = Judging(gate, lang, texts_in_events, clarifier)
        self._answering = Answering(judging, mode, drop_suspects)
        self._answering.require_fitting(engine)
        self._limit = max_clarifications
        self._conversation = _Conversation(max_clarifications, state)

    @property
    def engine(self) -> BaseChatEngine:
        """The engine inside; whoever asks it directly goes round the gate."""
        return self._engine

    @property
    def gate(self) -> Gate:
        """What decides."""
        return self._answering.judging.gate

    @property
    def chat_history(self) -> list[ChatMessage]:
        """The engine's memory: what was answered, and nothing else."""
        return self._engine.chat_history

    @property
    def state(self) -> State:
        """The open question and the number of questions asked back, as JSON-ready values.

        It holds texts. It goes with the engine's memory: store both, or neither.
        """
        return self._conversation.state

    def reset(self) -> None:
        """Forgets the conversation, and any open question."""
        # Replaced and not emptied: a turn still under way ends in the old one, and is forgotten.
        old, self._conversation = self._conversation, _Conversation(self._limit)
        old.over = True
        self._engine.reset()

    def chat(
        self, message: str, chat_history: History = None, prev_chunks: Chunks = None
    ) -> AgentChatResponse:
        """The engine's answer if the contexts suffice, else the message.

        Args:
            message: the user's turn.
            chat_history: replaces the memory.
            prev_chunks: for a ContextChatEngine: used, and judged, where nothing is retrieved.
        """

        def said(turn: _Turn) -> AgentChatResponse:
            told: AgentChatResponse = self._engine_for(turn).chat(
                turn.message, chat_history, **_given(prev_chunks)
            )
            return told

        return self._run(message, said)

    async def achat(
        self, message: str, chat_history: History = None, prev_chunks: Chunks = None
    ) -> AgentChatResponse:
        """As `chat`."""

        async def said(turn: _Turn) -> AgentChatResponse:
            told: AgentChatResponse = await self._engine_for(turn).achat(
                turn.message, chat_history, **_given(prev_chunks)
            )
            return told

        return await self._arun(message, said)

    def stream_chat(
        self, message: str, chat_history: History = None, prev_chunks: Chunks = None
    ) -> StreamingAgentChatResponse:
        """As `chat`; the message is streamed as well."""

        def said(turn: _Turn) -> StreamingAgentChatResponse:
            told: StreamingAgentChatResponse = self._engine_for(turn).stream_chat(
                turn.message, chat_history, **_given(prev_chunks)
            )
            return told

        return self._run(message, said)

    async def astream_chat(
        self, message: str, chat_history: History = None, prev_chunks: Chunks = None
    ) -> StreamingAgentChatResponse:
        """As `stream_chat`."""

        async def said(turn: _Turn) -> StreamingAgentChatResponse:
            told: StreamingAgentChatResponse = await self._engine_for(turn).astream_chat(
                turn.message, chat_history, **_given(prev_chunks)
            )
            return told

        return await self._arun(message, said)

    def _talk(self, message: str) -> "_Talk":
        """What a message leads to, in order; the response to it."""
        conversation, mode = self._conversation, self._mode_of(message)
        turn = _Turn(conversation, message, conversation.take(), mode=mode)
        alone = _Turn(conversation, message, mode=mode, measured_only=True)
        try:
            told, response = yield from _had(turn, alone)
            if told.decision is not None and not told.passes:  # Else it has been reported.
                yield told.decision
        except BaseException:
            alone.withdraw()
            turn.give_back()
            raise
        told.record_in(response, None if told is turn else turn)
        if self._answering.drop_suspects and told.decision is not None and told.passes:
            _name_sources(response, self._answering.left(told.decision, told.nodes))
        told.close()
        return response

    def _mode_of(self, message: str) -> PolicyMode | None:
        """Whether the turn is enforced, however often it is judged, by what the user typed."""
        if not message.strip():
            return None
        return self.gate.policy.mode_of(Query(message, ()).question_hash)

    def _run(self, message: str, say: "Callable[[_Turn], R]") -> R:
        def done(step: "_Turn | Decision") -> R | None:
            if not isinstance(step, Decision):
                return say(step)
            self.gate.tell(step)
            return None

        response: R = run(self._talk(message), done)
        return response

    async def _arun(self, message: str, say: "Callable[[_Turn], Awaitable[R]]") -> R:
        async def done(step: "_Turn | Decision") -> R | None:
            if not isinstance(step, Decision):
                return await say(step)
            await self.gate.atell(step)
            return None

        response: R = await arun(self._talk(message), done)
        return response

    def _engine_for(self, turn: "_Turn") -> Any:
        """The engine for one turn: a copy, since others may be using it for theirs."""
        engine: Any = self._engine
        own = copy.copy(engine)
        own._memory = _TurnMemory(engine._memory, turn)

        # From the engine and not from its copy, which would then hold on to itself.
        def guarded(chat_history: list[ChatMessage], streaming: bool = False) -> BaseSynthesizer:
            turn.earlier(chat_history)
            inner = engine._get_response_synthesizer(chat_history, streaming=streaming)
            return _TurnSynthesizer(inner, self._answering, turn)

        own._get_response_synthesizer = guarded
        if isinstance(engine, CondensePlusContextChatEngine):
            _capture_condensed(engine, own, turn)
        return own


def _capture_condensed(engine: Any, own: Any, turn: "_Turn") -> None:
    """Has the engine's copy tell ``turn`` the question that it condenses the conversation to."""

    def condense(chat_history: list[ChatMessage], message: str) -> str:
        return turn.condensed(engine._condense_question(chat_history, message))

    async def acondense(chat_history: list[ChatMessage], message: str) -> str:
        return turn.condensed(await engine._acondense_question(chat_history, message))

    if not engine._skip_condense:  # It would give back the message as it is.
        own._condense_question, own._acondense_question = condense, acondense


def _had(turn: "_Turn", alone: "_Turn") -> "Generator[_Turn | Decision, Any, tuple[_Turn, Any]]":
    """The turn that the user is told of, and the response to it.

    Args:
        turn: as a reply to the open question, if there is one.
        alone: as it stands: it may be no reply, but one that can be answered.
    """
    response = yield turn
    turn.require_judged()
    if not turn.is_in_vain:
        return turn, response
    try:
        second = yield alone
        alone.require_judged()
    except Exception as error:
        if alone.passes:  # And has been reported.
            raise
        if not isinstance(error, JudgeError):
            assert turn.decision is not None
            yield turn.decision
            raise
    else:
        if alone.is_better_than(turn):
            turn.withdraw()
            return alone, second
    alone.withdraw()  # What was measured of the reply stands.
    return turn, response


def _name_sources(
    response: AgentChatResponse | StreamingAgentChatResponse, nodes: list[NodeWithScore]
) -> None:
    """Names the nodes that an answer was written from; the engine names all that it found."""
    response.source_nodes = nodes
    for each in response.sources:
        each.content, each.raw_output = str(nodes), nodes


def _given(prev_chunks: Chunks) -> dict[str, Chunks]:
    # Only one of the two engines takes them, and says so itself.
    return {} if prev_chunks is None else {"prev_chunks": prev_chunks}


# ── What is open between turns ───────────────────────────────────────────────────────────────────


class _Open(NamedTuple):
    """A question that waits for the user's reply to ours.

    Attributes:
        question: what the user wants to know, all that was said of it as one text.
        asked: what we asked back.
        said: each turn of it as it was said, ours last: ``(role, text)``.
    """

    question: str
    asked: str
    said: tuple[tuple[str, str], ...]

    def joined(self, reply: str) -> str:
        """All of it as one message; dashes, because they mean a dialogue in any language."""
        return f"{self.question}\n\u2013 {self.asked}\n\u2013 {reply}"


def _restored(state: State) -> tuple[_Open | None, int]:
    """The open question, and how many were asked back.

    Raises:
        ConfigError: ``state`` is not what `GuardedChatEngine.state` gives.
    """
    try:
        asked, waiting = state["clarifications"], state["open"]
        require_number("clarifications", asked, 0, 100, whole=True)
        if waiting is None:
            return None, asked
        said = tuple((MessageRole(role).value, str(text)) for role, text in waiting["said"])
        return _Open(str(waiting["question"]), str(waiting["asked"]), said), asked
    except (KeyError, TypeError, ValueError) as error:
        why = f"`state` is not a conversation's ({type(error).__name__})."
        raise ConfigError(why, hint="Pass what GuardedChatEngine.state gave.") from None


class _Conversation:
    """The open question, and how many were asked back; for any number of turns at once.

    Attributes:
        over: whether it was reset; turns under way are remembered no more.
    """

    def __init__(self, limit: int, state: State | None = None) -> None:
        self.over = False
        self._limit = limit
        self._lock = threading.Lock()
        self._open, self._asked = (None, 0) if state is None else _restored(state)

    @property
    def state(self) -> State:
        """It as JSON-ready values."""
        with self._lock:
            waiting = None if self._open is None else self._open._asdict()
            return {"open": waiting, "clarifications": self._asked}

    @property
    def asked(self) -> int:
        """Questions asked back since the last answer."""
        return self._asked

    def take(self) -> _Open | None:
        """The open question; of several turns at once, only one is the reply to it."""
        with self._lock:
            taken, self._open = self._open, None
        return taken

    def give_back(self, taken: _Open | None) -> None:
        """It is open still, unless there is a newer one."""
        with self._lock:
            self._open = self._open or taken

    def wait_for(self, question: _Open) -> None:
        """It is open from now on."""
        with self._lock:
            self._open = question

    def may_ask(self) -> bool:
        """Counts one more question asked back, if there may be one."""
        with self._lock:
            allowed = self._asked < self._limit
            self._asked += allowed
        return allowed

    def take_back(self) -> None:
        """A question that was counted was never put to the user."""
        with self._lock:
            self._asked -= 1

    def close(self, answered: _Open | None) -> None:
        """It is open no longer, unless there is a newer one."""
        with self._lock:
            if self._open is answered:
                self._open = None


_Talk = Generator["_Turn | Decision", Any, Any]
"""The turns to have with the engine, and the decisions to report; in the end, the response."""


# ── One turn ─────────────────────────────────────────────────────────────────────────────────────


class _Turn:
    """One turn of the user, on its way through the engine.

    Attributes:
        message: what the engine is given: the user's, joined to the open question if there is one.
        mode: whether its decisions are enforced; ``None`` = as the policy says.
        question: what is judged.
        history: what is judged with it.
        decision: ``None`` until there is one.
        nodes: what it is on.
    """

    def __init__(
        self,
        conversation: _Conversation,
        message: str,
        reply_to: _Open | None = None,
        *,
        mode: PolicyMode | None,
        measured_only: bool = False,
    ) -> None:
        self._conversation, self._reply_to = conversation, reply_to
        self.mode: PolicyMode | None = mode
        self._measured_only = measured_only
        self._said = (*(reply_to.said if reply_to else ()), ("user", message))
        self.message = reply_to.joined(message) if reply_to else message
        self.question = self.message
        self.history: Turns = ()
        self.decision: Decision | None = None
        self.nodes: Sequence[NodeWithScore] = ()
        self._condensed = self._answered = self._counted = False
        self._held = list[ChatMessage]()

    @property
    def passes(self) -> bool:
        """Whether it is answered."""
        return self.decision is not None and self.decision.passes

    def kept(self, message: ChatMessage) -> list[ChatMessage]:
        """What of a message belongs into the engine's memory: an answered turn as it was said."""
        if not self.passes or self._conversation.over:
            return []
        if message.role is not MessageRole.ASSISTANT:
            own = message.role is MessageRole.USER and message.content == self.message
            self._held += self._as_said() if own else [message]
            return []
        # Written once the answer is whole, at the end of its stream; one that fails is none.
        self._answered = True
        self._conversation.close(self._reply_to)
        held, self._held = self._held, []
        return [*held, message]

    def _as_said(self) -> list[ChatMessage]:
        return [ChatMessage(content=text, role=role) for role, text in self._said]

    @property
    def asks_back(self) -> bool:
        """Whether the user is asked something."""
        return self.decision is not None and asks_back(self.decision)

    @property
    def is_in_vain(self) -> bool:
        """Whether it was taken as a reply, measured, and is not answered."""
        decision = self.decision
        if decision is None or decision.unmeasured or decision.passes:
            return False
        return self._reply_to is not None

    def condensed(self, question: str) -> str:
        """The engine has condensed the conversation to ``question``, which stands alone."""
        if question.strip():  # A model may say nothing; then the message is judged.
            self.question, self._condensed = question.strip(), True
        return question

    def earlier(self, messages: Sequence[ChatMessage]) -> None:
        """The engine remembers these."""
        if not self._condensed:
            self.history = _last_turns(messages)

    def settle(self, decision: Decision, messages: Messages) -> Decision:
        """What is done: a question too many is a refusal."""
        if asks_back(decision):
            self._counted = self._conversation.may_ask()
            if not self._counted:
                decision = _refused(decision, messages, "no more clarifying questions may be asked")
                decision = replace(decision, reason=Reason.CLARIFICATIONS_SPENT)
        elif self._measured_only and decision.unmeasured:
            # Else an answer would be written, though another verdict stands.
            decision = _refused(decision, messages, "what was measured before stands")
        self.decision = decision
        return decision

    def ends_with(self, decision: Decision) -> bool:
        """Whether no other look at the turn can follow: it passes, or is the policy's error."""
        return decision.passes or (decision.route is None and not self._measured_only)

    def reword(self, decision: Decision) -> Decision:
        """The user is told the message of ``decision``, the same one in other words."""
        self.decision = decision
        return decision

    def record_in(
        self,
        response: AgentChatResponse | StreamingAgentChatResponse,
        first: "_Turn | None" = None,
    ) -> None:
        """Puts the record into the response's metadata.

        Args:
            response: the engine's.
            first: the message as a reply, before it was judged as it stands.
        """
        record = {**self._record(), "clarifications": self._conversation.asked}
        if first is not None:
            record["first"] = first._record()
        # LlamaIndex's streaming response declares no metadata.
        known: dict[str, Any] = getattr(response, "metadata", None) or {}
        vars(response)["metadata"] = {**known, "guard": record}

    def _record(self) -> dict[str, Any]:
        assert self.decision is not None
        return record_of(self.decision, self.nodes)

    def require_judged(self) -> None:
        """Raises `ConfigError` if nothing was: what the engine wrote must not pass for judged."""
        if self.decision is None:
            raise ConfigError(
                "The chat engine answered without its response synthesizer: nothing was judged.",
                hint="Guard ContextChatEngine or CondensePlusContextChatEngine as they are.",
            )

    def is_better_than(self, other: "_Turn") -> bool:
        """Whether it is answered, or asks back where the other is refused; and was measured."""
        if self.decision is None or self.decision.unmeasured:
            return False
        return self.passes or (self.asks_back and not other.asks_back)

    def give_back(self) -> None:
        """It came to nothing: what it replied to is open still, and nothing was asked."""
        self._conversation.give_back(self._reply_to)
        self.withdraw()

    def withdraw(self) -> None:
        """What it asks back is not put to the user."""
        if self._counted:
            self._conversation.take_back()
            self._counted = False

    def close(self) -> None:
        """It is told: what is open now?"""
        assert self.decision is not None
        if self.asks_back:
            asked = self.decision.message or ""
            said = (*self._said, ("assistant", asked))
            self._conversation.wait_for(_Open(self.message, asked, said))
        elif self.decision.unmeasured or (self.passes and not self._answered):
            # An answer that is still being streamed may break off.
            self._conversation.give_back(self._reply_to)


def _refused(decision: Decision, messages: Messages, why: str) -> Decision:
    return replace(
        decision,
        route=Route.REFUSE,
        message=messages.text(Route.REFUSE, decision.query.lang),
        detail=f"{decision.detail} Refused: {why}.",
    )


def _last_turns(messages: Sequence[ChatMessage]) -> Turns:
    said = [(each.role.value, each.content or "") for each in messages if each.role in _ROLES]
    turns = [(role, text[:_TURN_CHARACTERS]) for role, text in said if text.strip()]
    return turns[-_TURNS:]


class _TurnMemory:
    """The engine's memory for one turn, into which only an answered turn is written."""

    def __init__(self, memory: Any, turn: _Turn) -> None:
        self._memory, self._turn = memory, turn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)

    def put(self, message: ChatMessage) -> None:
        """Keeps a message of an answered turn."""
        self.put_messages([message])

    async def aput(self, message: ChatMessage) -> None:
        """As `put`."""
        await self.aput_messages([message])

    def put_messages(self, messages: list[ChatMessage]) -> None:
        """As `put`."""
        for each in self._kept(messages):
            self._memory.put(each)

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """As `put`."""
        for each in self._kept(messages):
            await self._memory.aput(each)

    def _kept(self, messages: list[ChatMessage]) -> list[ChatMessage]:
        return [kept for each in messages for kept in self._turn.kept(each)]


@dataclass(frozen=True)
class _TurnJudging(Judging):
    """Judges a turn's question, which is not what the engine gives its synthesizer."""

    turn: _Turn = field(kw_only=True, repr=False)

    def decide(
        self,
        query: QueryBundle,
        nodes: Sequence[NodeWithScore],
        history: Turns = (),
        mode: PolicyMode | None = None,
    ) -> Decision:
        turn = self.turn
        return super().decide(QueryBundle(turn.question), nodes, turn.history, turn.mode)

    async def adecide(
        self,
        query: QueryBundle,
        nodes: Sequence[NodeWithScore],
        history: Turns = (),
        mode: PolicyMode | None = None,
    ) -> Decision:
        turn = self.turn
        return await super().adecide(QueryBundle(turn.question), nodes, turn.history, turn.mode)

    def tell(self, decision: Decision, nodes: Sequence[NodeWithScore]) -> Decision:
        # Before the event: it tells what is done.
        settled = self.turn.settle(decision, self.gate.policy.messages)
        self.turn.nodes = nodes
        return super().tell(settled, nodes)

    def asking_back(self, decision: Decision) -> Decision:
        return self.turn.reword(super().asking_back(decision))

    async def aasking_back(self, decision: Decision) -> Decision:
        return self.turn.reword(await super().aasking_back(decision))

    # What does not end the turn is reported at its end, if it is what the user is told.

    def report(self, decision: Decision) -> None:
        if self.turn.ends_with(decision):
            super().report(decision)

    async def areport(self, decision: Decision) -> None:
        if self.turn.ends_with(decision):
            await super().areport(decision)


class _TurnSynthesizer(GuardedSynthesizer):
    """The engine's synthesizer for one turn."""

    def __init__(self, inner: BaseSynthesizer, answering: Answering, turn: _Turn) -> None:
        judging = answering.judging
        super().__init__(inner, judging.gate)
        own = _TurnJudging(
            judging.gate, judging.lang, judging.texts_in_events, judging.clarifier, turn=turn
        )
        self._answering = replace(answering, judging=own)


# ── What can be guarded ──────────────────────────────────────────────────────────────────────────


def _require_guardable(engine: object) -> None:
    name = type(engine).__name__
    if isinstance(engine, GuardedChatEngine):
        raise ConfigError(f"{name} is already guarded.", hint="One gate is enough.")
    if isinstance(engine, BaseQueryEngine):
        raise ConfigError(f"{name} is a query engine.", hint="Use GuardedQueryEngine for it.")
    if not isinstance(engine, ContextChatEngine | CondensePlusContextChatEngine):
        raise ConfigError(
            f"{name} cannot be guarded: only ContextChatEngine and CondensePlusContextChatEngine"
            " retrieve apart from answering.",
            hint="Guard a CondenseQuestionChatEngine through its query_engine: "
            "GuardedQueryEngine(inner, gate). It remembers messages as it does answers.",
        )
