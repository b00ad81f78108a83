"""A response synthesizer that has its nodes judged before it answers."""

from collections.abc import Sequence
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.response_synthesizers import BaseSynthesizer, Generation, SimpleSummarize
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType, TextNode
from llama_index.core.types import RESPONSE_TEXT_TYPE

from guard import ConfigError, Gate
from guard_llama_index.answering import Answering, Mode, Writer
from guard_llama_index.clarifier import Clarifier
from guard_llama_index.judging import Judging, Lang
from guard_llama_index.prefix import prompt_of, sharing, window_of
from guard_llama_index.prompts import DeepPrompts
from guard_llama_index.responses import Nodes, Response, streams, text_of, told


class GuardedSynthesizer(DeepPrompts, BaseSynthesizer):
    """Lets a synthesizer write only from nodes that suffice; for engines that take one.

        writer = GuardedSynthesizer(get_response_synthesizer(llm=llm, streaming=True), gate)
        engine = RetrieverQueryEngine(retriever, response_synthesizer=writer)

    On ``clarify`` and ``refuse`` no word is generated: the caller gets the policy's message, in the
    response type that the inner synthesizer would give, with the nodes as its sources.

    Args:
        synthesizer: writes. One that drops its nodes or a part of them cannot be guarded.
        gate: decides.
        lang: the language (BCP 47) of messages, or a function that tells it of a query.
        mode: ``"before"``, or ``"parallel"``: write while the judge decides, and hold it back. The
            model must have asynchronous methods that await; a synchronous call uses them too, on a
            loop of ours, with a client of its own if the model is LlamaIndex's ``OpenAI`` or
            derived from it.
        texts_in_events: whether `GuardDecisionEvent` carries question and passages.
        clarifier: writes the question to ask back; ``None`` = the policy's fixed message.
        share_prefix: whether the answer prompt begins with the judge's, byte for byte, so that the
            provider reads the passages once. The model that answers must be the one that judges,
            and the synthesizer must have `ANSWER_TEMPLATE` as its ``text_qa_template``.
        drop_suspects: whether an answer is written without the nodes that speak to the judge, and
            they are no sources of it: the rest was judged, and suffices. Only in ``"before"``.

    Raises:
        ConfigError: ``synthesizer`` cannot be guarded, ``gate`` is not a gate, or its judge has no
            prompt to share.
        JudgeError: a query could not be measured, and the policy says ``raise``.
    """

    def __init__(
        self,
        synthesizer: BaseSynthesizer,
        gate: Gate,
        *,
        lang: Lang = None,
        mode: Mode = "before",
        texts_in_events: bool = False,
        clarifier: Clarifier | None = None,
        share_prefix: bool = False,
        drop_suspects: bool = False,
    ) -> None:
        require_writer(synthesizer)
        self._inner = synthesizer
        judging = Judging(gate, lang, texts_in_events, clarifier)
        self._answering = Answering(judging, mode, drop_suspects)
        self._answering.require_fitting(synthesizer)
        self._prompt = prompt_of(gate, synthesizer, mode) if share_prefix else None

    @property
    def synthesizer(self) -> BaseSynthesizer:
        """The synthesizer inside; whoever asks it directly goes round the gate."""
        return self._inner

    @property
    def callback_manager(self) -> CallbackManager:
        """The inner synthesizer's."""
        return self._inner.callback_manager

    @callback_manager.setter
    def callback_manager(self, callback_manager: CallbackManager) -> None:
        self._inner.callback_manager = callback_manager

    # LlamaIndex's chat engines set this attribute for the time of a call.

    @property
    def _streaming(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return streams(self._inner)

    @_streaming.setter
    def _streaming(self, streaming: bool) -> None:
        self._inner._streaming = streaming

    def synthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> Response:
        """The answer from ``nodes`` if they suffice, else the policy's message."""
        inner = self._answering.blocking_writer(self._inner)
        writer = self._writer(inner, query, additional_source_nodes, response_kwargs)
        return self._answering.answer(_bundle(query), nodes, writer)

    async def asynthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> Response:
        """As `synthesize`."""
        writer = self._writer(self._inner, query, additional_source_nodes, response_kwargs)
        return await self._answering.aanswer(_bundle(query), nodes, writer)

    # Asked for bare texts, e.g. by a RouterQueryEngine whose summarizer this is. There is no
    # response to keep a record in, which is then on the dispatcher and in the audit only.

    def get_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> RESPONSE_TEXT_TYPE:
        """The inner synthesizer's answer if the texts suffice, else the policy's message."""
        judging, nodes = self._answering.judging, _nodes(text_chunks)
        decision = judging.judge(QueryBundle(query_str), nodes)
        if decision.passes:
            chunks = self._answering.left(decision, text_chunks)
            return self._inner.get_response(query_str, chunks, **response_kwargs)
        return text_of(told(decision, nodes, streams=self._streaming, awaited=False))

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> RESPONSE_TEXT_TYPE:
        """As `get_response`."""
        judging, nodes = self._answering.judging, _nodes(text_chunks)
        decision = await judging.ajudge(QueryBundle(query_str), nodes)
        if decision.passes:
            chunks = self._answering.left(decision, text_chunks)
            return await self._inner.aget_response(query_str, chunks, **response_kwargs)
        return text_of(told(decision, nodes, streams=self._streaming, awaited=True))

    def _writer(
        self,
        inner: BaseSynthesizer,
        query: QueryType,
        sources: Sequence[NodeWithScore] | None,
        kwargs: dict[str, Any],
    ) -> Writer:
        def write(nodes: Nodes) -> Response:
            return self._inner.synthesize(query, nodes, sources, **kwargs)

        async def awrite(nodes: Nodes) -> Response:
            return await inner.asynthesize(query, nodes, sources, **kwargs)

        writer = Writer(write, awrite, self._streaming, sources=sources or ())
        if self._prompt is None:
            return writer
        return sharing(writer, self._prompt, _bundle(query), window_of(self._inner))

    # Its prompts are the inner one's, under the same names as without a guard.

    def _get_prompts(self) -> PromptDictType:
        return self._inner._get_prompts()

    def _update_prompts(self, prompts_dict: PromptDictType) -> None:
        self._inner._update_prompts(prompts_dict)

    def _get_prompt_modules(self) -> PromptMixinType:
        return self._inner._get_prompt_modules()


def require_writer(writer: object, owner: str = "") -> None:
    """Raises `ConfigError` unless a synthesizer writes from all of its nodes, and from text.

    Args:
        writer: the synthesizer.
        owner: of which engine it is, for the error's text.
    """
    name = f"{owner}'s {type(writer).__name__}" if owner else type(writer).__name__
    if not isinstance(writer, BaseSynthesizer):
        raise ConfigError(f"{name} is not a synthesizer.", hint="E.g. get_response_synthesizer().")
    if isinstance(writer, GuardedSynthesizer):
        raise ConfigError(f"{name} is already guarded.", hint="One gate is enough.")
    if isinstance(writer, Generation | SimpleSummarize):  # It drops the contexts, or cuts them.
        why = f"{name} writes without its contexts, or from a part of them."
        raise ConfigError(why, hint='Use response_mode="compact", which shows all of them.')
    if getattr(writer, "_multimodal", False):
        raise ConfigError(f"{name} is multimodal, but judges read text only.")


def _bundle(query: QueryType) -> QueryBundle:
    return QueryBundle(query) if isinstance(query, str) else query


def _nodes(texts: Sequence[str]) -> Nodes:
    return [NodeWithScore(node=TextNode(text=text)) for text in texts]
