"""A FastAPI service whose answers are judged first, without LlamaIndex.

    pip install "rag-guard[embedded]" fastapi uvicorn
    uvicorn examples.fastapi_app:app        # or with RAG_GUARD_JUDGE=openai:MODEL before it

`retrieve` and `write_answer` stand for your own retriever and model.
"""

import logging
import os

from fastapi import FastAPI
from pydantic import BaseModel, Field

from guard import Gate, Policy, judges

# A judge that is down shows as a WARNING of the logger "guard", with the reason and the remedy.
logging.basicConfig(level=logging.INFO)

app = FastAPI()
gate = Gate(
    judges.from_name(os.environ.get("RAG_GUARD_JUDGE", "embedded")),
    # No thresholds: the embedded judge's own, if it brings any. Another judge needs some of yours.
    Policy(deadline=3.0),
)


class Ask(BaseModel):
    """What a client sends."""

    question: str = Field(pattern=r"\S")  # A blank one is the client's error: HTTP 422.


class Reply(BaseModel):
    """What it gets: an answer or a message, the route and why, and the id of the decision."""

    text: str
    route: str
    reason: str
    decision_id: str


@app.post("/ask")
async def ask(body: Ask) -> Reply:
    """Answers only what the retrieved passages hold."""
    contexts = await retrieve(body.question)
    decision = await gate.acheck(body.question, contexts)
    if decision.passes:
        text = await write_answer(body.question, contexts)
    else:
        text = decision.message or ""
    return Reply(
        text=text, route=str(decision.route), reason=decision.reason, decision_id=decision.id
    )


async def retrieve(question: str) -> list[str]:
    """Your retriever."""
    words = set(question.lower().rstrip("?").split())
    passages = ["The old bridge was opened in 1932.", "Ferries cross the bay every hour."]
    return [text for text in passages if words & set(text.lower().rstrip(".").split())]


async def write_answer(question: str, contexts: list[str]) -> str:
    """Your model."""
    return contexts[0]
