"""rag-guard for LlamaIndex: judges what was retrieved before an answer is written."""

from typing import TYPE_CHECKING

try:
    from guard_llama_index.chat_engine import GuardedChatEngine
    from guard_llama_index.clarifier import Clarifier
    from guard_llama_index.evaluator import SufficientContextEvaluator
    from guard_llama_index.events import GuardDecisionEvent
    from guard_llama_index.postprocessor import (
        ContextsInsufficient,
        GuardPostprocessor,
        response_of,
    )
    from guard_llama_index.prefix import ANSWER_TEMPLATE
    from guard_llama_index.prompts import update_prompts
    from guard_llama_index.query_engine import GuardedQueryEngine
    from guard_llama_index.suspects import suspect_nodes
    from guard_llama_index.synthesizer import GuardedSynthesizer
    from guard_llama_index.tool import GuardedQueryTool, responses_in
    from guard_llama_index.workflow import (
        AnswerEvent,
        ClarifyEvent,
        ContextsEvent,
        GuardedWorkflow,
        JudgedEvent,
        RefuseEvent,
        judged,
    )
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "llama_index":
        raise
    raise ImportError(
        'LlamaIndex is not installed: pip install "rag-guard[llama-index]"'
    ) from error

if TYPE_CHECKING:
    from guard_llama_index.judge import LlamaIndexJudge

__all__ = [
    "ANSWER_TEMPLATE",
    "AnswerEvent",
    "Clarifier",
    "ClarifyEvent",
    "ContextsEvent",
    "ContextsInsufficient",
    "GuardDecisionEvent",
    "GuardPostprocessor",
    "GuardedChatEngine",
    "GuardedQueryEngine",
    "GuardedQueryTool",
    "GuardedSynthesizer",
    "GuardedWorkflow",
    "JudgedEvent",
    "LlamaIndexJudge",
    "RefuseEvent",
    "SufficientContextEvaluator",
    "judged",
    "response_of",
    "responses_in",
    "suspect_nodes",
    "update_prompts",
]


def __getattr__(name: str) -> object:
    # The judge needs openai, which takes half a second to import; an engine does not.
    if name == "LlamaIndexJudge":
        from guard_llama_index.judge import LlamaIndexJudge

        return LlamaIndexJudge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
