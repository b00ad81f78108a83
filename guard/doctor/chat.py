"""The examination of a chat endpoint: what it lists, takes, remembers and cuts."""

import re
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import openai

from guard._json import as_int
from guard.doctor.cases import INSUFFICIENT, STEP, SUFFICIENT, lengthened
from guard.doctor.exchange import Exchange, Line
from guard.doctor.findings import Pair, latency, pair_of, verdicts
from guard.doctor.report import Finding, State
from guard.errors import JudgeError, Unmeasured
from guard.judges.chat import ChatJudge
from guard.judges.connection import Post
from guard.judges.dialect import THINKING_SWITCHES, Dialect, learn
from guard.judges.failures import COMPLAINTS, complaint
from guard.judges.negotiation import PATH, failure_of
from guard.judges.several import Mean
from guard.odds import expit, logit
from guard.query import Query
from guard.reading import read_verdict
from guard.reply import Reply
from guard.verdict import Verdict

_SATURATED = 12.0  # Nats: beyond it a list shows nothing of what temperature does.
_WARM = 0.5
_GROWTH = 0.7
_FULL_LIST = 20
_SHORTEST_STEP = 1000  # Characters: less is as short as the known cases.
# Of what is written for passages of 300 characters, the share that is their own text.
_PASSAGES = 0.8
_PASSAGE = 100  # Characters of the passage that stands before what is added.
_LIMIT = re.compile(r"(?:n_ctx|context length|context size|context window)\D{0,24}(\d{3,7})")


@dataclass(slots=True)
class Examination:
    """What is known of a chat endpoint so far.

    Attributes:
        both_orders: whether the deployment asks in both orders already.
        findings: in the order in which they were made.
        mean: the verdicts on the two known cases, averaged over both orders of the labels.
        flips: whether one order alone puts a case on the other side of 0.5.
        is_cut: whether it cuts long prompts silently.
        room: characters of contexts that the endpoint then takes uncut; ``None`` = not known.
    """

    judge: ChatJudge
    line: Line
    yes: Exchange
    no: Exchange
    both_orders: bool
    findings: list[Finding] = field(default_factory=list[Finding])
    mean: Pair | None = None
    flips: bool = False
    is_cut: bool = False
    room: int | None = None

    @property
    def pair(self) -> Pair:
        """The verdicts on the two known cases."""
        found = pair_of(self.yes, self.no)
        assert found is not None
        return found

    @property
    def signal(self) -> str:
        """What the verdicts are read from; the weaker, where the two differ."""
        signals = [one.signal for one in self.pair]
        return min(signals, key=("logprobs-emitted", "logprobs-truncated", "logprobs").index)


def examine_chat(
    judge: ChatJudge, line: Line, yes: Exchange, no: Exchange, *, both_orders: bool
) -> Examination:
    """Everything about an endpoint that has given a verdict on both known cases."""
    found = Examination(judge, line, yes, no, both_orders)
    for step in (_lists, _masses, _orders, _temperature, _reasoning, _floor, _speed, _length):
        found.findings += step(found)
    return found


# ── One step each ────────────────────────────────────────────────────────────────────────────────


def _lists(found: Examination) -> Iterator[Finding]:
    asked = as_int(found.yes.body.get("top_logprobs")) or as_int(found.yes.body.get("logprobs"))
    listed = max(_listed(found.yes), _listed(found.no))
    yield {
        "logprobs": Finding("logprobs", "ok", "present", "The most likely tokens are listed."),
        "logprobs-truncated": Finding(
            "logprobs",
            "warn",
            "truncated",
            "Only tokens with real mass are listed: a confident verdict shows nothing but an end.",
        ),
        "logprobs-emitted": Finding(
            "logprobs",
            "warn",
            "emitted only",
            "Only the written token's own logprob comes back: it gives one bound, not P(True).",
        ),
    }[found.signal]
    wide = listed >= _FULL_LIST
    yield Finding(
        "alternatives",
        "ok" if wide else "warn",
        listed,
        f"{listed} listed per token, {asked} asked for."
        + ("" if wide else " What is not listed widens the bounds."),
    )


def _listed(exchange: Exchange) -> int:
    positions = Reply.from_body(exchange.replies[-1]).positions or ()
    return max((len(position.alternatives) for position in positions), default=0)


def _masses(found: Examination) -> Iterator[Finding]:
    mass = min(one.verdict.mass for one in (found.yes, found.no) if one.verdict)
    state: State = "ok" if mass >= 0.9 else "warn"
    yield Finding(
        "mass", state, mass, f"At least {mass:.3f} of the probability went to the labels."
    )
    yield verdicts(found.pair)


def _orders(found: Examination) -> Iterator[Finding]:
    judge = found.judge.with_prompt(found.judge.prompt.swapped())
    both = [found.line.exchange(judge, query) for query in (SUFFICIENT, INSUFFICIENT)]
    swapped = pair_of(*both)
    if swapped is None:
        error = both[0].error or both[1].error
        told = f"With the labels in the other order there is no verdict: {error and error.message}"
        yield Finding("order_bias", "warn", None, told)
        return
    mean = Mean([found.judge, judge])
    found.mean = (mean.of([found.pair[0], swapped[0]]), mean.of([found.pair[1], swapped[1]]))
    pairs = [(one.p_true, other.p_true) for one, other in zip(found.pair, swapped, strict=True)]
    found.flips = any((one > 0.5) != (other > 0.5) for one, other in pairs)
    yield _bias(pairs, found)


def _bias(pairs: Sequence[tuple[float, float]], found: Examination) -> Finding:
    bias = statistics.fmean(logit(one) - logit(other) for one, other in pairs) / 2
    told = f"Naming True first makes {expit(bias):.0%} of an even chance."
    if found.both_orders:
        return Finding("order_bias", "ok", bias, f"{told} both_orders is set and cancels it.")
    if found.flips:
        return Finding("order_bias", "bad", bias, f"{told} It decides verdicts.")
    return Finding("order_bias", "warn" if abs(bias) > 0.5 else "ok", bias, told)


def _temperature(found: Examination) -> Iterator[Finding]:
    cold = found.pair[1]
    if found.signal != "logprobs" or not 0.2 < abs(logit(cold.p_true)) < _SATURATED:
        yield Finding("temperature", "unknown", None, "P is too near 0, 0.5 or 1 to tell.")
        return
    warm = _variant(found, {"temperature": _WARM})
    if not isinstance(warm, Verdict):
        if warm.status in COMPLAINTS:
            yield Finding("temperature", "ok", "fixed", "The endpoint takes no other temperature.")
        else:
            yield Finding("temperature", "unknown", None, _no_reply(warm))
        return
    ratio = logit(warm.p_true) / logit(cold.p_true)
    if ratio > (1 + 1 / _WARM) / 2:
        told = "Logprobs are reported after temperature; rag-guard always sends 0 (or 1)."
        yield Finding("temperature", "ok", "after temperature", told)
    else:
        yield Finding("temperature", "ok", "raw", "Logprobs do not depend on the temperature.")


def _reasoning(found: Examination) -> Iterator[Finding]:
    switches = {name: found.yes.body[name] for name in THINKING_SWITCHES if name in found.yes.body}
    if switches:
        names = ", ".join(switches)
        yield Finding("reasoning", "ok", switches, f"Switched off by {names}; rag-guard sends it.")
    else:
        yield Finding("reasoning", "ok", None, "It does not think before the verdict.")


def _floor(found: Examination) -> Iterator[Finding]:
    limits = [name for name in ("max_tokens", "max_completion_tokens") if name in found.no.body]
    if not limits:
        return
    sent = as_int(found.no.body[limits[0]])
    result = _variant(found, {limits[0]: 1})
    if isinstance(result, Verdict):
        yield Finding("token_floor", "ok", 1, "A budget of one token is enough.")
        return
    told_so = isinstance(result, Unmeasured) and result.kind != "malformed"
    if not told_so and result.status not in COMPLAINTS:
        yield Finding("token_floor", "unknown", None, _no_reply(result))
        return
    taught = _taught(found, result)
    floor = taught.max_tokens if taught is not None and taught.max_tokens > 1 else None
    floor = sent if floor is None or (sent is not None and floor > sent) else floor
    told = f"A budget of one token is not enough; rag-guard sends {limits[0]} = {sent}."
    yield Finding("token_floor", "ok", floor, told)


def _no_reply(error: JudgeError) -> str:
    return f"The request for it failed: {error.message}"


def _taught(found: Examination, error: JudgeError) -> Dialect | None:
    cause = error.original
    if not isinstance(cause, openai.APIStatusError):
        return None
    return learn(Dialect(max_tokens=1), complaint(cause, found.judge.render(INSUFFICIENT).mark))


def _speed(found: Examination) -> Iterator[Finding]:
    yield latency(found.line.times)


def _length(found: Examination) -> Iterator[Finding]:
    """Three long prompts: one, the same again, and one twice as long."""
    step = _step(found)
    if step < _SHORTEST_STEP:
        told = "max_context_chars keeps prompts short; longer ones were not tried."
        yield Finding("prompt_limit", "ok", found.judge.prompt.max_context_chars, told)
        return
    first = found.line.exchange(found.judge, lengthened(step))
    if first.verdict is None:
        cut = _was_cut(first)
        yield _cut(found, first) if cut else _refused(found, first, lengthened(step))
        yield Finding("prefix_cache", "unknown", None, "The long prompt gave no verdict.")
        return
    again = found.line.exchange(found.judge, lengthened(step))
    longer = found.line.exchange(found.judge, lengthened(2 * step))
    refused = longer.error and not _was_cut(longer)
    yield (
        _refused(found, longer, lengthened(2 * step)) if refused else _taken(found, first, longer)
    )
    yield _cache(again)


def _step(found: Examination) -> int:
    """Characters to add: twice as many are no more than what the prompt would hold."""
    limit = found.judge.prompt.max_context_chars
    return STEP if limit is None else min(STEP, (limit - _PASSAGE) // 2)


def _cache(again: Exchange) -> Finding:
    if again.error is not None:
        return Finding("prefix_cache", "unknown", None, _no_reply(again.error))
    usage = again.verdict.usage if again.verdict else None
    cached = usage.cached_tokens if usage else None
    if cached is None:
        told = "The endpoint does not say whether it reuses a prompt's beginning."
        return Finding("prefix_cache", "unknown", None, told)
    if not cached:
        return Finding("prefix_cache", "warn", 0, "A repeated prompt was not reused.")
    told = f"{cached} tokens of a repeated prompt were reused."
    return Finding("prefix_cache", "ok", cached, told)


def _refused(found: Examination, made: Exchange, query: Query) -> Finding:
    """A long prompt without a verdict."""
    error, characters = made.error, len(found.judge.render(query).text)
    assert error is not None
    if error.kind != "context_too_long":
        told = f"{characters:,} characters gave no verdict: {error.message}"
        return Finding("prompt_limit", "unknown", None, told)
    limit = _LIMIT.search(_said(error).casefold())
    tokens = int(limit[1]) if limit else None
    known = f"{tokens} tokens" if tokens else "a limit that it does not name"
    return Finding("prompt_limit", "warn", tokens, f"The endpoint takes {known}, and says so.")


def _taken(found: Examination, first: Exchange, longer: Exchange) -> Finding:
    """Two long prompts with verdicts: were they read as a whole?"""
    counts = [one.input_tokens for one in (found.yes, first, longer)]
    short, long, double = (count or 0 for count in counts)
    # Both steps add as many characters; where the second adds fewer tokens, some were not read.
    if all(counts) and double - long < _GROWTH * (long - short):
        return _cut(found, longer)
    lost = [one for one in (first, longer) if one.verdict and one.verdict.p_true < 0.5]
    if found.pair[0].p_true > 0.5 and lost:
        told = "It lost an answer at the beginning of a long prompt: cut off, or not heeded."
        return Finding("prompt_limit", "warn", None, told)
    read = f"{double} tokens were read, nothing" if all(counts) else "Nothing that we can see"
    return Finding("prompt_limit", "ok" if all(counts) else "unknown", None, f"{read} was cut.")


def _was_cut(made: Exchange) -> bool:
    """Whether a reply came that shows that a part of the prompt was not read."""
    return made.error is not None and made.error.kind == "context_too_long" and bool(made.replies)


def _cut(found: Examination, made: Exchange) -> Finding:
    tokens = made.input_tokens or 0
    found.is_cut, found.room = True, _room(found, tokens)
    told = f"A long prompt was cut without an error: {tokens} tokens of it were read."
    return Finding("prompt_limit", "bad", tokens, told)


def _said(error: JudgeError) -> str:
    cause = error.original
    return complaint(cause, "\0") if isinstance(cause, openai.APIStatusError) else ""


def _tokens_per_character(found: Examination) -> float | None:
    tokens = found.yes.input_tokens
    return tokens / len(found.judge.render(SUFFICIENT).text) if tokens else None


def _room(found: Examination, tokens: int) -> int | None:
    """Characters of contexts that so many tokens hold, with a tenth to spare."""
    per_character = _tokens_per_character(found)
    if not per_character:
        return None
    words = len(found.judge.render(SUFFICIENT).text) - sum(map(len, SUFFICIENT.contexts))
    room = int(0.9 * tokens / per_character) - words
    # Earlier turns stand in a prompt as well; where they would leave nothing, half of it.
    room = max(room // 2, room - found.judge.prompt.max_history_chars)
    room = int(_PASSAGES * room)
    # More than was sent cannot have been cut.
    return _rounded(room) if 0 < room < 2 * _step(found) else None


def _rounded(room: int) -> int:
    """Down, to a figure that does not look exact."""
    unit = 1000 if room >= 2000 else 100
    return room // unit * unit


def _variant(found: Examination, fields: Mapping[str, object]) -> Verdict | JudgeError:
    """The insufficient case once more, with other parameters and no negotiation."""
    judge, made = found.judge, Exchange(JudgeError("Nothing was asked."))
    rendered = judge.render(INSUFFICIENT)
    body = {**found.no.body, **fields}
    end = time.monotonic() + found.line.seconds
    try:
        [reply] = found.line.post(judge, Post(PATH, body), end, made)
        return read_verdict(
            reply,
            rendered,
            fingerprint=judge.fingerprint,
            labels=judge.prompt.labels,
            asked=as_int(body.get("top_logprobs")),
            min_mass=0.0,
        )
    except openai.OpenAIError as error:
        failure = failure_of(error, rendered)
        return failure
    except JudgeError as error:
        return error
