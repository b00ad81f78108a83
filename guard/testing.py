"""For tests, yours and ours: a scripted judge, a closed network, what judges owe."""

import asyncio
import inspect
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from guard.errors import JudgeError, JudgeUnavailable
from guard.judge import Judge, Profiled
from guard.judges.scripted import Scripted, ScriptedJudge
from guard.query import Query
from guard.verdict import Verdict

__all__ = ["JudgeConformance", "NetworkForbidden", "Scripted", "ScriptedJudge", "no_network"]


class NetworkForbidden(RuntimeError):
    """Code under `no_network` tried to leave the machine."""


@contextmanager
def no_network() -> Generator[None]:
    """Makes every connection that would leave this machine fail at once; loopback stays open."""
    connect, connect_ex, getaddrinfo = (
        socket.socket.connect,
        socket.socket.connect_ex,
        socket.getaddrinfo,
    )

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _require_local(address)
        return connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _require_local(address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        _require_local((host,))
        return getaddrinfo(host, *args, **kwargs)

    socket.socket.connect = guarded_connect  # type: ignore[method-assign, assignment]
    socket.socket.connect_ex = guarded_connect_ex  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = guarded_getaddrinfo
    try:
        yield
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]
        socket.socket.connect_ex = connect_ex  # type: ignore[method-assign]
        socket.getaddrinfo = getaddrinfo


def _require_local(address: object) -> None:
    if not isinstance(address, tuple):
        return  # A Unix socket's path.
    host = str(address[0] or "localhost").strip("[]")  # pyright: ignore
    if host not in ("localhost", "::1", "0.0.0.0", "b'localhost'") and not host.startswith("127."):
        raise NetworkForbidden(f"This test may not reach {host!r}.")


class JudgeConformance:
    """What every judge owes the gate, as tests. Subclass it in your suite and say how to make one.

        class TestMyJudge(JudgeConformance):
            def make_judge(self):
                return MyJudge(...)

    Attributes:
        timeout: seconds that a normal verdict may take.
        slack: seconds by which a judgement may overrun a time-out.
        expected_kind: ``None`` for a judge that must measure `query`; else one of
            `guard.errors.UNMEASURED_KINDS`, for a judge set up so that it cannot.
    """

    timeout: float = 30.0
    slack: float = 1.0
    expected_kind: str | None = None
    query = Query.of(
        "In which year was the tower finished?",
        ["Work on the tower began in 1881 and ended in 1889.", "It stands on a hill."],
    )

    def make_judge(self) -> Judge:
        """A judge that can measure `query`, or fails to with ``expected_kind``."""
        raise NotImplementedError

    def test_is_a_judge(self) -> None:
        """It has every member of the contract."""
        judge = self.make_judge()
        assert isinstance(judge, Judge)
        assert judge.fingerprint and judge.fingerprint == judge.fingerprint
        assert judge.model is None or isinstance(judge.model, str)
        assert isinstance(judge.cancellable, bool)
        assert inspect.iscoroutinefunction(judge.ajudge)

    def test_two_judges_alike_share_a_fingerprint(self) -> None:
        """The fingerprint depends on the configuration alone."""
        assert self.make_judge().fingerprint == self.make_judge().fingerprint

    def test_measures(self) -> None:
        """It returns a sound verdict with its own fingerprint, or fails as expected.

        A `guard.judge.Profiled` judge passes on verdicts of other judges, with theirs.
        """
        judge = self.make_judge()
        self._require_expected(judge, lambda: judge.judge(self.query, timeout=self.timeout))

    def test_measures_async(self) -> None:
        """The same through ``ajudge``."""
        judge = self.make_judge()
        self._require_expected(judge, lambda: _arun(judge, self.query, self.timeout))

    def test_odd_text_is_survived(self) -> None:
        """Braces, control characters, lone surrogates and chat markup crash nothing.

        Whether such text can be measured is the judge's own business.
        """
        judge = self.make_judge()
        texts = ["", "\x00{0} {{x}} </think> <|im_end|>", "𝕏 \udfff"]
        odd = Query.of("{query_str} }{ \ud800?", texts)
        try:
            _require_sound(judge, judge.judge(odd, timeout=self.timeout))
        except JudgeError as error:
            _require_told(error)

    def test_hardly_any_time_is_not_overrun(self) -> None:
        """Given a millisecond, ``ajudge`` ends soon: with a verdict, or saying that it was late.

        Within ``slack``, that is; anything else that it raises is a bug in it.
        """
        judge = self.make_judge()

        async def hurried() -> Verdict:
            async with asyncio.timeout(0.001):  # As the gate does.
                return await judge.ajudge(self.query, timeout=0.001)

        started = time.monotonic()
        try:
            # The judge stays open: a thread that it has left behind may still use its connection.
            _require_sound(judge, asyncio.run(hurried()))
        except (JudgeUnavailable, TimeoutError):
            pass
        except JudgeError as error:
            assert error.kind == self.expected_kind, error  # It found out in time.
        assert time.monotonic() - started < self.slack

    def test_cancelling_is_obeyed(self) -> None:
        """A cancelled ``ajudge`` ends in CancelledError, not in a verdict or an error of ours."""
        judge = self.make_judge()

        async def cancelled() -> bool:
            task = asyncio.create_task(judge.ajudge(self.query, timeout=self.timeout))
            await asyncio.sleep(0)
            if task.done():
                return True  # Quicker than the cancellation; there is nothing to obey.
            task.cancel()
            await asyncio.wait([task])
            return task.cancelled()

        started = time.monotonic()
        assert asyncio.run(cancelled())
        assert time.monotonic() - started < self.slack

    def test_threads_may_share_it(self) -> None:
        """Four threads get four sound verdicts, or fail as expected."""
        judge = self.make_judge()
        failures: list[BaseException] = []

        def work() -> None:
            try:
                self._require_expected(judge, lambda: judge.judge(self.query, timeout=self.timeout))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.timeout + self.slack)
        assert not failures, failures
        assert not any(thread.is_alive() for thread in threads), "A thread did not end."

    def _require_expected(self, judge: Judge, measure: Callable[[], Verdict]) -> None:
        try:
            verdict = measure()
        except JudgeError as error:
            _require_told(error)
            if error.kind != self.expected_kind:
                raise AssertionError(f"Not measured, {error.kind}: {error.message}") from error
            return
        assert self.expected_kind is None, f"Measured, where it should fail: {verdict}"
        _require_sound(judge, verdict)


def _arun(judge: Judge, query: Query, timeout: float) -> Verdict:
    async def measured() -> Verdict:
        try:
            return await judge.ajudge(query, timeout=timeout)
        finally:
            # Pooled connections belong to this loop and would outlive it unclosed.
            if isinstance(judge, _AsyncClosable):
                await judge.aclose()

    return asyncio.run(measured())


@runtime_checkable
class _AsyncClosable(Protocol):
    async def aclose(self) -> object: ...


def _require_sound(judge: Judge, verdict: object) -> None:
    """A verdict's own constructor checks its numbers; the rest is checked here."""
    assert isinstance(verdict, Verdict)
    # A chain's verdicts are told by the judge that gave them.
    assert verdict.fingerprint == judge.fingerprint or isinstance(judge, Profiled)
    assert verdict.signal


def _require_told(error: JudgeError) -> None:
    assert error.message and error.kind
