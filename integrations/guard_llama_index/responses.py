"""Responses: a decision told in LlamaIndex's own response types, sources kept."""

from collections.abc import AsyncGenerator, Sequence

from llama_index.core.base.response import schema
from llama_index.core.response_synthesizers.context_only import ContextOnly
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.schema import MetadataMode, NodeWithScore
from llama_index.core.types import RESPONSE_TEXT_TYPE

from guard import Decision
from guard_llama_index.suspects import record_of

Nodes = list[NodeWithScore]
Response = schema.RESPONSE_TYPE

_PLAIN = (NoText, ContextOnly)  # They never stream, whatever they are told.


def texts_of(nodes: Sequence[NodeWithScore]) -> list[str]:
    """What the answer prompt will hold of each node; a plain get_content() lacks the metadata."""
    return [each.node.get_content(metadata_mode=MetadataMode.LLM) for each in nodes]


def recorded(
    response: Response,
    decision: Decision,
    judged: Sequence[NodeWithScore],
    first: Decision | None = None,
) -> Response:
    """``response`` with the decision's record in its metadata, under ``guard``.

    Args:
        response: the answer, or a message in its place.
        decision: the one that it follows from.
        judged: the nodes that it is on.
        first: the one before more was retrieved, on the first of these nodes; the record holds it
            under ``first``.
    """
    record = record_of(decision, judged)
    if first is not None:
        record["first"] = record_of(first, judged)
    response.metadata = {**(response.metadata or {}), "guard": record}
    return response


def told(
    decision: Decision,
    sources: Sequence[NodeWithScore],
    *,
    streams: bool,
    awaited: bool,
    judged: Sequence[NodeWithScore] | None = None,
    first: Decision | None = None,
) -> Response:
    """The policy's message in place of an answer, as the type that the caller expects.

    Args:
        decision: one that lets no answer pass.
        sources: what was found; kept on every route.
        streams: whether the caller expects tokens.
        awaited: whether it awaits them.
        judged: the nodes that the decision is on; ``None`` = the first of these.
        first: the decision before more was retrieved.
    """
    message = decision.message or ""
    response: Response = schema.Response(message)
    if streams and awaited:
        response = schema.AsyncStreamingResponse(_tokens(message))
    elif streams:
        response = schema.StreamingResponse(token for token in [message])
    response.source_nodes = list(sources)
    response.metadata = {each.node.node_id: each.node.metadata for each in sources}
    return recorded(response, decision, sources if judged is None else judged, first)


def text_of(response: Response) -> RESPONSE_TEXT_TYPE:
    """A response without its sources: the text, or the stream of it."""
    if isinstance(response, schema.StreamingResponse | schema.AsyncStreamingResponse):
        return response.response_gen
    return response.response or ""


def streams(writer: object) -> bool:
    """Whether a response synthesizer streams its answers."""
    return not isinstance(writer, _PLAIN) and bool(getattr(writer, "_streaming", False))


async def _tokens(message: str) -> AsyncGenerator[str]:
    yield message
