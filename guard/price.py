"""A price: from tokens to money."""

from dataclasses import dataclass

from guard._json import as_text
from guard._require import require_number
from guard.errors import ConfigError
from guard.verdict import Usage

_MOST = 1e9
_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """What a judge's tokens cost, by the million.

    Attributes:
        input: of a million tokens read.
        output: of a million tokens written.
        cached: of a million tokens read that the provider had cached; ``None`` = as ``input``.
        currency: in which all of them are, e.g. "USD".

    Raises:
        ConfigError: a price is negative or no number, or the currency is no text.
    """

    input: float
    output: float
    cached: float | None = None
    currency: str = "USD"

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached"):
            if (value := getattr(self, name)) is not None or name != "cached":
                require_number(f"price.{name}", value, 0, _MOST)
        if not (as_text(self.currency) or "").strip():
            raise ConfigError("`price.currency` is blank, or no text.", hint='Write e.g. "USD".')

    def of(self, usage: Usage | None) -> float | None:
        """What a verdict cost; ``None`` where the provider does not say how many tokens it took.

        Cached tokens are among the input ones. Where it is not said how many there were, all cost
        the full price, so that the sum is never too low.
        """
        if usage is None or usage.input_tokens is None or usage.output_tokens is None:
            return None
        reused = min(usage.cached_tokens or 0, usage.input_tokens)
        rate = self.input if self.cached is None else self.cached
        fresh = usage.input_tokens - reused
        return (fresh * self.input + reused * rate + usage.output_tokens * self.output) / _TOKENS
