"""One LlamaIndex LLM judges whether its passages suffice, and writes the answer only if they do.

    pip install "rag-guard[llama-index]" llama-index-llms-openai-like
    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 python examples/llama_index_judge.py "How long is it?"

MODEL names the model, OPENAI_API_KEY the key; a server on your own machine may need neither.
"""

import os
import sys

from llama_index.core import SummaryIndex
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode
from llama_index.llms.openai_like import OpenAILike  # type: ignore[import-untyped]

from guard import Gate, Policy
from guard_llama_index import GuardedQueryEngine, LlamaIndexJudge

NOTES = ["The old bridge was opened in 1932.", "The ferry leaves from the north pier every hour."]


def main(question: str = "When was the old bridge opened?") -> None:
    """Asks one question."""
    llm = OpenAILike(
        model=os.environ.get("MODEL", "MODEL"),
        is_chat_model=True,
        api_base=os.environ["OPENAI_BASE_URL"],  # By itself, LlamaIndex reads OPENAI_API_BASE.
        api_key=os.environ.get("OPENAI_API_KEY", "none-needed"),
    )
    judge = LlamaIndexJudge(llm)
    notes = SummaryIndex([TextNode(text=note) for note in NOTES])
    plain = RetrieverQueryEngine.from_args(notes.as_retriever(), llm=llm)
    engine = GuardedQueryEngine(plain, Gate(judge, Policy(deadline=60.0)))
    response = engine.query(question)
    record = (response.metadata or {})["guard"]
    print(f"{record['route']} ({record['reason']}, P = {record['probability']})")
    print(response)
    judge.close()


if __name__ == "__main__":
    main(*sys.argv[1:2])
