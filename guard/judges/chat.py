"""The chat judge: reads the verdict from the logprobs of any OpenAI-shaped chat completion."""

from collections.abc import Mapping
from copy import copy

from openai import AsyncOpenAI, OpenAI

from guard._require import require_number
from guard.judges.client_judge import ClientJudge, Conversation, fingerprint_of
from guard.judges.connection import ClientConnection
from guard.judges.dialect import Dialect, Json, asked_of
from guard.judges.endpoint import account_of, endpoint_for
from guard.judges.negotiation import Body, json_fields, negotiate
from guard.prompt import DEFAULT_PROMPT, Prompt, Rendered
from guard.query import Query
from guard.reading import read_verdict
from guard.verdict import Verdict

_SIGNAL = "chat-logprobs"


class ChatJudge(ClientJudge):
    """Judges through a chat-completions endpoint that returns logprobs.

    OpenAI, Azure OpenAI, vLLM, SGLang, llama.cpp's server, Ollama (0.12.11 and newer), DeepSeek,
    OpenRouter and others. What the endpoint takes is learnt from its own error messages, once per
    address, model and key, and remembered by this process.

    Args:
        client: an ``openai`` client, synchronous or asynchronous; 2.x and 3.x both serve. A copy
            with the SDK's own retries switched off is used: the gate retries. Copies of an
            asynchronous one have connections of their own, unless it was given an
            ``http_client``: that serves on the first event loop that needs it, and on no other.
        model: the model's (or, at Azure, the deployment's) name.
        async_client: a second, asynchronous client for `ajudge`, beside a synchronous ``client``.
        model_family: the model behind a name that does not tell, e.g. ``"gpt-5.4-mini"``.
        prompt: the words put to the judge, with the labels.
        min_mass: probability in [0, 1] that must go to the two labels together.
        extra_body: fields to add to every request; they win over what was learnt.
        close_clients: whether `close` closes the given clients too, and not only the copies made
            here, which the end of their event loop closes as well.

    Raises:
        ConfigError: not an ``openai`` client, a blank ``model``, a ``min_mass`` out of range, or an
            ``extra_body`` that JSON cannot say.
    """

    def __init__(
        self,
        client: OpenAI | AsyncOpenAI,
        *,
        model: str,
        async_client: AsyncOpenAI | None = None,
        model_family: str | None = None,
        prompt: Prompt = DEFAULT_PROMPT,
        min_mass: float = 0.5,
        extra_body: Mapping[str, Json] | None = None,
        close_clients: bool = False,
    ) -> None:
        require_number("min_mass", min_mass, 0, 1)
        self._extra_body = json_fields(extra_body)
        super().__init__(
            ClientConnection(client, async_client, close_clients=close_clients),
            model=model,
            signal=_SIGNAL,
            parts=[model_family, prompt.fingerprint, min_mass, self._extra_body],
        )
        self.prompt = prompt
        self._family = model_family
        self._min_mass = min_mass
        self._account = account_of(client, self._extra_body)

    def with_prompt(self, prompt: Prompt) -> "ChatJudge":
        """This judge with other words, on the same connections; closing one closes both."""
        other = copy(self)
        other.prompt = prompt
        parts = [self._family, prompt.fingerprint, self._min_mass, self._extra_body]
        other.fingerprint = fingerprint_of(_SIGNAL, self.name, parts)
        return other

    def render(self, query: Query) -> Rendered:
        """The prompt for one query."""
        return self.prompt.render(query)

    def conversation(self, rendered: Rendered) -> Conversation:
        """One judgement: a request, and corrected ones where the endpoint turns it down."""
        endpoint = endpoint_for(self.connection.base_url, self.name, self._family, self._account)
        endpoint.require_voice()

        def write(dialect: Dialect) -> Body:
            return {**dialect.body(self.name, rendered.text), **self._extra_body}

        def read(answer: object, body: Body) -> Verdict:
            return read_verdict(
                answer,
                rendered,
                fingerprint=self.fingerprint,
                labels=self.prompt.labels,
                asked=asked_of(body),
                min_mass=self._min_mass,
            )

        return (yield from negotiate(endpoint, write, read, rendered))
