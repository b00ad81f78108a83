"""Never run: mypy and pyright read it, so that the public types stay what callers rely on."""

from typing import assert_type

from openai import AsyncOpenAI, OpenAI

from guard import (
    Decision,
    Gate,
    Judge,
    Messages,
    Policy,
    Profile,
    Query,
    Retry,
    Route,
    Thresholds,
    Verdict,
    judges,
)
from guard.config import load_gate
from guard.judge import Fitted
from guard.judges import ChatJudge, EmbeddedJudge, GgufJudge
from guard.testing import ScriptedJudge

judge = ScriptedJudge(lambda query: 0.9 if query.lang == "en" else (0.1, 0.4))
a_judge: Judge = judge
a_judge = ChatJudge(OpenAI(), model="MODEL")
a_judge = ChatJudge(OpenAI(), async_client=AsyncOpenAI(), model="MODEL", model_family="gpt-5.4")
a_judge = ChatJudge(AsyncOpenAI(), model="MODEL", extra_body={"seed": 1})
a_judge = GgufJudge("model.gguf")
a_judge = EmbeddedJudge(threads=1)
assert_type(EmbeddedJudge().default_profile, Profile | None)
a_brought: Fitted = EmbeddedJudge()
assert_type(judges.from_name("embedded"), Judge)

policy = Policy(
    thresholds=Thresholds(answer_at=0.85, refuse_below=0.30),
    on_unmeasured={"timeout": "clarify", "default": "refuse"},
    messages=Messages(refuse={"de": "Nein.", "default": "No."}),
)
gate = Gate(judge, policy, retry=Retry(attempts=2), deployment="support-bot")
assert_type(load_gate("guard.toml", deployment="support-bot"), Gate)

decision = gate.check("When?", ["In 1932."], history=[("user", "The bridge?")], lang="en")
assert_type(decision, Decision)
assert_type(decision.route, Route | None)
assert_type(decision.probability, float | None)
assert_type(decision.verdict, Verdict | None)
assert_type(decision.passes, bool)
assert_type(decision.to_dict(), dict[str, object])


async def asynchronous() -> None:
    """The asynchronous half."""
    assert_type(await gate.acheck("When?", ("In 1932.",)), Decision)
    query = Query.of("When?", ["In 1932."])
    assert_type(await a_judge.ajudge(query, timeout=1.0), Verdict)
