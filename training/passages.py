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

    def __init__(self, texts: Iterable[str]) -> None:
        self._numbers: dict[str, int] = {}
        found = [self._runs(text) for text in {*texts}]
        self._known = np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)

    def share(self, text: str) -> float:
        """Which share of the text's runs stands in what was read, in [0, 1]."""
        runs = self._runs(text)
        return float(np.isin(runs, self._known).mean()) if len(runs) else 0.0

    def _runs(self, text: str) -> Numbers:
        words = re.findall(r"\w+", text.casefold())
        if not words:
            return np.empty(0, np.uint64)
        known = self._numbers
        ids = np.array([known.setdefault(word, len(known) + 1) for word in words], np.uint64)
        if len(ids) < WORDS:
            ids = np.pad(ids, (0, WORDS - len(ids)))
        windows = np.lib.stride_tricks.sliding_window_view(ids, WORDS)
        return (windows * _FACTORS).sum(axis=1, dtype=np.uint64)  # Modulo 2^64 on purpose.


def unread(rows: Sequence[Row], before: Iterable[Row]) -> list[Row]:
    """The rows without those of questions of which any row has a passage that was read ``before``.

    Of a question all rows go: were it the sufficient one alone, whoever knows its passage could
    tell the others by their being left.
    """
    read = Read(text for row in before for text in row.contexts)
    shares = {text: read.share(text) for text in {text for row in rows for text in row.contexts}}
    asked = {
        plain(row.question) for row in rows if any(shares[text] > MOST for text in row.contexts)
    }
    return [row for row in rows if plain(row.question) not in asked]
