"""A verdict: what a judge measured, as numbers that cannot contradict each other."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from guard.errors import Tried

Signal = Literal[
    "logprobs",
    "logprobs-truncated",
    "logprobs-emitted",
    "predicate",
    "noul",
    "samples",
    "mean",
    "encoder",
    "scripted",
]
"""Where a probability comes from. Probabilities of different signals must not share thresholds.

``logprobs``: the k most likely tokens were listed, all of them. ``logprobs-truncated``: the
endpoint listed fewer than asked for (gpt-5.x). ``logprobs-emitted``: only the generated token's
own logprob is known, so only a bound is. ``predicate`` and ``noul``: the endpoint names the
probability itself (OpenAI's Decisions; System One). ``samples``: counted over repeated answers.
``mean``: of several judges, in log-odds.
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a verdict cost: tokens (``None`` where the provider does not say) and requests."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    requests: int = 1

    @classmethod
    def total(cls, usages: Iterable["Usage | None"]) -> "Usage":
        """All of them together; a number of tokens is unknown where one of them is."""
        each = [usage or cls() for usage in usages]
        return cls(
            _sum(usage.input_tokens for usage in each),
            _sum(usage.output_tokens for usage in each),
            _sum(usage.cached_tokens for usage in each),
            sum(usage.requests for usage in each),
        )


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(number or 0 for number in known)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge measured.

    Attributes:
        p_true: P(True) in [0, 1], normalised over the two labels.
        low, high: where P(True) may lie given the probability mass that was not listed.
        mass: probability in [0, 1] that the judge put on either label at all.
        emitted: the token that stood at the verdict's place, if one was generated.
        signal: where the number comes from.
        fingerprint: of the judge that measured it.
        model: the model that served the request, by its own word.
        system_fingerprint: the provider's mark for its backend.
        coverage: share in (0, 1] of the contexts' characters that the judge was shown in the one
            request that this verdict is from.
        usage: tokens and requests spent.
        p_underspecified: the judge's P(the question itself leaves open what is asked), in [0, 1];
            ``None`` where it was not asked, or declined.
        tried: judges of a chain that were asked before this one, and why each was left.
        windows: into how many parts the contexts were divided; 1 = they were judged as a whole. Of
            several, this verdict is that of the best request, see `guard.windows`.
        suspects: places of passages that speak to the judge, see `guard.suspicion`; looked for
            only where the query would be answered with them.
        p_with_suspects: P(True) of all passages, where this verdict is one without the suspects;
            ``None`` = it is of all.

    Raises:
        ValueError: the numbers contradict each other: a bug in the judge, not a measurement.
    """

    p_true: float
    low: float
    high: float
    mass: float
    emitted: str | None
    signal: str
    fingerprint: str
    model: str | None = None
    system_fingerprint: str | None = None
    coverage: float = 1.0
    usage: Usage | None = None
    p_underspecified: float | None = None
    tried: tuple[Tried, ...] = ()
    windows: int = 1
    suspects: tuple[int, ...] = ()
    p_with_suspects: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.p_true <= self.high <= 1:
            raise ValueError(
                f"p_true={self.p_true!r} with bounds [{self.low!r}, {self.high!r}] "
                "does not satisfy 0 <= low <= p_true <= high <= 1."
            )
        if not 0 <= self.mass <= 1 or not 0 < self.coverage <= 1:
            raise ValueError(f"mass={self.mass!r}, coverage={self.coverage!r}: out of range.")
        if self.windows < 1:
            raise ValueError(f"windows={self.windows!r}: out of range.")
        for name in ("p_underspecified", "p_with_suspects"):
            share: float | None = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name}={share!r}: out of range.")
