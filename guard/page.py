"""A page: one self-contained HTML file that draws a report, and can do nothing else.

What others wrote (questions, passages, ids, names) is data in it, never markup. The page's own
policy (Content-Security-Policy) lets exactly one script and one style run, both by their hash, and
lets nothing be loaded, sent or framed.
"""

import base64
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import cast

from guard._json import as_list, as_map

MARK = "<!doctype html>\n<!-- A report of rag-guard. -->\n"
"""How every page begins, by which a file is known as one."""

_FIELD = re.compile(r"\{\{(\w+)\}\}")
_JSON_STAND_INS = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
_MARKS = 4  # On one letter; Hebrew and Vietnamese need three.
# What turns writing round, hides, or cannot be seen; joiners stay: Persian and emoji need them.
_UNSEEN = {
    *(0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180E, 0x200B, 0x200E, 0x200F),
    *(0x3164, 0xFEFF, 0xFFA0),
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFFF0, 0xFFFC),
    *range(0xE0000, 0xE1000),
}


def visible(text: str) -> str:
    """``text`` with every sign that hides or turns round as its number: ``[U+202E]``.

    So is a mark on a letter that has many: a hundred of them would cover the lines above. Line
    feeds and tabs stay; every other end of a line becomes a line feed.
    """
    seen = "".join(map(_seen, text.replace("\r\n", "\n").replace("\r", "\n")))
    return seen if seen.isascii() else _few_marks(seen)


def _few_marks(text: str) -> str:
    shown, marks = list[str](), 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        shown.append(f"[U+{ord(character):04X}]" if marks > _MARKS else character)
    return "".join(shown)


def _seen(character: str) -> str:
    if character in "\n\t":
        return character
    unseen = ord(character) in _UNSEEN or unicodedata.category(character) in ("Cc", "Cs")
    return f"[U+{ord(character):04X}]" if unseen else character


def rendered(title: str, data: Mapping[str, object], summary: str) -> str:
    """The whole file.

    Args:
        title: of the page, as text.
        data: what the script draws, JSON-ready; no text in it is trusted.
        summary: what is shown without JavaScript, as HTML: see `paragraphs` and `table`.
    """
    style, script = _part("page.css"), _part("page.js")
    values = {
        "policy": escape(_policy(style, script)),
        "title": escape(visible(title)),
        "style": style,
        "script": script,
        "data": embedded(data),
        "summary": summary,
    }
    # In one pass: what is put in is not searched for fields again.
    return MARK + _FIELD.sub(lambda field: values[field[1]], _part("page.html"))


def embedded(data: Mapping[str, object]) -> str:
    """JSON that ends no script element and begins no other, whatever texts it holds."""
    # Not in ASCII: a Chinese letter would take six bytes in place of three.
    text = json.dumps(_visible(data), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return "".join(_JSON_STAND_INS.get(character, character) for character in text)


def _visible(value: object) -> object:
    match value:
        case str():
            return visible(value)
        case Mapping():
            return {key: _visible(each) for key, each in as_map(cast("object", value)).items()}
        case list() | tuple():
            return [_visible(each) for each in as_list(cast("object", value))]
        case _:
            return value


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _part(name: str) -> str:
    # A checkout on Windows may have other ends of lines, which browsers turn into these.
    return (files("guard") / "data" / "report" / name).read_text("utf-8").replace("\r\n", "\n")


# ── Without JavaScript ───────────────────────────────────────────────────────────────────────────


def paragraphs(texts: Iterable[str]) -> str:
    """Each text as a paragraph."""
    return "".join(f"<p>{_escaped(text)}</p>\n" for text in texts)


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names its rows."""
    top = "".join(f'<th scope="col">{_escaped(head)}</th>' for head in heads)
    body = "".join(_row(heads, row) for row in rows)
    return (
        f'<table class="wide"><caption>{_escaped(caption)}</caption>\n'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"
    )


def _row(heads: Sequence[str], cells: Sequence[str]) -> str:
    rest = "".join(
        f'<td data-head="{escape(visible(head))}">{_escaped(cell)}</td>'
        for head, cell in zip(heads[1:], cells[1:], strict=True)
    )
    return f'<tr><th scope="row">{_escaped(cells[0])}</th>{rest}</tr>\n'


def _escaped(text: str) -> str:
    return f"<bdi>{escape(visible(text))}</bdi>"
