"""A node postprocessor that raises where the nodes do not suffice."""

from collections.abc import Sequence
from typing import cast

from llama_index.core.base.response import schema
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from pydantic import PrivateAttr

from guard import ConfigError, Decision, Gate, GuardError
from guard_llama_index.clarifier import Clarifier
from guard_llama_index.judging import Judging, Lang
from guard_llama_index.responses import Nodes, told
from guard_llama_index.suspects import require_droppable, without_suspects


class ContextsInsufficient(GuardError):
    """The nodes do not suffice, and no answer may be written; ``str(error)`` is for the user.

    Attributes:
        decision: the record; its route is ``clarify`` or ``refuse``.
        nodes: what was found.
    """

    def __init__(self, decision: Decision, nodes: Sequence[NodeWithScore]) -> None:
        super().__init__(decision.message or "")
        self.decision = decision
        self.nodes = list(nodes)

    def __reduce__(self) -> tuple[type["ContextsInsufficient"], tuple[Decision, Nodes]]:
        # An exception is otherwise copied by its message alone, which would not be enough here.
        return type(self), (self.decision, self.nodes)


def response_of(error: ContextsInsufficient) -> schema.Response:
    """What a guarded engine would have returned: the message, the sources, and the record."""
    response = told(error.decision, error.nodes, streams=False, awaited=False)
    return cast("schema.Response", response)


class GuardPostprocessor(BaseNodePostprocessor):
    """Lets nodes through if they suffice; else raises `ContextsInsufficient`.

        pipeline = [reranker, GuardPostprocessor(gate)]  # last: what it judges is what is shown
        try:
            print(engine.query("When was it built?"))
        except ContextsInsufficient as error:
            print(response_of(error))  # the policy's message; what was found

    For pipelines of your own. Prefer `GuardedSynthesizer`, `GuardedQueryEngine` and
    `GuardedChatEngine`, which return the message in place of an answer and need no ``except``.

    It raises because an empty list is no refusal: a synthesizer makes "Empty Response" of it, and a
    chat engine falls back on the nodes of an earlier turn. Where nothing was retrieved it raises
    too, without asking the judge.

    Args:
        gate: decides.
        lang: the language (BCP 47) of messages, or a function that tells it of a query.
        texts_in_events: whether `GuardDecisionEvent` carries question and passages.
        clarifier: writes the question to ask back; ``None`` = the policy's fixed message.
        drop_suspects: whether those that speak to the judge are left out of what is let through:
            the rest was judged, and suffices.

    Raises:
        ConfigError: ``gate`` is not a gate, or looks for no suspects where they are to be left out;
            or nodes come without a question.
        ContextsInsufficient: the nodes do not suffice, and the policy is enforced.
        JudgeError: a query could not be measured, and the policy says ``raise``.
    """

    # Private: LlamaIndex writes a component's fields into its JSON, and a gate holds a key.
    _judging: Judging = PrivateAttr()
    _drop_suspects: bool = PrivateAttr()

    def __init__(
        self,
        gate: Gate,
        *,
        lang: Lang = None,
        texts_in_events: bool = False,
        clarifier: Clarifier | None = None,
        drop_suspects: bool = False,
    ) -> None:
        super().__init__()
        self._judging = Judging(gate, lang, texts_in_events, clarifier)
        require_droppable(gate, drop_suspects)
        self._drop_suspects = drop_suspects

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows it."""
        return "GuardPostprocessor"

    @property
    def gate(self) -> Gate:
        """What decides."""
        return self._judging.gate

    def _postprocess_nodes(self, nodes: Nodes, query_bundle: QueryBundle | None = None) -> Nodes:
        return self._passed(self._judging.judge(_asked(query_bundle), nodes), nodes)

    async def _apostprocess_nodes(
        self, nodes: Nodes, query_bundle: QueryBundle | None = None
    ) -> Nodes:
        return self._passed(await self._judging.ajudge(_asked(query_bundle), nodes), nodes)

    def _passed(self, decision: Decision, nodes: Nodes) -> Nodes:
        if not decision.passes:
            raise ContextsInsufficient(decision, nodes)
        return without_suspects(decision, nodes) if self._drop_suspects else nodes


def require_unjudged(engine: object) -> None:
    """Raises `ConfigError` if an engine's nodes are judged already, which would raise inside it."""
    posts: Sequence[object] = getattr(engine, "_node_postprocessors", None) or ()
    if any(isinstance(each, GuardPostprocessor) for each in posts):
        why = f"{type(engine).__name__} has a GuardPostprocessor already."
        raise ConfigError(why, hint="One gate is enough: leave it out of node_postprocessors.")


def _asked(query: QueryBundle | None) -> QueryBundle:
    if query is None:
        hint = "Call postprocess_nodes(nodes, query_str=question)."
        raise ConfigError("Nodes cannot be judged without the question.", hint=hint)
    return query
