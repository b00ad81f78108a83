"""A dialect: which parameters an endpoint takes, guessed from its name and learnt from its answers.

Names are only a first guess: which of a provider's models return logprobs, and under which
parameters, changes by the month. What an endpoint really takes is in its own error messages.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import urlsplit

from guard._json import as_int

Json = str | int | float | bool | None | Mapping[str, "Json"]

THINKING_SWITCHES: Mapping[str, Json] = {
    # OpenAI, Ollama and SGLang; then vLLM, SGLang and llama.cpp; then DeepSeek.
    "reasoning_effort": "none",
    "chat_template_kwargs": {"enable_thinking": False},
    "thinking": {"type": "disabled"},
}
"""Ways to ask a model not to think before the verdict; no server knows all of them."""

UNFINISHED = "could not finish the message"
"""What OpenAI says of a budget that thoughts used up, in lower case."""

# OpenAI's reasoning families, also behind a router's prefix ("openai/gpt-5.4-mini").
_REASONING_FAMILY = re.compile(r"(?:^|[/:])(?:o[1-9](?:-|$)|gpt-[5-9])", re.IGNORECASE)
_LIMIT = re.compile(
    r"(?:less than or equal to|between 0 and|max(?:imum)? allowed:?|at most|up to|no more than"
    r"|not exceed|\[0,|<=)\s*(\d+)"
)
_AT_LEAST = re.compile(
    r"(?:at least|minimum(?: value)?(?: is| of)?|greater than or equal to|>=)\D{0,12}(\d+)"
)
_WANTS_NUMBER = re.compile(
    r"(?:expected|must be|should be|not of type)\W{1,12}(?:an? )?(?:valid )?\W{0,12}int"
)
_WANTS_TRUTH_VALUE = re.compile(
    r"(?:expected|must be|should be|not of type)\W{1,12}(?:an? )?(?:valid )?\W{0,12}bool"
)
_UNSUPPORTED = re.compile(
    r"not (?:supported|allowed|enabled|permitted|available)|unsupported|unknown|unrecogni[sz]ed"
    # Not "invalid" alone: it stands in the type of every error of OpenAI ("invalid_request_error").
    r"|extra inputs|unexpected|does(?: not|n't) support|invalid (?:parameter|argument|field)"
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The parameters of a verdict request.

    Attributes:
        token_limit: the name under which the endpoint limits generated tokens.
        max_tokens: that limit. One token would do for a bare ``True``, but not for a wrapper,
            a line break before it, or endpoints with a minimum.
        top_logprobs: alternatives to ask for at each token; 0 = ask for no logprobs at all.
        logprobs_as_count: Together's legacy form, ``logprobs: 20`` instead of ``true``.
        temperature: 0; 1 where only that is taken; ``None`` = do not send it. SGLang divides by it
            before it reports logprobs, so the answer model's temperature is never passed on.
        extra: further fields, thinking switches among them.
        refused: fields that this endpoint has turned down.
    """

    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    max_tokens: int = 8
    top_logprobs: int = 20
    logprobs_as_count: bool = False
    temperature: float | None = 0.0
    extra: Mapping[str, Json] = field(default_factory=dict[str, Json])
    refused: frozenset[str] = frozenset()

    def body(self, model: str, prompt: str) -> dict[str, object]:
        """The JSON body of one request. ``logit_bias``, penalties and ``n`` are never sent."""
        fields: dict[str, object] = {
            "model": model,
            # One message: a server that cuts old messages cannot part passages and task.
            "messages": [{"role": "user", "content": prompt}],
            self.token_limit: self.max_tokens,
        }
        if self.logprobs_as_count and self.top_logprobs:
            fields["logprobs"] = self.top_logprobs
        elif self.top_logprobs:
            # OpenAI and llama.cpp refuse top_logprobs without logprobs.
            fields |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        if self.temperature is not None:
            fields["temperature"] = self.temperature
        return fields | dict(self.extra)

    def without(self, name: str) -> "Dialect":
        """This dialect, never sending ``name`` again."""
        extra = {key: value for key, value in self.extra.items() if key != name}
        return replace(self, extra=extra, refused=self.refused | {name})

    def with_switch(self) -> "Dialect | None":
        """This dialect with the next thinking switch not yet tried; ``None`` if all were."""
        for name, value in THINKING_SWITCHES.items():
            if name not in self.extra and name not in self.refused:
                return replace(self, extra={**self.extra, name: value})
        return None


def asked_of(fields: Mapping[str, object]) -> int:
    """How many alternatives a request with these fields asks for; a caller's own may be there."""
    named = as_int(fields.get("top_logprobs"))
    legacy = as_int(fields.get("logprobs"))  # Together's form has the number here.
    count = named if named is not None else legacy
    # Left to the server: then every list counts as cut off, wherever it ends.
    return sys.maxsize if count is None else count


def first_guess(base_url: str, model: str, family: str | None = None) -> Dialect:
    """The dialect to begin with.

    Args:
        base_url: the endpoint.
        model: the model as requested.
        family: the model behind a name that says nothing, such as an Azure deployment's.
    """
    host = urlsplit(base_url).hostname or ""
    dialect = Dialect()
    if _REASONING_FAMILY.search(family or model):
        # They list at most 5 tokens, only without reasoning, and refuse a budget of 1 token.
        dialect = replace(
            dialect,
            token_limit="max_completion_tokens",
            top_logprobs=5,
            temperature=1.0,
            extra={"reasoning_effort": "none"},
        )
    if host.endswith("openrouter.ai"):
        # Without it the router picks providers that drop logprobs silently; some want 16 tokens.
        extra: dict[str, Json] = {**dialect.extra, "provider": {"require_parameters": True}}
        return replace(dialect, max_tokens=16, extra=extra)
    if host.endswith("deepseek.com"):
        return replace(dialect, extra={"thinking": THINKING_SWITCHES["thinking"]})
    if host.endswith(("together.xyz", "together.ai")):
        return replace(dialect, logprobs_as_count=True)
    if host.endswith("fireworks.ai"):
        return replace(dialect, top_logprobs=5)
    return dialect


def learn(dialect: Dialect, complaint: str) -> Dialect | None:
    """What an endpoint's error message teaches; ``None`` if no change of parameters would help.

    Args:
        dialect: the parameters that the endpoint turned down.
        complaint: the text of its HTTP 400, 403 or 422 error body.
    """
    text = complaint.casefold()
    for lesson in _LESSONS:
        learnt = lesson(dialect, text)
        if learnt is not None and learnt != dialect:
            return learnt
    return None


def denies_logprobs(complaint: str) -> bool:
    """Whether an error message says that this model gives no logprobs at all."""
    text = complaint.casefold()
    return "logprobs" in text and _UNSUPPORTED.search(text) is not None


def _token_name(dialect: Dialect, text: str) -> Dialect | None:
    name = dialect.token_limit
    other: Literal["max_tokens", "max_completion_tokens"] = (
        "max_completion_tokens" if name == "max_tokens" else "max_tokens"
    )
    if name not in text or not _UNSUPPORTED.search(text) or other in dialect.refused:
        return None
    return replace(dialect, token_limit=other, refused=dialect.refused | {name})


def _token_floor(dialect: Dialect, text: str) -> Dialect | None:
    if UNFINISHED in text:
        return replace(dialect, max_tokens=64) if dialect.max_tokens < 64 else None
    if "tokens" not in text or not (found := _AT_LEAST.search(text)):
        return None
    floor = int(found[1])
    return replace(dialect, max_tokens=floor) if dialect.max_tokens < floor <= 256 else None


def _alternatives(dialect: Dialect, text: str) -> Dialect | None:
    # TGI complains in the words of its own API: "`top_n_tokens` must be >= 0 and <= 5".
    named = "logprobs" in text or "top_n_tokens" in text
    if not named or not (found := _LIMIT.search(text)):
        return None
    limit = int(found[1])
    return replace(dialect, top_logprobs=limit) if 0 < limit < dialect.top_logprobs else None


def _count(dialect: Dialect, text: str) -> Dialect | None:
    """``logprobs: true`` or ``logprobs: 20``: Together's newer models take the one, older the other
    (UKGovernmentBEIS/inspect_ai, pull request 5149)."""
    name = "logprobs_as_count"
    if dialect.logprobs_as_count:
        # The newer ones do not name the field: "invalid type: integer `20`, expected a boolean".
        if _WANTS_TRUTH_VALUE.search(text) and name not in dialect.refused:
            return replace(dialect, logprobs_as_count=False, refused=dialect.refused | {name})
    elif "logprobs" in text and _WANTS_NUMBER.search(text) and name not in dialect.refused:
        return replace(dialect, logprobs_as_count=True)
    return None


def _refused_field(dialect: Dialect, text: str) -> Dialect | None:
    # "provider" stands in many of OpenRouter's messages, and OpenRouter always takes it.
    named = next((name for name in dialect.extra if name in text and name != "provider"), None)
    return None if named is None else dialect.without(named)


def _warmth(dialect: Dialect, text: str) -> Dialect | None:
    if "temperature" not in text or dialect.temperature is None:
        return None
    return replace(dialect, temperature=1.0 if dialect.temperature == 0 else None)


def _reasoning(dialect: Dialect, text: str) -> Dialect | None:
    """A reasoning model refuses logprobs until it is told not to reason."""
    name = "reasoning_effort"
    if not denies_logprobs(text) or name in dialect.extra or name in dialect.refused:
        return None
    return replace(dialect, extra={**dialect.extra, name: THINKING_SWITCHES[name]})


_LESSONS = (
    _token_floor,
    _token_name,
    _alternatives,
    _count,
    _refused_field,
    _warmth,
    _reasoning,
)
