"""A cut: a prompt that the server shortened before its model saw it, and did not say so.

Ollama drops what does not fit into its context window, and then answers HTTP 200. What gives it
away is how many tokens it counted: fewer than the text can have.
"""

import re

from guard.errors import Unmeasured
from guard.verdict import Usage

# Han, kana and Hangul: a token holds two or three of them at most, save for a few set phrases.
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]+")
_CJK_PER_TOKEN = 3
# Some servers count only what they did not have in their cache: question and task, whose tokens
# are 100 to 200. No model has so little room.
_TELLS_NOTHING = 256


def require_uncut(text: str, usage: Usage | None) -> None:
    """Raises where a server counted fewer tokens than the text of a prompt can have.

    A prompt that was cut by less than about a third is not told from a whole one: how many tokens a
    text has, only its tokenizer knows.

    Args:
        text: that was sent.
        usage: that was counted for it; where nothing was, nothing is known.

    Raises:
        Unmeasured: kind ``context_too_long``.
    """
    if usage is None or usage.input_tokens is None:
        return
    # Some providers count what was cached apart.
    counted = usage.input_tokens + (usage.cached_tokens or 0)
    if counted <= _TELLS_NOTHING or counted >= len(text):
        return
    least = least_tokens(text)
    if counted < least:
        raise Unmeasured(
            f"The server cut the prompt: it counted {counted} tokens of at least {least}.",
            kind="context_too_long",
            hint="Give its model more room (Ollama: num_ctx, or OLLAMA_CONTEXT_LENGTH), or set "
            "max_context_chars.",
        )


def least_tokens(text: str) -> int:
    """A number of tokens that no tokenizer in use goes below: none joins what a space parts."""
    return len(text.split()) + sum(map(len, _CJK.findall(text))) // _CJK_PER_TOKEN
