"""A cache of verdicts: what a judge said of a query is not asked again.

Verdicts are kept, never decisions: thresholds, policies and messages may change under them. The key
covers the judge's fingerprint, the question, its history and every context, so an edited passage
is a miss. It is a hash: no text is kept. A fingerprint names the model, not the address:
two servers that call different models by one name need a cache each.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from typing import Protocol, runtime_checkable

from guard._require import require_number
from guard.query import Query
from guard.verdict import Verdict

MAX_ENTRIES = 10_000_000


@runtime_checkable
class Cache(Protocol):
    """Where a gate keeps verdicts. Safe to use from many threads at once.

    A cache that fails must not fail the query: `get` gives ``None`` then, and `put` does nothing.
    """

    @property
    def blocks(self) -> bool:
        """Whether `get` and `put` may take long enough to hold up an event loop."""
        ...

    def get(self, key: str) -> Verdict | None:
        """The verdict kept under ``key``, or ``None``."""
        ...

    def put(self, key: str, verdict: Verdict) -> None:
        """Keeps a verdict."""
        ...


def cache_key(fingerprint: str, query: Query) -> str:
    """What a verdict depends on, as 64 hexadecimal digits."""
    parts = [fingerprint, query.question_hash, query.contexts_hash, query.history]
    # A lone surrogate is escaped, and so crashes nothing.
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def keepable(verdict: Verdict) -> bool:
    """Whether a verdict is to be kept.

    One of a chain's later judges is not: after an outage the first is to be asked again. Nor is one
    in windows, which may be larger once more is known of how much the judge takes.
    """
    return not verdict.tried and verdict.windows == 1


class MemoryCache:
    """Keeps the verdicts last used, in this process.

    Args:
        entries: how many at most; each takes about a kilobyte.
    """

    blocks = False

    def __init__(self, entries: int = 10_000) -> None:
        require_number("entries", entries, 1, MAX_ENTRIES, whole=True)
        self._entries = entries
        self._kept = OrderedDict[str, Verdict]()
        self._lock = threading.Lock()

    def get(self, key: str) -> Verdict | None:
        """The verdict kept under ``key``, or ``None``."""
        with self._lock:
            if (verdict := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
            return verdict

    def put(self, key: str, verdict: Verdict) -> None:
        """Keeps a verdict; the one that was longest not used goes where there is no room."""
        with self._lock:
            self._kept[key] = verdict
            self._kept.move_to_end(key)
            if len(self._kept) > self._entries:
                self._kept.popitem(last=False)
