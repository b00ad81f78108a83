"""Complaints: what pydantic found wrong, as a `ConfigError` that names the place and the remedy.

A text that does not fit is never repeated: it may be a secret that was put in the wrong place.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from guard._json import as_map
from guard._require import shown_number
from guard.config.deployment import AuditKeys, LabelTexts, MessageTexts, PriceKeys, Table
from guard.config.toml import dotted
from guard.errors import UNMEASURED_KINDS, ConfigError

Where = Callable[[Sequence[str]], str]
"""From a key's path in a deployment to the words that tell a person where it stands."""


def wrong(error: ValidationError, values: Mapping[str, object], where: Where) -> ConfigError:
    """The complaint about the first key of ``values`` that does not fit."""
    errors = error.errors()
    key = errors[0]["loc"][0]
    # Where a value may be a text or a table, the branch that got further is the one that was meant.
    about = [one for one in errors if one["loc"][0] == key]
    meant = max(about, key=lambda one: len(_followed(one, values)[0]))
    path, raw = _followed(meant, values)
    if meant["type"] == "extra_forbidden" or meant["loc"][-1] == "[key]":
        return _unknown_key(path, where)
    if meant["type"] == "user_in_address":
        told = meant.get("ctx", {})
        return ConfigError(f"{where(path)} {told['message']}", hint=told["hint"])
    problem = "is missing" if meant["type"] == "missing" else shown(raw)
    return ConfigError(
        f"{where(path)} {problem}.", hint=_remedy(*path[:2], quoted=_is_quoted(meant, raw))
    )


def _is_quoted(error: ErrorDetails, raw: object) -> bool:
    """Whether a text stands where a number, or true or false, must."""
    return isinstance(raw, str) and error["type"] in ("bool_type", "int_type", "float_type")


def unusable(place: str, kinds: Sequence[str], judge: str) -> ConfigError:
    """The complaint about a key that the judge it is set for can make nothing of."""
    *most, last = (f"{kind}:" for kind in kinds)
    listed = f"{', '.join(most)} and {last}" if most else last
    return ConfigError(
        f"{place} is for {listed}, not for {judge.partition(':')[0]}:.",
        hint="Take it away, or name a judge that can use it.",
    )


def contradicted(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    """The complaint about keys that are right one by one; ``origins`` says where each was set."""
    context = error.errors()[0].get("ctx", {})
    places = [origins.get(key, f"the default {key}") for key in context["keys"]]
    return ConfigError(
        f"{' and '.join(places)}: {context['message']}",
        hint=context["hint"] or _remedy(context["keys"][0]),
    )


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """A hint: the known name that was probably meant, and all that there are."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1, cutoff)
    listed = f"Known: {', '.join(map(dotted, names))}."
    return f"Did you mean `{dotted(near[0])}`? {listed}" if near else listed


def shown(value: object) -> str:
    """What a value is, in words; numbers are shown, texts are not: one may be a key."""
    if isinstance(value, bool):
        return f"is {str(value).lower()}"
    if isinstance(value, int | float):
        return f"is {shown_number(value)!s:.24}"
    names: Mapping[type, str] = {str: "a text that does not fit", list: "a list", dict: "a table"}
    return f"is {names.get(type(value)) or 'a ' + type(value).__name__}"


def _followed(error: ErrorDetails, values: Mapping[str, object]) -> tuple[list[str], object]:
    """The path of keys that an error points at, without pydantic's own steps, and what is there."""
    path, raw = list[str](), cast("object", values)
    for step in map(str, error["loc"]):
        if step in as_map(raw):
            path.append(step)
            raw = as_map(raw)[step]
    return (path + [str(error["loc"][-1])] if error["type"] == "missing" else path), raw


def _unknown_key(path: Sequence[str], where: Where) -> ConfigError:
    *above, key = path
    if key.replace("-", "_").casefold() in ("api_key", "apikey", "key", "token") and not above:
        hint = (
            "A key does not belong in a file. Put it into an environment variable "
            'and name that: api_key_env = "OPENAI_API_KEY".'
        )
    else:
        hint = nearest(key, _keys_of(above))
    return ConfigError(f"{where(path)} is an unknown key.", hint=hint)


def _keys_of(path: Sequence[str]) -> Iterable[str]:
    """The keys that a table may have."""
    known: Mapping[str, Iterable[str]] = {
        "labels": LabelTexts.model_fields,
        "messages": MessageTexts.model_fields,
        "price": PriceKeys.model_fields,
        "audit": AuditKeys.model_fields,
        "on_unmeasured": (*UNMEASURED_KINDS, "default"),
    }
    return known[path[0]] if path else Table.model_fields


def _remedy(key: str, part: str = "", *, quoted: bool = False) -> str:
    """What the key must be, or its part, where that has words of its own."""
    field = _TABLES[key].model_fields.get(part) if key in _TABLES else None
    words = field.description if field else None
    must = f"It must be {words or Table.model_fields[key].description}"
    return f"{must}; write it without quotes." if quoted else f"{must}."


_TABLES: Mapping[str, type[BaseModel]] = {"audit": AuditKeys}
