"""The contract of an observer: it is told of every decision, and changes none."""

from typing import Protocol, runtime_checkable

from guard.decision import Decision


@runtime_checkable
class Observer(Protocol):
    """Whoever is told of decisions: an audit, a counter, a trace. Safe to use from many threads.

    What it raises is logged, and changes nothing: a decision stands, whoever saw it.
    """

    @property
    def blocks(self) -> bool:
        """Whether `observe` may take long enough to hold up an event loop."""
        ...

    def observe(self, decision: Decision) -> None:
        """Is called once for each decision, also for those whose policy is to raise."""
        ...
