"""What all tests share: a closed network, a clean environment, fresh endpoints."""

import gc
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from wire import Script, WireServer

from guard.judges.endpoint import endpoint_for
from guard.testing import no_network

# openai takes a second to import, which tests without HTTP need not wait for.
if TYPE_CHECKING:
    from guard.judges import ChatJudge


@pytest.fixture(autouse=True)
def closed_network() -> Generator[None]:
    """No test leaves this machine."""
    with no_network():
        yield


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the keys and settings of whoever runs it."""
    # Reading 140 certificates is most of what making an HTTP client costs; nothing here uses TLS.
    monkeypatch.setenv("SSL_CERT_FILE", str(Path(__file__).parent / "trust.pem"))
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "RAG_GUARD_", "AZURE_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def fresh_endpoints() -> None:
    """What one test learnt about an endpoint is unknown to the next."""
    endpoint_for.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def no_pauses() -> None:
    """The collector does not go through what a thousand other tests have left.

    In a whole suite that takes more than half a second and stops everything, and deadlines of a
    third of one pass meanwhile. What lives between two modules, lives to the end: it stays frozen.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def wire() -> Generator[Callable[[Script], WireServer]]:
    """Starts loopback servers and stops them in the end."""
    servers: list[WireServer] = []

    def start(script: Script) -> WireServer:
        servers.append(WireServer(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(params=["sync", "async"])
def chat_judge(request: pytest.FixtureRequest) -> Generator[Callable[..., "ChatJudge"]]:
    """Makes ChatJudges on a server, once with a blocking client and once with an async one."""
    from openai import AsyncOpenAI, OpenAI

    from guard.judges import ChatJudge

    judges: list[ChatJudge] = []

    def make(server: WireServer, *, model: str = "wire-model", **options: object) -> ChatJudge:
        kind = OpenAI if request.param == "sync" else AsyncOpenAI
        client = kind(base_url=server.url, api_key="sk-canary-0123456789")
        judge = ChatJudge(client, model=model, close_clients=True, **options)  # type: ignore[arg-type]
        judges.append(judge)
        return judge

    yield make
    for judge in judges:
        judge.close()


# ── Skips ────────────────────────────────────────────────────────────────────────────────────────

_SKIPS_ALLOWED = {
    line.split("#")[0].strip()
    for line in (Path(__file__).parent / "skips.txt").read_text("utf-8").splitlines()
} - {""}
_skipped: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--no-unlisted-skips``, which CI uses."""
    parser.addoption(
        "--no-unlisted-skips",
        action="store_true",
        help="fail when a test that is not in tests/skips.txt is skipped",
    )


def _may_be_skipped(nodeid: str) -> bool:
    """Whether the list names it, or its whole file."""
    return not _SKIPS_ALLOWED.isdisjoint({nodeid, nodeid.partition("::")[0]})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remembers what was skipped."""
    if report.skipped and not _may_be_skipped(report.nodeid):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Remembers whole files that were skipped."""
    if report.skipped and not _may_be_skipped(report.nodeid):
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turns a skip that nobody wrote down into a failure."""
    if _skipped and session.config.getoption("--no-unlisted-skips"):
        print("\nSkipped, but not listed in tests/skips.txt:", *_skipped, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
