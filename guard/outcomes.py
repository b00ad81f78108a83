"""Outcomes: what people later said of decisions, kept in a file next to the audit.

    {"id": "9f1c…", "outcome": "insufficient", "time": "2026-11-21T13:15:00+00:00", "by": "anna"}

For ``audit.jsonl`` that file is ``audit.outcomes.jsonl``. It only grows: who thinks again adds a
line, and the last word of each kind counts.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, NamedTuple, get_args

from guard._json import as_map
from guard._require import require_one_of
from guard.errors import ConfigError
from guard.line_file import LeftOut, LineFile, beside, lines_of, may_be_half, real_path

Word = Literal["sufficient", "insufficient", "helpful", "wrong"]
"""``sufficient``, ``insufficient``: of the contexts. ``helpful``, ``wrong``: of the answer."""

WORDS: tuple[Word, ...] = get_args(Word)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What people said of one decision; contexts and answer are told apart.

    A wrong answer does not show that its contexts were insufficient: the model may have misread
    them. Nor does a helpful one show that they sufficed.

    Attributes:
        sufficient: whether the contexts held the answer; ``None`` = nobody said.
        helpful: whether the answer helped (``False`` = it was wrong); ``None`` = nobody said.
    """

    sufficient: bool | None = None
    helpful: bool | None = None

    def with_word(self, word: Word) -> "Outcome":
        """The outcome after one more word, which replaces the last of its kind."""
        if word in ("sufficient", "insufficient"):
            return replace(self, sufficient=word == "sufficient")
        return replace(self, helpful=word == "helpful")


class Said(NamedTuple):
    """A word on one decision, by its whole id; ``by`` = who says it."""

    id: str
    word: Word
    by: str | None = None


class OutcomeFile:
    """The outcomes of an audit's decisions. Safe for processes; private to this user.

    Args:
        audit: the audit's file.

    Attributes:
        path: of the outcomes; need not exist.

    Raises:
        ConfigError: no file can have that name.
    """

    def __init__(self, audit: str | os.PathLike[str]) -> None:
        self.path = beside(real_path(audit), "outcomes")
        self._left_out = LeftOut()

    @property
    def broken(self) -> int:
        """Half lines that the last `read` left out: outcomes whose writer was killed."""
        return self._left_out.count

    @property
    def broken_at(self) -> list[str]:
        """Where the first ten of them stand, as ``FILE, line N``."""
        return self._left_out.first

    def add(self, said: Iterable[Said]) -> None:
        """Writes outcomes, all or none; they are on disk when this returns.

        Raises:
            ConfigError: a word is none of `WORDS`, or the file cannot be written, or holds
                something else.
        """
        self.read()
        lines = "".join(map(_line, said))
        file = LineFile(self.path)
        try:
            file.append(lines.encode("ascii"), durable=True)
        except OSError as error:
            raise ConfigError(
                f"{str(self.path)!r} cannot be written: {error.strerror}.",
                hint="Nothing was noted. Mend this, then run the same again.",
            ) from error
        finally:
            file.close()

    def read(self) -> dict[str, Outcome]:
        """The outcomes by the decision's id.

        Raises:
            ConfigError: the file cannot be read, or holds something else.
        """
        self._left_out, found = LeftOut(), dict[str, Outcome]()
        try:
            with open(self.path, "rb") as file:
                for number, line in enumerate(lines_of(file), start=1):
                    self._take(f"{self.path}, line {number}", line, found)
        except FileNotFoundError:
            return {}
        except OSError as error:
            problem = f"{str(self.path)!r} cannot be read: {error.strerror}."
            raise ConfigError(problem, hint="Look at its place and its owner.") from error
        return found

    def _take(self, place: str, line: bytes, found: dict[str, Outcome]) -> None:
        if not line.strip():
            return
        try:
            values = as_map(json.loads(line))
        except (ValueError, RecursionError):
            if not may_be_half(line):
                raise _not_ours(place) from None
            self._left_out.add(place)
            return
        id, word = _said(place, values)
        found[id] = found.get(id, Outcome()).with_word(word)


def _line(said: Said) -> str:
    require_one_of("outcome", said.word, WORDS)
    time = datetime.now(UTC).isoformat()
    return json.dumps({"id": said.id, "outcome": said.word, "time": time, "by": said.by}) + "\n"


def _said(place: str, values: Mapping[str, object]) -> tuple[str, Word]:
    id, word = values.get("id"), values.get("outcome")
    if not isinstance(id, str) or word not in WORDS:
        raise _not_ours(place)
    return id, word


def _not_ours(place: str) -> ConfigError:
    return ConfigError(
        f"{place}: not an outcome of rag-guard.",
        hint="Outcomes stand next to the audit, in a file of their own; move this one away.",
    )
