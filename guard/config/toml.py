"""TOML text: keys and values as they are written in a file, and as errors call them."""

import json
import re
from collections.abc import Mapping

from guard._json import as_map

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dotted(*keys: str) -> str:
    """A path of keys, e.g. ``deployment.bot.answer_at``."""
    return ".".join(key if _BARE_KEY.fullmatch(key) else _quoted(key) for key in keys)


def written(value: object) -> str:
    """A value as it stands behind ``key =``."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    if is_table(value):
        pairs = (f"{dotted(key)} = {written(item)}" for key, item in as_map(value).items())
        return f"{{ {', '.join(pairs)} }}"
    return repr(value)


def is_table(value: object) -> bool:
    """Whether a value is a table; its keys are read with `as_map`."""
    return isinstance(value, Mapping)


def _quoted(text: str) -> str:
    # A JSON string is a TOML one, but TOML wants DEL escaped as well.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
