"""A negotiation: a request, and a corrected one for each thing that the endpoint teaches us."""

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import openai

from guard.errors import ConfigError, JudgeError, Unmeasured
from guard.judges.connection import Post
from guard.judges.dialect import UNFINISHED, Dialect, Json, learn
from guard.judges.endpoint import Endpoint
from guard.judges.failures import COMPLAINTS, complaint, judge_error
from guard.place import StillThinking
from guard.prompt import Rendered

T = TypeVar("T")

PATH = "/chat/completions"
# Corrections of parameters within one judgement; an endpoint that needs more is not understood.
_MAX_CORRECTIONS = 8

Body = dict[str, object]


def negotiate(
    endpoint: Endpoint,
    write: Callable[[Dialect], Body],
    read: Callable[[object, Body], T],
    rendered: Rendered,
    *,
    thinking_tokens: int = 0,
) -> Generator[Post, list[object], T]:
    """What ``read`` makes of the first reply that it can read.

    What an endpoint taught stays ours until it has led to a reading: an odd query changes nothing
    for others.

    Args:
        endpoint: what is known of it, and what is learnt.
        write: the request's body in a dialect.
        read: takes the reply and the body that it answers.
        rendered: the prompt; what repeats it in an error message teaches nothing.
        thinking_tokens: the token budget to try where thinking cannot be switched off; 0 = none.

    Raises:
        JudgeError: no reply could be read.
    """
    begun = dialect = endpoint.dialect
    teacher = _Teacher(rendered.mark, not endpoint.has_measured, thinking_tokens)
    for _ in range(_MAX_CORRECTIONS):
        body = write(dialect)
        try:
            [answer] = yield Post(PATH, body)
            result = read(answer, body)
        except (openai.OpenAIError, Unmeasured) as error:
            better = teacher.lesson(dialect, error)
            if better is None:
                failure = failure_of(error, rendered)
                _remember(endpoint, failure)
                raise failure from None  # No traceback shows what the endpoint said.
            dialect = better
        else:
            endpoint.note_verdict(dialect, instead_of=begun)
            return result
    raise Unmeasured(
        "The endpoint keeps turning down the parameters of a verdict request.",
        kind="rejected",
        hint="Pass the fields that it needs as extra_body.",
    )


def failure_of(error: openai.OpenAIError | JudgeError, rendered: Rendered) -> JudgeError:
    """Our error for whatever became of a request."""
    return error if isinstance(error, JudgeError) else judge_error(error, rendered)


def json_fields(extra_body: Mapping[str, Json] | None) -> dict[str, Json]:
    """The caller's own fields.

    Raises:
        ConfigError: JSON cannot say them.
    """
    try:
        fields = dict(extra_body or {})
        # Sorted, for the fingerprint; encoded, since a lone surrogate cannot be sent.
        json.dumps(fields, allow_nan=False, sort_keys=True, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"`extra_body` cannot be sent as JSON ({type(error).__name__}).",
            hint="Pass a mapping of texts to plain values; NaN and infinity are none.",
        ) from None
    return fields


@dataclass(slots=True)
class _Teacher:
    """What errors teach within one negotiation.

    Attributes:
        mark: where the prompt begins in an error message; what follows it teaches nothing.
        may_switch: whether thinking may be switched off. Where a verdict once came without a
            switch, thinking is the query's doing; decided first, since what others learn meanwhile
            is no reason to give up on this query.
        thinking_tokens: the budget where thinking cannot be switched off; 0 = none.
        thinks: whether the model was seen to think.
    """

    mark: str
    may_switch: bool
    thinking_tokens: int
    thinks: bool = False

    def lesson(self, dialect: Dialect, error: Exception) -> Dialect | None:
        """The dialect to try next, if the error taught us one."""
        if isinstance(error, StillThinking):
            self.thinks = True
            return self._quiet(dialect)
        if not isinstance(error, openai.APIStatusError) or error.status_code not in COMPLAINTS:
            return None
        said = complaint(error, self.mark)
        if error.status_code == 403 and "logprobs" not in said.casefold():
            return None  # A key that may not use the model; no parameter mends that.
        if UNFINISHED in said.casefold() and dialect.max_tokens < self.thinking_tokens:
            return replace(dialect, max_tokens=self.thinking_tokens)
        better = learn(dialect, said)
        lost_a_switch = better is not None and len(better.refused) > len(dialect.refused)
        if better is not None and self.thinks and lost_a_switch:
            return self._quiet(better)  # Without any switch it is known to think.
        return better

    def _quiet(self, dialect: Dialect) -> Dialect | None:
        """The next switch to try, or room for thoughts where there is none left."""
        switched = dialect.with_switch() if self.may_switch else None
        if switched is None and dialect.max_tokens < self.thinking_tokens:
            return replace(dialect, max_tokens=self.thinking_tokens)
        return switched


def _remember(endpoint: Endpoint, failure: JudgeError) -> None:
    if isinstance(failure, Unmeasured) and failure.kind == "no_logprobs":
        endpoint.note_mute(failure)
