"""A query: a question and the contexts retrieved for it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from guard.errors import ConfigError

_LONG = 50_000  # Characters.
_EACH = 20  # As many as each text costs besides.


class Turn(NamedTuple):
    """One earlier turn of the conversation."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """What is judged: one question, and the contexts (passages) retrieved for it.

    Attributes:
        question: the user's question; not blank.
        contexts: the passages, in the order in which the answering model will see them.
        history: earlier turns of the conversation, oldest first.
        lang: the question's language as a BCP 47 tag, or ``None`` if unknown.

    Raises:
        ConfigError: the question is blank, or something is not text.
    """

    question: str
    contexts: tuple[str, ...]
    history: tuple[Turn, ...] = ()
    lang: str | None = None

    def __post_init__(self) -> None:
        # A list would make the query unhashable, and could be changed under the judge.
        object.__setattr__(self, "contexts", _passages(self.contexts))
        object.__setattr__(self, "history", _turns(self.history))
        _require_text("question", self.question, "Pass the user's question as text.")
        if self.lang is not None:
            _require_text("lang", self.lang, 'Pass a BCP 47 tag, e.g. "de" or "pt-BR".')
        if not self.question.strip():
            raise ConfigError("The question is blank.", hint="Pass the user's question as text.")

    @classmethod
    def of(
        cls,
        question: str,
        contexts: Iterable[str],
        *,
        history: Sequence[tuple[str, str]] = (),
        lang: str | None = None,
    ) -> "Query":
        """A query from any iterable of passages and ``(role, text)`` turns."""
        return cls(question, _passages(contexts), _turns(history), lang)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was retrieved: no context holds anything but white space."""
        return not any(context.strip() for context in self.contexts)

    @property
    def is_long(self) -> bool:
        """Whether working on its texts takes so long that an event loop would notice."""
        texts = (self.question, *self.contexts, *(turn.text for turn in self.history))
        return sum(map(len, texts)) + _EACH * len(texts) > _LONG

    def hashes_of(self, places: Iterable[int]) -> list[str]:
        """SHA-256 of some of the contexts, UTF-8, in hexadecimal: a text can be found by it."""
        texts = [self.contexts[place] for place in places if place < len(self.contexts)]
        return [hashlib.sha256(one.encode("utf-8", "surrogatepass")).hexdigest() for one in texts]

    @property
    def question_hash(self) -> str:
        """SHA-256 of the question, in hexadecimal."""
        return _sha256([self.question])

    @property
    def contexts_hash(self) -> str:
        """SHA-256 of the contexts and their boundaries, in hexadecimal."""
        return _sha256(self.contexts)


def _passages(contexts: Iterable[str]) -> tuple[str, ...]:
    # A single text is an iterable of texts too: its letters.
    if isinstance(contexts, str | bytes):
        raise ConfigError(
            "`contexts` is a single text; it must be a list of texts.",
            hint="Write gate.check(question, [text]) instead of gate.check(question, text).",
        )
    _require_many("contexts", contexts, "Pass the passages' texts, e.g. [text, text].")
    passages = tuple(contexts)
    for number, passage in enumerate(passages):
        hint = "Pass the passages' text, e.g. node.get_content() or document.page_content."
        _require_text(f"contexts[{number}]", passage, hint)
    return passages


def _turns(history: Iterable[tuple[str, str]]) -> tuple[Turn, ...]:
    _require_many("history", history, 'Pass [(role, text)], e.g. [("user", "Hello.")].')
    return tuple(_turn(number, turn) for number, turn in enumerate(history))


def _turn(number: int, turn: object) -> Turn:
    match turn:
        case (str() as role, str() as text):
            return Turn(role, text)
        case _:
            raise ConfigError(
                f"`history[{number}]` is not a pair of texts.",
                hint='Write ("user", "Hello.") for each turn, not {"role": …}.',
            )


def _require_many(name: str, values: object, hint: str) -> None:
    # Mappings and texts are iterables too: of keys and letters, which are not what was meant.
    kind = type(values).__name__
    if isinstance(values, Mapping | str | bytes) or not isinstance(values, Iterable):
        raise ConfigError(f"`{name}` is {kind}, not a list.", hint=hint)


def _require_text(name: str, value: object, hint: str) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"`{name}` is {type(value).__name__}, not text.", hint=hint)


def _sha256(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        # A lone surrogate (half of a UTF-16 pair, as in badly decoded files) must not crash a hash.
        data = text.encode("utf-8", "surrogatepass")
        # The length goes in first, so that ["ab", "c"] and ["a", "bc"] differ.
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()
