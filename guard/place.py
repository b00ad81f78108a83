"""The place of a verdict: which of a reply's tokens spell it, if any do.

Reasoning before the answer is never read, nor is anything after the verdict.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from guard.errors import Unmeasured
from guard.labels import CLOSING, OPENING, SPACE_SIGNS, Labels, normalise
from guard.reply import Position, Reply, Token

_MAX_FORMAT_TOKENS = 4
_PIECE = "\ufffd".encode()
_SIGNS = {"\u2581".encode(): b" ", "\u0120".encode(): b" ", "\u010a".encode(): b"\n"}
_MAX_LABEL_TOKENS = 6

_WORDS = re.compile(r"\w+|[^\w\s]+|\s+")
_WORD_ENDS = re.compile(r"[^\w]+")
_OPENING_CLASS = "[" + re.escape(OPENING) + r"\s]"
_PREAMBLE = re.compile(
    rf"{_OPENING_CLASS}{{0,12}}(?P<wrapper>(?:json\s{{0,12}})?\{{?\s{{0,12}}\"?(?:has_)?sufficient(?:_context)?\"?\s{{0,12}}:)?"
    rf"{_OPENING_CLASS}{{0,12}}",
    re.IGNORECASE,
)
_REASONING_ENDS = re.compile(
    rb"</(?:think|thinking|thought|reasoning|seed:think)>|\[/THINK\]"
    rb"|<\|channel\|>final<\|message\|>|\xe2\x97\x81/think\xe2\x96\xb7",
    re.IGNORECASE,
)
# End-of-turn tokens, which some servers list among the generated ones.
_SPECIAL_ENDING = re.compile(
    rb"(?:\s{0,8}(?:<\|[^|<>]{1,40}\|>|</?s>|<eos>|<end_of_turn>|<\xef\xbd\x9c[^<>]{1,60}>)){1,16}\Z"
)
_REASONING_STARTS = re.compile(
    rb"\s*(?:<(?:think|thinking|thought|reasoning|seed:think)>|\[THINK\]"
    rb"|<\|channel\|>analysis|\xe2\x97\x81think\xe2\x96\xb7)",
    re.IGNORECASE,
)


class StillThinking(Unmeasured):
    """The reply is reasoning that never came to a verdict; switching reasoning off may help."""


def usable_positions(reply: Reply) -> tuple[Position, ...]:
    """The reply's tokens, if it is one that may be read.

    Raises:
        Unmeasured: withheld by a filter, refused by the model, or without logprobs.
    """
    if reply.finish_reason == "content_filter":
        raise Unmeasured(
            "The provider's content filter withheld the verdict.",
            kind="content_filter",
            hint="Route such queries with on_unmeasured = { content_filter = … }.",
        )
    if reply.finish_reason in ("tool_calls", "function_call"):
        raise Unmeasured("The judge model called a tool instead of judging.", kind="malformed")
    if reply.refused:
        raise Unmeasured("The judge model refused to judge.", kind="refusal")
    if not reply.positions:
        raise _no_logprobs(reply)
    return reply.positions


def _no_logprobs(reply: Reply) -> Unmeasured:
    if _was_thinking(reply, b""):
        return _thinking()
    return Unmeasured(
        "The endpoint answered without logprobs.",
        kind="no_logprobs",
        hint=(
            "It ignores or drops them without an error. Use a model and route that return logprobs "
            "(OpenRouter: provider.require_parameters; LiteLLM: no drop_params; "
            "LM Studio gives none on the chat route)."
        ),
    )


def _thinking() -> StillThinking:
    return StillThinking(
        "The judge model was still thinking when its token budget ended; it gave no verdict.",
        kind="low_mass",
        hint="Switch thinking off for the judge, e.g. reasoning_effort='none' in extra_body.",
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where the verdict stands.

    Attributes:
        passed: the tokens generated on the way to it (white space, markup, a wrapper, the opening
            of a reasoning span), whose alternatives might have been the verdict.
        spelled: the tokens that spell it; the first one alone where they spell neither label.
    """

    passed: tuple[Position, ...]
    spelled: tuple[Position, ...]


def locate(reply: Reply, positions: Sequence[Position], labels: Labels) -> Place:
    """The place of the verdict.

    Raises:
        Unmeasured: the reply does not begin with a verdict.
    """
    data = b"".join(position.emitted.data for position in positions)
    answer_at = _answer_offset(reply, data)
    rest = data[answer_at:].decode("utf-8", "surrogateescape")
    preamble = _PREAMBLE.match(rest)
    skipped = preamble.end() if preamble else 0
    verdict_at = answer_at + len(rest[:skipped].encode("utf-8", "surrogateescape"))
    first, start = _index_at(positions, answer_at), _index_at(positions, verdict_at)
    wrapped = preamble is not None and preamble["wrapper"] is not None
    if start >= len(positions) or (start - first > _MAX_FORMAT_TOKENS and not wrapped):
        raise _unreadable("it is none of the words asked for")
    opening = _REASONING_STARTS.match(data)
    thought = positions[: _index_at(positions, opening.end() - 1) + 1] if opening else ()
    end = _end_of_label(positions, start, labels)
    return Place((*thought, *positions[first:start]), tuple(positions[start:end]))


def spoken(reply: Reply, labels: Labels) -> bool:
    """Which label a reply says, going by its text alone; for endpoints without logprobs.

    Raises:
        Unmeasured: withheld, refused, or neither label where the verdict belongs.
    """
    texts = _WORDS.findall(reply.text) or [""]  # What is empty lacks no logprobs.
    tokens = [Token(text, text.encode("utf-8", "surrogatepass"), None) for text in texts]
    positions = tuple(Position(token, ()) for token in tokens)
    usable_positions(replace(reply, positions=positions))
    word = normalise(joined(locate(reply, positions, labels).spelled))
    if word not in (normalise(labels.true), normalise(labels.false)):
        raise _unreadable("it is none of the words asked for")
    return word == normalise(labels.true)


def _answer_offset(reply: Reply, data: bytes) -> int:
    """Where, in bytes, the visible answer begins: after reasoning, which is never read."""
    text = reply.text.strip().encode("utf-8", "surrogatepass")
    if not text:
        raise _thinking() if _was_thinking(reply, data) else _unreadable("it is empty")
    ends = [found.end() for found in _REASONING_ENDS.finditer(data)]
    if ends:
        return ends[-1]
    if _was_thinking(reply, data):
        raise _thinking()
    shown = _SPECIAL_ENDING.sub(b"", data.rstrip()).rstrip()
    if shown.endswith(text):
        before = shown[: len(shown) - len(text)]
        # White space that the server strips from the answer was generated before it all the same.
        return len(before) if before.strip() else 0
    _require_same_text(reply, shown, text)
    return 0


def _require_same_text(reply: Reply, shown: bytes, text: bytes) -> None:
    """Raises unless tokens and visible answer tell the same, as far as can be told."""
    for sign, meant in _SIGNS.items():
        shown = shown.replace(sign, meant)
    shown = shown.strip()
    # The visible answer may hold a prefilled beginning ("Answer:") that has no logprobs.
    if text.endswith(shown):
        return
    if reply.reasoned:
        raise _thinking()  # Nothing tells the answer from the reasoning before it.
    # Pieces of characters without their bytes cannot be compared; a stop sequence cuts the text.
    if _PIECE in shown or shown.endswith(text) or shown.startswith(text):
        return
    raise Unmeasured(
        "The endpoint's logprobs belong to another text than its reply.", kind="malformed"
    )


def _was_thinking(reply: Reply, data: bytes) -> bool:
    """Whether the tokens are reasoning that never came to an answer."""
    if _REASONING_STARTS.match(data):
        return True
    # Without a visible answer, tokens cut off by the budget are reasoning that the server hides.
    return not reply.text.strip() and (reply.reasoned or reply.finish_reason == "length")


def _index_at(positions: Sequence[Position], offset: int) -> int:
    """The position that holds the byte at ``offset``; ``len(positions)`` if none does."""
    reached = 0
    for index, position in enumerate(positions):
        reached += len(position.emitted.data)
        if reached > offset:
            return index
    return len(positions)


def _end_of_label(positions: Sequence[Position], start: int, labels: Labels) -> int:
    """Where the label that begins at ``start`` ends, if one does; else ``start + 1``."""
    wanted = (normalise(labels.true), normalise(labels.false))
    for end in range(start + 1, min(start + _MAX_LABEL_TOKENS, len(positions)) + 1):
        text = joined(positions[start:end])
        spelled = normalise(text)
        if spelled in wanted:
            if _goes_on(text, joined(positions[end:]), set(wanted) - {spelled}):
                raise _unreadable("it goes on as something else")
            return end
        partial = spelled.rstrip("\ufffd")
        if not any(label.startswith(partial) for label in wanted):
            break
    return start + 1


def _goes_on(word: str, following: str, others: Iterable[str]) -> bool:
    """Whether ``word`` is only the beginning of a longer one, or of a choice ("True or False")."""
    closed = word.rstrip(CLOSING + " \t\r\n") != word
    next_one = following[:1]
    if not closed and next_one not in SPACE_SIGNS and (next_one.isalnum() or next_one in "-/_"):
        return bool(next_one)
    words = {normalise(part) for part in _WORD_ENDS.split(following)}
    return any(other in words for other in others)


def is_opening(data: bytes) -> bool:
    """Whether a token is mere format or opens a reasoning span: a verdict may follow it."""
    text = data.decode("utf-8", "replace")
    return bool(text) and (not normalise(text) or _REASONING_STARTS.fullmatch(data) is not None)


def joined(positions: Iterable[Position]) -> str:
    """The text that positions spell; U+FFFD where pieces make no whole character."""
    return b"".join(position.emitted.data for position in positions).decode("utf-8", "replace")


def _unreadable(why: str) -> Unmeasured:
    return Unmeasured(
        f"The judge's reply does not begin with a verdict ({why}).",
        kind="low_mass",
        hint="The model does not follow the prompt; use another model as the judge.",
    )
