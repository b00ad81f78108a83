"""A shared prefix: verdict and answer prompts begin with the same bytes, contexts first.

Providers and servers keep the computation of a prompt's beginning and re-use it for the next prompt
that begins alike. The judge's prompt is passages, question, task; an answer prompt made of the same
passages and question, and another task, costs only its task.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from llama_index.core.prompts import PromptTemplate
from llama_index.core.prompts.mixin import PromptMixin
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from guard import ConfigError, Gate, Prompt, Query, Unmeasured
from guard.judge import Judge
from guard_llama_index.answering import Writer
from guard_llama_index.lent import model_of
from guard_llama_index.responses import Nodes, Response, texts_of

ANSWER_TEMPLATE = PromptTemplate(
    "{context_str}\n\n"
    "Task: answer this question from the passages alone, completely and briefly: {query_str}\n"
    "Where they do not hold the answer, say so.\n\n"
    "Answer:"
)
"""The answer template that goes with ``share_prefix``: give it to the synthesizer as
``text_qa_template``."""

logger = logging.getLogger("guard")

_FIRST_FIELD = "{context_str}"
# Tokens for the task around the evidence, and characters to a token at the fewest.
_TASK_TOKENS, _CHARACTERS_PER_TOKEN = 200, 2


def prompt_of(gate: Gate, writer: PromptMixin, mode: str) -> Prompt:
    """The words of a gate's judge, if an answer can begin with them.

    Raises:
        ConfigError: the judge has no such prompt, the writer's template begins with something
            else, or both prompts would be read at the same time.
    """
    if mode != "before":
        why = "In parallel, verdict and answer are read at the same time: nothing can be shared."
        raise ConfigError(why, hint='Leave share_prefix out, or use mode="before".')
    templates = [
        str(getattr(template, "template", ""))
        for name, template in writer.get_prompts().items()
        if name.rpartition(":")[2] == "text_qa_template"
    ]
    if not any(text.startswith(_FIRST_FIELD) for text in templates):
        raise ConfigError(
            "The answer template does not begin with the passages, so that no prefix is shared.",
            hint="Give the synthesizer text_qa_template=guard_llama_index.ANSWER_TEMPLATE.",
        )
    _warn_of_two_models(gate.judge, writer)
    prompt = getattr(gate.judge, "prompt", None)
    if isinstance(prompt, Prompt) and prompt.shares_evidence:
        return prompt
    raise ConfigError(
        f"{type(gate.judge).__name__} has no prompt whose beginning could be shared.",
        hint="Use a ChatJudge, a GgufJudge or a LlamaIndexJudge with the default template, on the "
        "model that answers; or leave share_prefix out.",
    )


def _warn_of_two_models(judge: Judge, writer: object) -> None:
    llm = model_of(writer)
    names = (judge.model, llm.metadata.model_name if llm else None)
    if all(names) and len(set(names)) == 2:
        # Not an error: a gateway may give one model two names.
        logger.warning("share_prefix saves nothing if %s and %s are two models", *names)


class _Evidence(NamedTuple):
    """The beginning of the judge's prompt as one node, and the nodes that it holds."""

    node: Nodes
    held: Nodes


def sharing(writer: Writer, prompt: Prompt, query: QueryBundle, window: int | None) -> Writer:
    """A writer that is given the nodes as evidence, and names them as its sources by themselves.

    Args:
        writer: writes without it, where the evidence would not fit into one prompt.
        prompt: the judge's.
        query: what is answered.
        window: tokens that the writing model takes; ``None`` = not known.
    """

    def write(nodes: Nodes) -> Response:
        if (evidence := _evidence(prompt, query, nodes, window)) is None:
            return writer.write(nodes)
        return _with_sources(writer.write(evidence.node), [*evidence.held, *writer.sources])

    async def awrite(nodes: Nodes) -> Response:
        if (evidence := _evidence(prompt, query, nodes, window)) is None:
            return await writer.awrite(nodes)
        return _with_sources(await writer.awrite(evidence.node), [*evidence.held, *writer.sources])

    return replace(writer, write=write, awrite=awrite)


def window_of(writer: object) -> int | None:
    """How many tokens the model of a synthesizer or an engine takes, its answer left out."""
    llm = model_of(writer)
    return llm.metadata.context_window - max(0, llm.metadata.num_output) if llm else None


def _evidence(
    prompt: Prompt, query: QueryBundle, nodes: Nodes, window: int | None
) -> _Evidence | None:
    """``None`` where there is none to share: nothing was judged, or it would be cut in pieces."""
    try:
        rendered = prompt.render_evidence(Query.of(query.query_str, texts_of(nodes)))
    except (Unmeasured, ConfigError):
        return None  # It passes all the same in shadow mode, or where the policy says so.
    size = len(rendered.text) // _CHARACTERS_PER_TOKEN + _TASK_TOKENS
    if not nodes or (window is not None and size > window):
        return None
    node = NodeWithScore(node=TextNode(text=rendered.text))
    return _Evidence([node], [nodes[place] for place in rendered.taken])


def _with_sources(response: Response, nodes: Sequence[NodeWithScore]) -> Response:
    response.source_nodes = list(nodes)
    response.metadata = {each.node.node_id: each.node.metadata for each in nodes}
    return response
