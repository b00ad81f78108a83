"""The sampled judge: for models without logprobs, which are asked many times."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import openai
from openai import AsyncOpenAI, OpenAI

from guard._json import as_map, as_text
from guard._require import require_number
from guard.cut import require_uncut
from guard.errors import ConfigError, JudgeError, Unmeasured
from guard.judges.client_judge import ClientJudge, Conversation
from guard.judges.connection import ClientConnection, Post
from guard.judges.dialect import Dialect, Json, first_guess
from guard.judges.endpoint import Endpoint, account_of, endpoint_for
from guard.judges.failures import COMPLAINTS
from guard.judges.negotiation import PATH, Body, failure_of, json_fields, negotiate
from guard.place import StillThinking, spoken
from guard.posterior import DEFAULT_SAMPLES, posterior
from guard.prompt import DEFAULT_PROMPT, Prompt, Rendered
from guard.query import Query
from guard.reply import Reply
from guard.verdict import Usage, Verdict

MIN_SAMPLES, MAX_SAMPLES = 3, 200
# Enough for a model that cannot be kept from thinking; any other stops after a word.
_THINKING_TOKENS = 4096
# Fields that make answers alike, or one reply hold several: what is counted are independent ones.
_NOT_INDEPENDENT = ("temperature", "seed", "n", "top_p", "top_k", "logprobs", "top_logprobs")


class SampledJudge(ClientJudge):
    """Judges by counting: the same question ``samples`` times.

    At temperature 1, or the endpoint's own where it takes none. For models that give no logprobs
    (Anthropic, Gemini, Grok, Groq). The share of True answers estimates P(True); the verdict is the
    mean of its Beta posterior, the bounds are its 5 % and 95 % points (`guard.posterior`). It costs
    ``samples`` requests a query, which ``usage`` counts. Never a default: its numbers are coarser
    than logprobs and need thresholds of their own.

    Answers must be independent: where at most half of the replies have an ``id`` of their own, a
    cache repeats them, and the query is unmeasured (kind ``malformed``).

    20 answers of one kind give bounds of .867 or .133; with fewer than 18 no query can reach an
    ``answer_at`` of .85.

    Args:
        client: an ``openai`` client, synchronous or asynchronous. The requests of one query are
            made at the same time.
        model: the model's name.
        samples: answers per query, from 3 to 200.
        async_client: a second, asynchronous client for `ajudge`, beside a synchronous ``client``.
        model_family: the model behind a name that does not tell.
        prompt: the words put to the judge, with the labels.
        min_mass: share in [0, 1] of the answers that must hold a verdict.
        extra_body: fields to add to every request; none that sets how answers are drawn.
        close_clients: whether `close` closes the given clients too.

    Raises:
        ConfigError: not an ``openai`` client, a blank ``model``, a number out of range, or an
            ``extra_body`` that sets how answers are drawn (``temperature``, ``seed``, ``top_p`` …).
    """

    def __init__(
        self,
        client: OpenAI | AsyncOpenAI,
        *,
        model: str,
        samples: int = DEFAULT_SAMPLES,
        async_client: AsyncOpenAI | None = None,
        model_family: str | None = None,
        prompt: Prompt = DEFAULT_PROMPT,
        min_mass: float = 0.5,
        extra_body: Mapping[str, Json] | None = None,
        close_clients: bool = False,
    ) -> None:
        require_number("samples", samples, MIN_SAMPLES, MAX_SAMPLES, whole=True)
        require_number("min_mass", min_mass, 0, 1)
        self._extra_body = json_fields(extra_body)
        _require_independent(self._extra_body)
        super().__init__(
            ClientConnection(client, async_client, close_clients=close_clients),
            model=model,
            signal="samples",
            parts=[samples, model_family, prompt.fingerprint, min_mass, self._extra_body],
        )
        self.prompt = prompt
        self.samples = samples
        self._family = model_family
        self._min_mass = min_mass
        self._account = f"{account_of(client, self._extra_body)}:samples"

    def render(self, query: Query) -> Rendered:
        """The prompt for one query."""
        return self.prompt.render(query)

    def conversation(self, rendered: Rendered) -> Conversation:
        """One judgement: a first request until the endpoint is known, then all others at once."""
        endpoint = self._endpoint()

        def write(dialect: Dialect) -> Body:
            return {**dialect.body(self.name, rendered.text), **self._extra_body}

        replies = list[object]()
        if endpoint.has_measured:
            replies = yield Post(PATH, write(endpoint.dialect), self.samples)
        # Where all are turned down, or cut off in thought, the endpoint is not as it was.
        answers = [self._answer(reply, rendered) for reply in replies]
        if all(
            _may_be_mended(reply, answer) for reply, answer in zip(replies, answers, strict=True)
        ):
            first = yield from negotiate(
                endpoint, write, self._finished, rendered, thinking_tokens=_THINKING_TOKENS
            )
            others = yield Post(PATH, write(endpoint.dialect), self.samples - 1)
            answers = [self._answer(reply, rendered) for reply in (first, *others)]
        return self._verdict(answers, rendered)

    def _endpoint(self) -> Endpoint:
        known = endpoint_for(self.connection.base_url, self.name, self._family, self._account)
        if known.dialect.top_logprobs:
            # Nobody has asked yet: without logprobs, and warm, since answers are to differ.
            guess = first_guess(self.connection.base_url, self.name, self._family)
            known.dialect = replace(guess, top_logprobs=0, temperature=1.0)
        return known

    def _finished(self, reply: object, _body: Body) -> object:
        """``reply``, unless it is no reply at all or a thought cut off, which may be mended."""
        try:
            spoken(Reply.from_body(reply), self.prompt.labels)
        except Unmeasured as error:
            if isinstance(error, StillThinking) or error.kind == "malformed":
                raise
        return reply  # Without a verdict it is one answer lost; there are others.

    def _answer(self, reply: object, rendered: Rendered) -> "_Answer":
        if isinstance(reply, openai.OpenAIError | JudgeError):
            failure = failure_of(reply, rendered)
            return _Answer(None, failure)
        read: Reply | None = None
        try:
            read = Reply.from_body(reply)
            require_uncut(rendered.text, read.usage)
            return _Answer(read, spoken(read, self.prompt.labels), _id_of(reply))
        except Unmeasured as error:
            return _Answer(read, error)

    def _verdict(self, answers: "Sequence[_Answer]", rendered: Rendered) -> Verdict:
        said = [answer.said for answer in answers if isinstance(answer.said, bool)]
        mass = len(said) / len(answers)
        if mass < self._min_mass or not said:
            raise _too_few(answers, len(said))
        _require_distinct([answer.id for answer in answers if answer.id])
        share = posterior(said.count(True), said.count(False))
        served = [answer.reply for answer in answers if answer.reply is not None]
        return Verdict(
            p_true=share.mean,
            low=share.low,
            high=share.high,
            mass=mass,
            emitted=None,
            signal="samples",
            fingerprint=self.fingerprint,
            model=served[0].model,
            system_fingerprint=served[0].system_fingerprint,
            coverage=rendered.coverage,
            history_coverage=rendered.history_coverage,
            usage=Usage.total(each.reply.usage if each.reply else None for each in answers),
        )


class _Answer(NamedTuple):
    """One reply, if one came, what it says or why it says nothing, and its id if it has one."""

    reply: Reply | None
    said: bool | JudgeError
    id: str = ""


def _may_be_mended(reply: object, answer: _Answer) -> bool:
    """Whether other parameters may bring what this reply lacks."""
    turned_down = isinstance(reply, openai.APIStatusError) and reply.status_code in COMPLAINTS
    return turned_down or isinstance(answer.said, StillThinking)


def _id_of(reply: object) -> str:
    return (as_text(as_map(reply).get("id")) or "").strip()


def _require_distinct(ids: Sequence[str]) -> None:
    """Raises where one reply was counted many times.

    Not at the first repetition: Ollama's ids are three random digits.
    """
    distinct = len(set(ids))
    if ids and distinct <= len(ids) / 2:
        raise Unmeasured(
            f"The endpoint repeats one reply ({distinct} of {len(ids)} ids differ): a cache stands "
            "between it and the model.",
            kind="malformed",
            hint="Switch the cache off for the judge; for LiteLLM's: "
            'extra_body={"cache": {"no-cache": True}}.',
        )


def _require_independent(extra_body: Mapping[str, Json]) -> None:
    if named := [name for name in _NOT_INDEPENDENT if name in extra_body]:
        raise ConfigError(
            f"`extra_body` of a sampled judge sets {', '.join(named)}.",
            hint="Take it away: what is counted are independent answers at temperature 1.",
        )


def _too_few(answers: Sequence[_Answer], said: int) -> JudgeError:
    """The error of most answers."""
    errors = [answer.said for answer in answers if isinstance(answer.said, JudgeError)]
    kinds = Counter(error.kind for error in errors)
    error = next(one for one in errors if one.kind == kinds.most_common(1)[0][0])
    error.message = f"{error.message} ({said} of {len(answers)} answers held a verdict.)"
    return error
