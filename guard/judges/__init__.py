"""Judges: what measures whether contexts suffice, by name or by class.

Nothing heavy is imported before a judge is made.
"""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable
from urllib.parse import urlsplit

from guard.errors import ConfigError
from guard.judge import Judge
from guard.posterior import DEFAULT_SAMPLES as DEFAULT_SAMPLES
from guard.prompt import DEFAULT_PROMPT, Prompt

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from guard.judges.chat import ChatJudge
    from guard.judges.decisions import DecisionsJudge
    from guard.judges.embedded import EmbeddedJudge
    from guard.judges.gguf import GgufJudge
    from guard.judges.sampled import SampledJudge
    from guard.judges.several import Chain, Link, Mean
    from guard.judges.system_one import SystemOneJudge

C = TypeVar("C")

__all__ = [
    "Chain",
    "ChatJudge",
    "DecisionsJudge",
    "EmbeddedJudge",
    "GgufJudge",
    "JudgeOptions",
    "Link",
    "Mean",
    "MissingKey",
    "SampledJudge",
    "SystemOneJudge",
    "close",
    "find_key",
    "from_name",
]

# Where each class is; nothing of it is imported before it is asked for.
_HOMES = {
    "Chain": "several",
    "ChatJudge": "chat",
    "DecisionsJudge": "decisions",
    "EmbeddedJudge": "embedded",
    "GgufJudge": "gguf",
    "Link": "several",
    "Mean": "several",
    "SampledJudge": "sampled",
    "SystemOneJudge": "system_one",
}

ENTRY_POINTS = "guard.judges"
"""Entry-point group: a name there maps to ``make_judge(argument: str, options: JudgeOptions)``."""

KNOWN = (
    "openai:MODEL",
    "azure:DEPLOYMENT",
    "decisions:MODEL",
    "systemone:MODEL",
    "samples:MODEL",
    "gguf:PATH",
    "embedded",
    "embedded:PATH",
)
"""What `from_name` knows without help, and what goes behind the colon."""

NO_USER = (
    "Take away what stands before the @. A key goes into a variable, and api_key_env names that "
    'variable: api_key_env = "OPENAI_API_KEY".'
)
"""What to do about an address with a user name, and perhaps a key, in it."""

# Endpoints that the judges themselves choose below an address.
_PATHS = ("/chat/completions", "/completions", "/responses")


class MissingKey(ConfigError):
    """No key is given for an endpoint that is not on this machine."""


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """What `from_name` was given beside the name; a judge uses what concerns it."""

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    model_family: str | None = None
    prompt: Prompt = DEFAULT_PROMPT
    min_mass: float = 0.5
    api_version: str | None = None
    samples: int = DEFAULT_SAMPLES
    ask_underspecified: bool = False
    both_orders: bool = False


def from_name(
    name: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    model_family: str | None = None,
    prompt: Prompt = DEFAULT_PROMPT,
    min_mass: float = 0.5,
    api_version: str | None = None,
    samples: int = DEFAULT_SAMPLES,
    ask_underspecified: bool = False,
    both_orders: bool = False,
) -> Judge:
    """The judge that a name stands for.

    Args:
        name: ``openai:MODEL`` (logprobs of any OpenAI-compatible endpoint), ``azure:DEPLOYMENT``,
            ``decisions:MODEL``, ``systemone:MODEL``, ``samples:MODEL`` (no logprobs needed, many
            requests), ``gguf:PATH``, ``embedded`` (or ``embedded:PATH``, the folder of another
            model), ``scripted:P`` (always P, for trying things), or the name of an entry point.
        base_url: the endpoint; else OPENAI_BASE_URL (Azure: AZURE_OPENAI_ENDPOINT), else OpenAI's
            own. For ``systemone`` there is no default; an address that ends in ``/systemone`` or
            ``/decisions`` is taken as it is.
        api_key: the key; else OPENAI_API_KEY (Azure: AZURE_OPENAI_API_KEY). Servers on this machine
            need none.
        model_family: the model behind a name that does not tell, such as an Azure deployment's.
        prompt: the words put to the judge.
        min_mass: probability in [0, 1] that must go to the two labels together.
        api_version: Azure's; else OPENAI_API_VERSION.
        samples: answers per query, for ``samples:``.
        ask_underspecified: for ``decisions:`` and ``systemone:``, whether the same request asks if
            the question itself is under-specified.
        both_orders: for ``openai:`` and ``azure:``, whether to ask twice, with the labels in both
            orders, and take the mean in log-odds.

    Raises:
        ConfigError: unknown name, missing key (`MissingKey`), missing file, an address that is not
            that of an API, or an extra that is not installed.
    """
    kind, colon, argument = name.partition(":")
    options = JudgeOptions(
        base_url=base_url,
        api_key=api_key,
        model_family=model_family,
        prompt=prompt,
        min_mass=min_mass,
        api_version=api_version,
        samples=samples,
        ask_underspecified=ask_underspecified,
        both_orders=both_orders,
    )
    if kind == "embedded" and colon:
        _require_argument(kind, "PATH", argument)  # Else it is the model that comes with us.
    # A plug-in is handed all options; a script has no order of labels.
    if both_orders and kind in _MAKERS and kind not in ("openai", "azure", "scripted"):
        raise ConfigError(
            f"both_orders is for openai: and azure:, not for {kind}:.", hint="Take it away."
        )
    maker = _MAKERS.get(kind) or _plugged_in(kind)
    if maker is None:
        # A key written in the wrong place must not be repeated; a name is short and plain.
        shown = f" {kind!r}" if kind.isidentifier() and len(kind) <= 20 else ""
        raise ConfigError(f"Unknown judge{shown}.", hint=f"Known: {_names()}.")
    return maker(argument, options)


@runtime_checkable
class _Closable(Protocol):
    def close(self) -> object: ...


def close(judge: Judge) -> None:
    """Frees what a judge holds, if it holds anything."""
    if isinstance(judge, _Closable):
        judge.close()


def _client(options: JudgeOptions) -> "AsyncOpenAI":
    from openai import AsyncOpenAI

    # Asynchronous only: then a synchronous check can be cancelled at its deadline as well.
    key = find_key(options.api_key, options.base_url)
    return _made(
        AsyncOpenAI,
        api_key=key,
        base_url=options.base_url,
        max_retries=0,
        timeout=60.0,
    )


def _made(make: Callable[..., C], **arguments: object) -> C:
    try:
        return make(**arguments)
    except ConfigError:
        raise
    except Exception as error:  # InvalidURL, of a package that depends on openai's version.
        raise ConfigError(
            f"base_url is no address that an HTTP client takes ({type(error).__name__}).",
            hint='Write e.g. "http://127.0.0.1:8080/v1".',
        ) from None


def _openai(model: str, options: JudgeOptions) -> Judge:
    _require_argument("openai", "MODEL", model)
    _require_api(options.base_url)
    return _chat(_client(options), model, options)


def _azure(deployment: str, options: JudgeOptions) -> Judge:
    _require_argument("azure", "DEPLOYMENT", deployment)
    from openai import AsyncAzureOpenAI

    endpoint = _azure_setting(options.base_url, "AZURE_OPENAI_ENDPOINT", "base_url")
    _require_resource(endpoint)
    client = _made(
        AsyncAzureOpenAI,
        azure_endpoint=endpoint,
        api_key=_sendable(_azure_setting(options.api_key, "AZURE_OPENAI_API_KEY", "api_key_env")),
        api_version=_azure_setting(options.api_version, "OPENAI_API_VERSION", "api_version"),
        max_retries=0,
        timeout=60.0,
    )
    return _chat(client, deployment, options)


def _azure_setting(given: str | None, variable: str, key: str) -> str:
    value = given or os.environ.get(variable)
    if not value:
        raise ConfigError(f"Azure needs {key}.", hint=f"Set {key} in guard.toml, or {variable}.")
    return value


def _chat(client: "AsyncOpenAI", model: str, options: JudgeOptions) -> Judge:
    from guard.judges.chat import ChatJudge

    judge = ChatJudge(
        client,
        model=model,
        model_family=options.model_family,
        prompt=options.prompt,
        min_mass=options.min_mass,
        close_clients=True,
    )
    if not options.both_orders:
        return judge
    from guard.judges.several import Mean

    return Mean([judge, judge.with_prompt(options.prompt.swapped())])


def _decisions(model: str, options: JudgeOptions) -> Judge:
    _require_argument("decisions", "MODEL", model)
    from guard.judges.decisions import DecisionsJudge

    return DecisionsJudge(
        _client(options),
        model=model,
        ask_underspecified=options.ask_underspecified,
        prompt=options.prompt,
        close_clients=True,
    )


def _systemone(model: str, options: JudgeOptions) -> Judge:
    _require_argument("systemone", "MODEL", model)
    address = options.base_url or os.environ.get("OPENAI_BASE_URL")
    if not address:
        # No default: a key for OpenAI must not go to somebody else.
        raise ConfigError(
            "The judge 'systemone' lacks an address.",
            hint='Set base_url, e.g. "https://api.typesafe.ai/v1".',
        )
    from guard.judges.system_one import SystemOneJudge

    base_url, path = _split_path(address)
    return SystemOneJudge(
        _client(replace(options, base_url=base_url)),
        model=model,
        path=path,
        ask_underspecified=options.ask_underspecified,
        prompt=options.prompt,
        close_clients=True,
    )


def _split_path(address: str) -> tuple[str, str]:
    """The address of an endpoint and the path below it, where the address names it."""
    above, _, last = address.rstrip("/").rpartition("/")
    return (above, f"/{last}") if last in ("systemone", "decisions") else (address, "/systemone")


def _samples(model: str, options: JudgeOptions) -> Judge:
    _require_argument("samples", "MODEL", model)
    _require_api(options.base_url)
    from guard.judges.sampled import SampledJudge

    return SampledJudge(
        _client(options),
        model=model,
        samples=options.samples,
        model_family=options.model_family,
        prompt=options.prompt,
        min_mass=options.min_mass,
        close_clients=True,
    )


def _require_argument(kind: str, what: str, argument: str) -> None:
    if not argument:
        raise ConfigError(
            f"The judge {kind!r} lacks a {what.lower()}.", hint=f"Write {kind}:{what}."
        )


def find_key(api_key: str | None, base_url: str | None) -> str:
    """The key for an endpoint: the given one, OPENAI_API_KEY, or a dummy for this machine.

    Raises:
        ConfigError: there is none, and the endpoint is not on this machine (`MissingKey`); or the
            address is wrong.
    """
    address = _address(base_url)
    host = "api.openai.com" if address is None else _host(address)
    if key := api_key or os.environ.get("OPENAI_API_KEY"):
        return _sendable(key)
    if host in ("localhost", "::1") or host.startswith("127."):
        return "none-needed"
    raise MissingKey(
        f"No key for {host}.",
        hint="Set OPENAI_API_KEY, or api_key_env in guard.toml; for a local server set base_url.",
    )


def _sendable(key: str) -> str:
    if not key.isascii() or not key.isprintable():
        raise ConfigError(
            "The key holds a character that no key has.",
            hint="Copy it again: it may have caught a line break or a typographic sign.",
        )
    return key


def _address(base_url: str | None) -> str | None:
    return base_url if base_url is not None else os.environ.get("OPENAI_BASE_URL")


def _host(address: str, variable: str = "OPENAI_BASE_URL") -> str:
    try:
        parts = urlsplit(address)
        named = parts.scheme in ("http", "https") and parts.port != 0
        host = parts.hostname if named else None
    except ValueError:
        host = None  # A port out of range, an unfinished [IPv6] address.
    if not host:
        raise ConfigError(
            f"base_url (or {variable}) is not an address.",
            hint='Write e.g. "http://127.0.0.1:8080/v1".',
        )
    if "@" in urlsplit(address).netloc:
        # It would go wherever the address goes: into records, logs and error messages.
        raise ConfigError(f"base_url (or {variable}) holds a user name.", hint=NO_USER)
    return host


def _require_api(base_url: str | None) -> None:
    """Raises where an address is that of one endpoint, and not the one above all of them."""
    address = _address(base_url)
    if address is not None and (end := _end(address, _PATHS)):
        raise ConfigError(
            f"base_url (or OPENAI_BASE_URL) ends in {end}.",
            hint=f"Remove {end}: the address above it is wanted, which mostly ends in /v1.",
        )


def _require_resource(endpoint: str) -> None:
    """Raises where an address is not an Azure resource's own; the SDK adds all paths below it."""
    if end := _end(endpoint, (*_PATHS, "/openai/v1", "/openai"), "AZURE_OPENAI_ENDPOINT"):
        raise ConfigError(
            f"base_url (or AZURE_OPENAI_ENDPOINT) ends in {end}.",
            hint=f"Remove {end}: the resource's own address is wanted, "
            'e.g. "https://NAME.openai.azure.com".',
        )


def _end(address: str, ends: Iterable[str], variable: str = "OPENAI_BASE_URL") -> str | None:
    """Which of these the address ends in, the first that fits."""
    _host(address, variable)
    path = urlsplit(address).path.rstrip("/").casefold()
    return next((end for end in ends if path.endswith(end)), None)


def _gguf(path: str, options: JudgeOptions) -> Judge:
    _require_argument("gguf", "PATH", path)
    from guard.judges.gguf import GgufJudge

    return GgufJudge(os.path.expanduser(path), prompt=options.prompt, min_mass=options.min_mass)


def _embedded(folder: str, options: JudgeOptions) -> Judge:
    from guard.judges.embedded import EmbeddedJudge

    return EmbeddedJudge(os.path.expanduser(folder) if folder else None)


def _scripted(argument: str, options: JudgeOptions) -> Judge:
    from guard.judges.scripted import ScriptedJudge

    try:
        probability = float(argument)
    except ValueError:
        probability = math.nan
    if not 0 <= probability <= 1:
        raise ConfigError(
            "The judge 'scripted' lacks a probability in [0, 1].", hint="Write e.g. scripted:0.9."
        )
    # Each probability is a judge of its own: what is kept of one must not pass for another's.
    return ScriptedJudge(probability, name=repr(probability))


_MAKERS: dict[str, Callable[[str, JudgeOptions], Judge]] = {
    "openai": _openai,
    "azure": _azure,
    "decisions": _decisions,
    "systemone": _systemone,
    "samples": _samples,
    "gguf": _gguf,
    "embedded": _embedded,
    "scripted": _scripted,
}


def _plugged_in(kind: str) -> Callable[[str, JudgeOptions], Judge] | None:
    found = entry_points(group=ENTRY_POINTS, name=kind)
    for entry in found:
        maker: Callable[[str, JudgeOptions], Judge] = entry.load()
        return maker
    return None


def _names() -> str:
    plugged = sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})
    return ", ".join([*KNOWN, "scripted:P", *plugged])


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found
