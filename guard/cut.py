"""A cut: a prompt that the server shortened before its model saw it, and did not say so.

Ollama drops what does not fit into its context window, and then answers HTTP 200. What gives it
away is how many tokens it counted: fewer than the text can have, or just as many as when it was
caught before, which is as much as it ever reads.

What is not seen, until one was seen: a cut by less than about a third of an English text, half of a
Chinese one, five sixths of JSON or Thai, since how many tokens a text has only its tokenizer knows;
and never the cut of a server that counts no tokens, or only those that its cache did not hold.
Where that matters, set ``max_context_chars``, so that no prompt is longer than what the server
reads; ``rag-guard doctor`` tells how many characters that are.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from operator import ne

from guard.errors import Unmeasured
from guard.verdict import Usage

# Han, kana and Hangul: a token holds two or three of them at most, save for a few set phrases.
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]+")
_CJK_PER_TOKEN = 3
# Words without spaces: Thai, JSON, addresses, code. Few tokens are longer, and never all of a text.
_LETTERS_PER_TOKEN = 16
_LONG = re.compile(rf"\S{{{2 * _LETTERS_PER_TOKEN},}}")
# Some servers count only what they did not have in their cache: question and task, whose tokens
# are 100 to 200. No model has so little room.
_TELLS_NOTHING = 256
_REMEMBERED = 16

_HINT = (
    "Give its model more room (Ollama: num_ctx, or OLLAMA_CONTEXT_LENGTH), or set "
    "max_context_chars."
)


class CutPrompt(Unmeasured):
    """A server cut a prompt.

    Attributes:
        counted: tokens that it says it read.
    """

    counted = 0


def require_uncut(text: str, usage: Usage | None) -> None:
    """Raises where a server counted fewer tokens than the text of a prompt can have.

    Args:
        text: that was sent.
        usage: that was counted for it; where nothing was, nothing is known.

    Raises:
        CutPrompt: kind ``context_too_long``.
    """
    counted = _counted(usage)
    if counted is None or not _may_be_cut(text, counted):
        return
    least = least_tokens(text)
    if counted < least:
        raise _cut(counted, f"{counted} tokens of at least {least}")


class Cuts:
    """What a judge's server has counted where it cut a prompt.

    A server that cuts gives one number, its window, for all prompts that are too long. One that
    counts only what it had not in its cache gives any: so a number is known once prompts of two
    lengths gave it.
    """

    def __init__(self) -> None:
        # Counts, and how long the prompts were that gave them.
        self._seen: dict[int, frozenset[int]] = {}

    @contextmanager
    def noted(self, text: str) -> Generator[None]:
        """Remembers how a cut of a prompt was given away that is found inside."""
        try:
            yield
        except CutPrompt as error:
            lengths = self._seen.get(error.counted, frozenset())
            if len(lengths) < 2:
                # One assignment: judges are used by many threads.
                others = [each for each in self._seen.items() if each[0] != error.counted]
                kept = dict(others[1 - _REMEMBERED :])
                self._seen = {**kept, error.counted: lengths | {len(text)}}
            raise

    def _is_known(self, counted: int) -> bool:
        return len(self._seen.get(counted, ())) > 1

    def require_none(self, text: str, usage: Usage | None) -> None:
        """As `require_uncut`; a count that gave a cut away before does so again.

        Args:
            text: of the prompt.
            usage: of all requests with it, each of which counted as much.
        """
        counted = _counted(usage)
        if counted is None or usage is None or counted % max(1, usage.requests):
            return
        each = counted // max(1, usage.requests)
        require_uncut(text, Usage(each))
        if self._is_known(each) and _may_be_cut(text, each):
            raise _cut(each, f"{each} tokens, as of a prompt that it had cut before")


def _counted(usage: Usage | None) -> int | None:
    if usage is None or usage.input_tokens is None:
        return None
    # Some providers count what was cached apart.
    return usage.input_tokens + (usage.cached_tokens or 0)


def _may_be_cut(text: str, counted: int) -> bool:
    return _TELLS_NOTHING < counted < len(text)


def _cut(counted: int, what: str) -> CutPrompt:
    told = f"The server cut the prompt: it counted {what}."
    error = CutPrompt(told, kind="context_too_long", hint=_HINT)
    error.counted = counted
    return error


def least_tokens(text: str) -> int:
    """A number of tokens that no tokenizer in use goes below: none joins what a space parts."""
    cjk = sum(map(len, _CJK.findall(text)))
    # Long or not, a word counts as one already.
    more = sum(max(0, _turns(word) // _LETTERS_PER_TOKEN - 1) for word in _LONG.findall(text))
    return len(text.split()) + more + cjk // _CJK_PER_TOKEN


def _turns(word: str) -> int:
    """How often another character follows, in what is not counted otherwise.

    Lines are drawn of one character, and tokenizers have tokens for eighty of them.
    """
    letters = _CJK.sub("", word)
    return sum(map(ne, letters, letters[1:]))
