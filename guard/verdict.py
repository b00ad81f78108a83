"""A verdict: what a judge measured, as numbers that cannot contradict each other."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from guard.errors import Tried, UnmeasuredKind

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
        seen: share in (0, 1] of the contexts' characters that stood in any of the requests; below 1
            where the set needed more windows than allowed.
        unseen: which passages stood in none, or not whole: first and last place of each run of
            them, counted from 0.
        history_coverage: share in [0, 1] of the earlier turns' characters that the judge was shown:
            a prompt keeps the latest ones.
        suspects: places of passages that speak to the judge, see `guard.suspicion`.
        suspect_turns: places of such turns of the history.
        p_without: P(True) of the query without all of these; ``None`` = nothing is left, or it was
            not judged so: it is where the query would be answered.
        low_without: the lower bound of that.
        rest_unmeasured: why it was not measured, where it was asked
            (`guard.errors.UNMEASURED_KINDS`).
        look_cut_short: whether time was up before all texts were looked at; there may be suspects
            then that nobody knows of.

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
    seen: float = 1.0
    unseen: tuple[tuple[int, int], ...] = ()
    history_coverage: float = 1.0
    suspects: tuple[int, ...] = ()
    suspect_turns: tuple[int, ...] = ()
    p_without: float | None = None
    low_without: float | None = None
    rest_unmeasured: UnmeasuredKind | None = None
    look_cut_short: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.p_true <= self.high <= 1:
            raise ValueError(
                f"p_true={self.p_true!r} with bounds [{self.low!r}, {self.high!r}] "
                "does not satisfy 0 <= low <= p_true <= high <= 1."
            )
        for name in _SHARES:
            share: float | None = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name}={share!r}: out of range.")
        if not self.coverage or not self.seen or self.windows < 1:
            raise ValueError("coverage, seen and windows are above 0.")
        if (self.p_without is None) is not (self.low_without is None):
            raise ValueError("p_without and low_without are known both, or neither.")

    @property
    def has_suspects(self) -> bool:
        """Whether anything in the query speaks to the judge."""
        return bool(self.suspects or self.suspect_turns)

    @property
    def is_doubted(self) -> bool:
        """Whether its lower bound may be somebody's doing."""
        return self.has_suspects or self.look_cut_short

    @property
    def own_low(self) -> float:
        """The lower bound that the verdict owes to no suspect.

        What a text can do that tells a judge how to judge, nobody knows: P(True) is only known to
        be at least what it is without that text; 0 where it was not judged without, or nobody had
        the time to look.
        """
        if self.look_cut_short:
            return 0.0
        return min(self.low, self.low_without or 0.0) if self.has_suspects else self.low

    def with_suspects_trusted(self) -> "Verdict":
        """The same, as if nothing in the query spoke to the judge."""
        if not self.is_doubted:
            return self
        return replace(
            self,
            suspects=(),
            suspect_turns=(),
            p_without=None,
            low_without=None,
            rest_unmeasured=None,
            look_cut_short=False,
        )


_SHARES = (
    "mass",
    "coverage",
    "seen",
    "history_coverage",
    "p_underspecified",
    "p_without",
    "low_without",
)
