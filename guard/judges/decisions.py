"""The decisions judge: OpenAI's ``/v1/decisions``, which rates a predicate."""

from collections.abc import Mapping

from guard._json import as_list, as_map
from guard.errors import Unmeasured
from guard.judges.rated import RatedJudge, Rating, malformed, probability
from guard.verdict import Signal


class DecisionsJudge(RatedJudge):
    """Judges through OpenAI's Decisions endpoint (beta since October 2026).

    The answer is the probability of a predicate, rounded to two decimals, so that exactly 0 and 1
    are common and mean "within 0.005". No logprobs, no temperature, no seed. Works with ``openai``
    2.x too, which has no method for it. Shapes: ``types/decision.py`` of openai 3.52.

    For arguments and errors see `guard.judges.rated.RatedJudge`.
    """

    signal: Signal = "predicate"
    path = "/decisions"

    def request(self, evidence: str, statements: Mapping[str, str]) -> dict[str, object]:
        """One predicate for each statement."""
        questions = [
            {"type": "predicate", "name": name, "instructions": statement}
            for name, statement in statements.items()
        ]
        return {"model": self.name, "input": evidence, "questions": questions}

    def ratings(self, reply: Mapping[str, object], names: tuple[str, ...]) -> Rating:
        """Answers come in the order of the questions; each may be a refusal, even nameless."""
        answers = [as_map(answer) for answer in as_list(reply.get("answers"))]
        if len(answers) != len(names):
            raise malformed(f"gives {len(answers)} answers to {len(names)} questions")
        rated = [_rated(answer, name) for answer, name in zip(answers, names, strict=True)]
        if rated[0] is None:
            raise Unmeasured("The judge model refused to judge.", kind="refusal")
        return Rating(rated[0], *rated[1:])


def _rated(answer: Mapping[str, object], name: str) -> float | None:
    """One predicate's probability; ``None`` where the model refused that question."""
    if answer.get("name") not in (name, None):
        raise malformed("answers another question than was asked")
    if answer.get("type") == "refusal":
        return None
    if answer.get("type") != "predicate":
        raise malformed("answers a predicate with something else")
    return probability(answer.get("probability"), "a predicate")
