"""A LlamaIndex application with the guard around its query engine, answering from a few notes.

    pip install "rag-guard[demo]"
    python examples/llama_index_app.py embedded "When did the bridge open?"     # or openai:MODEL

It retrieves by BM25 and shows the passage as the answer, so it needs no embedding model and no
writing model; put your own index and `llm` in their place.
"""

import sys

from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers.context_only import ContextOnly
from llama_index.core.schema import TextNode
from llama_index.retrievers.bm25 import BM25Retriever

from guard import Gate, Policy, judges
from guard_llama_index import GuardedQueryEngine

NOTES = [
    "The old bridge was opened in 1932 after eight years of work.",
    "The ferry to the island leaves every hour from the north pier.",
    "The lighthouse was automated in 1986; its last keeper was Ann Rowe.",
]


def main(judge_name: str = "embedded", question: str = "When did the bridge open?") -> None:
    """Asks one question."""
    nodes = [TextNode(text=note) for note in NOTES]
    retriever = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=2)
    plain = RetrieverQueryEngine(retriever, ContextOnly(llm=MockLLM()))
    # No thresholds: the embedded judge's own, if it brings any. Another judge needs some of yours.
    gate = Gate(judges.from_name(judge_name), Policy(deadline=60.0))
    engine = GuardedQueryEngine(plain, gate)
    response = engine.query(question)
    record = (response.metadata or {})["guard"]
    print(f"{record['route']} ({record['reason']}, P = {record['probability']})")
    print(response)
    judges.close(gate.judge)


if __name__ == "__main__":
    main(*sys.argv[1:3])
