"""A rated judge: an endpoint that rates statements itself and names their probabilities."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import openai
from openai import AsyncOpenAI, OpenAI

from guard._json import as_count, as_map
from guard.errors import ConfigError, JudgeError, JudgeRejected, Unmeasured
from guard.judges.client_judge import ClientJudge, Conversation
from guard.judges.connection import ClientConnection, Post
from guard.judges.failures import judge_error
from guard.prompt import DEFAULT_PROMPT, SUFFICIENT, UNDERSPECIFIED, Prompt, Rendered, clean
from guard.query import Query
from guard.reply import served_name
from guard.verdict import Signal, Usage, Verdict

# OpenAI rounds to two decimals (Effect's documentation of the endpoint); others may round finer.
COARSEST_DECIMALS, FINEST_DECIMALS = 2, 6
_FLOAT32_NOISE = 1e-7

NAMES = ("has_sufficient_context", "is_underspecified")
"""The ids of the two questions, in the order in which they are asked."""


class Rating(NamedTuple):
    """What an endpoint said of our questions: probabilities in [0, 1].

    Attributes:
        sufficient: how likely the contexts suffice.
        underspecified: how likely the question is under-specified; ``None`` = not asked, declined.
    """

    sufficient: float
    underspecified: float | None = None


class RatedJudge(ClientJudge):
    """Asks an endpoint how likely it is that the contexts suffice.

    There is no token to read: the endpoint names the probability, which is taken as it is, with
    bounds as wide as its rounding. ``mass`` is 1 and ``emitted`` is ``None``.

    Args:
        client: an ``openai`` client, synchronous or asynchronous; 2.x and 3.x both serve.
        model: the model's name.
        async_client: a second, asynchronous client for `ajudge`, beside a synchronous ``client``.
        statement: what is rated, about "the retrieved passages" and "the question".
        ask_underspecified: whether to ask in the same request how likely it is that the question
            itself is under-specified; the verdict carries it as ``p_underspecified``.
        prompt: how contexts are packed. Its template and labels must be the default ones: a
            decision endpoint has a statement in their place.
        close_clients: whether `close` closes the given clients too.

    Raises:
        ConfigError: not an ``openai`` client, a blank ``model`` or ``statement``, or a ``prompt``
            with words of its own.
    """

    signal: Signal
    path: str

    def __init__(
        self,
        client: OpenAI | AsyncOpenAI,
        *,
        model: str,
        async_client: AsyncOpenAI | None = None,
        statement: str = SUFFICIENT,
        ask_underspecified: bool = False,
        prompt: Prompt = DEFAULT_PROMPT,
        close_clients: bool = False,
    ) -> None:
        _require_plain(prompt, statement, type(self).__name__)
        said = clean(statement)
        questions = (said, UNDERSPECIFIED) if ask_underspecified else (said,)
        super().__init__(
            ClientConnection(client, async_client, close_clients=close_clients),
            model=model,
            signal=f"decision-{self.signal}",
            parts=[questions, prompt.fingerprint],
        )
        self.prompt = prompt
        self._questions = questions

    def render(self, query: Query) -> Rendered:
        """Passages and question, without a task."""
        return self.prompt.render_evidence(query)

    def conversation(self, rendered: Rendered) -> Conversation:
        """One judgement: one request."""
        body = self.request(rendered.text, dict(zip(NAMES, self._questions, strict=False)))
        try:
            [answer] = yield Post(self.path, body)
        except openai.OpenAIError as error:
            raise self._failure(error, rendered) from None
        reply = as_map(answer)
        if not reply:
            raise malformed(f"sends {type(answer).__name__} where an object with answers belongs")
        if reply.get("error"):
            raise malformed("reports an error inside HTTP 200")  # As OpenRouter does.
        return self._verdict(self.ratings(reply, NAMES[: len(self._questions)]), reply, rendered)

    @abstractmethod
    def request(self, evidence: str, statements: Mapping[str, str]) -> dict[str, object]:
        """The JSON body that asks for every statement, by id, to be rated on the evidence."""

    @abstractmethod
    def ratings(self, reply: Mapping[str, object], names: tuple[str, ...]) -> Rating:
        """What the reply says of the questions with these ids; raises `Unmeasured`."""

    def _verdict(self, rating: Rating, reply: Mapping[str, object], asked: Rendered) -> Verdict:
        p, half = rating.sufficient, rounding(rating.sufficient)
        return Verdict(
            p_true=p,
            low=max(0.0, p - half),
            high=min(1.0, p + half),
            mass=1.0,
            emitted=None,
            signal=self.signal,
            fingerprint=self.fingerprint,
            model=served_name(reply.get("model")),
            coverage=asked.coverage,
            history_coverage=asked.history_coverage,
            usage=_usage(as_map(reply.get("usage"))),
            p_underspecified=rating.underspecified,
        )

    def _failure(self, error: openai.OpenAIError, rendered: Rendered) -> JudgeError:
        failure = judge_error(error, rendered)
        if failure.status in (404, 405, 501):
            # llama.cpp: "This model is not a decision model".
            return JudgeRejected(
                f"{failure.message} No decision model of this name answers at {self.path}.",
                hint="For an ordinary model use openai:MODEL; `rag-guard doctor` tells what works.",
                status=failure.status,
                request_id=failure.request_id,
            )
        return failure


def probability(value: object, what: str) -> float:
    """``value`` if it is a probability.

    Raises:
        Unmeasured: kind ``malformed``; it is no number, NaN, or outside [0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise malformed(f"sends {what} that is no probability")
    return float(value)


def malformed(what: str) -> Unmeasured:
    """The error for a reply that breaks the endpoint's own protocol."""
    return Unmeasured(f"The endpoint {what}.", kind="malformed")


def rounding(value: float) -> float:
    """How far the unrounded value may lie away: half a unit of the last decimal that is shown.

    Never less coarse than two decimals: 0.8 may be 0.80.
    """
    for decimals in range(COARSEST_DECIMALS, FINEST_DECIMALS + 1):
        if math.isclose(value, round(value, decimals), rel_tol=0, abs_tol=_FLOAT32_NOISE):
            return 0.5 * math.pow(10, -decimals)
    return 0.0


def _usage(found: Mapping[str, object]) -> Usage | None:
    spent = Usage(
        as_count(found.get("input_tokens")),
        as_count(found.get("output_tokens")),
        as_count(as_map(found.get("input_tokens_details")).get("cached_tokens")),
    )
    return None if spent == Usage() else spent


def _require_plain(prompt: Prompt, statement: object, name: str) -> None:
    if (prompt.template, prompt.labels) != (DEFAULT_PROMPT.template, DEFAULT_PROMPT.labels):
        raise ConfigError(
            f"{name} asks for the probability of a statement: it has no template and no labels.",
            hint="Leave both as they are; pass statement=… to change the words.",
        )
    if not isinstance(statement, str) or not clean(statement).strip():
        raise ConfigError("`statement` is blank or not text.", hint="Pass a sentence to be rated.")
