"""A judge on the LLM that a LlamaIndex application already has."""

import asyncio
import inspect
import json
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, cast

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.llms import LLM, CustomLLM
from openai.resources.chat.completions import Completions
from pydantic import BaseModel

from guard import ConfigError, JudgeRejected, Prompt, Query, Unmeasured, Verdict, read_verdict
from guard.judges.client_judge import ClientJudge, Conversation
from guard.judges.connection import Connection, Post, close_on
from guard.judges.dialect import Dialect, asked_of, first_guess
from guard.judges.endpoint import Endpoint
from guard.judges.failures import unsendable
from guard.judges.negotiation import Body, negotiate
from guard.prompt import DEFAULT_PROMPT, Rendered

_MEASURING = (
    "Use llama_index.llms.openai.OpenAI, AzureOpenAI or OpenAILike(is_chat_model=True), "
    "or another judge beside this LLM, such as guard.judges.ChatJudge."
)
# What every OpenAI-shaped `chat` takes by name; all else has to travel in `extra_body`.
_NAMED = ("logprobs", "top_logprobs", "temperature", "max_tokens", "max_completion_tokens")
# The gate retries, and an LLM that retries as well would multiply that (by 12, as it comes). Its
# other two would beat what is passed with a call: an answer's length, and reasoning, under which
# no endpoint gives logprobs.
_NOT_FOR_VERDICTS = {"max_retries": 0, "max_tokens": None, "reasoning_effort": None}


class LlamaIndexJudge(ClientJudge):
    """Judges through ``chat`` and ``achat`` of a LlamaIndex LLM that gives logprobs.

        gate = Gate(LlamaIndexJudge(OpenAI(model="gpt-4.1-mini")), Policy(...))

    A copy of the LLM is used, without retries and without its own token limit and reasoning
    effort; its address, key, callbacks, ``additional_kwargs`` and (if it sets them) ``logprobs``
    and ``top_logprobs`` are kept. What its endpoint takes is learnt from error messages, as by
    `guard.judges.ChatJudge`. Clients that the LLM already has are shared, an asynchronous one with
    the event loop that it belongs to, and never closed; connections opened here end with their
    loop, or when the judge is closed.

    Args:
        llm: ``OpenAI``, ``AzureOpenAI``, ``OpenAILike(is_chat_model=True)``, or a class of your own
            whose ``chat`` takes OpenAI's parameters and puts the whole reply into ``raw``. What
            your class raises counts as a bug in it, unless it is an ``openai.OpenAIError`` or a
            ``JudgeError``; it must not retry on its own.
        model_family: the model behind a name that does not tell, e.g. ``"gpt-5.4-mini"``.
        prompt: the words put to the judge, with the labels.
        min_mass: probability in [0, 1] that must go to the two labels together.
        top_logprobs: alternatives to ask for at each token, 1 to 20; fewer where it is known that
            the endpoint gives fewer.

    Raises:
        ConfigError: ``llm`` is none, or one whose logprobs cannot be had; a number out of range.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        model_family: str | None = None,
        prompt: Prompt = DEFAULT_PROMPT,
        min_mass: float = 0.5,
        top_logprobs: int = 20,
    ) -> None:
        _require_measuring(llm)
        _require_within("min_mass", min_mass, 0, 1)
        _require_within("top_logprobs", top_logprobs, 1, 20)
        self.prompt, self._min_mass, self._set = prompt, min_mass, _set_by_caller(llm)
        connection = _LlmConnection(llm)
        super().__init__(
            connection,
            model=llm.metadata.model_name,
            signal="llama-index-logprobs",
            parts=[model_family, prompt.fingerprint, min_mass, top_logprobs, _plain(self._set)],
        )
        guess = first_guess(connection.base_url, self.name, model_family)
        k = min(top_logprobs, guess.top_logprobs)
        self._endpoint = Endpoint(replace(guess, top_logprobs=k))

    def render(self, query: Query) -> Rendered:
        """The prompt for one query."""
        return self.prompt.render(query)

    def conversation(self, rendered: Rendered) -> Conversation:
        """One judgement: a request, and corrected ones where the endpoint turns it down."""
        self._endpoint.require_voice()

        def write(dialect: Dialect) -> Body:
            return dialect.body(self.name, rendered.text)

        def read(answer: object, body: Body) -> Verdict:
            return read_verdict(
                answer,
                rendered,
                fingerprint=self.fingerprint,
                labels=self.prompt.labels,
                asked=asked_of({**body, **self._set}),
                min_mass=self._min_mass,
            )

        try:
            return (yield from negotiate(self._endpoint, write, read, rendered))
        except JudgeRejected as error:
            if error.status == 401:
                error.hint = "The key is missing or wrong: it is the LLM's own api_key."
            raise


class _LlmConnection(Connection):
    """Posts through an LLM instead of a client, so that its callbacks see the call."""

    def __init__(self, llm: LLM) -> None:
        super().__init__()
        self._llm = _for_verdicts(llm) if _speaks_openai(llm) else llm
        given = (getattr(self._llm, name, None) for name in ("_client", "_http_client"))
        self._shares_sync = self._llm is llm or any(client is not None for client in given)
        given = (getattr(self._llm, name, None) for name in ("_aclient", "_async_http_client"))
        self._shares_async = any(client is not None for client in given)
        self._by_loop = dict[asyncio.AbstractEventLoop, _Lent]()

    @property
    def blocks(self) -> bool:
        """It can block, and cannot be interrupted then."""
        return True

    @property
    def awaits(self) -> bool:
        """Whether ``achat`` awaits anything: what CustomLLM inherits blocks the event loop."""
        return inspect.unwrap(type(self._llm).achat) is not inspect.unwrap(CustomLLM.achat)

    @property
    def base_url(self) -> str:
        """The address of the endpoint; empty where the LLM names none."""
        return str(getattr(self._llm, "api_base", None) or "")

    def post(self, post: Post, end: float) -> list[object]:
        """The reply, as parsed JSON; as `Connection.post`."""
        with _reply_expected(self._llm.chat):
            response = self._llm.chat(_messages(post.body), **self._options(post.body, end))
            return [_body_of(response.raw)]

    async def apost(self, post: Post, end: float) -> list[object]:
        """As `post`, awaited."""
        llm = await self._on_this_loop()
        with _reply_expected(llm.achat):
            response = await llm.achat(_messages(post.body), **self._options(post.body, end))
            return [_body_of(response.raw)]

    def close(self) -> None:
        """Closes what was opened here; on a running loop it does not wait for that loop's own."""
        super().close()
        client = None if self._shares_sync else getattr(self._llm, "_client", None)
        if client is not None:
            client.close()
        for loop, (llm, _, pid) in list(self._by_loop.items()):
            client = getattr(llm, "_aclient", None)
            if client is not None and pid == os.getpid():
                close_on(loop, client)

    def _options(self, body: Body, end: float) -> dict[str, Any]:
        named = {name: body[name] for name in _NAMED if name in body}
        extra = {name: body[name] for name in body.keys() - {*_NAMED, "model", "messages"}}
        options = {**named, "extra_body": extra} if extra else named
        if _speaks_openai(self._llm):
            # A call left behind on its thread ends too; zero would mean "no time-out".
            options["timeout"] = max(0.001, end - time.monotonic())
        return options

    async def _on_this_loop(self) -> LLM:
        """The LLM with connections of this event loop: they cannot be used on another."""
        if self._shares_async or not _speaks_openai(self._llm):
            return self._llm  # Its connections are the caller's, and so is the choice of a loop.
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            for ended in [one for one in list(self._by_loop) if one.is_closed()]:
                self._by_loop.pop(ended, None)
            llm = self._llm.model_copy()
            self._by_loop[loop] = _Lent(llm, _keeper(llm), os.getpid())
            await anext(self._by_loop[loop].keeper)
        return self._by_loop[loop].llm


class _Lent(NamedTuple):
    llm: LLM
    keeper: AsyncGenerator[None]
    pid: int


@contextmanager
def _reply_expected(method: Callable[..., object]) -> Generator[None]:
    """Turns what LlamaIndex raises over a reply that is no completion into our error."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if not method.__module__.startswith("llama_index."):
            raise  # From the caller's own code: a bug in it, which must surface.
        if isinstance(error, UnicodeEncodeError):
            # Not the reply. The original holds the whole key: no traceback shows it.
            raise unsendable(error) from None
        why = f"LlamaIndex cannot read the judge's reply ({type(error).__name__})."
        hint = "A proxy may have answered in its place, or the reply was cut off."
        failure = Unmeasured(why, kind="malformed", hint=hint)
        failure.original = error
        raise failure from None  # No traceback shows what the endpoint said.


async def _keeper(llm: LLM) -> AsyncGenerator[None]:
    """Waits for its event loop to end: asyncio closes asynchronous generators before that."""
    try:
        yield
    finally:
        client = getattr(llm, "_aclient", None)
        if client is not None:
            await client.close()


def _for_verdicts(llm: LLM) -> LLM:
    """A copy that changes nothing for its owner, with the clients that it already had."""
    copied = llm.model_copy(update=_NOT_FOR_VERDICTS)
    for name in ("_client", "_aclient"):
        if (client := getattr(llm, name, None)) is not None:
            setattr(copied, name, client.with_options(max_retries=0))
    return copied


def _messages(body: Body) -> list[ChatMessage]:
    turns = cast("list[dict[str, str]]", body["messages"])
    return [ChatMessage(role=MessageRole.USER, content=turn["content"]) for turn in turns]


def _body_of(raw: object) -> object:
    """The whole reply. ``ChatResponse.logprobs`` lacks the sampled tokens and leaves some out."""
    if raw is None:
        raise Unmeasured("This LLM's responses have no `raw` to read from.", hint=_MEASURING)
    # A server's odd value is for the reading to judge, not for a warning of pydantic's.
    return raw.model_dump(warnings=False) if isinstance(raw, BaseModel) else raw


def _set_by_caller(llm: LLM) -> dict[str, object]:
    """Parameters of the LLM that beat those of a call."""
    if not _speaks_openai(llm):
        return {}
    names = ("logprobs", "top_logprobs") if getattr(llm, "logprobs", None) else ()
    return {name: getattr(llm, name) for name in names} | getattr(llm, "additional_kwargs", {})


def _plain(settings: Mapping[str, object]) -> str:
    """``settings`` as text, the same in every process; an object counts by its type alone."""
    return json.dumps(settings, sort_keys=True, default=lambda one: type(one).__name__)


# ── What can be a judge ──────────────────────────────────────────────────────────────────────────


def _speaks_openai(llm: LLM) -> bool:
    """Whether ``llm`` is LlamaIndex's OpenAI or derived from it; told by name, since the package
    that holds it may be absent."""
    return any(
        kind.__name__ == "OpenAI" and kind.__module__.startswith("llama_index.llms.openai.")
        for kind in type(llm).__mro__
    )


def _require_measuring(llm: object) -> None:
    name = type(llm).__name__
    if not isinstance(llm, LLM):
        raise ConfigError(f"{name} is not an LLM of LlamaIndex.", hint=_MEASURING)
    homes = [kind.__module__ for kind in type(llm).__mro__]
    if any(home.startswith("llama_index.llms.groq") for home in homes):
        raise ConfigError(f"{name}: Groq's endpoint refuses logprobs.", hint=_MEASURING)
    if _speaks_openai(llm):
        _require_settings(llm, name)
    elif homes[0].partition(".")[0] == "llama_index":
        raise ConfigError(f"LlamaIndex's {name} does not return logprobs.", hint=_MEASURING)


def _require_settings(llm: LLM, name: str) -> None:
    try:
        chats = llm.metadata.is_chat_model
    except ValueError as error:
        why = f"{name} does not know its model {getattr(llm, 'model', None)!r:.80}."
        hint = "Use OpenAILike(is_chat_model=True) of llama_index.llms.openai_like: it takes any."
        raise ConfigError(why, hint=hint) from error
    if not chats:
        why = f"{name} with is_chat_model=False does not chat, and completions lose logprobs."
        raise ConfigError(why, hint=_MEASURING)
    if getattr(llm, "logprobs", None) and not getattr(llm, "top_logprobs", 0):
        why = f"{name}(logprobs=True) without top_logprobs asks for no alternatives."
        raise ConfigError(why, hint="Leave logprobs out, or set top_logprobs=20 beside it.")
    taken = inspect.signature(Completions.create).parameters.keys() - {"messages", "stream"}
    if unknown := getattr(llm, "additional_kwargs", {}).keys() - taken:
        why = f"{name} cannot pass on additional_kwargs named {', '.join(sorted(unknown))}."
        raise ConfigError(why, hint='Put them into additional_kwargs={"extra_body": {…}}.')


def _require_within(name: str, value: object, low: int, high: int) -> None:
    kinds = int if high > 1 else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise ConfigError(
            f"`{name}` is {value!r:.40}; it must be a number from {low} to {high}.",
            hint=f"Leave {name} out for the default.",
        )
