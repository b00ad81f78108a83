"""Suspects: the nodes that speak to the judge, by name, and an answer without them."""

from collections.abc import Sequence
from typing import Any, TypeVar

from llama_index.core.schema import NodeWithScore

from guard import ConfigError, Decision, Gate, Reason

T = TypeVar("T")


def suspect_nodes(decision: Decision, nodes: Sequence[NodeWithScore]) -> list[str]:
    """The ids of nodes that speak to the judge (`guard.suspicion`), to find them in the index; each
    once.

        index.delete_nodes(suspect_nodes(event.decision, event.nodes))

    Args:
        decision: on these nodes.
        nodes: what was judged, in that order; more may follow.
    """
    places = () if decision.verdict is None else decision.verdict.suspects
    return list(dict.fromkeys(nodes[place].node.node_id for place in places))


def record_of(decision: Decision, nodes: Sequence[NodeWithScore]) -> dict[str, Any]:
    """The decision's record (`guard.Decision.to_dict`), and its `suspect_nodes`."""
    return {**decision.to_dict(), "suspect_nodes": suspect_nodes(decision, nodes)}


def without_suspects(decision: Decision, each: Sequence[T]) -> list[T]:
    """What is left of nodes, or their texts, to answer from: what was judged without suspects.

    All of them in shadow mode, where nothing is acted on, and where another reason than the
    contexts lets the query pass: nobody knows then that the rest suffices.
    """
    verdict = decision.verdict
    if verdict is None or not decision.enforced or decision.reason is not Reason.SUFFICIENT:
        return list(each)
    return [one for place, one in enumerate(each) if place not in verdict.suspects]


def require_droppable(gate: Gate, drop_suspects: object) -> None:
    """Raises `ConfigError` unless suspects can be left out of answers, where that is asked for."""
    if not isinstance(drop_suspects, bool):
        why = f"`drop_suspects` is {drop_suspects!r:.40}, not True or False."
        raise ConfigError(why, hint="It decides whether answers are written without suspect nodes.")
    if drop_suspects and not gate.policy.leave_out_suspects:
        raise ConfigError(
            "drop_suspects needs a gate that looks for suspects, and this one's policy does not.",
            hint="Use Policy(leave_out_suspects=True), the default.",
        )
