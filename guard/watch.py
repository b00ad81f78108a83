"""The contract of a watcher: it sees a query from its beginning to its end, whatever that is.

An observer (`guard.observer`) is told of decisions. That is too late for a trace, in which the
request to the judge is to stand inside the query's span, and too little: a cancelled query has no
decision, nor has one that a bug ended.
"""

import logging
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

from guard._failure import described
from guard.ask import entered, witnessed
from guard.decision import Decision
from guard.judge import Judge
from guard.query import Query

logger = logging.getLogger("guard")


class Watch(Protocol):
    """One query, as a watcher sees it."""

    def asking(self, judge: Judge) -> AbstractContextManager[None]:
        """Around one request to one judge; left with whatever that raises."""
        ...

    def decided(self, decision: Decision) -> None:
        """The query has its decision; comes before the error is raised where there is one."""
        ...


@runtime_checkable
class Watcher(Protocol):
    """Whoever watches queries. Safe to use from many threads and tasks.

    What it raises is logged, and changes nothing.
    """

    def watching(self, query: Query, deployment: str | None) -> AbstractContextManager[Watch]:
        """Around one query; left with whatever ends it other than a decision."""
        ...


class Watching(NamedTuple):
    """All that watch one query."""

    watches: tuple[Watch, ...]

    def decided(self, decision: Decision) -> None:
        """Tells each of them."""
        for watch in self.watches:
            try:
                watch.decided(decision)
            except Exception as error:
                logger.error("query %s: a watcher failed: %s", decision.id, described(error))


def _entered(
    stack: ExitStack, watcher: Watcher, query: Query, deployment: str | None
) -> Watch | None:
    return entered(stack, lambda: watcher.watching(query, deployment))


@contextmanager
def watched(
    watchers: Iterable[Watcher], query: Query, deployment: str | None
) -> Generator[Watching]:
    """Around one query, for all its watchers; what is asked inside is shown to them."""
    with ExitStack() as stack:
        each = [_entered(stack, one, query, deployment) for one in watchers]
        watches = tuple(one for one in each if one is not None)
        stack.enter_context(witnessed(watches))
        yield Watching(watches)
