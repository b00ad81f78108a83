"""SufficientContextEvaluator, alone and in LlamaIndex's own BatchEvalRunner."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from bridge import ANSWER, QUESTION, CountingLLM, bridge_nodes
from llama_index.core.base.response.schema import Response
from llama_index.core.evaluation import BatchEvalRunner, EvaluationResult
from parts import a_gate, an_engine, queries_of

from guard import ConfigError, Gate, Policy, Query, Unmeasured
from guard.audit import AuditLog
from guard.testing import Scripted, ScriptedJudge
from guard_llama_index import SufficientContextEvaluator

pytestmark = [
    pytest.mark.local,
    # LlamaIndex's runner uses what LlamaIndex deprecates.
    pytest.mark.filterwarnings("ignore:asyncio_module:DeprecationWarning"),
]

CONTEXTS = ["The bridge was opened in 1932.", "It spans the harbour."]


def evaluated(gate: Gate, mode: str, **asked: Any) -> EvaluationResult:
    evaluator = SufficientContextEvaluator(gate)
    asked = {"query": QUESTION, "contexts": CONTEXTS, **asked}
    if mode == "sync":
        return evaluator.evaluate(**asked)
    return asyncio.run(evaluator.aevaluate(**asked))


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("policy", ["enforce", "shadow"])
@pytest.mark.parametrize(("probability", "passing"), [(0.95, True), (0.5, False), (0.05, False)])
def test_score_is_the_probability(
    probability: float, passing: bool, policy: str, mode: str
) -> None:
    """And passing is the route, whether it is enforced or not."""
    gate = a_gate(probability, mode=policy)
    result = evaluated(gate, mode, response=ANSWER)
    assert (result.score, result.passing) == (probability, passing)
    assert result.feedback is not None and result.feedback.startswith("P(sufficient) = ")
    assert (result.invalid_result, result.invalid_reason) == (False, None)
    assert (result.query, result.contexts, result.response) == (QUESTION, CONTEXTS, ANSWER)
    assert list(queries_of(gate)[0].contexts) == CONTEXTS


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("route", ["refuse", "answer", "raise"])
def test_unmeasured_is_invalid(route: str, mode: str) -> None:
    """Whatever the policy does with it, it has no score; nor does it end a batch."""
    result = evaluated(a_gate(Unmeasured("No logprobs."), on_unmeasured=route), mode)
    assert (result.score, result.passing) == (None, None)
    assert result.invalid_result
    assert result.invalid_reason == result.feedback == "No logprobs."


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("script", [0.95, 0.05, Unmeasured("No.")])
def test_a_test_question_is_in_no_audit(script: Scripted, mode: str, tmp_path: Path) -> None:
    """It is no user's; rates of the audit are of users alone."""
    with AuditLog(tmp_path / "audit.jsonl") as audit:
        policy = Policy(on_unmeasured="raise")
        evaluated(Gate(ScriptedJudge(script), policy, observers=[audit]), mode)
    assert audit.path.read_text() == ""


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_nothing_suffices_for_nothing(mode: str) -> None:
    """An empty set is a failure of the retrieval, and must not be left out of its mean."""
    gate = a_gate(0.95)
    result = evaluated(gate, mode, contexts=[])
    assert (result.score, result.passing, result.invalid_result) == (0.0, False, False)
    assert queries_of(gate) == []


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_response_is_judged_on_what_the_prompt_held(mode: str) -> None:
    """Its nodes' metadata is part of it, as in GuardedQueryEngine."""
    gate = a_gate(0.95)
    evaluator = SufficientContextEvaluator(gate)
    response = Response(ANSWER, source_nodes=bridge_nodes())
    if mode == "sync":
        result = evaluator.evaluate_response(QUESTION, response)
    else:
        result = asyncio.run(evaluator.aevaluate_response(QUESTION, response))
    assert (result.score, result.response) == (0.95, ANSWER)
    assert queries_of(gate)[0].contexts[0] == "file: bridge.txt\n\nThe bridge was opened in 1932."


def verdict_on(query: Query) -> Scripted:
    number = int(query.question.split()[0])
    return Unmeasured("No.") if number == 7 else number / 100


@pytest.mark.parametrize("workers", [1, 8])
def test_a_batch_keeps_its_order(workers: int) -> None:
    """In the real runner, many at once, with one that cannot be measured."""
    evaluator = SufficientContextEvaluator(a_gate(verdict_on, on_unmeasured="raise"))
    runner = BatchEvalRunner({"sufficient": evaluator}, workers=workers)
    queries = [f"{number} is the number?" for number in range(100)]
    contexts = [[f"Passage {number}."] for number in range(100)]
    results = asyncio.run(runner.aevaluate_response_strs(queries, None, contexts))["sufficient"]
    assert [one.query for one in results] == queries
    assert [one.contexts for one in results] == contexts
    assert [one.score for one in results] == [
        None if number == 7 else number / 100 for number in range(100)
    ]
    assert [one.query for one in results if one.invalid_result] == [queries[7]]


def test_a_batch_of_an_engine() -> None:
    """The runner queries an engine, and evaluates its responses."""
    runner = BatchEvalRunner({"sufficient": SufficientContextEvaluator(a_gate(0.9))}, workers=4)
    results = runner.evaluate_queries(an_engine(CountingLLM()), [QUESTION] * 5)["sufficient"]
    assert [one.score for one in results] == [0.9] * 5


def test_inside_a_running_loop() -> None:
    """The synchronous side needs no event loop of its own."""

    async def inside() -> EvaluationResult:
        return evaluated(a_gate(0.9), "sync")

    assert asyncio.run(inside()).passing


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"query": None}, "no `query`"),
        ({"contexts": None}, "no `contexts`"),
        ({"contexts": "a"}, "single"),
    ],
)
def test_wrong_arguments_are_the_callers_mistake(asked: dict[str, Any], match: str) -> None:
    """A question and a list of contexts are needed."""
    with pytest.raises(ConfigError, match=match):
        evaluated(a_gate(0.9), "async", **asked)
    with pytest.raises(ConfigError, match="not a gate"):
        SufficientContextEvaluator(cast("Any", "gate"))


def test_there_are_no_prompts_to_change() -> None:
    """LlamaIndex's prompt methods work, and find none."""
    evaluator = SufficientContextEvaluator(a_gate(0.9))
    evaluator.update_prompts({})
    assert evaluator.get_prompts() == {}
