"""Every seam of LlamaIndex, every way to ask, every route; retrieving again; events; prompts."""

import asyncio
import json
import re
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from blockbuster import blockbuster_ctx
from bridge import (
    ANSWER,
    CLARIFY,
    MESSAGES,
    QUESTION,
    REFUSE,
    TYPES,
    WAYS,
    CountingLLM,
    FixedRetriever,
    a_gate,
    a_node,
    as_kept,
    ask,
    bridge_nodes,
    node_ids,
    record_of,
)
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.evaluation import RelevancyEvaluator
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span import SimpleSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.query_engine import (
    CitationQueryEngine,
    RetrieverQueryEngine,
    RetryQueryEngine,
    RouterQueryEngine,
)
from llama_index.core.response_synthesizers import (
    BaseSynthesizer,
    CompactAndRefine,
    Generation,
    SimpleSummarize,
    TreeSummarize,
)
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.tools import QueryEngineTool, ToolMetadata
from llama_index_instrumentation import get_dispatcher
from pydantic import Field

from guard import ConfigError, Gate, JudgeError, Policy, Unmeasured
from guard.audit import AuditLog
from guard.policy import OnUnmeasured
from guard.testing import Scripted, ScriptedJudge
from guard_llama_index import (
    Clarifier,
    GuardDecisionEvent,
    GuardedQueryEngine,
    GuardedSynthesizer,
)
from guard_llama_index.answering import Mode
from guard_llama_index.prompts import update_prompts

pytestmark = pytest.mark.local

MODES: tuple[Mode, ...] = ("before", "parallel")

# ── The table ────────────────────────────────────────────────────────────────────────────────────

Seam = Callable[[CountingLLM, Gate, Mode, bool], BaseQueryEngine]


def guarded_engine(llm: CountingLLM, gate: Gate, mode: Mode, streaming: bool) -> BaseQueryEngine:
    retriever = FixedRetriever(bridge_nodes())
    inner = RetrieverQueryEngine.from_args(retriever, llm=llm, streaming=streaming)
    return GuardedQueryEngine(inner, gate, mode=mode)


def a_writer(llm: CountingLLM, gate: Gate, mode: Mode, streaming: bool) -> GuardedSynthesizer:
    return GuardedSynthesizer(CompactAndRefine(llm=llm, streaming=streaming), gate, mode=mode)


def in_retriever_engine(
    llm: CountingLLM, gate: Gate, mode: Mode, streaming: bool
) -> BaseQueryEngine:
    writer = a_writer(llm, gate, mode, streaming)
    return RetrieverQueryEngine(FixedRetriever(bridge_nodes()), response_synthesizer=writer)


def in_citation_engine(
    llm: CountingLLM, gate: Gate, mode: Mode, streaming: bool
) -> BaseQueryEngine:
    writer = a_writer(llm, gate, mode, streaming)
    return CitationQueryEngine(FixedRetriever(bridge_nodes()), llm=llm, response_synthesizer=writer)


def with_retriever(llm: CountingLLM, gate: Gate, mode: Mode, streaming: bool) -> BaseQueryEngine:
    writer = a_writer(llm, gate, mode, streaming)
    engine = RetrieverQueryEngine(FixedRetriever([]), response_synthesizer=writer)
    return engine.with_retriever(FixedRetriever(bridge_nodes()))


SEAMS: dict[str, Seam] = {
    "query engine": guarded_engine,
    "retriever engine": in_retriever_engine,
    "citation engine": in_citation_engine,
    "with_retriever": with_retriever,
}
CASES: dict[str, tuple[Scripted, str, str, str]] = {
    "answer": (0.95, "answer", "sufficient", ANSWER),
    "clarify": (0.5, "clarify", "uncertain", CLARIFY),
    "refuse": (0.05, "refuse", "insufficient", REFUSE),
    "unmeasured": (Unmeasured("No."), "refuse", "no_logprobs", REFUSE),
}


def require_nodes(seam: str, response: RESPONSE_TYPE) -> None:
    """Both nodes are named as sources, with their metadata; citation engines rename them."""
    metadata = response.metadata
    assert metadata is not None
    if seam != "citation engine":
        assert node_ids(response) == ["bridge", "harbour"]
    files = [metadata[name]["file"] for name in node_ids(response)]
    assert files == ["bridge.txt", "harbour.txt"]


POLICIES: dict[str, tuple[dict[str, Any], bool]] = {
    "enforce": ({}, True),
    "shadow": ({"mode": "shadow"}, False),
    "nothing of a canary": ({"canary": 0.0}, False),
    "all of a canary": ({"canary": 1.0}, True),
}


@pytest.fixture
def audit(tmp_path: Path) -> Generator[AuditLog]:
    with AuditLog(tmp_path / "audit.jsonl") as audit:
        yield audit


def records_in(audit: AuditLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in audit.path.read_text().splitlines()]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seam", SEAMS)
def test_every_seam_is_audited_once(
    seam: str, mode: Mode, way: str, policy: str, audit: AuditLog
) -> None:
    """One record a query, the one that the caller gets; in shadow the answer is let through."""
    options, enforced = POLICIES[policy]
    gate = Gate(ScriptedJudge(0.05), Policy(messages=MESSAGES, **options), observers=[audit])
    response, told = ask(SEAMS[seam](CountingLLM(), gate, mode, "stream" in way), way)
    record = record_of(response)
    assert records_in(audit) == [as_kept(record)]
    assert (record["route"], record["enforced"]) == ("refuse", enforced)
    assert told == (REFUSE if enforced else ANSWER)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seam", SEAMS)
def test_every_seam_is_audited_once_where_it_raises(
    seam: str, mode: Mode, way: str, audit: AuditLog
) -> None:
    """An outage is in the audit, though its caller gets no response."""
    policy = Policy(on_unmeasured="raise")
    gate = Gate(ScriptedJudge(Unmeasured("No.")), policy, observers=[audit])
    with pytest.raises(Unmeasured) as caught:
        ask(SEAMS[seam](CountingLLM(), gate, mode, "stream" in way), way)
    assert records_in(audit) == [as_kept(cast("Any", caught.value.decision).to_dict())]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_cancelled_while_it_is_judged_is_in_no_audit(mode: Mode, audit: AuditLog) -> None:
    """It is no decision."""
    gate = Gate(ScriptedJudge(0.05, delay=30.0), observers=[audit])
    engine = guarded_engine(CountingLLM(), gate, mode, False)

    async def cancelled() -> None:
        async with asyncio.timeout(0.05):
            await engine.aquery(QUESTION)

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())
    assert records_in(audit) == []


@pytest.mark.parametrize("seam", SEAMS)
@pytest.mark.parametrize("mode", MODES)
def test_an_answer_that_cannot_be_written_was_let_through(
    mode: Mode, seam: str, audit: AuditLog
) -> None:
    """The audit is about the gate: its decision stands, whatever the model does after it."""

    def failing(prompt: str) -> str:
        raise RuntimeError("The model is down.")

    gate = Gate(ScriptedJudge(0.95), observers=[audit])
    with pytest.raises(RuntimeError, match="The model is down"):
        ask(SEAMS[seam](CountingLLM(reply=failing), gate, mode, False), "async")
    assert [each["route"] for each in records_in(audit)] == ["answer"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_bare_texts_are_audited_once(way: str, policy: str, audit: AuditLog) -> None:
    """There is no response that could hold the record."""
    options, enforced = POLICIES[policy]
    gate = Gate(ScriptedJudge(0.05), Policy(messages=MESSAGES, **options), observers=[audit])
    writer = a_writer(CountingLLM(), gate, "before", False)
    asked = (QUESTION, ["It is."])
    told = (
        writer.get_response(*asked) if way == "sync" else asyncio.run(writer.aget_response(*asked))
    )
    assert told == (REFUSE if enforced else ANSWER)
    [record] = records_in(audit)
    assert (record["route"], record["enforced"]) == ("refuse", enforced)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seam", SEAMS)
def test_every_seam_every_way_every_route(seam: str, mode: Mode, way: str, case: str) -> None:
    """What was generated, and what the caller gets."""
    script, route, reason, text = CASES[case]
    llm = CountingLLM()
    # In parallel the judge is the slower one, so that the writer has begun for certain.
    judge = ScriptedJudge(script, delay=0.05 if mode == "parallel" else 0.0)
    gate = Gate(judge, Policy(messages=MESSAGES))
    response, told = ask(SEAMS[seam](llm, gate, mode, "stream" in way), way)
    assert (type(response), told) == (TYPES[way], text)
    require_nodes(seam, response)
    record = record_of(response)
    assert (record["route"], record["reason"]) == (route, reason)
    assert "first" not in record
    assert [query.question for query in judge.queries] == [QUESTION]
    assert len(llm.prompts) == (1 if case == "answer" or mode == "parallel" else 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seam", SEAMS)
def test_every_seam_raises_if_the_policy_says_so(seam: str, mode: Mode, way: str) -> None:
    """The judge's error reaches the caller with its record, and no answer does."""
    llm = CountingLLM()
    gate, _ = a_gate(Unmeasured("No logprobs."), on_unmeasured="raise")
    with pytest.raises(Unmeasured, match=r"No logprobs\.") as caught:
        ask(SEAMS[seam](llm, gate, mode, "stream" in way), way)
    assert caught.value.decision is not None
    assert len(llm.prompts) <= (1 if mode == "parallel" else 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
def test_a_synthesizer_without_nodes_refuses(mode: Mode, way: str) -> None:
    """LlamaIndex's "Empty Response" never reaches a user."""
    llm = CountingLLM()
    gate, judge = a_gate(0.95)
    writer = a_writer(llm, gate, mode, "stream" in way)
    engine = RetrieverQueryEngine(FixedRetriever([]), response_synthesizer=writer)
    response, told = ask(engine, way)
    assert (type(response), told) == (TYPES[way], REFUSE)
    assert (record_of(response)["reason"], judge.queries, llm.prompts) == ("no_contexts", [], [])


@pytest.mark.parametrize("mode", MODES)
def test_an_unknown_mode_is_refused(mode: Mode) -> None:
    """A misspelt mode fails at once, not on the first query."""
    misspelt = cast("Mode", mode.upper())
    with pytest.raises(ConfigError, match="mode"):
        guarded_engine(CountingLLM(), a_gate(0.9)[0], misspelt, False)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seam", SEAMS)
def test_the_event_loop_is_not_held_up(seam: str, mode: Mode) -> None:
    """Nothing blocks on the asynchronous path."""
    engine = SEAMS[seam](CountingLLM(), a_gate(0.95)[0], mode, True)

    async def asked() -> RESPONSE_TYPE:
        await engine.aquery(QUESTION)  # LlamaIndex loads its tokenizer on the first query.
        with blockbuster_ctx():
            return await engine.aquery(QUESTION)

    assert record_of(asyncio.run(asked()))["route"] == "answer"


# What cannot be guarded.


def test_a_synthesizer_that_cannot_be_guarded_is_refused() -> None:
    """Guarded twice, no synthesizer at all, or one that does not write from all it is given."""
    gate, llm = a_gate(0.9)[0], CountingLLM()
    guarded = GuardedSynthesizer(TreeSummarize(llm=llm), gate)
    for wrong, why in (
        (guarded, "already guarded"),
        (llm, "CountingLLM is not a synthesizer"),
        (Generation(llm=llm), "without its contexts"),
        (SimpleSummarize(llm=llm), "from a part of them"),
    ):
        with pytest.raises(ConfigError, match=why):
            GuardedSynthesizer(cast("BaseSynthesizer", wrong), gate)
    engine = RetrieverQueryEngine(FixedRetriever([]), response_synthesizer=guarded)
    with pytest.raises(ConfigError, match="RetrieverQueryEngine's .* is already guarded"):
        GuardedQueryEngine(engine, gate)


# Bare texts.


class Both(BaseSelector):
    """A router's selector that always takes the first two engines."""

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts_dict: PromptDictType) -> None:
        pass

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return SelectorResult(
            selections=[SingleSelection(index=index, reason="Both.") for index in (0, 1)]
        )

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return self._select(choices, query)


@pytest.mark.parametrize(("script", "text", "calls"), [(0.95, ANSWER, 3), (0.05, REFUSE, 2)])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_routers_summarizer_is_gated(way: str, script: float, text: str, calls: int) -> None:
    """LlamaIndex's router asks its summarizer for bare texts: sub-answers, judged like nodes."""
    llm = CountingLLM()
    gate, judge = a_gate(script)
    tools = [
        QueryEngineTool.from_defaults(
            RetrieverQueryEngine.from_args(FixedRetriever(bridge_nodes()), llm=llm),
            name=name,
            description=name,
        )
        for name in ("one", "two")
    ]
    summarizer = GuardedSynthesizer(TreeSummarize(llm=llm), gate)
    engine = RouterQueryEngine(Both(), tools, llm=llm, summarizer=cast("TreeSummarize", summarizer))
    assert ask(engine, way)[1] == text
    assert judge.queries[0].contexts == (ANSWER, ANSWER)
    assert len(llm.prompts) == calls


@pytest.mark.parametrize("script", [0.95, 0.05])
def test_bare_texts_are_streamed_where_answers_are(script: float) -> None:
    """The message has the type that the answer would have."""
    writer = a_writer(CountingLLM(), a_gate(script)[0], "before", True)
    text = ANSWER if script > 0.5 else REFUSE
    assert "".join(cast("Generator[str]", writer.get_response(QUESTION, ["It is."]))) == text

    async def streamed() -> str:
        tokens = cast("Any", await writer.aget_response(QUESTION, ["It is."]))
        return "".join([token async for token in tokens])

    assert asyncio.run(streamed()) == text


# ── Retrieving again ─────────────────────────────────────────────────────────────────────────────


def again(
    script: Sequence[Scripted],
    more: BaseRetriever,
    *,
    mode: Mode = "before",
    kind: str = "retriever",
    streaming: bool = False,
    postprocessors: Sequence[BaseNodePostprocessor] = (),
) -> tuple[GuardedQueryEngine, ScriptedJudge, CountingLLM]:
    llm = CountingLLM()
    gate, judge = a_gate(script)
    first, options = FixedRetriever(bridge_nodes()), {"node_postprocessors": list(postprocessors)}
    writer = CompactAndRefine(llm=llm, streaming=streaming)
    inner: BaseQueryEngine = RetrieverQueryEngine(first, writer, **cast("Any", options))
    if kind == "citation":
        inner = CitationQueryEngine(
            first, llm=llm, response_synthesizer=writer, **cast("Any", options)
        )
    return GuardedQueryEngine(inner, gate, mode=mode, retry_retrieval=more), judge, llm


def more_nodes() -> list[NodeWithScore]:
    """One that is known by its name, one by what it holds, and a new one, twice."""
    known = bridge_nodes()
    return [
        known[0],
        a_node("It spans the harbour.", "again", file="harbour.txt"),
        a_node("It took eight years.", "years"),
        a_node("It took eight years.", "years"),
    ]


@pytest.mark.parametrize(
    ("script", "text"), [([0.5, 0.95], ANSWER), ([0.05, 0.5], CLARIFY), ([0.5, 0.05], REFUSE)]
)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
def test_the_union_is_judged_once_more(
    mode: Mode, way: str, script: list[Scripted], text: str
) -> None:
    """Each node once, the first ones first; the record holds both verdicts."""
    more = FixedRetriever(more_nodes())
    engine, judge, llm = again(script, more, mode=mode, streaming="stream" in way)
    response, told = ask(engine, way)
    assert (type(response), told) == (TYPES[way], text)
    assert node_ids(response) == ["bridge", "harbour", "years"]
    record = record_of(response)
    assert [record["first"]["probability"], record["probability"]] == script
    assert [len(query.contexts) for query in judge.queries] == [2, 3]
    assert more.questions == [QUESTION]
    if text == ANSWER:
        assert "eight years" in llm.prompts[-1]
    elif mode == "before":
        assert llm.prompts == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_nothing_new_is_not_judged_again(way: str, mode: Mode) -> None:
    """One verdict, though more was asked for."""
    more = FixedRetriever([*bridge_nodes(), *more_nodes()[:2]])
    engine, judge, _ = again([0.05], more, mode=mode)
    response, told = ask(engine, way)
    assert (told, node_ids(response)) == (REFUSE, ["bridge", "harbour"])
    assert (len(judge.queries), more.questions) == (1, [QUESTION])
    assert "first" not in record_of(response)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_what_suffices_is_not_retrieved_again(way: str, mode: Mode) -> None:
    """An answer costs one retrieval."""
    more = FixedRetriever(more_nodes())
    assert ask(again([0.95], more, mode=mode)[0], way)[1] == ANSWER
    assert more.questions == []


@pytest.mark.parametrize("script", [[0.5, 0.95], [0.5, 0.05]])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_citations_of_the_union_are_split(way: str, mode: Mode, script: list[Scripted]) -> None:
    """The judge sees the union numbered as the answer prompt shows it."""
    engine, judge, llm = again(script, FixedRetriever(more_nodes()), mode=mode, kind="citation")
    response, _ = ask(engine, way)
    seen = judge.queries[1].contexts
    assert re.findall(r"Source (\d):", " ".join(seen)) == ["1", "2", "3"]
    assert len(response.source_nodes) == 3
    if script[1] == 0.95:
        assert all(text in llm.prompts[-1] for text in seen)


@pytest.mark.parametrize("nodes", [more_nodes(), bridge_nodes()], ids=["more", "none"])
@pytest.mark.parametrize(
    "script", [[0.5, 0.95], [0.05, 0.5], [0.5, 0.05], [0.5, Unmeasured("No.")], [0.95]]
)
@pytest.mark.parametrize("on_unmeasured", ["answer", "raise"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
def test_retrieving_again_is_audited_once(
    mode: Mode,
    way: str,
    on_unmeasured: OnUnmeasured,
    script: list[Scripted],
    nodes: list[NodeWithScore],
    audit: AuditLog,
) -> None:
    """With the decision that the caller gets, be it the first or the second."""
    policy = Policy(messages=MESSAGES, on_unmeasured=on_unmeasured)
    gate = Gate(ScriptedJudge(script), policy, observers=[audit])
    writer = CompactAndRefine(llm=CountingLLM(), streaming="stream" in way)
    inner = RetrieverQueryEngine(FixedRetriever(bridge_nodes()), writer)
    again = FixedRetriever(nodes)
    asker = Clarifier(CountingLLM(reply=lambda _: "Which of them?"))
    engine = GuardedQueryEngine(inner, gate, mode=mode, retry_retrieval=again, clarifier=asker)
    response, told = ask(engine, way)
    [record] = records_in(audit)
    assert record == as_kept(record_of(response))
    assert record_of(response)["message"] == (None if told == ANSWER else told)


class Rollback(FixedRetriever):
    """Meanwhile somebody takes the policy back to shadow."""

    gate: Gate

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        self.gate.policy = Policy(messages=MESSAGES, mode="shadow")
        return super()._retrieve(query_bundle)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_both_decisions_of_a_query_are_enforced_or_neither(way: str, mode: Mode) -> None:
    """A refusal that is enforced is not lifted by one that is not."""
    shelf = Rollback(more_nodes())
    shelf.gate = a_gate(0.05)[0]
    inner = RetrieverQueryEngine.from_args(FixedRetriever(bridge_nodes()), llm=CountingLLM())
    engine = GuardedQueryEngine(inner, shelf.gate, mode=mode, retry_retrieval=shelf)
    response, told = ask(engine, way)
    record = record_of(response)
    assert (told, record["enforced"], record["first"]["enforced"]) == (REFUSE, True, True)


class Broken(BaseRetriever):
    """Cannot retrieve."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        raise LookupError("The index is gone.")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_retrievers_error_surfaces(way: str, mode: Mode, audit: AuditLog) -> None:
    """It is no refusal: the documents may well say. What was decided before is in the audit."""
    gate = Gate(ScriptedJudge(0.05), observers=[audit])
    inner = RetrieverQueryEngine.from_args(FixedRetriever(bridge_nodes()), llm=CountingLLM())
    broken = cast("Any", Broken)()
    engine = GuardedQueryEngine(inner, gate, mode=mode, retry_retrieval=broken)
    with pytest.raises(LookupError, match="The index is gone"):
        ask(engine, way)
    assert [each["probability"] for each in records_in(audit)] == [0.05]


@pytest.mark.parametrize("on_unmeasured", ["answer", "clarify", "refuse"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_outage_leaves_the_first_verdict_standing(
    way: str, mode: Mode, on_unmeasured: OnUnmeasured
) -> None:
    """Measured as insufficient, it is refused, whatever the policy does with what was not."""
    shelf = FixedRetriever([a_node("It took eight years.", "years")])
    inner = RetrieverQueryEngine.from_args(FixedRetriever(bridge_nodes()), llm=CountingLLM())
    gate, judge = a_gate([0.05, Unmeasured("No.")], on_unmeasured=on_unmeasured)
    engine = GuardedQueryEngine(inner, gate, mode=mode, retry_retrieval=shelf)
    response, told = ask(engine, way)
    assert told == REFUSE and len(judge.queries) == 2
    record = record_of(response)
    assert (record["route"], record["probability"]) == ("refuse", 0.05)


class Mask(BaseNodePostprocessor):
    """Blackens years."""

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return [a_node(each.text.replace("eight", "█"), each.node.node_id) for each in nodes]


@pytest.mark.parametrize("kind", ["retriever", "citation"])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_engines_postprocessors_see_all_nodes(way: str, kind: str) -> None:
    """What they mask stays masked in what was retrieved later."""
    more = FixedRetriever(more_nodes())
    engine, judge, llm = again([0.5, 0.95], more, kind=kind, postprocessors=[Mask()])
    ask(engine, way)
    assert "█ years" in judge.queries[1].contexts[2]
    assert "eight" not in str(judge.queries) + str(llm.prompts)


def test_what_is_no_retriever_is_refused() -> None:
    """A mistake that would else show on the first refusal only."""
    with pytest.raises(ConfigError, match="`retry_retrieval` is str, not a retriever"):
        again([0.5], cast("BaseRetriever", "bm25"))


# ── Events ───────────────────────────────────────────────────────────────────────────────────────


class Events(BaseEventHandler):
    """Keeps the guard's events."""

    kept: list[GuardDecisionEvent] = Field(default_factory=list[GuardDecisionEvent])

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if isinstance(event, GuardDecisionEvent):
            self.kept.append(event)


class Spans(BaseSpanHandler[SimpleSpan]):
    """Keeps what a tracer would record of the guard's own spans."""

    kept: list[str] = Field(default_factory=list[str])

    def new_span(self, *args: Any, **kwargs: Any) -> None:
        self._keep(kwargs)

    def prepare_to_exit_span(self, *args: Any, **kwargs: Any) -> None:
        self._keep(kwargs)

    def prepare_to_drop_span(self, *args: Any, **kwargs: Any) -> None:
        self._keep(kwargs)

    def _keep(self, told: dict[str, Any]) -> None:
        if "decide" in told["id_"]:
            self.kept.append(repr(told))


class ClumsyEvents(BaseEventHandler):
    """A handler with a bug."""

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        raise RuntimeError("A bug in a handler.")


class ClumsySpans(BaseSpanHandler[SimpleSpan]):
    """A tracer with a bug."""

    def new_span(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("A bug in a tracer.")

    def prepare_to_exit_span(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("A bug in a tracer.")

    def prepare_to_drop_span(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("A bug in a tracer.")


@pytest.fixture
def heard() -> Generator[tuple[Events, Spans]]:
    """What the dispatcher's handlers hear, one of each kind having a bug."""
    root: Any = get_dispatcher()
    before = list(root.event_handlers), list(root.span_handlers)
    kept = Events(), Spans()
    root.event_handlers = [ClumsyEvents(), kept[0]]
    root.span_handlers = [ClumsySpans(), kept[1]]
    yield kept
    root.event_handlers, root.span_handlers = before


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seam", SEAMS)
def test_trap_44_handlers_that_raise_change_nothing_and_hear_no_texts(
    heard: tuple[Events, Spans], seam: str, mode: Mode, way: str, case: str
) -> None:
    """One event and one span for each decision, without question or passages."""
    events, spans = heard
    script, route, _, text = CASES[case]
    response, told = ask(SEAMS[seam](CountingLLM(), a_gate(script)[0], mode, "stream" in way), way)
    assert told == text
    (event,) = events.kept
    assert (event.class_name(), event.decision["route"]) == ("GuardDecisionEvent", route)
    assert (event.question, event.contexts) == (None, None)
    assert event.decision == record_of(response)
    assert len(spans.kept) == 2
    for recorded in (event.model_dump_json(), *spans.kept):
        assert "bridge opened" not in recorded
        assert "opened in 1932" not in recorded and "harbour" not in recorded


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
def test_a_query_that_could_not_be_measured_is_an_event_too(
    heard: tuple[Events, Spans], mode: Mode, way: str
) -> None:
    """An outage of the judge is what an operator must see, raised or not."""
    gate, _ = a_gate(Unmeasured("No."), on_unmeasured="raise")
    with pytest.raises(JudgeError):
        ask(guarded_engine(CountingLLM(), gate, mode, "stream" in way), way)
    (event,) = heard[0].kept
    assert (event.decision["route"], event.decision["reason"]) == (None, "no_logprobs")
    assert "opened in 1932" not in event.model_dump_json() + str(heard[1].kept)


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("kind", ["engine", "synthesizer", "with_retriever"])
def test_events_carry_texts_if_asked(heard: tuple[Events, Spans], kind: str, way: str) -> None:
    """The question, and the passages as they were judged; spans still carry none."""
    gate, judge = a_gate(0.05)
    writer, retriever = CompactAndRefine(llm=CountingLLM()), FixedRetriever(bridge_nodes())
    engine: BaseQueryEngine
    if kind == "synthesizer":
        guarded = GuardedSynthesizer(writer, gate, texts_in_events=True)
        engine = RetrieverQueryEngine(retriever, response_synthesizer=guarded)
    else:
        inner = RetrieverQueryEngine(retriever, response_synthesizer=writer)
        engine = GuardedQueryEngine(inner, gate, texts_in_events=True)
        engine = engine.with_retriever(retriever) if kind == "with_retriever" else engine
    ask(engine, way)
    (event,) = heard[0].kept
    assert (event.question, event.contexts) == (QUESTION, list(judge.queries[0].contexts))
    assert "opened in 1932" not in str(heard[1].kept)


def test_both_decisions_of_a_second_retrieval_are_events(heard: tuple[Events, Spans]) -> None:
    """One for each judgement, in their order."""
    ask(again([0.5, 0.95], FixedRetriever(more_nodes()))[0], "sync")
    assert [event.decision["route"] for event in heard[0].kept] == ["clarify", "answer"]


# ── Prompts ──────────────────────────────────────────────────────────────────────────────────────

BRIEF = PromptTemplate("Briefly: {context_str} {query_str}")


KEY = "query_engine:response_synthesizer:text_qa_template"


def test_trap_38_prompts_are_updated_at_any_depth() -> None:
    """Under each name that `get_prompts` gives; LlamaIndex's own takes one colon at most."""
    llm = CountingLLM()
    inner = RetrieverQueryEngine.from_args(FixedRetriever(bridge_nodes()), llm=llm)
    with pytest.raises(ValueError, match="too many values to unpack"):
        RetryQueryEngine(inner, RelevancyEvaluator(llm=llm)).update_prompts({KEY: BRIEF})
    engine = GuardedQueryEngine(inner, a_gate(0.95)[0])
    before = engine.get_prompts()
    engine.update_prompts(before)
    engine.update_prompts({KEY: BRIEF})
    assert engine.get_prompts() == {**before, KEY: BRIEF}
    assert ask(engine, "sync")[1] == ANSWER
    assert llm.prompts[0].startswith("Briefly: ")


def test_prompts_of_a_guarded_engine_inside_another() -> None:
    """LlamaIndex's own modules around a guarded one, which `update_prompts` finds its way through.

    Their method cannot: it fails before it gets to the guarded engine, and without one too.
    """
    llm = CountingLLM()
    inner = RetrieverQueryEngine.from_args(FixedRetriever(bridge_nodes()), llm=llm)
    guarded = GuardedQueryEngine(inner, a_gate(0.95)[0])
    engine = RetryQueryEngine(guarded, RelevancyEvaluator(llm=llm), max_retries=0)
    before = engine.get_prompts()
    with pytest.raises(ValueError, match="too many values to unpack"):
        engine.update_prompts(before)
    update_prompts(engine, {**before, f"query_engine:{KEY}": BRIEF})
    assert engine.get_prompts() == {**before, f"query_engine:{KEY}": BRIEF}
    assert ask(engine, "sync")[1] == ANSWER
    assert llm.prompts[0].startswith("Briefly: ")


class Nest(RetrieverQueryEngine):
    """An engine of LlamaIndex's kind whose prompts lie deeper."""

    def _get_prompt_modules(self) -> PromptMixinType:
        inner = RetrieverQueryEngine(self.retriever, self._response_synthesizer)
        return {"nest": RetryQueryEngine(inner, RelevancyEvaluator(llm=CountingLLM()))}


def test_prompts_below_the_guarded_engine() -> None:
    """Modules of LlamaIndex's own below ours are no obstacle."""
    inner = Nest.from_args(FixedRetriever([]), llm=CountingLLM())
    engine = GuardedQueryEngine(inner, a_gate(0.95)[0])
    name = f"query_engine:nest:{KEY}"
    assert name in engine.get_prompts()
    engine.update_prompts({name: BRIEF})
    assert engine.get_prompts()[name] == BRIEF


def test_prompts_of_an_unknown_module_change_nothing() -> None:
    """A misspelt name is an error, as it is in LlamaIndex."""
    inner = RetrieverQueryEngine.from_args(FixedRetriever([]), llm=CountingLLM())
    engine = GuardedQueryEngine(inner, a_gate(0.95)[0])
    before = engine.get_prompts()
    with pytest.raises(ValueError, match="Module enigne not found"):
        engine.update_prompts({KEY: BRIEF, f"enigne:{KEY}": BRIEF})
    assert engine.get_prompts() == before


def test_a_guarded_synthesizer_has_the_prompts_of_the_one_inside() -> None:
    """Under the same names as without a guard, so that LlamaIndex's own update finds them."""
    plain = CompactAndRefine(llm=CountingLLM())
    engine = RetrieverQueryEngine(FixedRetriever([]), plain)
    names = set(engine.get_prompts())
    guarded = GuardedSynthesizer(plain, a_gate(0.95)[0])
    engine = RetrieverQueryEngine(FixedRetriever([]), guarded)
    assert set(engine.get_prompts()) == names
    engine.update_prompts({"response_synthesizer:text_qa_template": BRIEF})
    assert plain.get_prompts()["text_qa_template"] == BRIEF
    assert guarded.synthesizer is plain
    assert guarded.callback_manager is plain.callback_manager


@pytest.mark.parametrize(("script", "text"), [(0.95, ANSWER), (0.05, REFUSE)])
def test_a_chat_engine_that_switches_streaming_on(script: float, text: str) -> None:
    """CondenseQuestionChatEngine sets `_streaming` on the synthesizer for the time of a call."""
    llm = CountingLLM()
    writer = GuardedSynthesizer(CompactAndRefine(llm=llm), a_gate(script)[0])
    engine = RetrieverQueryEngine(FixedRetriever(bridge_nodes()), response_synthesizer=writer)
    memory = ChatMemoryBuffer(token_limit=1000)
    chat: Any = CondenseQuestionChatEngine.from_defaults(engine, llm=llm, memory=memory)
    assert "".join(chat.stream_chat("When was the bridge opened?").response_gen) == text
