"""Failures: errors of the openai SDK turned into ours, without keys and without passages."""

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from typing import TypedDict

import openai

from guard._json import as_map, as_text
from guard.errors import (
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    Unmeasured,
    before_asking,
)
from guard.judges.dialect import denies_logprobs
from guard.prompt import Rendered

_WORD = re.compile(r"[a-z][a-z_.-]{0,39}", re.IGNORECASE)
_TOO_LONG = re.compile(
    r"exceed_context_size|context_length_exceeded|context (?:size|length|window)|maximum context"
    r"|prompt is too long|too many tokens",
    re.IGNORECASE,
)
_TRANSIENT = frozenset({408, 409, 425, 429})
_SEE_ITS_LOG = (
    "See the endpoint's own log: its message is not repeated here, since it may hold passages."
)
_HINTS: Mapping[int, str] = {
    400: _SEE_ITS_LOG,
    422: _SEE_ITS_LOG,
    401: "The key is missing or wrong: it is read from the variable that api_key_env names in "
    "guard.toml, else from OPENAI_API_KEY.",
    **dict.fromkeys(
        (301, 302, 303, 307, 308),
        "The address redirects, and passages are sent nowhere else: base_url is not the API's own "
        "address, or a login page stands before it.",
    ),
    403: "The key is missing, or may not use this model, or not from this region.",
    404: "No such model or address; base_url often ends in /v1.",
}
COMPLAINTS = frozenset({400, 403, 422})
"""HTTP statuses whose body may say which parameter was wrong."""


def judge_error(error: openai.OpenAIError, prompt: Rendered) -> JudgeError:
    """Our error for one of the SDK's.

    Args:
        error: what the SDK raised; its `JudgeError.original`.
        prompt: what the endpoint was sent; nothing of it is shown.
    """
    failure = _told(error, prompt)
    failure.original = error
    return failure


def _told(error: openai.OpenAIError, prompt: Rendered) -> JudgeError:
    if isinstance(error, openai.APITimeoutError):
        return JudgeUnavailable("The judge did not answer in time.", kind="timeout")
    if isinstance(error, openai.APIStatusError):
        return _status_error(error, f"HTTP {error.status_code}{_shown(error)}", prompt)
    if isinstance(error, openai.APIConnectionError):
        url = error.request.url
        where = url.host if url.port is None else f"{url.host}:{url.port}"
        return JudgeUnavailable(
            f"The judge at {where} cannot be reached ({type(error.__cause__ or error).__name__}).",
            hint="Check base_url, and that the server is up.",
        )
    if isinstance(error, openai.APIError):
        return Unmeasured("The judge's reply is not valid.", kind="malformed")
    return before_asking(JudgeRejected(f"The client refused the request ({type(error).__name__})."))


def not_json(error: Exception) -> Unmeasured:
    """The error for a reply that is not JSON."""
    failure = Unmeasured(
        f"The judge's reply is not JSON ({type(error).__name__}).",
        kind="malformed",
        hint="A proxy may have answered in its place, or the reply was cut off.",
    )
    failure.original = error
    return failure


def broken_off(error: Exception) -> JudgeUnavailable:
    """The error for a body that did not come to its end, or not as it was said to be."""
    kind = type(error).__name__
    late = "Timeout" in kind
    failure = JudgeUnavailable(
        "The judge did not answer in time." if late else f"The judge's reply broke off ({kind}).",
        kind="timeout" if late else "unavailable",
        hint=None if late else "The server, or a proxy before it, ended it or garbled it.",
    )
    failure.original = error
    return failure


def unsendable(error: UnicodeEncodeError) -> JudgeRejected:
    """The error for a request that cannot be written down; ``error`` holds all of it."""
    return before_asking(
        JudgeRejected(
            f"The request holds a character that HTTP cannot carry ({error.encoding}).",
            hint="Copy the API key again: it may have caught a typographic sign.",
        )
    )


def complaint(error: openai.APIStatusError, mark: str) -> str:
    """What the endpoint said, up to where it repeats the prompt.

    Servers that repeat it (vLLM, FastAPI) would let passages speak in their name: a passage could
    teach us parameters, or choose the kind of an error and with it the route.

    Args:
        error: what the SDK raised.
        mark: text that stands near the beginning of the prompt, and nowhere else.
    """
    return _said(error).partition(mark)[0]


def _said(error: openai.APIStatusError) -> str:
    """The whole error body; in openai 3 ``str(error)`` holds it for OpenAI's shape only."""
    body = error.body
    if body is not None:
        return body if isinstance(body, str) else json.dumps(body)
    return error.response.text


class _About(TypedDict):
    status: int
    request_id: str | None


def _status_error(error: openai.APIStatusError, what: str, prompt: Rendered) -> JudgeError:
    said, status = complaint(error, prompt.mark), error.status_code
    about = _About(status=status, request_id=error.request_id)
    if status in _TRANSIENT or status >= 500:
        return _transient_error(error, what, about, spent="insufficient_quota" in said)
    if "content_filter" in said or "content management policy" in said:
        return Unmeasured(f"{what}.", kind="content_filter", **about)
    if _TOO_LONG.search(said):
        hint = "Retrieve fewer passages, or set max_context_chars."
        return Unmeasured(f"{what}.", kind="context_too_long", hint=hint, **about)
    if status in COMPLAINTS and denies_logprobs(said):
        hint = "Use a model that returns logprobs as the judge."
        return Unmeasured(f"{what}. This model gives no logprobs here.", hint=hint, **about)
    return JudgeRejected(f"{what}.", hint=_HINTS.get(status), **about)


def _transient_error(
    error: openai.APIStatusError, what: str, about: _About, *, spent: bool
) -> JudgeError:
    if about["status"] == 501:
        return JudgeRejected(f"{what}.", hint="The endpoint does not offer this.", **about)
    if about["status"] == 429 and spent:
        hint = "Add credit to the account; waiting does not help."
        return JudgeRejected(f"{what}. The account's quota is spent.", hint=hint, **about)
    wait = _retry_after(error.response.headers)
    asked = "" if wait is None else f" It asks to wait {wait:g} s."
    return JudgeUnavailable(
        f"{what}.{asked}",
        kind="rate_limited" if about["status"] == 429 else "unavailable",
        retry_after=wait,
        **about,
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks us to wait: milliseconds, seconds or an HTTP date."""
    value = headers.get("retry-after", "")
    for text, unit in ((headers.get("retry-after-ms", ""), 1000), (value, 1)):
        if (number := _number(text)) is not None:
            return max(0.0, number / unit)
    try:
        date = email.utils.parsedate_tz(value)
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())
    except (ValueError, OverflowError):
        return None  # A date that no calendar holds.


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _shown(error: openai.APIStatusError) -> str:
    """The error's code, type or parameter: words of the provider's own vocabulary.

    Its free text is never shown, since it may repeat passages, the question or the key in any
    disguise; it stays reachable as `JudgeError.original`.
    """
    try:
        whole = as_map(json.loads(_said(error)))
    except (ValueError, RecursionError):
        return ""
    inner = as_map(whole.get("error")) or as_map(whole.get("detail")) or whole
    found = [as_text(inner.get(name)) for name in ("code", "type", "error_type", "param")]
    words = dict.fromkeys(word for word in found if word and _is_word(word, error))
    return f" ({', '.join(words)})" if words else ""


def _is_word(text: str, error: openai.APIStatusError) -> bool:
    if not _WORD.fullmatch(text):
        return False
    # A header's value, such as the key, is no word of a vocabulary.
    return not any(text in value for value in error.request.headers.values())
