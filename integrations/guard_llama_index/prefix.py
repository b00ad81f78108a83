"""A shared prefix: verdict and answer prompts begin with the same bytes, contexts first.

Providers and servers keep the computation of a prompt's beginning and re-use it for the next prompt
that begins alike. The judge's prompt is passages, question, task; an answer prompt made of the same
passages and question, and another task, costs only its task.
"""

from collections.abc import Sequence
from dataclasses import replace

from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from guard import ConfigError, Gate, Prompt, Query
from guard_llama_index.answering import Writer
from guard_llama_index.responses import Nodes, Response, texts_of

ANSWER_TEMPLATE = PromptTemplate(
    "{context_str}\n\n"
    "Task: answer the question from the passages alone, completely and briefly. Where they do not "
    "hold the answer, say so.\n\n"
    "Answer:"
)
"""The answer template that goes with ``share_prefix``: give it to the synthesizer as
``text_qa_template``. What it receives as ``context_str`` holds the question too."""


def prompt_of(gate: Gate) -> Prompt:
    """The words of a gate's judge.

    Raises:
        ConfigError: the judge has no prompt whose beginning an answer could share.
    """
    prompt = getattr(gate.judge, "prompt", None)
    if isinstance(prompt, Prompt) and prompt.shares_evidence:
        return prompt
    raise ConfigError(
        f"{type(gate.judge).__name__} has no prompt whose beginning could be shared.",
        hint="Use a ChatJudge, a GgufJudge or a LlamaIndexJudge with the default template, on the "
        "model that answers; or leave share_prefix out.",
    )


def as_evidence(prompt: Prompt, query: QueryBundle, nodes: Sequence[NodeWithScore]) -> Nodes:
    """The nodes as one, whose text is the beginning of the judge's prompt, byte for byte."""
    asked = Query.of(query.query_str, texts_of(nodes))
    return [NodeWithScore(node=TextNode(text=prompt.render_evidence(asked).text))]


def sharing(writer: Writer, prompt: Prompt, query: QueryBundle) -> Writer:
    """A writer that is given the nodes as evidence, and names them as its sources by themselves."""

    def write(nodes: Nodes) -> Response:
        if not nodes:  # Only in shadow mode; there is nothing to share.
            return writer.write(nodes)
        response = writer.write(as_evidence(prompt, query, nodes))
        return _with_sources(response, [*nodes, *writer.sources])

    async def awrite(nodes: Nodes) -> Response:
        if not nodes:
            return await writer.awrite(nodes)
        response = await writer.awrite(as_evidence(prompt, query, nodes))
        return _with_sources(response, [*nodes, *writer.sources])

    return replace(writer, write=write, awrite=awrite)


def _with_sources(response: Response, nodes: Sequence[NodeWithScore]) -> Response:
    response.source_nodes = list(nodes)
    response.metadata = {each.node.node_id: each.node.metadata for each in nodes}
    return response
