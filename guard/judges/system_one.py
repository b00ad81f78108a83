"""The System One judge: ``/v1/systemone``, which rates a ``noul`` (a graded yes or no)."""

from collections.abc import Mapping

from openai import AsyncOpenAI, OpenAI

from guard._json import as_map
from guard.judges.rated import RatedJudge, Rating, malformed, probability
from guard.prompt import DEFAULT_PROMPT, SUFFICIENT, Prompt
from guard.verdict import Signal


class SystemOneJudge(RatedJudge):
    """Judges through the System One protocol: TypeSafe's Jev, OpenRouter's two routes, Upstage,
    llama.cpp with a decision model, and local servers.

    Shapes: TypeSafe's and jevcompat's descriptions of ``/v1/systemone`` (November 2026).

    Args:
        path: below ``base_url``; OpenRouter serves the same protocol at ``/api/v1`` +
            ``/systemone`` and at ``/api/alpha`` + ``/decisions``.

    For the other arguments and errors see `guard.judges.rated.RatedJudge`.
    """

    signal: Signal = "noul"

    def __init__(
        self,
        client: OpenAI | AsyncOpenAI,
        *,
        model: str,
        path: str = "/systemone",
        async_client: AsyncOpenAI | None = None,
        statement: str = SUFFICIENT,
        ask_underspecified: bool = False,
        prompt: Prompt = DEFAULT_PROMPT,
        close_clients: bool = False,
    ) -> None:
        super().__init__(
            client,
            model=model,
            async_client=async_client,
            statement=statement,
            ask_underspecified=ask_underspecified,
            prompt=prompt,
            close_clients=close_clients,
        )
        self.path = path

    def request(self, evidence: str, statements: Mapping[str, str]) -> dict[str, object]:
        """One noul for each statement."""
        questions = {
            name: {"type": "noul", "instructions": statement}
            for name, statement in statements.items()
        }
        return {"model": self.name, "state": evidence, "questions": questions}

    def ratings(self, reply: Mapping[str, object], names: tuple[str, ...]) -> Rating:
        """Exactly the ids that were asked must come back."""
        answers = as_map(reply.get("answers"))
        if set(answers) != set(names):
            raise malformed("does not answer exactly the questions that were asked")
        return Rating(*(_rated(as_map(answers[name])) for name in names))


def _rated(answer: Mapping[str, object]) -> float:
    if answer.get("type") != "noul":
        raise malformed("answers a noul with something else")
    return probability(answer.get("noul"), "a noul")
