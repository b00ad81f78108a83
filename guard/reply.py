"""A reply: what a provider sent back, brought from any known shape into one.

Nothing is judged here. Logprobs are carried as they came, valid or not; `guard.reading` reads them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from guard._json import as_count, as_int, as_list, as_map, as_text
from guard.errors import Unmeasured
from guard.verdict import Usage

_NAME = re.compile(r"[\w.:/@+=-]{1,200}")
_REASONING = ("reasoning_content", "reasoning", "reasoning_details")


@dataclass(frozen=True, slots=True)
class Token:
    """One token and its log-probability as sent: a number if all is well, anything if not."""

    text: str
    data: bytes
    logprob: object
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """One generated token and what might have stood in its place.

    Attributes:
        emitted: the token that was generated.
        alternatives: the listed candidates, which may or may not include ``emitted``.
        holds_probabilities: the server sent probabilities where logprobs belong.
    """

    emitted: Token
    alternatives: tuple[Token, ...]
    holds_probabilities: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a judge model.

    Attributes:
        text: the visible answer, without reasoning where the server separates it.
        positions: generated tokens with logprobs, reasoning included; ``None`` if the server sent
            no logprobs at all.
        finish_reason: the provider's word for why generation ended.
        refused: the provider marked the answer as a refusal.
        reasoned: the provider sent reasoning beside the answer.
        model: the model that served the request, by its own word.
        system_fingerprint: the provider's mark for its backend, for drift.
        usage: tokens spent.
    """

    text: str
    positions: tuple[Position, ...] | None
    finish_reason: str | None = None
    refused: bool = False
    reasoned: bool = False
    model: str | None = None
    system_fingerprint: str | None = None
    usage: Usage | None = None

    @classmethod
    def from_body(cls, body: object) -> "Reply":
        """Reads a decoded JSON body of any of these shapes.

        OpenAI chat completions (and whoever imitates them), legacy completions (vLLM, Together:
        three parallel lists), llama.cpp's completions, OpenAI Responses, Ollama's native routes.

        Raises:
            Unmeasured: kind ``malformed``; the body has none of these shapes.
        """
        whole = as_map(body)
        if error := whole.get("error"):
            raise _error_inside(error)
        choices = as_list(whole.get("choices"))
        if choices and as_map(choices[0]):
            reply = _from_choice(as_map(choices[0]))
        elif whole.get("done") is False or whole.get("status") in ("failed", "cancelled"):
            raise Unmeasured("The judge's reply is unfinished.", kind="malformed")
        elif "output" in whole:
            reply = _from_responses(whole)
        elif "done" in whole or "completion_probabilities" in whole:
            reply = _from_native(whole)
        else:
            raise _not_a_reply(body)
        return replace(
            reply,
            model=served_name(whole.get("model")),
            system_fingerprint=served_name(whole.get("system_fingerprint")),
            usage=_usage(whole),
        )


def _from_choice(choice: Mapping[str, object]) -> Reply:
    if error := choice.get("error"):
        raise _error_inside(error)
    message = as_map(choice.get("message"))
    logprobs = choice.get("logprobs")
    refusal = message.get("refusal") or as_map(logprobs).get("refusal")
    return Reply(
        text=_text(message.get("content")) or as_text(choice.get("text")) or "",
        positions=_positions_of_choice(logprobs),
        finish_reason=as_text(choice.get("finish_reason")),
        refused=bool(refusal),
        reasoned=any(message.get(name) for name in _REASONING),
    )


def _text(content: object) -> str:
    """A message's text: plain, or in parts (Mistral)."""
    parts = [as_map(part) for part in as_list(content)]
    return as_text(content) or "".join(as_text(part.get("text")) or "" for part in parts)


def _from_responses(body: Mapping[str, object]) -> Reply:
    items = [as_map(item) for item in as_list(body.get("output"))]
    parts = [as_map(part) for item in items for part in as_list(item.get("content"))]
    texts = [part for part in parts if part.get("type") == "output_text"]
    listed = [entry for part in texts for entry in as_list(part.get("logprobs"))]
    return Reply(
        text="".join(as_text(part.get("text")) or "" for part in texts),
        positions=_positions(listed) if listed else None,
        finish_reason=as_text(as_map(body.get("incomplete_details")).get("reason")),
        refused=any(part.get("type") == "refusal" for part in parts),
        reasoned=any(item.get("type") == "reasoning" for item in items),
    )


def _from_native(body: Mapping[str, object]) -> Reply:
    message = as_map(body.get("message"))
    text = message.get("content") or body.get("response") or body.get("content")
    listed = as_list(body.get("logprobs") or body.get("completion_probabilities"))
    return Reply(
        text=as_text(text) or "",
        positions=_positions(listed) if listed else None,
        finish_reason=as_text(body.get("done_reason")),
        reasoned=bool(message.get("thinking") or body.get("thinking")),
    )


def _positions_of_choice(logprobs: object) -> tuple[Position, ...] | None:
    found = as_map(logprobs)
    if as_list(found.get("content")):
        return _positions(as_list(found.get("content")))
    if as_list(found.get("tokens")):
        return tuple(_legacy_positions(found))
    return None


def _positions(entries: Iterable[object]) -> tuple[Position, ...]:
    return tuple(_position(as_map(entry)) for entry in entries)


def _position(entry: Mapping[str, object]) -> Position:
    # llama.cpp with `post_sampling_probs` sends prob/top_probs and leaves logprob out or null.
    probabilities = entry.get("logprob") is None and ("prob" in entry or "top_probs" in entry)
    listed = as_list(entry.get("top_logprobs"))
    return Position(_token(entry), tuple(_token(as_map(one)) for one in listed), probabilities)


def _token(entry: Mapping[str, object]) -> Token:
    text = as_text(entry.get("token")) or ""
    data = _bytes(entry.get("bytes"), text)
    return Token(text, data, entry.get("logprob"), as_int(entry.get("id")))


def _bytes(value: object, text: str) -> bytes:
    numbers = [as_int(one) for one in as_list(value)]
    valid = [number for number in numbers if number is not None and 0 <= number <= 255]
    if valid and len(valid) == len(numbers):
        return bytes(valid)
    return text.encode("utf-8", "surrogatepass")


def _legacy_positions(logprobs: Mapping[str, object]) -> Iterable[Position]:
    """OpenAI's old completions shape: tokens, their logprobs and alternatives as three lists."""
    values = as_list(logprobs.get("token_logprobs"))
    tops = as_list(logprobs.get("top_logprobs"))
    ids = as_list(logprobs.get("token_ids"))
    for index, one in enumerate(as_list(logprobs.get("tokens"))):
        value = values[index] if index < len(values) else None
        listed = as_map(tops[index] if index < len(tops) else None)
        number = as_int(ids[index]) if index < len(ids) else None
        yield Position(
            _plain_token(as_text(one) or "", value, number),
            # Keyed by text: two ids of one text were already merged by the server.
            tuple(_plain_token(text, logprob) for text, logprob in listed.items()),
        )


def _plain_token(text: str, logprob: object, number: int | None = None) -> Token:
    return Token(text, text.encode("utf-8", "surrogatepass"), logprob, number)


def served_name(value: object) -> str | None:
    """A name for the record; anything longer or odder may be a text that does not belong there."""
    text = as_text(value) or ""
    return text if _NAME.fullmatch(text) else None


def _usage(body: Mapping[str, object]) -> Usage | None:
    usage = as_map(body.get("usage")) or body
    details = as_map(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    spent = Usage(
        input_tokens=_first_int(usage, "prompt_tokens", "input_tokens", "prompt_eval_count"),
        output_tokens=_first_int(usage, "completion_tokens", "output_tokens", "eval_count"),
        cached_tokens=as_count(details.get("cached_tokens")),
    )
    return None if spent == Usage() else spent


def _first_int(values: Mapping[str, object], *names: str) -> int | None:
    numbers = (as_count(values.get(name)) for name in names)
    return next((number for number in numbers if number is not None), None)


def _not_a_reply(body: object) -> Unmeasured:
    if error := as_map(body).get("error"):
        return _error_inside(error)
    if "choices" in as_map(body):
        return Unmeasured(
            "The judge's reply has no usable choice.",
            kind="malformed",
            hint="The provider answered without an answer; if it lasts, try another endpoint.",
        )
    return Unmeasured(
        f"The judge's reply is not a completion ({type(body).__name__}).",
        kind="malformed",
        hint="Check that base_url points to an OpenAI-compatible API (it often ends in /v1).",
    )


# Two words or more, as of a vocabulary: neither a key nor a word of a passage looks so.
_CODE = re.compile(r"[a-z]{2,20}(?:_[a-z]{2,20}){1,4}")


def _error_inside(error: object) -> Unmeasured:
    # OpenRouter and some proxies report a provider's failure inside HTTP 200, as a whole or as a
    # choice. Its text is not shown: it may repeat passages.
    code = as_map(error).get("code")
    word = code if isinstance(code, str) and _CODE.fullmatch(code) else as_count(code)
    named = "" if word is None else f" (code {word!r})"
    return Unmeasured(
        f"The endpoint reports an error inside HTTP 200{named}.",
        kind="malformed",
        hint="The provider behind it failed; if it lasts, see its own log or try another.",
    )
