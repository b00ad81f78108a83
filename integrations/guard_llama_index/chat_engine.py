"""A chat engine that has its contexts judged before it answers."""

import copy
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.chat_engine.types import (
    AgentChatResponse,
    BaseChatEngine,
    StreamingAgentChatResponse,
)
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle

from guard import ConfigError, Decision, Gate, Messages, Route
from guard._require import require_number
from guard_llama_index.answering import Answering, Mode
from guard_llama_index.clarifier import Clarifier, asks_back
from guard_llama_index.judging import Judging, Lang, Turns
from guard_llama_index.postprocessor import require_unjudged
from guard_llama_index.synthesizer import GuardedSynthesizer

History = list[ChatMessage] | None
Chunks = list[NodeWithScore] | None

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

    After ``clarify`` the question is open: the next turn, even if it asks something new, is joined
    to it and to what we asked, and that is retrieved for, judged, and kept in memory once it is
    answered. What could not be measured leaves the open question open. Until something is
    answered, at most ``max_clarifications`` questions are asked back, whatever the user writes;
    where one more would be asked, the engine refuses. The record then says what was done,
    ``"route": "refuse"``, and why, e.g. ``"reason": "uncertain"``, which is no reason to refuse
    otherwise. ``"clarifications"``, beside the record, counts the questions asked back until then,
    the one at hand included.

    One of these is one conversation, as with the engine inside; calls may overlap.

    Args:
        engine: a ContextChatEngine or CondensePlusContextChatEngine. It is never changed, except
            for its memory.
        gate: decides.
        clarifier: writes the question to ask back; ``None`` = the policy's fixed message.
        max_clarifications: questions asked back until one is answered, at most; 0 = none.
        lang: the language (BCP 47) of messages, or a function that tells it of a query.
        mode: ``"before"``, or ``"parallel"``: write while the judge decides, and hold it back; see
            `GuardedSynthesizer` for what that asks of the model.
        texts_in_events: whether `GuardDecisionEvent` carries question and passages.

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
        max_clarifications: int = 1,
        lang: Lang = None,
        mode: Mode = "before",
        texts_in_events: bool = False,
    ) -> None:
        _require_guardable(engine)
        require_unjudged(engine)
        require_number("max_clarifications", max_clarifications, 0, 100, whole=True)
        self._engine = engine
        self._answering = Answering(Judging(gate, lang, texts_in_events, clarifier), mode)
        self._answering.require_fitting(engine)
        self._limit = max_clarifications
        self._conversation = _Conversation(max_clarifications)

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
        with self._turn(message) as turn:
            engine = self._engine_for(turn)
            response: AgentChatResponse = engine.chat(
                turn.message, chat_history, **_given(prev_chunks)
            )
            turn.record_in(response)
        return response

    async def achat(
        self, message: str, chat_history: History = None, prev_chunks: Chunks = None
    ) -> AgentChatResponse:
        """As `chat`."""
        with self._turn(message) as turn:
            engine = self._engine_for(turn)
            response: AgentChatResponse = await engine.achat(
                turn.message, chat_history, **_given(prev_chunks)
            )
            turn.record_in(response)
        return response

    def stream_chat(
        self, message: str, chat_history: History = None, prev_chunks: Chunks = None
    ) -> StreamingAgentChatResponse:
        """As `chat`; the message is streamed as well."""
        with self._turn(message) as turn:
            engine = self._engine_for(turn)
            response: StreamingAgentChatResponse = engine.stream_chat(
                turn.message, chat_history, **_given(prev_chunks)
            )
            turn.record_in(response)
        return response

    async def astream_chat(
        self, message: str, chat_history: History = None, prev_chunks: Chunks = None
    ) -> StreamingAgentChatResponse:
        """As `stream_chat`."""
        with self._turn(message) as turn:
            engine = self._engine_for(turn)
            response: StreamingAgentChatResponse = await engine.astream_chat(
                turn.message, chat_history, **_given(prev_chunks)
            )
            turn.record_in(response)
        return response

    @contextmanager
    def _turn(self, message: str) -> "Generator[_Turn]":
        turn = _Turn(self._conversation, message)
        try:
            yield turn
        except BaseException:
            turn.give_back()
            raise
        turn.close()

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


def _given(prev_chunks: Chunks) -> dict[str, Chunks]:
    # Only one of the two engines takes them, and says so itself.
    return {} if prev_chunks is None else {"prev_chunks": prev_chunks}


# ── What is open between turns ───────────────────────────────────────────────────────────────────


class _Open(NamedTuple):
    """A question that waits for the user's reply to ours."""

    question: str
    asked: str

    def joined(self, reply: str) -> str:
        """All three as one message; dashes, because they mean a dialogue in any language."""
        return f"{self.question}\n\u2013 {self.asked}\n\u2013 {reply}"


class _Conversation:
    """The open question, and how many were asked back; for any number of turns at once.

    Attributes:
        over: whether it was reset; turns under way are remembered no more.
    """

    def __init__(self, limit: int) -> None:
        self.over = False
        self._limit = limit
        self._lock = threading.Lock()
        self._open: _Open | None = None
        self._asked = 0

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

    def answered(self) -> None:
        """Begins to count anew."""
        with self._lock:
            self._asked = 0


# ── One turn ─────────────────────────────────────────────────────────────────────────────────────


class _Turn:
    """One turn of the user, on its way through the engine.

    Attributes:
        message: what the engine is given: the user's, joined to the open question if there is one.
        question: what is judged.
        history: what is judged with it.
        decision: ``None`` until there is one.
    """

    def __init__(self, conversation: _Conversation, message: str) -> None:
        self._conversation = conversation
        self._reply_to = conversation.take()
        self.message = self._reply_to.joined(message) if self._reply_to else message
        self.question = self.message
        self.history: Turns = ()
        self.decision: Decision | None = None
        self._condensed = False
        self._asked = 0

    def keeps(self, message: ChatMessage) -> bool:
        """Whether a message of this turn belongs into the engine's memory."""
        if self.decision is None or not self.decision.passes:
            return False
        # Written once the answer is whole, at the end of its stream; one that fails is none.
        if message.role is MessageRole.ASSISTANT:
            self._conversation.answered()
        return not self._conversation.over

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
        if asks_back(decision) and not self._conversation.may_ask():
            decision = _refused(decision, messages)
        self._asked = self._conversation.asked
        self.decision = decision
        return decision

    def reword(self, decision: Decision) -> Decision:
        """The user is told the message of ``decision``, the same one in other words."""
        self.decision = decision
        return decision

    def record_in(self, response: AgentChatResponse | StreamingAgentChatResponse) -> None:
        """Puts the record into the response's metadata.

        Raises:
            ConfigError: nothing was judged. What the engine wrote must not pass for judged.
        """
        if self.decision is None:
            raise ConfigError(
                "The chat engine answered without its response synthesizer: nothing was judged.",
                hint="Guard ContextChatEngine or CondensePlusContextChatEngine as they are.",
            )
        record = {**self.decision.to_dict(), "clarifications": self._asked}
        # LlamaIndex's streaming response declares no metadata.
        known: dict[str, Any] = getattr(response, "metadata", None) or {}
        vars(response)["metadata"] = {**known, "guard": record}

    def give_back(self) -> None:
        """It came to nothing: what it replied to is open still."""
        self._conversation.give_back(self._reply_to)

    def close(self) -> None:
        """It is told: what is open now?"""
        assert self.decision is not None
        if asks_back(self.decision):
            self._conversation.wait_for(_Open(self.message, self.decision.message or ""))
        elif self.decision.unmeasured and not self.decision.passes:
            self.give_back()


def _refused(decision: Decision, messages: Messages) -> Decision:
    return replace(
        decision,
        route=Route.REFUSE,
        message=messages.text(Route.REFUSE, decision.query.lang),
        detail=f"{decision.detail} Refused: no more clarifying questions may be asked.",
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
        if self._turn.keeps(message):
            self._memory.put(message)

    async def aput(self, message: ChatMessage) -> None:
        """As `put`."""
        if self._turn.keeps(message):
            await self._memory.aput(message)

    def put_messages(self, messages: list[ChatMessage]) -> None:
        """As `put`."""
        self._memory.put_messages([each for each in messages if self._turn.keeps(each)])

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """As `put`."""
        await self._memory.aput_messages([each for each in messages if self._turn.keeps(each)])


@dataclass(frozen=True)
class _TurnJudging(Judging):
    """Judges a turn's question, which is not what the engine gives its synthesizer."""

    turn: _Turn = field(kw_only=True, repr=False)

    def decide(
        self, query: QueryBundle, nodes: Sequence[NodeWithScore], history: Turns = ()
    ) -> Decision:
        return super().decide(QueryBundle(self.turn.question), nodes, self.turn.history)

    async def adecide(
        self, query: QueryBundle, nodes: Sequence[NodeWithScore], history: Turns = ()
    ) -> Decision:
        return await super().adecide(QueryBundle(self.turn.question), nodes, self.turn.history)

    def tell(self, decision: Decision) -> Decision:
        # Before the event: it tells what is done.
        return super().tell(self.turn.settle(decision, self.gate.policy.messages))

    def asking_back(self, decision: Decision) -> Decision:
        return self.turn.reword(super().asking_back(decision))

    async def aasking_back(self, decision: Decision) -> Decision:
        return self.turn.reword(await super().aasking_back(decision))


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
    if not isinstance(engine, ContextChatEngine | CondensePlusContextChatEngine):
        raise ConfigError(
            f"{name} cannot be guarded: only ContextChatEngine and CondensePlusContextChatEngine"
            " retrieve apart from answering.",
            hint="Guard a CondenseQuestionChatEngine through its query_engine: "
            "GuardedQueryEngine(inner, gate). It remembers messages as it does answers.",
        )
