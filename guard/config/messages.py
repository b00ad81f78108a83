"""The messages that a settled deployment describes: texts, and functions that return them."""

import importlib
import re
from collections.abc import Callable, Mapping
from typing import cast

from guard._json import as_map
from guard.errors import ConfigError
from guard.policy import Messages

_FUNCTION = re.compile(r"(?P<module>[A-Za-z_]\w*(\.\w+)*):(?P<name>[A-Za-z_]\w*)", re.ASCII)


def messages_of(texts: Mapping[str, object]) -> Messages:
    """The messages, with every ``package.module:function`` imported.

    Raises:
        ConfigError: a function cannot be imported, or is none.
    """
    make = cast("Callable[..., Messages]", Messages)
    return make(**{key: _message([key], text) for key, text in texts.items()})


def _message(path: list[str], text: object) -> object:
    if isinstance(text, str):
        named = _FUNCTION.fullmatch(text)
        return text if named is None else _function(".".join(path), **named.groupdict())
    return {lang: _message([*path, lang], one) for lang, one in as_map(text).items()}


def _function(place: str, module: str, name: str) -> object:
    try:
        found: object = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _cannot(place, f"its module needs {error.name}") from error
        # `from None`: the name is not repeated, since it may be a secret in the wrong place.
        raise _cannot(place, "there is no such module") from None
    except Exception as error:
        raise _cannot(place, f"importing its module fails ({type(error).__name__})") from error
    if not callable(found):
        raise _cannot(place, "its module has no such function")
    return found


def _cannot(place: str, why: str) -> ConfigError:
    return ConfigError(
        f"{place} names a function that cannot be used: {why}.",
        hint="Write it as package.module:function, of a module that Python finds here; or a text "
        "with a space in it.",
    )
