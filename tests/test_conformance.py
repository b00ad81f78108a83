"""Every judge of ours keeps the contract of `guard.testing.JudgeConformance`."""

import gc
import time
import warnings
from collections.abc import Generator
from typing import ClassVar

import pytest
from local_model import weights
from openai import AsyncOpenAI, OpenAI
from wire import Answer, WireServer, chat, verdict

from guard import Judge, JudgeUnavailable, Query, Verdict
from guard.judges import ChatJudge, DecisionsJudge, EmbeddedJudge, GgufJudge, SystemOneJudge
from guard.judges.rated import NAMES
from guard.testing import JudgeConformance, ScriptedJudge
from guard.worker import shared_workers


class TestScripted(JudgeConformance):
    """A scripted judge."""

    def make_judge(self) -> Judge:
        """Always 0.9."""
        return ScriptedJudge(0.9)


class TestScriptedTrouble(JudgeConformance):
    """A scripted judge that cannot measure."""

    expected_kind = "unavailable"

    def make_judge(self) -> Judge:
        """Always down."""
        return ScriptedJudge(JudgeUnavailable("down"))


class _Wired(JudgeConformance):
    pytestmark = pytest.mark.wire
    timeout = 5.0
    kind: ClassVar[type[ChatJudge | DecisionsJudge | SystemOneJudge]] = ChatJudge
    body: ClassVar[object] = None
    status: ClassVar[int] = 200
    client: ClassVar[type[OpenAI] | type[AsyncOpenAI]] = OpenAI

    @pytest.fixture(autouse=True)
    def _serve(self) -> Generator[None]:
        self.server = WireServer(Answer(self.body, status=self.status))
        self.made: list[ChatJudge | DecisionsJudge | SystemOneJudge] = []
        yield
        while shared_workers.abandoned:
            time.sleep(0.01)  # A call left behind must not find its client closed.
        for judge in self.made:
            judge.close()
        self.server.close()

    def make_judge(self) -> Judge:
        """On the loopback server."""
        client = self.client(base_url=self.server.url, api_key="k")
        self.made.append(self.kind(client, model="wire-model", close_clients=True))
        return self.made[-1]

    def test_hardly_any_time_is_not_overrun(self) -> None:
        """As for every judge; what httpx leaves behind then is no concern of later tests."""
        with warnings.catch_warnings():
            # A time-out of a millisecond can strike between connecting and handing the socket on.
            warnings.simplefilter("ignore", ResourceWarning)
            super().test_hardly_any_time_is_not_overrun()
            while shared_workers.abandoned:
                time.sleep(0.01)
            gc.collect()


class _Chat(_Wired):
    body: ClassVar[object] = verdict(-0.1, -3.0)


class TestChatSync(_Chat):
    """With a blocking client."""


class TestChatAsync(_Chat):
    """With an asynchronous client."""

    client = AsyncOpenAI


class TestChatNoLogprobs(_Chat):
    """On an endpoint that drops logprobs."""

    expected_kind = "no_logprobs"
    body = chat(content="True", logprobs=None)


class TestChatLowMass(_Chat):
    """On a model that does not answer the question."""

    expected_kind = "low_mass"
    body = chat({"token": "The", "bytes": None, "logprob": -0.1, "top_logprobs": []})


class TestChatRateLimited(_Chat):
    """On an endpoint that asks to come back later."""

    expected_kind = "rate_limited"
    body: ClassVar[object] = {"error": {"message": "slow down"}}
    status = 429


class TestChatBroken(_Chat):
    """On an endpoint whose body is cut off."""

    expected_kind = "malformed"
    body = b'{"choices": [{"mess'


class _Decisions(_Wired):
    kind = DecisionsJudge
    body: ClassVar[object] = {
        "model": "wire-model",
        "answers": [{"type": "predicate", "name": NAMES[0], "probability": 0.93}],
    }


class TestDecisionsSync(_Decisions):
    """With a blocking client."""


class TestDecisionsAsync(_Decisions):
    """With an asynchronous client."""

    client = AsyncOpenAI


class TestDecisionsRefused(_Decisions):
    """On a model that declines the question."""

    expected_kind = "refusal"
    body: ClassVar[object] = {"answers": [{"type": "refusal", "name": None}]}


class _SystemOne(_Wired):
    kind = SystemOneJudge
    body: ClassVar[object] = {
        "model": "wire-model",
        "answers": {NAMES[0]: {"type": "noul", "noul": 0.93}},
    }


class TestSystemOneSync(_SystemOne):
    """With a blocking client."""


class TestSystemOneAsync(_SystemOne):
    """With an asynchronous client."""

    client = AsyncOpenAI


class TestSystemOneOnAnOrdinaryModel(_SystemOne):
    """On a server whose model rates nothing."""

    expected_kind = "rejected"
    body: ClassVar[object] = {"error": {"code": 501, "type": "not_supported_error"}}
    status = 501


class _Never(JudgeConformance):
    def make_judge(self) -> Judge:
        return ScriptedJudge(JudgeUnavailable("down"))


class _NeverAsExpected(_Never):
    expected_kind = "low_mass"  # It is another kind.


class _Always(JudgeConformance):
    expected_kind = "unavailable"

    def make_judge(self) -> Judge:
        return ScriptedJudge(0.9)


@pytest.mark.parametrize("kind", [_Never, _NeverAsExpected, _Always])
@pytest.mark.parametrize(
    "test", ["test_measures", "test_measures_async", "test_threads_may_share_it"]
)
def test_a_judge_that_does_not_do_as_expected_fails(
    kind: type[JudgeConformance], test: str
) -> None:
    """A judge that never measures, or not as it should, does not conform."""
    with pytest.raises(AssertionError, match=r"Not measured|Measured"):
        getattr(kind(), test)()


class _WithoutFingerprint(JudgeConformance):
    def make_judge(self) -> Judge:
        judge = ScriptedJudge(0.9)
        judge.fingerprint = ""
        return judge


def test_a_judge_without_a_fingerprint_fails() -> None:
    """Verdicts that cannot be told apart by what made them do not conform."""
    with pytest.raises(AssertionError):
        _WithoutFingerprint().test_is_a_judge()


class _Deaf(ScriptedJudge):
    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        time.sleep(0.2)  # Holds up the event loop, so that no time-out can end it.
        return self._verdict(0.9, late=False)


class _Slow(JudgeConformance):
    slack = 0.1

    def make_judge(self) -> Judge:
        return _Deaf(0.9)


def test_a_judge_that_overruns_its_time_fails() -> None:
    """Being late is seen, whatever comes of it."""
    with pytest.raises(AssertionError):
        _Slow().test_hardly_any_time_is_not_overrun()


@pytest.mark.local
class TestGguf(JudgeConformance):
    """With a real model in process."""

    def make_judge(self) -> Judge:
        """A small model, loaded twice at most: the second to compare."""
        if len(_LOADED) < 2:
            _LOADED.append(GgufJudge(weights(), context_tokens=1024, min_mass=0.0))
        return _LOADED[-1]


@pytest.mark.local
class TestEmbedded(JudgeConformance):
    """With the model that comes with the package."""

    def make_judge(self) -> Judge:
        """Loaded twice at most: the second to compare."""
        if len(_EMBEDDED) < 2:
            _EMBEDDED.append(EmbeddedJudge())
        return _EMBEDDED[-1]


@pytest.mark.local
class TestEmbeddedUnread(TestEmbedded):
    """Where there is nothing that it can read."""

    expected_kind = "refusal"
    query = Query.of("В каком году достроили башню?", ["Башню достроили в 1889 году."])


@pytest.mark.local
class TestEmbeddedTooLong(TestEmbedded):
    """Where there is more than it can read at once."""

    expected_kind = "context_too_long"
    query = Query.of("In which year was the tower finished?", ["They worked on it. " * 200])


_LOADED: list[GgufJudge] = []
_EMBEDDED: list[EmbeddedJudge] = []


@pytest.fixture(scope="module", autouse=True)
def close_models() -> Generator[None]:
    """Frees the models when this file is done."""
    yield
    while _LOADED:
        _LOADED.pop().close()
    while _EMBEDDED:
        _EMBEDDED.pop().close()
