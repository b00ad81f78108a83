"""Rewording: questions asked otherwise, by rules of grammar; nobody has read the results.

Each rule keeps what is asked for. Where none fits, a question stays as it is.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from data import Row

_BE = "is|are|was|were"
_AUX = f"{_BE}|do|does|did|has|have|had|can|could|will|would|should|might"
_MADE = (
    "invented|founded|directed|produced|discovered|designed|created|painted|composed|published|"
    "developed|established|introduced|appointed|defeated|killed|formed|signed|ordered|proposed|"
    "opened|owned|organized|named|launched|recorded|released|used"
)

Rules = Mapping[str, Sequence[str]]

IN_OTHER_WORDS: Rules = {
    rf"when ({_AUX}) (.+)": (
        "at what point in time {0} {1}?",
        "on what date or in what year {0} {1}?",
    ),
    rf"where ({_AUX}) (.+)": ("in what place {0} {1}?", "at which location {0} {1}?"),
    rf"why ({_AUX}) (.+)": ("for what reason {0} {1}?", "what is the reason why {0} {1}?"),
    r"how many (.+)": ("what number of {0}?",),
    rf"how much ({_AUX}) (.+)": ("what amount {0} {1}?",),
    r"how much (.+)": ("what amount of {0}?",),
    rf"how ({_AUX}) (.+)": ("in what way {0} {1}?", "by what means {0} {1}?"),
    r"who (.+)": ("which person or group {0}?", "what is the name of who {0}?"),
    r"(in|on|at|for|by|from|to|with|of) what (.+)": ("{0} which {1}?",),
    r"(in|on|at|for|by|from|to|with|of) which (.+)": ("{0} what {1}?",),
    rf"what ({_BE}) (.+)": ("what exactly {0} {1}?", "which thing {0} {1}?"),
    r"what (.+)": ("which {0}?",),
    r"which (.+)": ("what {0}?",),
}
"""The words that ask, by others."""

TURNED_ROUND: Rules = {
    rf"who ({_MADE}) (?!by|in|as|to|for|from|of|with|at|on)(.+)": (
        "{1}: {0} by whom?",
        "{1} had been {0} by whom?",
    ),
    rf"(?:what|who) ({_BE}) (?!\w+(?:ed|ing)\b)(.+)": ("{1} {0} what or who?",),
    rf"where ({_BE}) (.+)": ("{1} {0} where?",),
    rf"when ({_BE}) (.+)": ("{1} {0} when?",),
    rf"(?:what|which) ([\w-]+) ({_BE}) (?!\w+(?:ed|ing)\b)(.+)": ("{2} {1} which {0}?",),
}
"""What is asked for comes last; where the verb can be, in the passive."""

AS_AN_ORDER: Rules = {
    r"who (.+)": ("name the person who {0}.", "give the name of whoever {0}."),
    rf"when ({_AUX}) (.+)": ("give the date or the year: when {0} {1}.",),
    rf"where ({_AUX}) (.+)": ("name the place: where {0} {1}.",),
    rf"why ({_AUX}) (.+)": ("explain why: {0} {1}.",),
    r"how many (.+)": ("state the number of {0}.",),
    r"how much (.+)": ("state the amount: how much {0}.",),
    rf"how ({_AUX}) (.+)": ("describe the way: how {0} {1}.",),
    rf"what ({_BE}) (.+)": ("state what {0} {1}.",),
    r"(?:what|which) (.+)": ("say which {0}.",),
    rf"({_AUX}) (.+)": ("say yes or no: {0} {1}.",),
}
"""Orders and wishes in place of questions."""


def reworded(row: Row, rng: random.Random, rules: Rules) -> Row:
    """The row with its question by the first rule that fits it."""
    question = row.question.strip().rstrip(" ?.")
    for pattern, forms in rules.items():
        if found := re.fullmatch(pattern, question, re.IGNORECASE):
            text = rng.choice(forms).format(*found.groups())
            return replace(row, question=text[:1].upper() + text[1:])
    return row
