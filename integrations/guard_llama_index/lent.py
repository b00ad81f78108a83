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
from llama_index.core.llms.structured_llm import StructuredLLM

from guard import ConfigError
from guard.loop import shared_loop

W = TypeVar("W")

_AWAITED = ("achat", "astream_chat", "acomplete", "astream_complete")

_lock = threading.Lock()
# Of the shared loop, by process and model, which is dropped from here as soon as it is gone.
clients_by_model = dict[tuple[int, int], Any]()


def lent(writer: W) -> W:
    """A copy of LlamaIndex's own engine or synthesizer, for one answer on the shared loop.

    The copy's model has a client of its own there, made once for each model. ``writer`` itself
    where nothing is known of how it connects: it writes with code of the caller's own, which a copy
    may break; another kind of model; or an HTTP client of the caller's own, whose settings would be
    lost.
    """
    if not _writes_as_llama_index_does(type(writer)):
        return writer
    inner = getattr(writer, "_response_synthesizer", None)
    if inner is not None:
        own = lent(inner)
        return writer if own is inner else _copied(writer, _response_synthesizer=own)
    llm = getattr(writer, "_llm", None)
    own = _lent_model(llm)
    return writer if own is llm else _copied(writer, _llm=own)


def _lent_model(llm: object) -> object:
    if isinstance(llm, StructuredLLM):
        own = _lent_model(llm.llm)
        return llm if own is llm.llm else llm.model_copy(update={"llm": own})
    return _on_shared_loop(llm) if _pools(llm) else llm


def _writes_as_llama_index_does(kind: type) -> bool:
    methods = (getattr(kind, name, None) for name in ("asynthesize", "aget_response"))
    homes = [inspect.unwrap(method).__module__ for method in methods if method is not None]
    return bool(homes) and all(home.startswith("llama_index.") for home in homes)


def model_of(writer: object) -> LLM | None:
    """The model that a synthesizer, or the synthesizer of an engine, writes with."""
    llm = getattr(getattr(writer, "_response_synthesizer", writer), "_llm", None)
    return _plain(llm) if isinstance(llm, LLM) else None


def _plain(llm: LLM) -> LLM:
    """The model behind a structured one, which only asks it for an object."""
    return _plain(llm.llm) if isinstance(llm, StructuredLLM) else llm


def blocks(llm: LLM, *methods: str) -> list[str]:
    """Those of a model's asynchronous methods that block; of those that a writer uses, unless
    named."""
    llm = _plain(llm)
    # A chat model's chat methods serve it, another one's completions.
    needed = methods or (_AWAITED[:2] if llm.metadata.is_chat_model else _AWAITED[2:])
    return [name for name in needed if _method(type(llm), name) is _method(CustomLLM, name)]


def require_awaitable(writer: object) -> None:
    """Raises `ConfigError` where the model of ``writer`` blocks in its asynchronous methods.

    It would hold up the judge, and could not be cancelled. LlamaIndex's MockLLM has its answer
    ready, so that applications can be tested with it.
    """
    llm = model_of(writer)
    if llm is None or _says_at_once(type(llm)):
        return
    if blocking := blocks(llm):
        raise ConfigError(
            f"{type(llm).__name__} blocks in {' and '.join(blocking)}, as CustomLLM does: nothing"
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
    # The client goes with the model, which must outlive every stream of its copies.
    vars(own)["_lender"] = llm
    key = (os.getpid(), id(llm))
    with _lock:
        if key not in clients_by_model:
            clients_by_model[key] = _new_client(own)
            # Not at exit, when the loop may be gone; the sockets end with the process.
            weakref.finalize(llm, _drop, key).atexit = False
        own._aclient = clients_by_model[key]
    return own


def _new_client(llm: Any) -> Any:
    if llm._aclient is None:
        return llm._get_aclient()
    from openai import DefaultAsyncHttpxClient

    return llm._aclient.with_options(http_client=DefaultAsyncHttpxClient())


def _drop(key: tuple[int, int]) -> None:
    """The model is gone, and its connections with it."""
    client, loop = clients_by_model.pop(key, None), shared_loop.running
    # Called by the garbage collector, on any thread and at any place: it must neither wait nor take
    # a lock. Where no loop runs, nothing was connected.
    if client is not None and loop is not None and key[0] == os.getpid():
        asyncio.run_coroutine_threadsafe(client.close(), loop)
