"""A data set: questions, what was retrieved for them, and whether that sufficed."""

from dataclasses import dataclass

from guard.query import Query


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        id: unique in its data set; the file's own, or made of what the row holds.
        query: question, contexts, history, language.
        sufficient: whether the contexts hold the answer; ``None`` = not labelled.
        group: rows of one group are not independent: same document, same user. The file's own, or
            made of the contexts, so that rows on the same contexts are one group.
        answers: what would be right to answer, where the file says it.
        place: where it stands, e.g. ``"rows.jsonl, line 3"``.
    """

    id: str
    query: Query
    sufficient: bool | None
    group: str
    answers: tuple[str, ...]
    place: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows, and the version of what they hold.

    Attributes:
        rows: in the order of the file.
        version: SHA-256 over what all rows hold, in hexadecimal.
    """

    rows: tuple[Row, ...]
    version: str
