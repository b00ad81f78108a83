"""A data set: questions, what was retrieved for them, and whether that sufficed.

    {"question": "When was it built?", "contexts": ["It opened in 1932."], "sufficient": true}

One JSON object a line, read line by line: a file of any size takes the memory of its rows. RAGAS's
names are read as well (`_NAMES`); fields that nobody here knows are ignored. An error names file,
line and field, and never repeats a text of the row.
"""

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from guard._json import as_list, as_map, as_text
from guard.errors import ConfigError
from guard.query import Query, Turn

_NAMES = {
    "question": ("question", "user_input"),
    "contexts": ("contexts", "retrieved_contexts"),
    "answers": ("answers", "reference", "ground_truths", "ground_truth"),
}
"""Fields by other names, the first found being taken: RAGAS's since 0.2, and before.

Its ``response`` and ``answer`` are what a system said, not what is right, and so are no answers.
"""

Sampling = Literal["random", "targeted"]
"""How a row came to be picked.

``random``: by lot alone, so that rates seen on these rows are rates of new queries, and only they
may be certified on. ``targeted``: because of its probability; such rows are the hard ones, so a
rate seen on them is that of no traffic. They still serve to fit a calibrator: being picked for
its P(True) does not change how often a row with that P(True) is sufficient.
"""

_NEAR_MISSES = {
    "question": ("query", "prompt", "input", "user_query", "questions"),
    "contexts": ("documents", "docs", "passages", "chunks", "context", "source_documents"),
    "sufficient": ("label", "labels", "answerable", "is_sufficient", "relevant"),
    "text": ("page_content", "body", "passage", "chunk", "document"),
    "history": ("chat_history", "messages"),
}
"""Names that people write in place of a field's; they are told of them, but they are not read."""

SAMPLINGS: tuple[str, ...] = get_args(Sampling)
"""How a row came to be labelled: drawn by lot alone, or picked, as `rag-guard label` writes it."""

_MADE = 16  # Hexadecimal digits of an id or group that the file does not give: 64 bits.


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        id: unique in its data set; the file's own, or made of the query, so that a label given or
            corrected later leaves it as it is.
        query: question, contexts, history, language.
        sufficient: whether the contexts hold the answer; ``None`` = not labelled.
        group: rows of one group are not independent: same document, same user. The file's own, or
            made of the contexts, so that rows on the same contexts are one group; where nothing was
            retrieved, made of the question.
        answers: what would be right to answer, where the file says it.
        place: where it stands, e.g. ``"rows.jsonl, line 3"``.
        sampling: one of `SAMPLINGS`; ``None`` = the file does not say. Only rows drawn by lot are a
            sample of what is to come.
        annotator: who labelled it; ``None`` = the file does not say.
    """

    id: str
    query: Query
    sufficient: bool | None
    group: str
    answers: tuple[str, ...]
    place: str
    sampling: str | None = None
    annotator: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows, and the version of what they hold.

    Attributes:
        rows: in the order of the file.
        version: SHA-256 over what all rows hold, in hexadecimal.
    """

    rows: tuple[Row, ...]
    version: str

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Dataset":
        """A data set of rows; its version depends on neither their order nor their places.

        Raises:
            ConfigError: there is no row, or two have the same id.
        """
        rows = tuple(rows)
        if not rows:
            raise ConfigError("There is no row.", hint=_ROW_HINT)
        _require_unique(rows)
        return cls(rows, _digest(sorted(map(_content_digest, rows))))


_ROW_HINT = 'Write {"question": "…", "contexts": ["…"], "sufficient": true} on each line.'


def read(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    labelled: bool = True,
    seen: Callable[[Row, Mapping[str, object]], object] | None = None,
) -> Dataset:
    """The rows of JSON lines files, as one data set.

    Args:
        paths: a file, or several.
        labelled: whether every row must have a label; else it may.
        seen: called with each row and the whole JSON object on its line, for fields that are no
            part of a row; each file is read once, since a pipe can be.

    Raises:
        ConfigError: a file that cannot be read or is not UTF-8, a line that is not a JSON object, a
            field that is missing or of the wrong type, rows without a label, an id that two rows
            share (as where two people labelled one row), a file that is named twice, or no row at
            all.
    """
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    names = [os.fspath(file) for file in files]
    _require_other_files(names)
    made = Counter[str]()
    unlabelled = list[str]()
    rows = list[Row]()
    for name in names:
        for row, values in _rows(name, made, unlabelled):
            rows.append(row)
            if seen is not None:
                seen(row, values)
    if not rows:
        raise ConfigError(f"{', '.join(names) or 'No file'}: there is no row.", hint=_ROW_HINT)
    if labelled and unlabelled:
        raise ConfigError(
            f"{len(unlabelled):,} of {len(rows):,} rows have no label; the first: {unlabelled[0]}.",
            hint=f"Label them: rag-guard label {' '.join(names)} -o labels.jsonl. {_LABEL_HINT}",
        )
    return Dataset.of(rows)


def split(rows: Iterable[Row], share: float, *, seed: int) -> tuple[list[Row], list[Row]]:
    """Two parts of ``rows`` that have no group in common.

    Groups are drawn at random, whatever their size and labels: a draw that looked at labels would
    make the second part no plain sample any more, and a certificate needs one.

    Args:
        rows: what to split; both parts keep their order.
        share: of the groups that go into the first part, in (0, 1); each part gets at least one.
        seed: the same seed gives the same split, in whatever order the rows come.

    Raises:
        ConfigError: ``share`` is out of range, or there are not two groups.
    """
    rows = list(rows)
    groups = sorted({row.group for row in rows})
    if not 0 < share < 1:
        raise ConfigError(f"`share` is {share!r}.", hint="Pass a number between 0 and 1.")
    if len(groups) < 2:
        raise ConfigError(
            f"{len(rows)} rows in {len(groups)} group cannot be split: a group stays together.",
            hint="Label rows on other documents too, or give rows a `group` of their own.",
        )
    random.Random(seed).shuffle(groups)
    first = set(groups[: min(max(1, round(share * len(groups))), len(groups) - 1)])
    return (
        [row for row in rows if row.group in first],
        [row for row in rows if row.group not in first],
    )


def _require_other_files(names: Iterable[str]) -> None:
    """Raises `ConfigError` where a file is named twice: its rows would count twice."""
    seen = dict[str, str]()
    for name in names:
        path = os.path.realpath(name)
        if path in seen:
            also = "" if seen[path] == name else f", as {seen[path]!r} too"
            raise ConfigError(f"{name!r} is named twice{also}.", hint="Name each file once.")
        seen[path] = name


# ── Lines ────────────────────────────────────────────────────────────────────────────────────────


def _rows(
    name: str, made: Counter[str], unlabelled: list[str]
) -> Iterator[tuple[Row, Mapping[str, object]]]:
    """The rows of a file, with the objects that they are read from.

    What there is to say of those without a label is added to a list.
    """
    for place, values in _objects(name):
        row = _row(place, values, made)
        if row.sufficient is None:
            near = _near_miss(values, "sufficient")
            unlabelled.append(f"{place}: `sufficient` is missing{near}")
        yield row, values


def _objects(name: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The object on each line that is not blank, and where it stands."""
    try:
        # Binary lines end at \n alone; JSON texts may hold U+2028 and other ends of lines.
        with open(name, "rb") as file:
            for number, line in enumerate(file, start=1):
                # Windows editors begin a file with a byte order mark.
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    place = f"{name}, line {number}"
                    # What follows is looked at only if this line is wrong.
                    yield place, _object(place, line.strip(), file)
    except OSError as error:
        raise ConfigError(
            f"{name!r} cannot be read: {error.strerror}.", hint="Name a file of JSON lines."
        ) from error


def _object(place: str, line: bytes, rest: Iterable[bytes]) -> Mapping[str, object]:
    try:
        value: object = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _not_json(place, line, rest, error) from None
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: {_kind(value)}, not an object.", hint=_ROW_HINT)
    return as_map(value)  # pyright: ignore[reportUnknownArgumentType]


def _not_json(place: str, line: bytes, rest: Iterable[bytes], error: Exception) -> ConfigError:
    if _ends_early(line, error) and not any(map(bytes.strip, rest)):
        return ConfigError(
            f"{place}: the last line is cut off.",
            hint="Write the file again from its source, or take that line out.",
        )
    match error:
        case UnicodeDecodeError():
            problem, hint = f"not UTF-8 (byte {error.start} of the line)", "Save it as UTF-8."
        case json.JSONDecodeError():
            problem = f"not valid JSON ({error.msg}, column {error.colno})"
            hint = "Each line is one JSON object; line breaks in texts are written \\n."
        case _:
            problem, hint = f"not valid JSON ({error})", "Each line is one JSON object."
    return ConfigError(f"{place}: {problem}.", hint=hint)


def _ends_early(line: bytes, error: Exception) -> bool:
    """Whether a line that is no JSON looks like the first part of an object."""
    if isinstance(error, json.JSONDecodeError) and line.endswith(b"}"):
        # It may have ended behind a context's brace; then only its end is missed.
        return line.startswith(b"{") and error.pos >= len(error.doc)
    return line.startswith(b"{") and not line.endswith(b"}")


# ── Fields ───────────────────────────────────────────────────────────────────────────────────────


def _row(place: str, values: Mapping[str, object], made: Counter[str]) -> Row:
    query = _query(place, values)
    return Row(
        id=_mark(place, values, "id") or _made_id(query, made),
        query=query,
        sufficient=_label(place, values),
        group=_mark(place, values, "group") or _group(query),
        answers=_answers(place, values),
        place=place,
        sampling=_sampling(place, values),
        annotator=as_text(values.get("annotator")),
    )


def _query(place: str, values: Mapping[str, object]) -> Query:
    name, question = _question(place, values)
    contexts = _contexts(place, values)
    turns = [turn for at, value in history_of(place, values) for turn in _turns(at, value)]
    lang = _optional_text(place, values, "lang", 'Write a BCP 47 tag, e.g. "de".')
    if not question.strip():
        raise ConfigError(f"{place}: `{name}` is blank.", hint=_QUESTION_HINT)
    return Query.of(question, contexts, history=turns, lang=lang)


_QUESTION_HINT = 'Write "question": "…" (or "user_input"): what the user asked.'
_CONTEXTS_HINT = 'Write "contexts": ["…", "…"] (or "retrieved_contexts"): the passages, as texts.'
_HISTORY_HINT = 'Write "history": [["user", "…"], ["assistant", "…"]]: earlier turns, oldest first.'
_ANSWERS_HINT = 'Write "answers": ["…"] (or "reference": "…"): what would be right to answer.'
_LABEL_HINT = (
    'Write "sufficient": true or false (or 1 or 0), without quotes: whether the contexts hold the '
    "answer."
)


def _question(place: str, values: Mapping[str, object]) -> tuple[str, str]:
    """The question's field and text."""
    name, value = _found(values, "question")
    if value is None:
        raise _missing(place, values, "question", _QUESTION_HINT)
    if isinstance(value, list):
        raise ConfigError(
            f"{place}: `{name}` is a list, not text.",
            hint='Of a conversation, write its last question; earlier turns go into "history".',
        )
    if not isinstance(value, str):
        raise ConfigError(f"{place}: `{name}` is {_kind(value)}, not text.", hint=_QUESTION_HINT)
    return name, value


def _contexts(place: str, values: Mapping[str, object]) -> list[str]:
    name, value = _found(values, "contexts")
    if value is None:
        raise _missing(place, values, "contexts", _CONTEXTS_HINT)
    return [_passage(at, each) for at, each in _texts_of(place, name, values, _CONTEXTS_HINT)]


def _passage(at: str, value: object) -> str:
    for text in (value, as_map(value).get("text"), as_map(value).get("content")):
        if isinstance(text, str):
            return text
    raise ConfigError(
        f"{at} is {_kind(value)}, neither text nor an object with `text` or `content`"
        f"{_near_miss(as_map(value), 'text')}.",
        hint=_CONTEXTS_HINT,
    )


def history_of(place: str, values: Mapping[str, object]) -> list[tuple[str, object]]:
    """Earlier turns as they were written, each with its place.

    Raises:
        ConfigError: they are no list; or there are some by another name only, without which the
            question would be another one.
    """
    others = (name for name in _NEAR_MISSES["history"] if values.get(name))
    if not values.get("history") and (other := next(others, None)):
        raise _missing(place, {other: values[other]}, "history", _HISTORY_HINT)
    return list(_texts_of(place, "history", values, _HISTORY_HINT))


def _turns(at: str, value: object) -> list[Turn]:
    """A turn, as a pair or as a chat message; or two, as a question and its answer."""
    match value:
        case [str() as role, str() as text]:
            return [Turn(role, text)]
        case {"role": str() as role, "content": str() as text}:
            return [Turn(role, text)]
        case {"role": str() as role, "text": str() as text}:
            return [Turn(role, text)]
        case {"question": str() as question, "answer": str() as answer}:
            return [Turn("user", question), Turn("assistant", answer)]
        case _:
            raise ConfigError(f"{at} is {_kind(value)}, not a turn.", hint=_HISTORY_HINT)


def _label(place: str, values: Mapping[str, object]) -> bool | None:
    value = values.get("sufficient")
    if value is None:
        return None
    # A text that says "false" is true to many a program; here it is neither.
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise ConfigError(f"{place}: `sufficient` is {_kind(value)}.", hint=_LABEL_HINT)


def _answers(place: str, values: Mapping[str, object]) -> tuple[str, ...]:
    name, value = _found(values, "answers")
    if isinstance(value, str):
        return (value,)
    texts = list[str]()
    for at, each in _texts_of(place, name, values, _ANSWERS_HINT):
        if not isinstance(each, str):
            raise ConfigError(f"{at} is {_kind(each)}, not text.", hint=_ANSWERS_HINT)
        texts.append(each)
    return tuple(texts)


def _mark(place: str, values: Mapping[str, object], field: str) -> str | None:
    """An id or a group: text, or a whole number."""
    value = values.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    hint = f'Write "{field}" as a text or a whole number, or leave it out.'
    text = _optional_text(place, values, field, hint)
    if text is not None and not text.strip():
        raise ConfigError(f"{place}: `{field}` is blank.", hint=hint)
    return text


def _sampling(place: str, values: Mapping[str, object]) -> str | None:
    value = values.get("sampling")
    if value is None:
        return None
    if isinstance(value, str) and value in SAMPLINGS:
        return value
    raise ConfigError(
        f"{place}: `sampling` is {_kind(value)}, none of {', '.join(SAMPLINGS)}.",
        hint='Write "random" for a row that was drawn by lot alone, else "targeted"; or leave it '
        "out.",
    )


def _optional_text(place: str, values: Mapping[str, object], field: str, hint: str) -> str | None:
    value = values.get(field)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{place}: `{field}` is {_kind(value)}, not text.", hint=hint)
    return as_text(value)


def _missing(place: str, values: Mapping[str, object], field: str, hint: str) -> ConfigError:
    return ConfigError(f"{place}: `{field}` is missing{_near_miss(values, field)}.", hint=hint)


def _near_miss(values: Mapping[str, object], field: str) -> str:
    """The name that somebody wrote in place of a field's, if one is there."""
    found = next((name for name in _NEAR_MISSES[field] if name in values), None)
    return "" if found is None else f"; `{found}` is there: call it `{field}`"


def _texts_of(
    place: str, name: str, values: Mapping[str, object], hint: str
) -> Iterator[tuple[str, object]]:
    """The members of a list, each with its place; none where there is no list."""
    members = as_list(values.get(name))
    if not members and values.get(name) not in (None, []):
        raise ConfigError(f"{place}: `{name}` is {_kind(values[name])}, not a list.", hint=hint)
    for number, each in enumerate(members):
        yield f"{place}: `{name}[{number}]`", each


def _found(values: Mapping[str, object], field: str) -> tuple[str, object]:
    """The first of a field's names that holds something, and what it holds."""
    names = _NAMES[field]
    name = next((name for name in names if values.get(name) is not None), names[0])
    return name, values.get(name)


def _kind(value: object) -> str:
    """What a JSON value is, in words that repeat none of its text."""
    match value:
        case None:
            return "null"
        case bool() | float() | int():
            return f"{json.dumps(value):.20}"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"


# ── Content ──────────────────────────────────────────────────────────────────────────────────────


def _digest(value: object) -> str:
    # JSON escapes lone surrogates, which UTF-8 cannot hold.
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _content_digest(row: Row) -> str:
    query = row.query
    said = [query.question, query.contexts, query.history, query.lang]
    return _digest([row.id, said, row.sufficient, row.group, row.answers, row.sampling])


def _made_id(query: Query, made: Counter[str]) -> str:
    """An id made of the query; the second row with the same query gets ``-2`` behind it."""
    name = _digest([query.question, query.contexts, query.history])[:_MADE]
    made[name] += 1
    return name if made[name] == 1 else f"{name}-{made[name]}"


def _group(query: Query) -> str:
    """Of the contexts, in whatever order they were retrieved."""
    return _digest(query.question if query.is_empty else sorted(query.contexts))[:_MADE]


def _require_unique(rows: Iterable[Row]) -> None:
    seen = dict[str, Row]()
    for row in rows:
        if row.id in seen:
            raise _twice(seen[row.id], row)
        seen[row.id] = row


def _twice(first: Row, row: Row) -> ConfigError:
    if first.annotator is None or row.annotator is None:
        return ConfigError(
            f"{row.place}: `id` is that of {first.place} too.",
            hint="Give each row an id of its own, or leave `id` out of both.",
        )
    people = f"by {first.annotator!r:.40} and by {row.annotator!r:.40}"
    if first.annotator == row.annotator:
        people = f"by {row.annotator!r:.40} both times"
    return ConfigError(
        f"{row.place}: this row is labelled twice, {people}; first in {first.place}.",
        hint="Use the file of one person alone: settle with the other what `rag-guard label "
        "--agreement` lists, and correct `sufficient` in that file. In a file of both, take the "
        "other's lines out.",
    )
