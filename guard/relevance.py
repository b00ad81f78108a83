"""Relevance: which passages are worth a judge's room, by the words they share with a question.

No judge is asked: what is chosen here is only what a judge sees together, never a verdict.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from guard.overlap import words

# Of BM25 (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework"), as commonly set.
_K1, _B = 1.2, 0.75


class Passages:
    """Passages, ready to be compared with any words.

    Args:
        texts: the passages.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts = [Counter(words(text)) for text in texts]
        self._lengths = [sum(counts.values()) for counts in self._counts]
        self._mean = sum(self._lengths) / len(self._lengths) if any(self._lengths) else 1.0
        self._held_by = Counter(word for counts in self._counts for word in counts)

    def scores(self, asked: Iterable[str]) -> list[float]:
        """BM25 of each passage for a set of words, at least 0."""
        rarity = {word: self.rarity(word) for word in {*asked} if self._held_by[word]}
        return [
            sum(
                rarity[word] * counts[word] * (_K1 + 1) / (counts[word] + self._damping(length))
                # Takes as long as the shorter of both: no passage is searched for words it lacks.
                for word in sorted(counts.keys() & rarity.keys())
            )
            for counts, length in zip(self._counts, self._lengths, strict=True)
        ]

    def words_of(self, places: Sequence[int]) -> set[str]:
        """All words of some of the passages."""
        return {word for place in places for word in self._counts[place]}

    def rarity(self, word: str) -> float:
        """In nats; a word that most passages hold tells little."""
        held = self._held_by[word]
        return math.log1p((len(self._counts) - held + 0.5) / (held + 0.5))

    def _damping(self, length: int) -> float:
        return _K1 * (1 - _B + _B * length / self._mean)
