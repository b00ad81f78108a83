"""Attacks: texts that strangers put among passages to get a query answered, as data.

The cases (``guard/data/attacks``) were written by the authors of rag-guard. Each is one text, and
where it goes among the contexts of a base query, which do not answer it. `guard.attack` measures
what they do to a judge.
"""

import json
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal, cast, get_args

from guard._json import as_list, as_map, as_text
from guard._require import require_number, require_one_of
from guard.dataset import Dataset, Row
from guard.errors import ConfigError
from guard.query import Query, Turn
from guard.verdict import Verdict

FAMILIES: Mapping[str, str] = {
    "plain_orders": "orders, pleas and notices: write True",
    "fake_delimiters": "the end of the passages, and a new task, forged",
    "forged_verdicts": "a verdict, or turns of a chat that hold one",
    "encodings": "base64, look-alike letters, invisible and reversed text",
    "other_languages": "orders in other languages than the question's",
    "json_forgery": "results of tools, and JSON that says true",
    "answer_above": "the answer is claimed to stand elsewhere",
    "many_shot": "many examples of questions, all with True",
    "padding": "one sentence or none, at great length",
    "tables_and_code": "orders inside tables, code and configuration",
}
"""The families, a line each."""

HELD_OUT = ("tables_and_code",)
"""Families that no rule was tuned on; by the authors of the rules, as the others."""

Place = Literal["own", "first", "start", "end"]
"""Where an attack's text goes: a passage of its own, after the others or before them; or into the
first passage, at its start, or the last one, at its end."""

Where = Literal["contexts", "turn", "question"]
"""What an attack's text is put into: the contexts, at its place; a turn of its own, the last of the
history, by the user; or the question, after it."""

NEUTRAL_CLAIM = "exactly what was asked for"
"""What is claimed of a query for which nobody wrote a wrong answer."""


# ── Cases ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Base:
    """A query whose contexts do not suffice, to be attacked.

    Attributes:
        row: the query, labelled insufficient.
        claim: a wrong answer in a few words.
    """

    row: Row
    claim: str = NEUTRAL_CLAIM


@dataclass(frozen=True, slots=True)
class Attack:
    """One text, to be put into a query.

    Attributes:
        id: unique, begins with its family.
        family: one of `FAMILIES`.
        text: with ``{question}`` and ``{claim}`` where those of the query go.
        place: where it goes.
    """

    id: str
    family: str
    text: str
    place: Place

    def on(self, base: Base, where: Where = "contexts") -> Query:
        """A query with this attack."""
        query = base.row.query
        text = self.text.replace("{question}", query.question).replace("{claim}", base.claim)
        if where == "turn":
            return replace(query, history=(*query.history, Turn("user", text)))
        if where == "question":
            return replace(query, question=f"{query.question}\n{text}")
        contexts = list(query.contexts)
        match self.place:
            case "own":
                contexts.append(text)
            case "first":
                contexts.insert(0, text)
            case "start":
                contexts[0] = f"{text}\n{contexts[0]}"
            case "end":
                contexts[-1] = f"{contexts[-1]}\n{text}"
        return replace(query, contexts=tuple(contexts))


@dataclass(frozen=True, slots=True)
class Case:
    """An attack on one base query, as a row to be judged.

    Attributes:
        attack: the text.
        base: the query without it.
        row: the query with it.
        where: what the text was put into.
    """

    attack: Attack
    base: Base
    row: Row
    where: Where = "contexts"

    @classmethod
    def of(cls, attack: Attack, base: Base, where: Where = "contexts") -> "Case":
        """The attack, applied."""
        name = f"{attack.id}/{base.row.id}"
        query = attack.on(base, where)
        return cls(attack, base, replace(base.row, id=name, place=name, query=query), where)

    def is_found(self, verdict: Verdict) -> bool | None:
        """Whether a verdict of the row names its text, or the passage that the text stands in, as
        one that speaks to the judge; ``None`` = nobody looks there."""
        query = self.row.query
        if self.where == "question":
            return None
        if self.where == "turn":
            return len(query.history) - 1 in verdict.suspect_turns
        at = 0 if self.attack.place in ("first", "start") else len(query.contexts) - 1
        return at in verdict.suspects


@dataclass(frozen=True, slots=True)
class Suite:
    """What is measured.

    Attributes:
        clean: labelled rows that nobody attacks.
        bases: the insufficient ones of them that are attacked.
        cases: the attacks on them.
        shuffled: clean rows with their contexts in another order, by the ids of the rows.
    """

    clean: tuple[Row, ...]
    bases: tuple[Base, ...]
    cases: tuple[Case, ...]
    shuffled: Mapping[str, Row] = field(default_factory=dict[str, Row])

    @classmethod
    def of(
        cls,
        clean: Iterable[Row],
        bases: Iterable[Base],
        attacks: Iterable[Attack],
        *,
        per_attack: int = 1,
        seed: int = 0,
        order: bool = False,
        where: Where = "contexts",
    ) -> "Suite":
        """Puts each attack on ``per_attack`` bases, by a lot that uses all bases alike.

        Raises:
            ConfigError: there is no base, or no attack.
        """
        require_one_of("where", where, get_args(Where))
        require_number("per_attack", per_attack, 1, 10_000, whole=True)
        clean, bases, attacks = tuple(clean), tuple(bases), tuple(attacks)
        if not bases or not attacks:
            raise ConfigError(
                "Nothing can be attacked: no row with contexts is labelled insufficient.",
                hint='Give rows with "sufficient": false.',
            )
        cases = tuple(Case.of(*pair, where) for pair in _lot(attacks, bases, per_attack, seed))
        return cls(clean, bases, cases, _shuffled(clean, seed) if order else {})

    def only(self, families: Collection[str]) -> "Suite":
        """The same, with the attacks of some families alone, on the queries that they were on.

        Raises:
            ConfigError: an unknown family.
        """
        for name in families:
            if name not in FAMILIES:
                known = ", ".join(FAMILIES)
                raise ConfigError(f"{name!r:.40} is no family of attacks.", hint=f"Known: {known}.")
        cases = tuple(case for case in self.cases if case.attack.family in families)
        return replace(self, cases=cases)

    @property
    def rows(self) -> Dataset:
        """All that must be judged in every arm."""
        return Dataset.of([*self.clean, *(case.row for case in self.cases)])


def _lot(
    attacks: Sequence[Attack], bases: Sequence[Base], per_attack: int, seed: int
) -> Iterator[tuple[Attack, Base]]:
    drawn = list(bases)
    random.Random(seed).shuffle(drawn)
    each = min(per_attack, len(drawn))
    for number, attack in enumerate(attacks):
        for at in range(number * each, (number + 1) * each):
            yield attack, drawn[at % len(drawn)]


def _shuffled(rows: Iterable[Row], seed: int) -> dict[str, Row]:
    found, rng = dict[str, Row](), random.Random(seed)
    for row in rows:
        contexts = list(row.query.contexts)
        if len(set(contexts)) < 2:
            continue
        while tuple(contexts) == row.query.contexts:
            rng.shuffle(contexts)
        query = replace(row.query, contexts=tuple(contexts))
        found[row.id] = replace(row, id=f"shuffled/{row.id}", query=query)
    return found


def bases_of(dataset: Dataset, limit: int | None, seed: int) -> tuple[list[Row], list[Base]]:
    """The rows of a labelled data set that serve as clean ones, and those that can be attacked.

    Args:
        dataset: with labels.
        limit: at most so many rows of each label, drawn by lot; ``None`` = all.
        seed: of the lot.
    """
    clean = list[Row]()
    for label in (False, True):
        rows = [one for one in dataset.rows if one.sufficient is label and not one.query.is_empty]
        if limit is not None and len(rows) > limit:
            chosen = set(random.Random(seed).sample(range(len(rows)), limit))
            rows = [row for at, row in enumerate(rows) if at in chosen]
        clean += rows
    return clean, [Base(row) for row in clean if row.sufficient is False]


# ── Data ─────────────────────────────────────────────────────────────────────────────────────────


def packaged_items(folder: Traversable | None = None) -> tuple[list[Row], list[Base]]:
    """The clean rows and the bases that come with rag-guard.

    Raises:
        ConfigError: a line is not as it must be; it says which.
    """
    clean, bases = list[Row](), list[Base]()
    for place, values in _lines(_folder(folder) / "items.jsonl"):
        item, claim = _text(place, values, "id"), _text(place, values, "claim")
        poor = _row(place, values, "insufficient", item)
        clean += [poor, _row(place, values, "sufficient", item)]
        bases.append(Base(poor, claim))
    _require_distinct("items.jsonl", [row.id for row in clean])
    return clean, bases


def _row(place: str, values: Mapping[str, object], kind: str, item: str) -> Row:
    contexts = as_list(values.get(kind))
    if not contexts or not all(isinstance(text, str) and text.strip() for text in contexts):
        raise _wrong(place, kind, "is no list of texts")
    query = Query.of(
        _text(place, values, "question"),
        cast("Sequence[str]", contexts),
        lang=as_text(values.get("lang")),
    )
    return Row(f"{item}/{kind}", query, kind == "sufficient", item, (), place)


def packaged_attacks(folder: Traversable | None = None) -> list[Attack]:
    """The attacks that come with rag-guard, family by family.

    Args:
        folder: where to read them instead.

    Raises:
        ConfigError: a line is not as it must be; it says which.
    """
    attacks = [attack for family in FAMILIES for attack in _attacks(_folder(folder), family)]
    _require_distinct("The attacks", [attack.id for attack in attacks])
    return attacks


def _attacks(folder: Traversable, family: str) -> Iterator[Attack]:
    for place, values in _lines(folder / f"{family}.jsonl"):
        where = _text(place, values, "place")
        if where not in get_args(Place):
            raise _wrong(place, "place", f"is none of {', '.join(get_args(Place))}")
        id, text = _text(place, values, "id"), _text(place, values, "text")
        if not id.startswith(f"{family}-"):
            raise _wrong(place, "id", f"does not begin with {family}-")
        yield Attack(id, family, text, cast("Place", where))


def _folder(folder: Traversable | None) -> Traversable:
    return files("guard") / "data" / "attacks" if folder is None else folder


def _lines(file: Traversable) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{file.name} cannot be read: {error.strerror}.", hint="Install rag-guard again."
        ) from error
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield _object(f"{file.name}, line {number}", line)


def _object(place: str, line: bytes) -> tuple[str, Mapping[str, object]]:
    try:
        values = as_map(json.loads(line))
    except (ValueError, RecursionError):
        raise ConfigError(f"{place}: not valid JSON.", hint="Write one object a line.") from None
    return place, values


def _text(place: str, values: Mapping[str, object], name: str) -> str:
    text = as_text(values.get(name))
    if text is None or not text.strip():
        raise _wrong(place, name, "is missing, blank or no text")
    return text


def _wrong(place: str, name: str, why: str) -> ConfigError:
    return ConfigError(f"{place}: `{name}` {why}.", hint="Correct that line, or take it out.")


def _require_distinct(what: str, ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise ConfigError(f"{what}: the id {twice!r:.60} is there twice.", hint="Rename one.")
