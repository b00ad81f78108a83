"""A connection: an ``openai`` client, blocking or asynchronous, through which a judge posts."""

import asyncio
import json
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager, suppress
from functools import partial
from http.cookiejar import CookieJar
from typing import Any, NamedTuple

import openai
from openai import AsyncOpenAI, OpenAI

from guard.breaker import Breaker, breaker_for, name_of
from guard.errors import (
    ConfigError,
    JudgeError,
    JudgeRejected,
    Unmeasured,
    before_asking,
    out_of_time,
)
from guard.judges.endpoint import account_of, own_headers
from guard.judges.failures import broken_off, not_json, unsendable
from guard.loop import shared_loop
from guard.worker import fan_out_workers

_CLOSE_SECONDS = 5.0
_LAST_SECONDS = 0.1

FAILURES = (openai.OpenAIError, JudgeError)
"""What may become of a request, other than a reply."""


class Post(NamedTuple):
    """One request to make, or the same one several times at once.

    Attributes:
        path: below the client's ``base_url``.
        body: its JSON.
        times: how many independent replies are wanted.
    """

    path: str
    body: dict[str, object]
    times: int = 1


class Connection(ABC):
    """Where a judge posts, blocking or not."""

    def __init__(self) -> None:
        self._closed = False

    @property
    @abstractmethod
    def blocks(self) -> bool:
        """Whether `post` can be used; what it does cannot be interrupted."""

    @property
    @abstractmethod
    def awaits(self) -> bool:
        """Whether `apost` can be used."""

    @property
    @abstractmethod
    def base_url(self) -> str:
        """The address of the endpoint; empty where it is not known."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts of requests that no record may hold; empty where they are not known."""
        return ()

    def breaker_for(self, model: str, failures: int, seconds: float) -> Breaker:
        """The breaker of the endpoint; one of this connection's own unless its kind can tell who
        else asks there."""
        return Breaker(name_of(self.base_url, model), failures=failures, seconds=seconds)

    @abstractmethod
    def post(self, post: Post, end: float) -> list[object]:
        """The replies, as parsed JSON; of several, those that failed are exceptions.

        Args:
            post: what to send.
            end: when to give up, on the clock of `time.monotonic`. Several requests end a little
                before, so that there is time left to make something of those that came.

        Raises:
            openai.OpenAIError, JudgeError: the only request failed.
        """

    @abstractmethod
    async def apost(self, post: Post, end: float) -> list[object]:
        """As `post`, without blocking the event loop."""

    def close(self) -> None:
        """Later queries are rejected."""
        self._closed = True

    def require_open(self) -> None:
        """Raises `JudgeRejected` once `close` was called."""
        if self._closed:
            raise before_asking(JudgeRejected("This judge is closed.", hint="Make a new one."))


class ClientConnection(Connection):
    """Posts JSON through the caller's client, with the SDK's own retries switched off.

    Through ``client.post`` and not through the SDK's methods: openai 2.x has none for the newer
    endpoints, and its models would drop fields that a provider adds.

    Args:
        client: an ``openai`` client, synchronous or asynchronous.
        async_client: a second, asynchronous one, beside a synchronous ``client``.
        close_clients: whether `close` closes the given clients too, and not only copies made here.

    Raises:
        ConfigError: not an ``openai`` client.
    """

    def __init__(
        self,
        client: OpenAI | AsyncOpenAI,
        async_client: AsyncOpenAI | None = None,
        *,
        close_clients: bool = False,
    ) -> None:
        super().__init__()
        _require_clients(client, async_client)
        if isinstance(client, AsyncOpenAI):
            async_client = async_client or client
        self.given = client
        self._sync = client.with_options(max_retries=0) if isinstance(client, OpenAI) else None
        self._async = None if async_client is None else _ClientPerLoop(async_client, close_clients)
        self._close_clients = close_clients

    @property
    def blocks(self) -> bool:
        """Whether there is a blocking client; its calls cannot be interrupted."""
        return self._sync is not None

    @property
    def awaits(self) -> bool:
        """Whether there is an asynchronous client."""
        return self._async is not None

    @property
    def base_url(self) -> str:
        """The address of the endpoint."""
        return str(self.given.base_url)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Its key, and what its headers say apart from what the SDK itself writes there."""
        texts = [self.given.api_key, *own_headers(self.given).values()]
        return tuple({word for text in texts for word in text.split() if len(word) >= 8})

    def breaker_for(self, model: str, failures: int, seconds: float) -> Breaker:
        """The breaker that all of this process share who ask there with the same key."""
        account = account_of(self.given, {})
        return breaker_for(self.base_url, model, account, failures, seconds)

    def post(self, post: Post, end: float) -> list[object]:
        """As `Connection.post`."""
        if self._sync is None:
            raise TypeError("This connection has no blocking client.")
        if post.times == 1:
            return [_send(self._sync, post, end)]
        end = _a_little_before(end)
        send = partial(_caught, partial(_send, self._sync, post, end))
        return [*fan_out_workers.call_each([send] * post.times, _seconds_left(end))]

    async def apost(self, post: Post, end: float) -> list[object]:
        """As `post`, through the asynchronous client."""
        if self._async is None:
            raise TypeError("This connection has no asynchronous client.")
        client = await self._async.client()
        if post.times == 1:
            return [await _asend(client, post, end)]
        end = _a_little_before(end)
        return await asyncio.gather(*(_acaught(client, post, end) for _ in range(post.times)))

    def close(self) -> None:
        """Closes connections; on a running event loop it does not wait for those of that loop."""
        super().close()
        if self._sync is not None and self._close_clients:
            self._sync.close()
        if self._async is not None:
            self._async.close()


# How the SDK's own `with_streaming_response` tells it to leave the body unread, so that it is read
# here: piece by piece, against the deadline, and no more of it than any verdict needs.
_RAW = {"X-Stainless-Raw-Response": "stream"}
_MAX_BYTES = 16 * 2**20


def _options(end: float) -> openai.RequestOptions:
    # No redirects: the passages would go to whatever host a reply names.
    return {"timeout": _seconds_left(end), "headers": _RAW, "follow_redirects": False}


def _send(client: OpenAI, post: Post, end: float) -> object:
    _forget_odd_cookies(client)
    with _json_expected(), _whole_expected():
        answer: Any = client.post(post.path, body=post.body, cast_to=object, options=_options(end))
        reply, data = answer.http_response, bytearray()
        try:
            for piece in reply.iter_bytes():
                _add(data, piece, end)
        finally:
            reply.close()
        return json.loads(data)


async def _asend(client: AsyncOpenAI, post: Post, end: float) -> object:
    _forget_odd_cookies(client)
    with _json_expected(), _whole_expected():
        answer: Any = await client.post(
            post.path, body=post.body, cast_to=object, options=_options(end)
        )
        reply, data = answer.http_response, bytearray()
        try:
            async for piece in reply.aiter_bytes():
                _add(data, piece, end)
        finally:
            await reply.aclose()
        return json.loads(data)


def _add(data: bytearray, piece: bytes, end: float) -> None:
    if time.monotonic() >= end:
        raise out_of_time()
    data += piece
    if len(data) > _MAX_BYTES:
        raise Unmeasured(
            f"The judge's reply is longer than {_MAX_BYTES // 2**20} MiB.",
            kind="malformed",
            hint="Something else than a judge may answer at this address.",
        )


@contextmanager
def _whole_expected() -> Generator[None]:
    """Turns what the HTTP library raises over a body into our error; the SDK reads some as well."""
    try:
        yield
    except Exception as error:
        kinds = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        if not kinds & _HTTP:
            raise
        raise broken_off(error) from None


# openai 2 stands on the one, openai 3 on the other.
_HTTP = {"httpx", "httpx2"}


def _forget_odd_cookies(client: OpenAI | AsyncOpenAI) -> None:
    """Cookies that HTTP cannot carry: one reply could turn down every later request with one."""
    jar = getattr(getattr(getattr(client, "_client", None), "cookies", None), "jar", None)
    if not isinstance(jar, CookieJar):
        return
    for one in list(jar):
        if not f"{one.name}{one.value}".isascii():
            jar.clear(one.domain, one.path, one.name)


def _caught(send: "partial[object]") -> object:
    try:
        return send()
    except FAILURES as error:
        return error


async def _acaught(client: AsyncOpenAI, post: Post, end: float) -> object:
    # Time-outs of the SDK count per read: a body that drips runs into none of them.
    scope = asyncio.timeout(_seconds_left(end))
    try:
        async with scope:
            return await _asend(client, post, end)
    except FAILURES as error:
        return error
    except TimeoutError:
        if not scope.expired():
            raise
        return out_of_time()


@contextmanager
def _json_expected() -> Generator[None]:
    """Turns whatever a reply that is not JSON raises into our error."""
    try:
        yield
    except UnicodeEncodeError as error:
        # Not the reply. The original holds the whole key: no traceback shows it.
        raise unsendable(error) from None
    except (ValueError, RecursionError, AssertionError, TypeError, LookupError) as error:
        # ValueError: no JSON, no UTF-8, or a whole number of more than 4300 digits. The others come
        # of a charset that Python knows, but which is none of text ("hex").
        raise not_json(error) from None  # Its text quotes the reply.


def _seconds_left(end: float) -> float:
    # Zero would mean "no time-out" to some clients; the gate's own clock ends the call anyway.
    return max(0.001, end - time.monotonic())


def _a_little_before(end: float) -> float:
    """When one of several requests has to end: the others' replies must not be lost with it."""
    return end - min(_LAST_SECONDS, max(0.0, end - time.monotonic()) / 10)


class _ClientPerLoop:
    """An asynchronous client for each event loop: pooled connections belong to the loop they were
    opened on, must not be used on another, and are closed before it ends.

    The given client's own connections are left to the application, which may use it on any loop.
    """

    def __init__(self, client: AsyncOpenAI, close_given: bool) -> None:
        self._given = client.with_options(max_retries=0)
        self._close_given = close_given
        # The caller's own HTTP client, proxies and all, has no equal: it cannot be copied.
        http = type(getattr(client, "_client", None)).__name__
        self._can_copy = http == "AsyncHttpxClientWrapper"
        self._lock = threading.Lock()
        self._home: _Home | None = None
        self._by_loop = dict[asyncio.AbstractEventLoop, _Lent]()

    async def client(self) -> AsyncOpenAI:
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self._can_copy:
                return self._at_home(loop)
            known = self._by_loop.get(loop)
            known = known if known and known.pid == os.getpid() else None
            lent = known or self._lend(loop)
        if known is None:
            await anext(lent.keeper)
        return lent.client

    def close(self) -> None:
        """Closes what is ours on loops still running; the others closed theirs as they ended."""
        with self._lock:
            lent = list(self._by_loop.items())
        for loop, (client, _, pid) in lent:
            if pid == os.getpid():
                close_on(loop, client)
        if self._close_given:
            self._close_the_given()

    def _lend(self, loop: asyncio.AbstractEventLoop) -> "_Lent":
        # Weak keys would not do: a client's connections hold on to the loop they belong to. Loops
        # from before a fork are kept: what their end would undo here is undone in the parent too.
        for closed in [one for one in self._by_loop if one.is_closed()]:
            del self._by_loop[closed]
        client = self._given.copy(http_client=openai.DefaultAsyncHttpxClient())
        self._by_loop[loop] = _Lent(client, _keeper(client), os.getpid())
        return self._by_loop[loop]

    def _at_home(self, loop: asyncio.AbstractEventLoop) -> AsyncOpenAI:
        if self._home is None:
            self._home = _Home(weakref.ref(loop), os.getpid())
        if self._home != (weakref.ref(loop), os.getpid()):
            raise JudgeRejected(
                "This AsyncOpenAI carries its own http_client, which belongs to one event loop.",
                hint="Pass a blocking client beside it for `check`, or leave its http_client out.",
            )
        return self._given

    def _close_the_given(self) -> None:
        if self._home is None:
            # No connection of it is known to us, so one loop is as good as another.
            loop = _here() or shared_loop.loop()
        else:
            found = self._home.loop() if self._home.pid == os.getpid() else None
            if found is None:
                return
            loop = found
        with suppress(RuntimeError):  # Its owner's connections, on a loop that has ended.
            close_on(loop, self._given)


class _Lent(NamedTuple):
    client: AsyncOpenAI
    keeper: AsyncGenerator[None]
    pid: int


class _Home(NamedTuple):
    loop: weakref.ref[asyncio.AbstractEventLoop]
    pid: int


async def _keeper(client: AsyncOpenAI) -> AsyncGenerator[None]:
    """Waits for its event loop to end: asyncio closes asynchronous generators before that."""
    try:
        yield
    finally:
        await client.close()


_closing = set[asyncio.Task[None]]()


def close_on(loop: asyncio.AbstractEventLoop, client: AsyncOpenAI) -> None:
    """Closes a client on its loop; waits for that, unless it is the loop we are on."""
    if loop is _here():
        task = loop.create_task(client.close())
        _closing.add(task)  # A loop holds its tasks but weakly.
        task.add_done_callback(_closing.discard)
    elif loop.is_running():
        with suppress(TimeoutError):  # A busy loop closes it once it finds the time.
            asyncio.run_coroutine_threadsafe(client.close(), loop).result(_CLOSE_SECONDS)


def _here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _require_clients(client: object, async_client: object) -> None:
    if not isinstance(client, OpenAI | AsyncOpenAI):
        raise ConfigError(
            f"{type(client).__name__} is not a client of the openai package.",
            hint="Pass openai.OpenAI(base_url=…) or AsyncOpenAI; most servers speak its protocol.",
        )
    if async_client is not None and not isinstance(async_client, AsyncOpenAI):
        raise ConfigError(
            f"async_client is {type(async_client).__name__}, not openai.AsyncOpenAI.",
        )
