"""The extent of a verdict, for people: how much of the texts it is of, and what is suspect."""

from collections.abc import Iterable, Iterator

from guard.decision import Reason
from guard.pieces import runs
from guard.verdict import Verdict

_MOST_RUNS = 10  # Of passages that are named; the record has all of them.

Run = tuple[int, int]


def extent(verdict: Verdict, reason: str) -> Iterator[tuple[str, str]]:
    """Names and values; none where all was judged at once, and nothing speaks to the judge.

    Args:
        verdict: the decision's.
        reason: why the query took its route, a `guard.Reason`.
    """
    if verdict.coverage < 1:
        yield "coverage", f"judged at once: {_part(verdict.coverage)} of the contexts"
    if verdict.windows > 1:
        yield "windows", str(verdict.windows)
    if verdict.seen < 1:
        yield "never judged", _never(verdict)
    if verdict.history_coverage < 1:
        yield "history", f"judged: {_part(verdict.history_coverage)} of the earlier turns"
    if verdict.has_suspects:
        yield "suspects", _suspects(verdict, reason)
    if verdict.look_cut_short:
        yield "not looked at", "time was up before all texts were: more may speak to the judge"


def _never(verdict: Verdict) -> str:
    share = f"{_part(1 - verdict.seen)} of the contexts"
    return f"{share}: {_listed('passage', verdict.unseen)}" if verdict.unseen else share


def _suspects(verdict: Verdict, reason: str) -> str:
    """Where they are, and what the query is worth without them."""
    found = {"passage": verdict.suspects, "turn": verdict.suspect_turns}
    named = " and ".join(
        _listed(what, runs(sorted(places))) for what, places in found.items() if places
    )
    is_one = len(verdict.suspects) + len(verdict.suspect_turns) == 1
    speak, them = ("speaks", "it") if is_one else ("speak", "them")
    return f"{named} {speak} to the judge; {_rest(verdict, reason, them)}"


def _rest(verdict: Verdict, reason: str, them: str) -> str:
    """What the query is worth without suspects, or why nobody knows, as far as the record tells."""
    if verdict.p_without is not None:
        return f"P without {them} {verdict.p_without:.4f} (uncalibrated)"
    if verdict.rest_unmeasured is not None:
        return f"judging the rest failed: {verdict.rest_unmeasured}"
    return f"not judged without {them}{'' if verdict.look_cut_short else _why_not(reason)}"


def _why_not(reason: str) -> str:
    if reason == Reason.SUSPECT_PASSAGES:
        return ": nothing is left then"
    # What was asked back before it was refused may have been so for its suspects.
    if reason == Reason.CLARIFICATIONS_SPENT:
        return ""
    return ": the route does not depend on it"


def _listed(what: str, runs: Iterable[Run]) -> str:
    """Runs of places, counted from 1: ``"passages 9–36, 38"``."""
    every = list(runs)
    named = ", ".join(_named(first + 1, last + 1) for first, last in every[:_MOST_RUNS])
    rest = sum(last - first + 1 for first, last in every[_MOST_RUNS:])
    one = sum(last - first + 1 for first, last in every) == 1
    return f"{what}{'' if one else 's'} {named}{f' and {rest} more' if rest else ''}"


def _named(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


def _part(share: float) -> str:
    """A share below 1: one that rounds to nothing is not nothing, nor 99.9 % all."""
    return "less than 1 %" if share < 0.01 else f"{min(share, 0.99) * 100:.0f} %"
