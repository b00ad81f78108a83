"""Cases: queries whose verdict is known, to see whether a judge can tell them apart."""

from guard.query import Query

_QUESTION = "In which year did the Harrow lighthouse start to shine?"

SUFFICIENT = Query.of(
    _QUESTION,
    [
        "The Harrow lighthouse stands on a cliff, 61 metres above the sea.",
        "After six years of work the Harrow lighthouse could start to shine in the year 1874.",
    ],
)
"""The second passage holds the answer."""

INSUFFICIENT = Query.of(
    _QUESTION,
    [
        "The Harrow lighthouse stands on a cliff, 61 metres above the sea.",
        "Two keepers and their families lived beside the Harrow lighthouse.",
    ],
)
"""Both passages are about the same lighthouse; neither tells the year."""

_FILLER = (
    "Rain fell on the coast for most of that week, and the boats stayed in the harbour. The crews "
    "mended nets, painted hulls and waited for the wind to turn. "
)


def lengthened(characters: int) -> Query:
    """`SUFFICIENT` with so many characters of something else behind it.

    The first passage holds the answer: a server that cuts the beginning off loses it.
    """
    return Query.of(_QUESTION, [SUFFICIENT.contexts[1], _FILLER * (characters // len(_FILLER))])


STEP = 24_000
"""Characters: about 6,000 tokens, which is more than small servers take."""
