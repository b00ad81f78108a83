"""Encoding: from a question and its contexts to the tokens that the embedded judge reads.

    [CLS] question [SEP] passage [SEP] passage [SEP] …

It is trained on exactly this, so that ``training/`` uses this module too.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from guard._extras import require_extra

FORMAT = "[CLS] question [SEP] passage [SEP] passage [SEP] ..."
"""Names this way of encoding; a judge that was trained on another is not loaded. Whoever changes
what is read here changes it too, so that no threshold outlives what it was fitted to."""

# The Latin letters of Unicode, but for those that only phoneticians and typesetters use.
_LATIN = ((0x0041, 0x024F), (0x1E00, 0x1EFF))


class Tokens(NamedTuple):
    """One input: its tokens' numbers, and for each 0 (question) or 1 (passages)."""

    ids: list[int]
    types: list[int]


class _Encoded(Protocol):
    @property
    def ids(self) -> list[int]: ...
    @property
    def offsets(self) -> list[tuple[int, int]]: ...


class _Tokenizer(Protocol):
    """The part of ``tokenizers.Tokenizer`` that is used here."""

    encode_special_tokens: bool

    def no_padding(self) -> None: ...
    def no_truncation(self) -> None: ...
    def token_to_id(self, token: str) -> int | None: ...
    def encode(self, text: str, *, add_special_tokens: bool) -> _Encoded: ...


class Encoding:
    """Encodes with one vocabulary.

    Args:
        description: the text of a ``tokenizer.json``.

    Raises:
        ConfigError: the extra ``embedded`` is not installed.
        ValueError: the text is no such description, or lacks ``[CLS]``, ``[SEP]`` or ``[UNK]``.
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
        self._first, self._between = self._number_of("[CLS]"), self._number_of("[SEP]")
        self._unknown = self._number_of("[UNK]")

    def _number_of(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"no token {token}")
        return number

    def encode(self, question: str, contexts: Sequence[str]) -> Tokens:
        """One input, as long as it comes."""
        return self.joined(self.piece(question), [self.piece(text) for text in contexts])

    def piece(self, text: str) -> list[int]:
        """The tokens of a text, without those that stand between texts.

        Lone surrogates (halves of UTF-16 pairs, as in badly decoded files) are read as "?".
        """
        # Not ``encode_batch``: it encodes on threads, which a forked child would not have.
        return self._tokenizer.encode(_sound(text), add_special_tokens=False).ids

    def unknown_share(self, piece: Sequence[int]) -> float:
        """The share in [0, 1] of a text's tokens that the vocabulary does not know."""
        return piece.count(self._unknown) / len(piece) if piece else 0.0

    def unknown_words(self, text: str) -> float:
        """The share in [0, 1] of a text's letters and digits that are in no known token.

        A word of more than a hundred characters is one unknown token, however much it holds.
        """
        sound = _sound(text)
        encoded = self._tokenizer.encode(sound, add_special_tokens=False)
        spans = zip(encoded.ids, encoded.offsets, strict=True)
        unknown = sum(_said(sound[slice(*at)]) for token, at in spans if token == self._unknown)
        return unknown / _said(sound) if unknown else 0.0

    def longest(self, positions: int) -> Tokens:
        """An input of so many tokens that says nothing."""
        return self.joined([], [[self._unknown] * (positions - 3)])

    def joined(self, question: Sequence[int], passages: Sequence[Sequence[int]]) -> Tokens:
        """One input from its pieces; those without a token are left out."""
        head = [self._first, *question, self._between]
        tail = [token for part in passages if part for token in (*part, self._between)]
        return Tokens(head + tail, [0] * len(head) + [1] * len(tail))


def foreign_share(text: str) -> float:
    """The share in [0, 1] of the letters that are not Latin; 0 where there are none.

    The model knows letters of other scripts one by one, if at all: what comes of them is noise.
    """
    letters = [ord(letter) for letter in text if letter.isalpha()]
    latin = sum(any(low <= code <= high for low, high in _LATIN) for code in letters)
    return 1 - latin / len(letters) if letters else 0.0


def _said(text: str) -> int:
    return sum(map(str.isalnum, text))


def _sound(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
