"""A query engine that has its contexts judged before it answers."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response import schema
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.query_engine import SimpleMultiModalQueryEngine, TransformQueryEngine
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle

from guard import ConfigError, Gate
from guard_llama_index.answering import Answering, Mode, Writer
from guard_llama_index.clarifier import Clarifier
from guard_llama_index.judging import Judging, Lang
from guard_llama_index.postprocessor import require_unjudged
from guard_llama_index.prefix import prompt_of, sharing, window_of
from guard_llama_index.prompts import DeepPrompts
from guard_llama_index.responses import Nodes, streams
from guard_llama_index.synthesizer import require_writer

MoreNodes = Sequence[NodeWithScore] | None
Split = Callable[[Nodes], Nodes] | None

_SEAMS = ("retrieve", "synthesize", "asynthesize")  # What the guard calls.
_ENTRIES = ("query", "aquery", "_query", "_aquery")  # What it replaces.


class GuardedQueryEngine(DeepPrompts, BaseQueryEngine):
    """Retrieves, has the contexts judged, and lets the engine answer only where they suffice.

        gate = Gate(judge, Policy(thresholds=Thresholds(answer_at=0.85, refuse_below=0.30)))
        engine = GuardedQueryEngine(index.as_query_engine(llm=llm, streaming=True), gate)
        response = engine.query("When was it built?")  # or: await engine.aquery(...)
        if response.metadata["guard"]["route"] == "answer":  # Decision.to_dict()
            response.print_response_stream()
        else:
            print(response, response.source_nodes)     # the policy's message; what was found

    On ``clarify`` and ``refuse`` no word of an answer is generated. The caller gets the policy's
    message as a ``Response``, or as ``StreamingResponse`` or ``AsyncStreamingResponse`` where the
    inner engine streams; in place of a ``PydanticResponse`` it is a ``Response``, since no message
    can fill the caller's model. ``synthesize`` and ``asynthesize`` are gated like ``query``.

    Args:
        engine: retrieves apart from answering: RetrieverQueryEngine, CitationQueryEngine, ….
        gate: decides.
        streaming: whether messages are streamed; ``None`` = as the inner engine streams.
        lang: the language (BCP 47) of messages, or a function that tells it of a query.
        mode: ``"before"``, or ``"parallel"``: write while the judge decides, and hold it back. A
            synchronous query then takes the engine's asynchronous path, on a loop of ours; see
            `GuardedSynthesizer` for what that asks of the model.
        retry_retrieval: asked once where the first nodes do not suffice, e.g. a retriever with a
            larger ``similarity_top_k``; the union is judged, and the record holds both verdicts. If
            that second judgement cannot be measured, the first stands. What the retriever raises
            is raised: no refusal may stand for an index that is down.
        texts_in_events: whether `GuardDecisionEvent` carries question and passages.
        clarifier: writes the question to ask back; ``None`` = the policy's fixed message.
        share_prefix: whether the answer prompt begins with the judge's; see `GuardedSynthesizer`.
        drop_suspects: whether an answer is written without the nodes that speak to the judge; see
            `GuardedSynthesizer`.

    Raises:
        ConfigError: ``engine`` cannot be guarded or ``gate`` is not a gate; or a query is blank.
        JudgeError: a query could not be measured, and the policy says ``raise``.
    """

    def __init__(
        self,
        engine: BaseQueryEngine,
        gate: Gate,
        *,
        streaming: bool | None = None,
        lang: Lang = None,
        mode: Mode = "before",
        retry_retrieval: BaseRetriever | None = None,
        texts_in_events: bool = False,
        clarifier: Clarifier | None = None,
        share_prefix: bool = False,
        drop_suspects: bool = False,
    ) -> None:
        _require_guardable(engine)
        _require_flag(streaming)
        judging = Judging(gate, lang, texts_in_events, clarifier)
        self._answering = Answering(judging, mode, drop_suspects)
        self._answering.require_fitting(engine)
        _require_retriever(retry_retrieval)
        self._engine, self._streaming, self._more = engine, streaming, retry_retrieval
        # Citation engines split the nodes before they show them to the model.
        self._split: Split = getattr(engine, "_create_citation_nodes", None)
        if share_prefix and self._split is not None:
            why = f"{type(engine).__name__} splits its nodes, so that no prefix can be shared."
            raise ConfigError(why, hint="Leave share_prefix out.")
        if drop_suspects and self._split is not None:
            why = f"{type(engine).__name__} splits its nodes: a part of one cannot be dropped."
            raise ConfigError(why, hint="Leave drop_suspects out.")
        self._prompt = prompt_of(gate, engine, mode) if share_prefix else None
        super().__init__(callback_manager=engine.callback_manager)

    @property
    def engine(self) -> BaseQueryEngine:
        """The engine inside; whoever asks it directly goes round the gate."""
        return self._engine

    @property
    def gate(self) -> Gate:
        """What decides."""
        return self._answering.judging.gate

    @property
    def retriever(self) -> BaseRetriever | None:
        """The inner engine's retriever; ``None`` where it shows none."""
        return getattr(self._engine, "retriever", None)

    def with_retriever(self, retriever: BaseRetriever) -> "GuardedQueryEngine":
        """The inner engine with another retriever, behind the same gate."""
        if (change := getattr(self._engine, "with_retriever", None)) is None:
            raise ConfigError(f"{type(self._engine).__name__} cannot change its retriever.")
        judging = self._answering.judging
        return GuardedQueryEngine(
            change(retriever),
            judging.gate,
            streaming=self._streaming,
            lang=judging.lang,
            mode=self._answering.mode,
            retry_retrieval=self._more,
            texts_in_events=judging.texts_in_events,
            clarifier=judging.clarifier,
            share_prefix=self._prompt is not None,
            drop_suspects=self._answering.drop_suspects,
        )

    def retrieve(self, query_bundle: QueryBundle) -> Nodes:
        """What the inner engine retrieves, not yet judged."""
        return self._engine.retrieve(query_bundle)

    async def aretrieve(self, query_bundle: QueryBundle) -> Nodes:
        """As `retrieve`; on a thread if the inner engine can only block."""
        if (aretrieve := getattr(self._engine, "aretrieve", None)) is None:
            return await asyncio.to_thread(self._engine.retrieve, query_bundle)
        nodes: Nodes = await aretrieve(query_bundle)
        return nodes

    def synthesize(
        self, query_bundle: QueryBundle, nodes: Nodes, additional_source_nodes: MoreNodes = None
    ) -> schema.RESPONSE_TYPE:
        """The inner engine's answer from ``nodes`` if they suffice, else the policy's message."""
        engine = self._answering.blocking_writer(self._engine)
        writer = self._writer(engine, query_bundle, additional_source_nodes)
        return self._answering.answer(query_bundle, nodes, writer)

    async def asynthesize(
        self, query_bundle: QueryBundle, nodes: Nodes, additional_source_nodes: MoreNodes = None
    ) -> schema.RESPONSE_TYPE:
        """As `synthesize`."""
        writer = self._writer(self._engine, query_bundle, additional_source_nodes)
        return await self._answering.aanswer(query_bundle, nodes, writer)

    def _writer(self, engine: BaseQueryEngine, query: QueryBundle, sources: MoreNodes) -> Writer:
        def write(nodes: Nodes) -> schema.RESPONSE_TYPE:
            return self._engine.synthesize(query, nodes, sources)

        async def awrite(nodes: Nodes) -> schema.RESPONSE_TYPE:
            return await engine.asynthesize(query, nodes, sources)

        more = self._more
        writer = Writer(
            write,
            awrite,
            self._streams(),
            shown=self._split,
            more=None if more is None else partial(self._retrieve_more, more, query),
            amore=None if more is None else partial(self._aretrieve_more, more, query),
            sources=sources or (),
        )
        if self._prompt is None:
            return writer
        return sharing(writer, self._prompt, query, window_of(self._engine))

    # What is retrieved later goes through the inner engine's postprocessors too: they may mask
    # what the model must not see.

    def _retrieve_more(self, retriever: BaseRetriever, query: QueryBundle) -> Nodes:
        nodes = retriever.retrieve(query)
        for each in self._postprocessors():
            nodes = each.postprocess_nodes(nodes, query)
        return nodes

    async def _aretrieve_more(self, retriever: BaseRetriever, query: QueryBundle) -> Nodes:
        nodes = await retriever.aretrieve(query)
        for each in self._postprocessors():
            nodes = await each.apostprocess_nodes(nodes, query)
        return nodes

    def _postprocessors(self) -> Sequence[BaseNodePostprocessor]:
        return getattr(self._engine, "_node_postprocessors", None) or ()

    def _query(self, query_bundle: QueryBundle) -> schema.RESPONSE_TYPE:
        asked: dict[str, object] = {EventPayload.QUERY_STR: query_bundle.query_str}
        with self.callback_manager.event(CBEventType.QUERY, asked) as event:
            response = self.synthesize(query_bundle, self.retrieve(query_bundle))
            event.on_end({EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> schema.RESPONSE_TYPE:
        asked: dict[str, object] = {EventPayload.QUERY_STR: query_bundle.query_str}
        with self.callback_manager.event(CBEventType.QUERY, asked) as event:
            response = await self.asynthesize(query_bundle, await self.aretrieve(query_bundle))
            event.on_end({EventPayload.RESPONSE: response})
        return response

    def _get_prompt_modules(self) -> PromptMixinType:
        return {"query_engine": self._engine}

    def _streams(self) -> bool:
        if self._streaming is not None:
            return self._streaming
        return streams(getattr(self._engine, "_response_synthesizer", None))


def _require_retriever(retriever: object) -> None:
    if retriever is not None and not isinstance(retriever, BaseRetriever):
        raise ConfigError(
            f"`retry_retrieval` is {type(retriever).__name__}, not a retriever.",
            hint="E.g. index.as_retriever(similarity_top_k=20).",
        )


def _require_flag(streaming: object) -> None:
    if streaming is not None and not isinstance(streaming, bool):
        why = f"`streaming` is {streaming!r:.40}, not True, False or None."
        raise ConfigError(why, hint="Leave it out: messages are streamed where answers are.")


def _require_guardable(engine: object) -> None:
    name = type(engine).__name__
    if isinstance(engine, Gate):
        hint = "Write GuardedQueryEngine(engine, gate)."
        raise ConfigError("The gate is where the query engine should be.", hint=hint)
    if isinstance(engine, BaseChatEngine):
        raise ConfigError(f"{name} is a chat engine.", hint="Use GuardedChatEngine for it.")
    if not isinstance(engine, BaseQueryEngine):
        raise ConfigError(f"{name} is not a query engine.", hint="E.g. index.as_query_engine().")
    if isinstance(engine, GuardedQueryEngine):
        raise ConfigError(f"{name} is already guarded.", hint="One gate is enough.")
    if isinstance(engine, TransformQueryEngine):
        hint = f"Guard the engine inside: {name}(GuardedQueryEngine(inner, gate), transform)."
        raise ConfigError(f"{name} inside a guard would transform twice.", hint=hint)
    _require_seams(type(engine), name)
    if getattr(engine, "_multimodal", False) or isinstance(engine, SimpleMultiModalQueryEngine):
        raise ConfigError(f"{name} is multimodal, but judges read text only.")
    if isinstance(writer := getattr(engine, "_response_synthesizer", None), BaseSynthesizer):
        require_writer(writer, name)
    require_unjudged(engine)


def _require_seams(kind: type, name: str) -> None:
    missing = [seam for seam in _SEAMS if getattr(kind, seam) is getattr(BaseQueryEngine, seam)]
    if missing:
        why = f"{name} has no {', '.join(missing)}: nothing can be judged before it answers."
        hint = f"Guard its inner engines: give the {name} GuardedQueryEngine(inner, gate)."
        raise ConfigError(why, hint=hint)
    family = reversed([*enumerate(kind.__mro__)])
    age = {method: generation for generation, each in family for method in vars(each)}
    skipped = [entry for entry in _ENTRIES if age[entry] < max(age[seam] for seam in _SEAMS)]
    if skipped:
        why = f"{name} overrides {', '.join(skipped)}, which a guard would silently skip."
        raise ConfigError(why, hint="Override `retrieve` or `synthesize`: the guard calls them.")
