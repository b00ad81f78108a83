"""Reading: P(True) of ``has_sufficient_context`` from token log-probabilities.

    reply ─► where does the verdict stand? ─► add up every spelling of True and of False
          ─► P(True) = T / (T + F), the captured mass T + F, and bounds for what was not listed

Reading the logprob rather than the word follows P(True) of Kadavath et al. 2022 (arXiv 2207.05221);
the sufficiency question is that of Joren et al. 2025 (arXiv 2411.06037). What cannot be read is
`Unmeasured`, with the reason; it is never a number.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from guard.cut import require_uncut
from guard.errors import Unmeasured
from guard.labels import OPENING, TRUE_FALSE, Labels, normalise
from guard.place import Place, is_opening, joined, locate, usable_positions
from guard.prompt import Rendered
from guard.reply import Position, Reply, Token
from guard.verdict import Signal, Verdict

# In the tokenizers we counted (cl100k, o200k) each of True and False has 19 or 20 single-token
# spellings, and 40 to 58 further tokens that spell its beginning and may go on to it: so many may
# hide below the k-th listed token.
UNLISTED_SPELLINGS = 80

# Truncated lists come with rounded logprobs (a lone `-0.0` for a confident verdict). Nobody states
# the rounding; half of the second decimal is the coarsest that providers of probabilities admit to.
TRUNCATED_ROUNDING = 0.005

_PLACEHOLDER = -1000.0  # OpenAI and vLLM write -9999.0 for "not listed" and for minus infinity.
_ROUNDING_ABOVE_ZERO = 1e-3
_SAME_LOGPROB = 1e-4
_MAX_LISTED_MASS = 1.02


@dataclass(frozen=True, slots=True)
class Measurement:
    """The numbers of a verdict, before they are tied to a judge.

    Attributes: as in `Verdict`.
    """

    p_true: float
    low: float
    high: float
    mass: float
    emitted: str
    signal: Signal

    def verdict(self, reply: Reply, *, fingerprint: str, rendered: Rendered) -> Verdict:
        """The verdict of one judge: these numbers, and who served them.

        Args:
            reply: what they were read from.
            fingerprint: of the judge.
            rendered: the prompt that was sent, which may not have held all.
        """
        return Verdict(
            p_true=self.p_true,
            low=self.low,
            high=self.high,
            mass=self.mass,
            emitted=self.emitted,
            signal=self.signal,
            fingerprint=fingerprint,
            model=reply.model,
            system_fingerprint=reply.system_fingerprint,
            coverage=rendered.coverage,
            usage=reply.usage,
            history_coverage=rendered.history_coverage,
        )


def read(
    reply: Reply,
    *,
    labels: Labels = TRUE_FALSE,
    asked: int | None = 20,
    min_mass: float = 0.5,
    spellings: int = UNLISTED_SPELLINGS,
) -> Measurement:
    """Reads P(True) from a reply.

    Args:
        reply: what the provider sent.
        labels: the words that count as True and as False.
        asked: how many alternatives per token were asked for; ``None`` = the whole vocabulary.
        min_mass: probability that must have gone to the two labels together.
        spellings: how many tokens that spell or begin one label may hide below the listed ones.

    Raises:
        Unmeasured: no probability can honestly be read; ``kind`` and ``hint`` say why.
    """
    place = locate(reply, usable_positions(reply), labels)
    seen, reached, signals = _Share(), 1.0, list[Signal]()
    for position in place.passed:
        # What was generated here was one way to go on; a verdict may have been another.
        share, signal = _share(position, labels, asked, spellings, follows=True)
        seen, reached = seen.plus(share, reached), reached * _taken(position)
        signals.append(signal)
    share, signal = _share(place.spelled[0], labels, asked, spellings)
    seen = seen.plus(_spelled_out(share, place, labels), reached)
    emitted = place.spelled[0].emitted.text
    return _measure(seen, _weakest([*signals, signal]), min_mass, emitted)


def read_verdict(
    body: object,
    rendered: Rendered,
    *,
    fingerprint: str,
    labels: Labels = TRUE_FALSE,
    asked: int | None = 20,
    min_mass: float = 0.5,
) -> Verdict:
    """The verdict in a provider's reply: for a judge of your own, on a client that we do not know.

    Args:
        body: the reply as decoded JSON, in any shape that `guard.reply.Reply` knows.
        rendered: the prompt that was sent; its coverage goes into the verdict.
        fingerprint: of the judge.
        labels: the words that count as True and as False.
        asked: how many alternatives per token were asked for; ``None`` = the whole vocabulary.
        min_mass: probability in [0, 1] that must have gone to the two labels together.

    Raises:
        Unmeasured: no probability can honestly be read, or the server cut the prompt; ``kind`` and
            ``hint`` say why.
    """
    reply = Reply.from_body(body)
    require_uncut(rendered.text, reply.usage)
    measured = read(reply, labels=labels, asked=asked, min_mass=min_mass)
    return measured.verdict(reply, fingerprint=fingerprint, rendered=rendered)


# ── What was listed there, and what was not ──────────────────────────────────────────────────────


def _listed(position: Position) -> list[tuple[Token, float]]:
    """Tokens and their log-probabilities: the emitted one first, and only once, then all others."""
    emitted = (position.emitted, _log_mass(position.emitted))
    others = [(token, _log_mass(token)) for token in position.alternatives]
    # lmdeploy lists the k - 1 others; Gemini may leave the chosen token out.
    twins = [index for index, other in enumerate(others) if _is_same(emitted, other)]
    return [others.pop(twins[0]) if twins else emitted, *others]


def _is_same(emitted: tuple[Token, float], other: tuple[Token, float]) -> bool:
    (token, value), (second, listed) = emitted, other
    if token.id is not None and second.id is not None:
        return token.id == second.id
    # Two tokens may share a text; one token may come in two roundings.
    return token.data == second.data and (value == listed or abs(value - listed) <= _SAME_LOGPROB)


def _malformed(what: str, hint: str | None = None) -> Unmeasured:
    return Unmeasured(f"The endpoint {what}.", kind="malformed", hint=hint)


def _log_mass(token: Token) -> float:
    """A token's log-probability in nats; minus infinity for a placeholder.

    Raises:
        Unmeasured: kind ``malformed``; the value is no log-probability.
    """
    value = token.logprob
    # Only NaN differs from itself; math.isnan fails for whole numbers too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise _malformed(f"sends {_kind(value)} where a logprob belongs")
    if value > _ROUNDING_ABOVE_ZERO:
        raise _malformed(
            f"sends positive logprobs ({value!r:.20}): they are logits or probabilities",
            "vLLM: start it with --logprobs-mode raw_logprobs.",
        )
    return -math.inf if value <= _PLACEHOLDER else min(float(value), 0.0)


def _kind(value: object) -> str:
    # Its type alone: a text there may be anything.
    names: dict[type, str] = {float: "NaN", bool: "a truth value", str: "a text"}
    return "null" if value is None else names.get(type(value), "something else")


@dataclass(frozen=True, slots=True)
class _Share:
    """Probability on True and on False, and what else may yet turn out to be one of them."""

    true: float = 0.0
    false: float = 0.0
    to_true: float = 0.0
    to_false: float = 0.0

    def plus(self, other: "_Share", weight: float) -> "_Share":
        return _Share(
            self.true + weight * other.true,
            self.false + weight * other.false,
            self.to_true + weight * other.to_true,
            self.to_false + weight * other.to_false,
        )


def _share(
    position: Position,
    labels: Labels,
    asked: int | None,
    spellings: int,
    *,
    follows: bool = False,
) -> tuple[_Share, Signal]:
    """What one position tells; ``follows``: the reply goes on from its emitted token."""
    if position.holds_probabilities:
        raise _malformed(
            "sends probabilities where logprobs belong",
            "Switch post_sampling_probs off: after-sampling values depend on the temperature.",
        )
    entries = _listed(position)
    _require_measured(entries, labels)
    hidden, signal = _hidden_mass(entries, position, asked, spellings)
    words = [(_word(token), value) for token, value in entries]
    others = entries[1:] if follows else entries
    format_mass = math.fsum(math.exp(value) for token, value in others if is_opening(token.data))
    hidden += format_mass
    share = _Share(
        true=_mass(words, normalise(labels.true)),
        false=_mass(words, normalise(labels.false)),
        to_true=hidden + _beginning_mass(others, labels.true),
        to_false=hidden + _beginning_mass(others, labels.false),
    )
    return share, signal


def _taken(position: Position) -> float:
    """The probability of the token that was generated on the way to the verdict."""
    value = _log_mass(position.emitted)
    if value == -math.inf:
        raise _placeholder()
    return math.exp(value)


def _spelled_out(share: _Share, place: Place, labels: Labels) -> _Share:
    """A label in several tokens is as likely as all of them together."""
    if len(place.spelled) == 1:
        return share
    joint = math.exp(math.fsum(_log_mass(step.emitted) for step in place.spelled))
    # Its first piece counted as what may become the label; what became it no longer does.
    if normalise(joined(place.spelled)) == normalise(labels.true):
        left = max(0.0, share.to_true - joint)
        return replace(share, true=share.true + joint, to_true=left)
    left = max(0.0, share.to_false - joint)
    return replace(share, false=share.false + joint, to_false=left)


def _require_measured(entries: Sequence[tuple[Token, float]], labels: Labels) -> None:
    wanted = (normalise(labels.true), normalise(labels.false))
    if any(value == -math.inf and _word(token) in wanted for token, value in entries):
        raise _placeholder()
    if len(entries) > 1 and sum(value > -math.inf for _, value in entries) < 2:
        raise Unmeasured(
            "The endpoint lists one certain token and placeholders for the rest.",
            kind="no_logprobs",
            hint="These are values after greedy sampling, not the model's probabilities.",
        )


def _placeholder() -> Unmeasured:
    return Unmeasured(
        "The endpoint lists a token of its verdict with a placeholder instead of its logprob.",
        kind="no_logprobs",
        hint="-9999 and -inf mean 'not known' or 'masked'; switch off grammars and top_p.",
    )


def _word(token: Token) -> str:
    # Pieces of a character show as U+FFFD in the text; only the bytes tell them apart.
    text = token.data.decode("utf-8", "replace") if "\ufffd" in token.text else token.text
    return normalise(text)


def _mass(words: Iterable[tuple[str, float]], wanted: str) -> float:
    return math.fsum(math.exp(value) for word, value in words if word == wanted)


def _beginning_mass(entries: Iterable[tuple[Token, float]], label: str) -> float:
    """Mass on tokens that spell a proper beginning of ``label``: it may or may not become it."""
    whole = label.casefold().encode()
    beginnings = (
        (token.data.decode("utf-8", "surrogateescape").lstrip(OPENING + " \t\r\n"), value)
        for token, value in entries
    )
    return math.fsum(
        math.exp(value)
        for text, value in beginnings
        if text and _is_beginning(text.casefold().encode("utf-8", "surrogateescape"), whole)
    )


def _is_beginning(piece: bytes, whole: bytes) -> bool:
    return len(piece) < len(whole) and whole.startswith(piece)


def _hidden_mass(
    entries: Sequence[tuple[Token, float]],
    position: Position,
    asked: int | None,
    spellings: int,
) -> tuple[float, Signal]:
    """Probability that one label may still have among unlisted tokens; the signal's name."""
    finite = [value for _, value in entries if value > -math.inf]
    listed = math.fsum(map(math.exp, finite))
    if listed > _MAX_LISTED_MASS:
        raise _malformed(f"lists probabilities that add up to {listed:.2f}")
    rest = max(0.0, 1.0 - listed)
    if not position.alternatives:
        return rest, "logprobs-emitted"
    if asked is not None and len(finite) < asked:
        # A listed 1 may have been 0.995, with 0.005 hidden beside it.
        rounding = TRUNCATED_ROUNDING / (1 - TRUNCATED_ROUNDING)
        return max(rest, rounding), "logprobs-truncated"
    # An unlisted token is at most as likely as the last listed one. The emitted token bounds
    # nothing: sampling may have picked it from far below, and vLLM lists it even then.
    last = min((value for _, value in entries[1:] if value > -math.inf), default=0.0)
    return min(rest, spellings * math.exp(last)), "logprobs"


def _weakest(signals: Iterable[Signal]) -> Signal:
    order: tuple[Signal, ...] = ("logprobs-emitted", "logprobs-truncated", "logprobs")
    return min(signals, key=order.index)


def _measure(seen: _Share, signal: Signal, min_mass: float, emitted: str) -> Measurement:
    mass = seen.true + seen.false
    if not mass >= min_mass or mass <= 0:
        # What it wrote instead is not shown: it may be the beginning of a passage.
        raise Unmeasured(
            f"Only {mass:.3f} of the judge's probability went to a verdict "
            f"(at least {min_mass:g} is needed).",
            kind="low_mass",
            hint="The model was not answering the question; use another model as the judge.",
        )
    low = min(1.0, seen.true / (mass + seen.to_false))
    high = min(1.0, (seen.true + seen.to_true) / (mass + seen.to_true))
    p_true = min(high, max(low, seen.true / mass))
    if signal == "logprobs-emitted":
        # Nothing is known of the other label, so the figure is the bound nearer to the middle.
        p_true = low if seen.true > seen.false else high
    return Measurement(
        p_true=p_true,
        low=low,
        high=max(low, high),
        mass=min(1.0, mass),
        emitted=emitted,
        signal=signal,
    )
