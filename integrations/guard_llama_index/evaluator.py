"""An evaluator: how sufficient the retrieved contexts are, over a set of questions."""

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.response import schema
from llama_index.core.evaluation import BaseEvaluator, EvaluationResult
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from guard import ConfigError, Decision, Gate, JudgeError, Reason, Route
from guard_llama_index.judging import Judging
from guard_llama_index.responses import Nodes, texts_of


class SufficientContextEvaluator(BaseEvaluator):
    """Evaluates retrieval by the gate's own judge; runs in ``BatchEvalRunner``.

        evaluator = SufficientContextEvaluator(gate)
        result = evaluator.evaluate(query="When was it built?", contexts=["Opened in 1932."])
        print(result.passing, result.score, result.feedback)

    ``passing`` tells whether the route is ``answer``, also in shadow mode; ``score`` is
    P(sufficient context) in [0, 1]; ``feedback`` is the decision's detail. What could not be
    measured has ``None`` for both and is an ``invalid_result``, whatever the policy does with it;
    so one outage does not end a batch. An empty set was not measured either, but it is a result:
    nothing suffices for nothing, and its score is 0.

    A response is judged on its nodes with their metadata, as the answer prompt held them. The
    gate's observers are not told: a test question is no user's, and belongs into no audit.

    Args:
        gate: decides.

    Raises:
        ConfigError: ``gate`` is not a gate; the question is missing or blank, or there are no
            contexts to speak of (``None``; an empty list is fine).
    """

    def __init__(self, gate: Gate) -> None:
        self._judging = Judging(gate)  # Whose `decide` tells no observer.

    def evaluate(
        self,
        query: str | None = None,
        response: str | None = None,
        contexts: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """Evaluates one query; ``response`` is kept in the result, and not judged."""
        asked, nodes = _asked(query, contexts)
        try:
            decision = self._judging.decide(asked, nodes)
        except JudgeError as error:
            decision = _recorded(error)
        return _result(decision, asked, nodes, response)

    async def aevaluate(
        self,
        query: str | None = None,
        response: str | None = None,
        contexts: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """As `evaluate`."""
        asked, nodes = _asked(query, contexts)
        try:
            decision = await self._judging.adecide(asked, nodes)
        except JudgeError as error:
            decision = _recorded(error)
        return _result(decision, asked, nodes, response)

    def evaluate_response(
        self, query: str | None = None, response: schema.Response | None = None, **kwargs: Any
    ) -> EvaluationResult:
        """Evaluates what a response was written from: its source nodes."""
        return self.evaluate(query, *_parts(response), **kwargs)

    async def aevaluate_response(
        self, query: str | None = None, response: schema.Response | None = None, **kwargs: Any
    ) -> EvaluationResult:
        """As `evaluate_response`."""
        return await self.aevaluate(query, *_parts(response), **kwargs)

    # The judge's prompt is part of its fingerprint, and nothing to be tuned from outside.

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts_dict: PromptDictType) -> None:
        pass

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}


def _asked(query: str | None, contexts: Sequence[str] | None) -> tuple[QueryBundle, Nodes]:
    if query is None or contexts is None:
        missing = "query" if query is None else "contexts"
        why = f"Sufficiency is judged on `query` and `contexts`; there is no `{missing}`."
        raise ConfigError(why, hint=f"Pass {missing}=…; an answer is not needed.")
    if isinstance(contexts, str):
        hint = "Write contexts=[text] instead of contexts=text."
        raise ConfigError("`contexts` is a single text; it must be a list of texts.", hint=hint)
    return QueryBundle(query), [NodeWithScore(node=TextNode(text=text)) for text in contexts]


def _parts(response: schema.Response | None) -> tuple[str | None, list[str] | None]:
    # Not the base class's, which leaves the metadata out: the verdict would be on another text.
    if response is None:
        return None, None
    return response.response, texts_of(response.source_nodes)


def _recorded(error: JudgeError) -> Decision:
    """The record of a query whose policy is to raise; a batch is to go on without it."""
    if not isinstance(error.decision, Decision):
        raise error
    return error.decision


def _result(
    decision: Decision, asked: QueryBundle, nodes: Nodes, response: str | None
) -> EvaluationResult:
    return EvaluationResult(
        query=asked.query_str,
        contexts=texts_of(nodes),
        response=response,
        # What was not measured neither passes nor fails, wherever the policy sends it.
        passing=None if decision.unmeasured else decision.route is Route.ANSWER,
        score=0.0 if decision.reason is Reason.NO_CONTEXTS else decision.probability,
        feedback=decision.detail,
        invalid_result=decision.unmeasured,
        invalid_reason=decision.detail if decision.unmeasured else None,
    )
