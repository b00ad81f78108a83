"""Encoding: from a question and its contexts to the tokens that the embedded judge reads.

    [CLS] question [SEP] passage [SEP] passage [SEP] …

It is trained on exactly this, so that ``training/`` uses this module too.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from guard._extras import require_extra

class Tokens(NamedTuple):
    """One input: its tokens' numbers, and for each 0 (question) or 1 (passages)."""

    ids: list[int]
    types: list[int]


class _Encoded(Protocol):
    @property
    def ids(self) -> list[int]: ...


class _Tokenizer(Protocol):
    """The part of ``tokenizers.Tokenizer`` that is used here."""

    encode_special_tokens: bool

    def no_padding(self) -> None: ...
    def no_truncation(self) -> None: ...
    def token_to_id(self, token: str) -> int | None: ...
    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool
    ) -> list[_Encoded]: ...


class Encoding:
    """Encodes with one vocabulary.

    Args:
        description: the text of a ``tokenizer.json``.

    Raises:
        ConfigError: the extra ``embedded`` is not installed.
        ValueError: the text is no such description, or has no ``[CLS]`` and ``[SEP]``.
    """

    def __init__(self, description: str) -> None:
        module = require_extra("tokenizers", "embedded")
        try:
            self._tokenizer: _Tokenizer = module.Tokenizer.from_str(description)
        except Exception as error:  # The library raises nothing narrower.
            raise ValueError("no description of a tokenizer") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # A passage that says "[SEP]" says five letters: it cannot pass for two passages.
        self._tokenizer.encode_special_tokens = True
        self._first, self._between = (self._number_of(token) for token in ("[CLS]", "[SEP]"))

    def _number_of(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"no token {token}")
        return number

    def encode(self, question: str, contexts: Sequence[str]) -> Tokens:
        """One input, as long as it comes."""
        first, *rest = self.pieces([question, *contexts])
        return self.joined(first, rest)

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, without those that stand between texts."""
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [each.ids for each in found]

    def joined(self, question: Sequence[int], passages: Sequence[Sequence[int]]) -> Tokens:
        """One input from its pieces; those without a token are left out."""
        head = [self._first, *question, self._between]
        tail = [token for part in passages if part for token in (*part, self._between)]
        return Tokens(head + tail, [0] * len(head) + [1] * len(tail))

