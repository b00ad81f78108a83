"""Chains, means and sampled judges keep the contract as well."""

import gc
import time
import warnings
from collections.abc import Generator
from typing import ClassVar

import pytest
from counted import fresh, plain
from openai import AsyncOpenAI, OpenAI
from wire import Answer, WireServer, verdict

from guard import Judge, JudgeUnavailable, Thresholds, Unmeasured
from guard.judges import Chain, ChatJudge, Link, Mean, SampledJudge, close
from guard.profile import Profile
from guard.testing import JudgeConformance, Scripted, ScriptedJudge
from guard.worker import fan_out_workers, shared_workers

OTHER = Profile(Thresholds(0.9, 0.2))


def scripted(name: str, line: Scripted) -> ScriptedJudge:
    return ScriptedJudge(line, name=name)


class TestChain(JudgeConformance):
    """Its first judge is well."""

    def make_judge(self) -> Judge:
        """The second is not asked."""
        down = scripted("b", JudgeUnavailable("down"))
        return Chain([scripted("a", 0.9), Link(down, OTHER)])


class TestChainSecond(JudgeConformance):
    """Its second judge answers for the first."""

    def make_judge(self) -> Judge:
        """The first is down."""
        down = scripted("a", JudgeUnavailable("down"))
        return Chain([down, Link(scripted("b", 0.9), OTHER)])


class TestChainTrouble(JudgeConformance):
    """None of its judges can measure."""

    expected_kind = "low_mass"

    def make_judge(self) -> Judge:
        """The kind is the last one's."""
        last = scripted("b", Unmeasured("odd", kind="low_mass"))
        return Chain([scripted("a", JudgeUnavailable("down")), Link(last, OTHER)])


class TestMean(JudgeConformance):
    """Of two judges that are well."""

    def make_judge(self) -> Judge:
        """Of .9 and .5."""
        return Mean([scripted("a", 0.9), scripted("b", 0.5)])


class TestMeanTrouble(JudgeConformance):
    """Where one cannot measure there is no mean."""

    expected_kind = "unavailable"

    def make_judge(self) -> Judge:
        """The second is down."""
        return Mean([scripted("a", 0.9), scripted("b", JudgeUnavailable("down"))])


class _Wired(JudgeConformance):
    pytestmark = pytest.mark.wire
    timeout = 5.0
    answer: ClassVar[Answer] = plain()
    client: ClassVar[type[OpenAI] | type[AsyncOpenAI]] = OpenAI

    @pytest.fixture(autouse=True)
    def _serve(self) -> Generator[None]:
        self.server = WireServer(fresh(self.answer))
        self.made: list[Judge] = []
        yield
        self._calm()  # A call left behind must not find its client closed.
        for judge in self.made:
            close(judge)
        self.server.close()

    def make_judge(self) -> Judge:
        """On the loopback server."""
        self.made.append(self.judge_on(self.server))
        return self.made[-1]

    def judge_on(self, server: WireServer) -> Judge:
        """A sampled judge of five."""
        client = self.client(base_url=server.url, api_key="k")
        return SampledJudge(client, model="wire-model", samples=5, close_clients=True)

    def test_hardly_any_time_is_not_overrun(self) -> None:
        """As for every judge; what httpx leaves behind then is no concern of later tests."""
        with warnings.catch_warnings():
            # A time-out of a millisecond can strike between connecting and handing the socket on.
            warnings.simplefilter("ignore", ResourceWarning)
            super().test_hardly_any_time_is_not_overrun()
            self._calm()
            gc.collect()

    def _calm(self) -> None:
        end = time.monotonic() + 10
        while shared_workers.abandoned or fan_out_workers.abandoned:
            assert time.monotonic() < end
            time.sleep(0.01)


class TestSampledSync(_Wired):
    """With a blocking client."""


class TestSampledAsync(_Wired):
    """With an asynchronous client."""

    client = AsyncOpenAI


class TestSampledDown(_Wired):
    """On a server that fails."""

    expected_kind = "unavailable"
    answer = Answer({"error": {"message": "boom"}}, status=500)


class TestSampledMute(_Wired):
    """On a model that does not answer the question."""

    expected_kind = "low_mass"
    answer = plain("I cannot say.")
    client = AsyncOpenAI


class _Several(_Wired):
    answer = Answer(verdict(-0.1, -3.0))

    def chat_on(self, server: WireServer, model: str) -> ChatJudge:
        """One of several."""
        client = self.client(base_url=server.url, api_key="k")
        return ChatJudge(client, model=model, close_clients=True)


class _ChainOnTheWire(_Several):
    def judge_on(self, server: WireServer) -> Judge:
        """The second on the same server."""
        first, second = self.chat_on(server, "a"), self.chat_on(server, "b")
        return Chain([first, Link(second, OTHER)])


class TestChainSync(_ChainOnTheWire):
    """Of blocking clients."""


class TestChainAsync(_ChainOnTheWire):
    """Of asynchronous clients."""

    client = AsyncOpenAI


class TestChainBroken(_ChainOnTheWire):
    """On an endpoint that asks to come back later."""

    expected_kind = "rate_limited"
    answer = Answer({"error": {"message": "slow down"}}, status=429)


class _MeanOnTheWire(_Several):
    def judge_on(self, server: WireServer) -> Judge:
        """Of two models on one server."""
        return Mean([self.chat_on(server, "a"), self.chat_on(server, "b")])


class TestMeanSync(_MeanOnTheWire):
    """Of blocking clients."""


class TestMeanAsync(_MeanOnTheWire):
    """Of asynchronous clients."""

    client = AsyncOpenAI


class TestMeanMute(_MeanOnTheWire):
    """On an endpoint that drops logprobs."""

    expected_kind = "no_logprobs"
    answer = plain()
    client = AsyncOpenAI
