"""Prints 1,200 labelled questions about 1,000 made-up buildings; always the same, as JSON lines.

    python examples/thresholds/make_rows.py > rows.jsonl
    python examples/thresholds/make_rows.py --unlabelled > questions.jsonl

They stand in for your own, so that docs/thresholds.md can be tried before there are any. A few are
hard for whoever goes by words alone: passages that hold every word of the question and no answer,
and passages that hold the answer in other words.
"""

import argparse
import json
import random
from dataclasses import dataclass

SEED = 1932
FIRST = (
    "Alder Birch Cedar Dover Elm Fenton Garth Hollow Ivy Juniper "
    "Kestrel Linden Maple North Otter Pine Quarry Rowan Silver Thorn"
).split()
SECOND = "brook croft dale field ford gate ham holt mere moor".split()
KINDS = "bridge library lighthouse museum station".split()
ASKED_AT = 0.5
"""Share of questions whose answer stands in the passages."""
IN_OTHER_WORDS, ONLY_THE_WORDS = 0.04, 0.005
"""Shares of the sufficient rows, and of the insufficient ones, that words alone get wrong."""


@dataclass(frozen=True)
class Fact:
    """Something that can be asked of a building.

    Attributes:
        question: what is asked.
        plain: the answer, in the words of the question.
        other: the same answer in other words.
        hollow: the words of the question and a number, but no answer.
        least, most: what the number in an answer may be.
    """

    question: str
    plain: str
    other: str
    hollow: str
    least: int
    most: int


FACTS = (
    Fact(
        "When was the {name} opened?",
        "The {name} was opened in {n}.",
        "The public first came to the {name} in {n}.",
        "The day on which the {name} was opened is kept each year with {small} fires.",
        1820,
        1990,
    ),
    Fact(
        "How many metres tall is the {name}?",
        "The {name} is {n} metres tall.",
        "The {name} rises to a height of {n} m.",
        "The {name} is as tall as the old mill, {small} metres from the market.",
        12,
        90,
    ),
    Fact(
        "What did building the {name} cost?",
        "The cost of building the {name} came to {n},000 crowns.",
        "The town paid {n},000 crowns for the {name}.",
        "The cost of building the {name} was argued over for {small} years.",
        20,
        900,
    ),
    Fact(
        "Which year was the {name} repaired?",
        "The {name} was repaired in the year {n}.",
        "Masons mended the {name} in {n}.",
        "The {name} was repaired more than once; each year {small} masons come to look.",
        1991,
        2020,
    ),
    Fact(
        "How many visitors came to the {name} in July?",
        "In July {n}00 visitors came to the {name}.",
        "{n}00 people saw the {name} at the height of summer, in July.",
        "Those visitors who came to the {name} in July were counted by {small} students.",
        11,
        80,
    ),
)
FILLERS = (
    "It stands {n} steps from the market.",
    "A footpath of {n} minutes leads there from the harbour.",
    "Its door is painted green, and {n} lamps light the yard.",
    "The keeper has {n} keys and a dog.",
)


def rows() -> list[dict[str, object]]:
    """All rows, two on each bridge, one on each other building; a building is a group."""
    dice = random.Random(SEED)
    names = [f"{a}{b} {kind}" for a in FIRST for b in SECOND for kind in KINDS]
    made = [row for name in names for row in _about(name, dice)]
    dice.shuffle(made)
    return made


def _about(name: str, dice: random.Random) -> list[dict[str, object]]:
    """The questions about one building, each with what a retriever found for it."""
    *asked, beside, other = dice.sample(FACTS, 4 if name.endswith("bridge") else 3)
    return [_row(name, number, fact, (beside, other), dice) for number, fact in enumerate(asked)]


def _row(
    name: str, number: int, asked: Fact, beside: tuple[Fact, Fact], dice: random.Random
) -> dict[str, object]:
    sufficient = dice.random() < ASKED_AT
    passages = [_say(beside[0], beside[0].plain, name, dice), _filler(dice)]
    if sufficient:
        words = asked.other if dice.random() < IN_OTHER_WORDS else asked.plain
        passages.append(_say(asked, words, name, dice))
    elif dice.random() < ONLY_THE_WORDS:
        passages.append(_say(asked, asked.hollow, name, dice))
    else:
        passages.append(_say(beside[1], beside[1].plain, name, dice))
    dice.shuffle(passages)
    return {
        "id": f"{name.replace(' ', '-').lower()}-{number}",
        "question": asked.question.format(name=name),
        "contexts": passages,
        "sufficient": sufficient,
        "group": name,
        "lang": "en",
    }


def _say(fact: Fact, words: str, name: str, dice: random.Random) -> str:
    n, small = dice.randint(fact.least, fact.most), dice.randint(2, 9)
    return words.format(name=name, n=n, small=small)


def _filler(dice: random.Random) -> str:
    return dice.choice(FILLERS).format(n=dice.randint(2, 40))


def main() -> None:
    """Prints the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--unlabelled", action="store_true", help="leave `sufficient` out")
    unlabelled = parser.parse_args().unlabelled
    for row in rows():
        if unlabelled:
            del row["sufficient"]
        print(json.dumps(row))


if __name__ == "__main__":
    main()
