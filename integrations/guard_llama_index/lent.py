"""Lent: a writer as the shared loop may use it, with connections of its own there.

A pooled connection of asyncio belongs to one event loop. A model that answers both the caller's own
``await`` and, through the shared loop, his blocking calls would use connections across two loops.
"""

import asyncio
import copy
import inspect
import os
import threading
import weakref
from types import MethodType
from typing import Any, TypeVar

from llama_index.core.llms import LLM, CustomLLM
from llama_index.core.llms.mock import MockLLM

from guard import ConfigError
from guard.loop import shared_loop

W = TypeVar("W")

_AWAITED = ("achat", "astream_chat", "acomplete", "astream_complete")

_lock = threading.Lock()
# By process and model, which is dropped from here as soon as it is gone.
_clients = dict[tuple[int, int], Any]()


def lent(writer: W) -> W:
    """A copy of LlamaIndex's own engine or synthesizer, for one answer on the shared loop.

    The copy's model has a client of its own there, made once for each model. ``writer`` itself
    where nothing is known of how it connects: a class of the caller's own, which a copy may break;
    another kind of model; or an HTTP client of the caller's own, whose settings would be lost.
    """
    if not type(writer).__module__.startswith("llama_index."):
        return writer
    inner = getattr(writer, "_response_synthesizer", None)
    if inner is not None:
        return _copied(writer, _response_synthesizer=lent(inner))
    llm = model_of(writer)
    return writer if llm is None or not _pools(llm) else _copied(writer, _llm=_on_shared_loop(llm))


def model_of(writer: object) -> LLM | None:
    """The model that a synthesizer, or the synthesizer of an engine, writes with."""
    llm = getattr(getattr(writer, "_response_synthesizer", writer), "_llm", None)
    return llm if isinstance(llm, LLM) else None


def require_awaitable(writer: object) -> None:
    """Raises `ConfigError` where the model of ``writer`` blocks in its asynchronous methods.

    It would hold up the judge, and could not be cancelled. LlamaIndex's MockLLM has its answer
    ready, so that applications can be tested with it.
    """
    llm = model_of(writer)
    if llm is None or _says_at_once(type(llm)):
        return
    blocking = [name for name in _AWAITED if _method(type(llm), name) is _method(CustomLLM, name)]
    # A chat model's chat methods serve it, another one's completions; either pair is enough.
    needed = _AWAITED[:2] if llm.metadata.is_chat_model else _AWAITED[2:]
    if missing := [name for name in needed if name in blocking]:
        raise ConfigError(
            f"{type(llm).__name__} blocks in {' and '.join(missing)}, as CustomLLM does: nothing"
            " can be written while the judge decides.",
            hint='Use mode="before"; or give the model asynchronous methods that await.',
        )


def _says_at_once(kind: type[LLM]) -> bool:
    return issubclass(kind, MockLLM) and all(
        _method(kind, name) is _method(MockLLM, name) for name in ("complete", "stream_complete")
    )


def _method(kind: type, name: str) -> object:
    return inspect.unwrap(getattr(kind, name))  # LlamaIndex wraps methods for its tracers.


def _copied(writer: W, **parts: object) -> W:
    """``writer`` with other parts; what it bound to itself is bound to the copy."""
    own = copy.copy(writer)
    for name, value in list(vars(own).items()):
        if isinstance(value, MethodType) and value.__self__ is writer:
            setattr(own, name, MethodType(value.__func__, own))
    for name, part in parts.items():
        setattr(own, name, part)
    return own


def _pools(llm: Any) -> bool:
    """Whether a model keeps connections of the openai package, and has no HTTP client given."""
    if not getattr(llm, "reuse_client", False) or not hasattr(llm, "_get_aclient"):
        return False
    if getattr(llm, "_async_http_client", None) is not None:
        return False
    # Given whole, it may hold settings that the model does not know.
    return llm._aclient is None or _made_by_model(llm)


def _made_by_model(llm: Any) -> bool:
    """Whether the client is as the model itself would make it, and not one that it was given."""
    http = getattr(llm._aclient, "_client", None)
    return type(http).__name__ == "AsyncHttpxClientWrapper"  # openai's default, never a caller's.


def _on_shared_loop(llm: Any) -> Any:
    """The model as it is now, with its client of the shared loop."""
    own = llm.model_copy()
    key = (os.getpid(), id(llm))
    with _lock:
        if key not in _clients:
            if own._aclient is None:
                _clients[key] = own._get_aclient()
            else:
                from openai import DefaultAsyncHttpxClient

                _clients[key] = own._aclient.with_options(http_client=DefaultAsyncHttpxClient())
            # Not at exit, when the loop may be gone; the sockets end with the process.
            weakref.finalize(llm, _drop, key).atexit = False
        own._aclient = _clients[key]
    return own


def _drop(key: tuple[int, int]) -> None:
    """The model is gone, and its connections with it."""
    client = _clients.pop(key, None)
    if client is not None and key[0] == os.getpid():
        # Not waited for: the garbage collector may call this on any thread, the loop's too.
        asyncio.run_coroutine_threadsafe(client.close(), shared_loop.loop())
