"""rag-guard for LlamaIndex: judges what was retrieved before an answer is written."""

from typing import TYPE_CHECKING

try:
    from guard_llama_index.query_engine import GuardedQueryEngine
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "llama_index":
        raise
    raise ImportError(
        'LlamaIndex is not installed: pip install "rag-guard[llama-index]"'
    ) from error

if TYPE_CHECKING:
    from guard_llama_index.judge import LlamaIndexJudge

__all__ = ["GuardedQueryEngine", "LlamaIndexJudge"]


def __getattr__(name: str) -> object:
    # The judge needs openai, which takes half a second to import; an engine does not.
    if name == "LlamaIndexJudge":
        from guard_llama_index.judge import LlamaIndexJudge

        return LlamaIndexJudge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
