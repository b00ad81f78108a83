"""Passages: whether a text has been read before, word for word or nearly so."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from data import Row, plain
from numpy.typing import NDArray

WORDS = 13
"""Words in a run; two texts that share one share a sentence, not a phrase (Brown et al. 2020)."""
MOST = 0.2
"""Share of a passage's runs that may stand in what was read before."""

Numbers = NDArray[np.uint64]

_FACTORS = np.random.default_rng(13).integers(1, 2**63, WORDS, dtype=np.uint64) * np.uint64(2) + (
    np.uint64(1)
)


class Read:
    """Passages that somebody has read, as the set of all their runs of `WORDS` words.

    A text of fewer words is one run, so that it is known again only as a whole passage.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._numbers: dict[str, int] = {}
        found = [self._runs(text) for text in {text for row in rows for text in row.contexts}]
        self._known = np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)

    def share(self, text: str) -> float:
        """Which share of the text's runs stands in what was read, in [0, 1]."""
        runs = self._runs(text)
        if not len(runs) or not len(self._known):
            return 0.0
        at = np.searchsorted(self._known, runs).clip(max=len(self._known) - 1)
        return float((self._known[at] == runs).mean())

    def _runs(self, text: str) -> Numbers:
        words = re.findall(r"\w+", text.casefold())
        if not words:
            return np.empty(0, np.uint64)
        known = self._numbers
        ids = np.array([known.setdefault(word, len(known) + 1) for word in words], np.uint64)
        if len(ids) < WORDS:
            ids = np.pad(ids, (0, WORDS - len(ids)))
        windows = np.lib.stride_tricks.sliding_window_view(ids, WORDS)
        runs: Numbers = (windows * _FACTORS).sum(axis=1, dtype=np.uint64)  # Modulo 2^64.
        return runs


def unread(rows: Sequence[Row], *before: Read) -> list[Row]:
    """The rows of which no passage was read ``before``, by more than `MOST` of its runs.

    Where the evidence of a question was read, all rows of that question go: the twin of a passage
    from which sentences were cut may be too short to be known again, and would stay alone.
    """
    texts = {text for row in rows for text in row.contexts}
    known = {text for text in texts if any(read.share(text) > MOST for read in before)}
    seen = {row for row in rows if not known.isdisjoint(row.contexts)}
    asked = {plain(row.question) for row in seen if row.sufficient}
    return [row for row in rows if row not in seen and plain(row.question) not in asked]
