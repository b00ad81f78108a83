"""Answering: judge what was found, then let the writer write or tell the user why not."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from llama_index.core.schema import NodeWithScore, QueryBundle

from guard import ConfigError, Decision, JudgeError
from guard._require import require_one_of
from guard_llama_index.judging import Judging
from guard_llama_index.lent import lent, require_awaitable
from guard_llama_index.parallel import answered_in_parallel, blocking
from guard_llama_index.responses import Nodes, Response, recorded, told
from guard_llama_index.suspects import require_droppable, without_suspects

W = TypeVar("W")
T = TypeVar("T")

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

    def judged(self, nodes: Nodes, *decisions: Decision | None) -> Nodes:
        """The nodes by their places in decisions: each as often as it was split."""
        verdicts = [each.verdict for each in decisions if each is not None]
        if self.shown is None or not any(verdict and verdict.suspects for verdict in verdicts):
            return nodes
        # Splitting says nothing of where a piece is from, so it is done once more, node by node.
        return [node for node in nodes for _ in self.shown([node])]


@dataclass(frozen=True, slots=True)
class Answering:
    """One trip from nodes to a response.

    Attributes:
        judging: decides.
        mode: ``before``: a refusal costs no tokens. ``parallel``: an answer costs no waiting for
            the judge, and a refusal costs what was written meanwhile.
        drop_suspects: whether answers are written without the nodes that speak to the judge.
    """

    judging: Judging
    mode: Mode = "before"
    drop_suspects: bool = False

    def __post_init__(self) -> None:
        require_one_of("mode", self.mode, ("before", "parallel"))
        require_droppable(self.judging.gate, self.drop_suspects)
        if self.drop_suspects and self.mode == "parallel":
            raise ConfigError(
                "In parallel an answer is begun before anybody knows which nodes are suspect.",
                hint='Leave drop_suspects out, or use mode="before".',
            )

    def require_fitting(self, writer: object) -> None:
        """Raises `ConfigError` if an engine or synthesizer cannot write in this mode."""
        if self.mode == "parallel":
            require_awaitable(writer)

    def blocking_writer(self, writer: W) -> W:
        """An engine or synthesizer as `answer` needs it."""
        return lent(writer) if self.mode == "parallel" else writer

    def answer(self, query: QueryBundle, nodes: Nodes, writer: Writer) -> Response:
        """The answer, or the policy's message."""
        shown = writer.shown(nodes) if writer.shown else nodes
        made = self._first(query, nodes, shown, writer)
        if not isinstance(made, Decision):
            return made
        fresh = self._fresh(nodes, writer, made)
        if not fresh:
            return _told(self.judging.conclude(made), nodes, shown, writer, awaited=False)
        nodes = [*nodes, *fresh]
        shown = writer.shown(nodes) if writer.shown else nodes
        decision = self._new(query, shown, made)
        if decision is None:
            return _told(self.judging.conclude(made), nodes, shown, writer, awaited=False)
        decision = self.judging.conclude(decision)
        if decision.passes:
            answer = writer.write(self.left(decision, nodes))
            return recorded(answer, decision, writer.judged(nodes, decision, made), made)
        return _told(decision, nodes, shown, writer, awaited=False, first=made)

    async def aanswer(self, query: QueryBundle, nodes: Nodes, writer: Writer) -> Response:
        """As `answer`."""
        shown = await _shown(writer, nodes)
        made = await self._afirst(query, nodes, shown, writer)
        if not isinstance(made, Decision):
            return made
        fresh = await self._afresh(nodes, writer, made)
        if not fresh:
            return _told(await self.judging.aconclude(made), nodes, shown, writer, awaited=True)
        nodes = [*nodes, *fresh]
        shown = await _shown(writer, nodes)
        decision = await self._anew(query, shown, made)
        if decision is None:
            return _told(await self.judging.aconclude(made), nodes, shown, writer, awaited=True)
        decision = await self.judging.aconclude(decision)
        if decision.passes:
            answer = await writer.awrite(self.left(decision, nodes))
            return recorded(answer, decision, writer.judged(nodes, decision, made), made)
        return _told(decision, nodes, shown, writer, awaited=True, first=made)

    def left(self, decision: Decision, each: Sequence[T]) -> list[T]:
        """What an answer is written from, of nodes or their texts."""
        return without_suspects(decision, each) if self.drop_suspects else list(each)

    # A query that fails here is in no response; what was decided of it is reported all the same.

    def _fresh(self, nodes: Nodes, writer: Writer, made: Decision) -> Nodes:
        """What is retrieved beside ``nodes``, of which ``made`` was decided."""
        try:
            return _fresh(nodes, writer.more()) if writer.more else []
        except Exception:
            self.judging.report(made)
            raise

    async def _afresh(self, nodes: Nodes, writer: Writer, made: Decision) -> Nodes:
        """As `_fresh`."""
        try:
            return _fresh(nodes, await writer.amore()) if writer.amore else []
        except Exception:
            await self.judging.areport(made)
            raise

    # What was measured first stands where more cannot be: an outage must not make an answer of a
    # refusal, nor an error. It is an event, and logged, by then.

    def _new(self, query: QueryBundle, shown: Nodes, made: Decision) -> Decision | None:
        """The decision on more nodes; ``None`` where it could not be measured."""
        try:
            decision = self.judging.decide(query, shown, mode=made.mode)
        except JudgeError:
            return None
        return None if decision.unmeasured else decision

    async def _anew(self, query: QueryBundle, shown: Nodes, made: Decision) -> Decision | None:
        """As `_new`."""
        try:
            decision = await self.judging.adecide(query, shown, mode=made.mode)
        except JudgeError:
            return None
        return None if decision.unmeasured else decision

    def _first(
        self, query: QueryBundle, nodes: Nodes, shown: Nodes, writer: Writer
    ) -> Response | Decision:
        """The answer from the first nodes, or the decision against it."""
        if self.mode == "parallel":
            # The asynchronous path, on a loop of ours: only there can a writer be cancelled.
            return blocking(lambda: self._afirst(query, nodes, shown, writer))
        decision = self.judging.begin(query, shown)
        if not decision.passes:
            return decision
        answer = writer.write(self.left(decision, nodes))
        return recorded(answer, decision, writer.judged(nodes, decision))

    async def _afirst(
        self, query: QueryBundle, nodes: Nodes, shown: Nodes, writer: Writer
    ) -> Response | Decision:
        """As `_first`."""
        deciding = self.judging.abegin(query, shown)
        if self.mode == "parallel":
            judged = partial(writer.judged, nodes)
            return await answered_in_parallel(deciding, writer.awrite(nodes), judged)
        decision = await deciding
        if not decision.passes:
            return decision
        answer = await writer.awrite(self.left(decision, nodes))
        return recorded(answer, decision, writer.judged(nodes, decision))


def _told(
    decision: Decision,
    nodes: Nodes,
    shown: Nodes,
    writer: Writer,
    *,
    awaited: bool,
    first: Decision | None = None,
) -> Response:
    sources = [*shown, *writer.sources]
    judged = writer.judged(nodes, decision, first)
    return told(
        decision, sources, streams=writer.streams, awaited=awaited, judged=judged, first=first
    )


async def _shown(writer: Writer, nodes: Nodes) -> Nodes:
    # Splitting is computation, which must not hold up the event loop.
    return await asyncio.to_thread(writer.shown, nodes) if writer.shown else nodes


def _fresh(nodes: Nodes, more: Nodes) -> Nodes:
    """Those of ``more`` that are not among ``nodes``, each once."""
    # Another index has other ids for the same passages, so the hash of what they hold counts too.
    known = {name for each in nodes for name in (each.node.node_id, each.node.hash)}
    fresh = Nodes()
    for each in more:
        if known.isdisjoint(names := {each.node.node_id, each.node.hash}):
            fresh.append(each)
            known |= names
    return fresh
