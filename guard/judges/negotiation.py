"""A negotiation: a request, and a corrected one for each thing that the endpoint teaches us."""

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import TypeVar

import openai

from guard.errors import ConfigError, JudgeError, Unmeasured
from guard.judges.connection import Post
from guard.judges.dialect import Dialect, Json, learn
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
    # Where a verdict came without a switch, thinking is the query's doing. Asked first: what
    # others learn from here on is no reason to give up on this query.
    may_switch = not endpoint.has_measured
    begun = dialect = endpoint.dialect
    for _ in range(_MAX_CORRECTIONS):
        body = write(dialect)
        try:
            [answer] = yield Post(PATH, body)
            result = read(answer, body)
        except (openai.OpenAIError, Unmeasured) as error:
            better = _lesson(dialect, error, rendered.mark, may_switch, thinking_tokens)
            if better is None:
                failure = failure_of(error, rendered)
                _remember(endpoint, failure)
                raise failure from (None if failure is error else error)
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


def _lesson(
    dialect: Dialect, error: Exception, mark: str, may_switch: bool, thinking_tokens: int
) -> Dialect | None:
    """The dialect to try next, if the error taught us one."""
    if isinstance(error, openai.APIStatusError):
        said = complaint(error, mark)
        if error.status_code not in COMPLAINTS:
            return None
        if error.status_code == 403 and "logprobs" not in said.casefold():
            return None  # A key that may not use the model; no parameter mends that.
        return learn(dialect, said)
    if isinstance(error, StillThinking):
        switched = dialect.with_switch() if may_switch else None
        if switched is None and dialect.max_tokens < thinking_tokens:
            return replace(dialect, max_tokens=thinking_tokens)
        return switched
    return None


def _remember(endpoint: Endpoint, failure: JudgeError) -> None:
    if isinstance(failure, Unmeasured) and failure.kind == "no_logprobs":
        endpoint.note_mute(failure)
