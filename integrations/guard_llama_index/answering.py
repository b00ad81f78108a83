"""Answering: judge what was found, then let the writer write or tell the user why not."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llama_index.core.schema import NodeWithScore, QueryBundle

from guard import Decision
from guard._require import require_one_of
from guard_llama_index.judging import Judging
from guard_llama_index.parallel import answered_in_parallel, blocking
from guard_llama_index.responses import Nodes, Response, recorded, told

Mode = Literal["before", "parallel"]
"""When the answer is written: after the verdict, or while the judge decides (held back until)."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who answers, for one query.

    Attributes:
        write: the answer from these nodes.
        awrite: the same, awaited.
        streams: whether it streams.
        shown: what of the nodes the answer prompt will hold: citation engines split them.
        more: retrieves more, once, where the first nodes do not suffice; ``None`` = never.
        amore: the same, awaited.
        sources: nodes to name as sources beside those that were judged.
    """

    write: Callable[[Nodes], Response]
    awrite: Callable[[Nodes], Coroutine[Any, Any, Response]]
    streams: bool
    shown: Callable[[Nodes], Nodes] | None = None
    more: Callable[[], Nodes] | None = None
    amore: Callable[[], Coroutine[Any, Any, Nodes]] | None = None
    sources: Sequence[NodeWithScore] = ()


@dataclass(frozen=True, slots=True)
class Answering:
    """One trip from nodes to a response.

    Attributes:
        judging: decides.
        mode: ``before``: a refusal costs no tokens. ``parallel``: an answer costs no waiting for
            the judge, and a refusal costs what was written meanwhile.
    """

    judging: Judging
    mode: Mode = "before"

    def __post_init__(self) -> None:
        require_one_of("mode", self.mode, ("before", "parallel"))

    def answer(self, query: QueryBundle, nodes: Nodes, writer: Writer) -> Response:
        """The answer, or the policy's message."""
        if self.mode == "parallel":
            # The asynchronous path, on a loop of ours: only there can a writer be cancelled.
            return blocking(lambda: self.aanswer(query, nodes, writer))
        shown = writer.shown(nodes) if writer.shown else nodes
        decision, first = self.judging.decide(query, shown), None
        if not decision.passes and writer.more is not None:
            nodes, fresh = _union(nodes, writer.more())
            if fresh:
                shown = writer.shown(nodes) if writer.shown else nodes
                first, decision = decision, self.judging.decide(query, shown)
        if decision.passes:
            return recorded(writer.write(nodes), decision, first)
        sources = [*shown, *writer.sources]
        return told(decision, sources, streams=writer.streams, awaited=False, first=first)

    async def aanswer(self, query: QueryBundle, nodes: Nodes, writer: Writer) -> Response:
        """As `answer`."""
        shown = await _shown(writer, nodes)
        if self.mode == "before":
            decision = await self.judging.adecide(query, shown)
            if decision.passes:
                return recorded(await writer.awrite(nodes), decision)
            return await self._again(query, nodes, shown, writer, decision)
        refused = list[Decision]()
        response = await answered_in_parallel(
            self.judging.adecide(query, shown), writer.awrite(nodes), refused.append
        )
        if response is not None:
            return response
        return await self._again(query, nodes, shown, writer, refused[0])

    async def _again(
        self, query: QueryBundle, nodes: Nodes, shown: Nodes, writer: Writer, decision: Decision
    ) -> Response:
        """What becomes of a query that the first nodes do not suffice for."""
        first = None
        if writer.amore is not None:
            nodes, fresh = _union(nodes, await writer.amore())
            if fresh:
                shown = await _shown(writer, nodes)
                first, decision = decision, await self.judging.adecide(query, shown)
                if decision.passes:
                    return recorded(await writer.awrite(nodes), decision, first)
        sources = [*shown, *writer.sources]
        return told(decision, sources, streams=writer.streams, awaited=True, first=first)


async def _shown(writer: Writer, nodes: Nodes) -> Nodes:
    # Splitting is computation, which must not hold up the event loop.
    return await asyncio.to_thread(writer.shown, nodes) if writer.shown else nodes


def _union(nodes: Nodes, more: Nodes) -> tuple[Nodes, bool]:
    """Both, each node once, the first ones first; and whether that is more than the first."""
    # Another index has other ids for the same passages, so the hash of what they hold counts too.
    known = {name for each in nodes for name in (each.node.node_id, each.node.hash)}
    fresh = Nodes()
    for each in more:
        if known.isdisjoint(names := {each.node.node_id, each.node.hash}):
            fresh.append(each)
            known |= names
    return [*nodes, *fresh], bool(fresh)
