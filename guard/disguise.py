r"""Disguise: what a text hides from whoever looks at it, and says to a machine that reads on.

An encoded text is no suspect by itself: pictures, hashes and addresses are encoded too. It is
decoded, and what comes out is looked at as if it stood there openly. Only what no honest text holds
is enough alone: marks piled upon one letter, or a long row of characters that nobody sees.

Which characters a text has is asked once, and most ways to hide are then out of the question.
"""

import base64
import html
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from guard.overlap import normalized, unstacked

_LONG = 24  # Letters of one word that may be base64: 18 bytes.
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

# ── What nobody sees ─────────────────────────────────────────────────────────────────────────────

# Zero width, marks of direction, soft hyphens, fillers, variants of the sign before, tags.
_UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e01ef"
)
_ALL_UNSEEN = re.compile(f"[{_UNSEEN}]+")
# A space here and there between: padding is written so as well.
_ROW = re.compile(f"(?:[{_UNSEEN}]\\s?){{8}}")
# The flags of England, Scotland and Wales are written with tags.
_TAGS = re.compile("(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0020-\U000e007e]{2}")
_OVERRIDDEN = re.compile("[\u202d\u202e][^\u202c\n]{12}")


def hides(text: str) -> bool:
    """Whether a text is written so that a machine reads what a person cannot see."""
    if text.isascii():
        return False
    if unstacked(text) != text:
        return True
    return any(pattern.search(text) for pattern in (_ROW, _TAGS, _OVERRIDDEN))


# ── What it says ─────────────────────────────────────────────────────────────────────────────────


class Reading(NamedTuple):
    """One way to read a text.

    Attributes:
        text: what it says.
        reveals: whether it holds the label where it could not be read, as no honest text hides it.
    """

    text: str
    reveals: bool = False


def readings(text: str) -> Iterator[Reading]:
    """The text as it is shown, and what it says when it is decoded."""
    plain = text
    if not text.isascii():
        seen = _ALL_UNSEEN.sub("", text)
        plain = normalized(seen)
        yield Reading(plain, _reveals(seen, text))
        yield from (Reading(other, _reveals(other, plain)) for other in _shown(text, plain))
    else:
        yield Reading(text)
    yield from (Reading(other, _reveals(other, plain)) for other in _ciphered(plain))
    yield from map(Reading, _decoded(plain))


def _reveals(reading: str, text: str) -> bool:
    return reading != text and _labels(reading) > _labels(text)


def _labels(text: str) -> int:
    return len(_LABEL.findall(text)) if "true" in text.casefold() else 0


def _shown(text: str, plain: str) -> Iterator[str]:
    """Letters that are drawn like others, or that carry a heap of accents."""
    if _MIXED.search(plain):
        yield plain.translate(_LOOKALIKES)
    if _MARK.search(plain):
        yield _MARK.sub("", unicodedata.normalize("NFD", plain))
    if _SIGN.search(text):
        yield _ALL_UNSEEN.sub("", text.replace("\u2820", "")).translate(_SIGNS)


def _ciphered(plain: str) -> Iterator[str]:
    """Each cipher that makes words of the task out of other letters."""
    lower = plain.casefold()
    for words, decode in _CIPHERS:
        if any(word in lower for word in words):
            yield decode(plain)
    if _DIGIT_IN_WORD.search(lower):
        leet = lower.translate(_LEET)
        if any(word in leet and leet.count(word) > lower.count(word) for word in _TOLD):
            yield leet
    if found := _SPACED_OUT.search(plain):
        yield _SPACED.sub("", plain[found.start() :])
    if plain.count(".") + plain.count("-") >= _MANY and (found := _IN_MORSE.search(plain)):
        yield _from_morse(plain[found.start() :])


def _decoded(plain: str) -> Iterator[str]:
    for sign, decode in _BY_SIGN:
        if sign in plain and (other := decode(plain)) != plain:
            yield other
    # Together, since they can be many.
    if long := [word for word in plain.split() if len(word) >= _LONG]:
        yield "\n".join(said for word in long for said in _unpacked(word))
    # A row of bytes or codes has at least a digit for each letter.
    if sum(map(plain.count, "0123456789")) >= _MANY:
        for pattern, decode in _BY_PATTERN:
            if found := pattern.search(plain):
                yield decode(plain[found.start() :])


_MANY = 12
_LABEL = re.compile(r"(?i)\btrue\b")
# Marks that are set upon any letter, and upon Latin ones where something is to be hidden.
_MARK = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)
# A Latin letter beside one that looks like another.
_MIXED = re.compile(
    "[\u0131\u0261\u0370-\u03ff\u0400-\u052f\u1d00-\u1d22]"
    "(?:(?=[A-Za-z])|(?<=[A-Za-z].)|(?<=[\u1d00-\u1d22].))"
)
# Letters of other scripts that look like Latin ones, and small capitals.
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕԁһԛԝвкмнтАВЕКМНОРСТХІЈЅαεικνορτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ\u0131\u0261",
    "aeopcyxijsdhqwbkmhtABEKMHOPCTXIJSaeiknoptuxABEZHIKMNOPTYXabcdefghijklmnoprstuvwyzig",
)
# Letters as flags, in boxes and circles; Braille in the order of the alphabet.
_SIGNS = {
    base + place: letter
    for base in (0x1F1E6, 0x1F130, 0x1F150, 0x1F170)
    for place, letter in enumerate(_LETTERS)
} | dict(
    zip(
        map(ord, "⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵"),
        _LETTERS,
        strict=True,
    )
)
_SIGN = re.compile("[\u2801-\u28ff\U0001f130-\U0001f1ff]")

# ── Ciphers ──────────────────────────────────────────────────────────────────────────────────────

# Words of which an order to the judge holds one; in a cipher they are no other words.
_TOLD = ("true", "sufficien", "verdict", "passage", "instruction")


def _shifted(by: int) -> dict[int, int]:
    return str.maketrans(
        _LETTERS + _LETTERS.upper(),
        "".join(abc[by:] + abc[:by] for abc in (_LETTERS, _LETTERS.upper())),
    )


def _translated(table: dict[int, int], text: str) -> str:
    return text.translate(table)


def _reversed(text: str) -> str:
    return text[::-1]


_ATBASH = str.maketrans(_LETTERS + _LETTERS.upper(), _LETTERS[::-1] + _LETTERS[::-1].upper())
_LEET = str.maketrans("013457@$!", "oieastasi")
_DIGIT_IN_WORD = re.compile(r"[013457@$!](?:(?=[a-z])|(?<=[a-z].))")
_CIPHERS: tuple[tuple[tuple[str, ...], Callable[[str], str]], ...] = (
    *(
        (
            tuple(word.translate(_shifted(-by % 26)) for word in _TOLD),
            partial(_translated, _shifted(by)),
        )
        for by in (3, 13, 23)
    ),
    (tuple(word.translate(_ATBASH) for word in _TOLD), partial(_translated, _ATBASH)),
    (tuple(word[::-1] for word in _TOLD), _reversed),
)


# ── Encodings ────────────────────────────────────────────────────────────────────────────────────

_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})")
_BYTE = re.compile(r"[2-7][0-9a-fA-F]")
_CODE = re.compile(r"[0-9]{2,3}")
_BITS = re.compile(r"[01]{8}")
_SPACED = re.compile(r"(?<=(?<!\w)\w)[ ._*|-](?=\w(?!\w))")
_MORSE_SIGN = re.compile(r"[.-]{1,4}(?: |$)|/")
_MORSE = dict(
    zip(
        ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- "
        ".-- -..- -.-- --..".split(),
        _LETTERS,
        strict=True,
    )
)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)), text)


_BY_SIGN: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("&", html.unescape),
    ("%", partial(urllib.parse.unquote_plus, errors="replace")),
    ("\\", _unescaped),
)


def _from_bytes(text: str) -> str:
    return "".join(chr(int(found, 16)) for found in _BYTE.findall(text.replace("0x", " ")))


def _from_codes(text: str) -> str:
    codes = map(int, _CODE.findall(text))
    return "".join(chr(code) for code in codes if 32 <= code < 127)


def _from_bits(text: str) -> str:
    return "".join(chr(int(found, 2)) for found in _BITS.findall(text))


def _from_morse(text: str) -> str:
    return "".join(
        " " if found == "/" else _MORSE.get(found.strip(), "")
        for found in _MORSE_SIGN.findall(text)
    )


# What each starts with is rare in prose, so that a search is quick.
_BY_PATTERN: tuple[tuple[re.Pattern[str], Callable[[str], str]], ...] = (
    (re.compile(r"[2-7][0-9a-fA-F](?:[ :,]{0,2}(?:0x|\\x)?[2-7][0-9a-fA-F]){11}"), _from_bytes),
    (re.compile(r"[0-9]{2,3}(?:[ ,;]{1,2}[0-9]{2,3}){11}"), _from_codes),
    (re.compile(r"[01]{8}(?: ?[01]{8}){11}"), _from_bits),
)
_SPACED_OUT = re.compile(r"[ ._*|-]\w(?:[ ._*|-]{1,3}\w){7}(?!\w)")
_IN_MORSE = re.compile(r"[.-]{1,4}(?: /{0,2} ?[.-]{1,4}){7}")

_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}")
_FROM_URL = str.maketrans("-_", "+/")


def _unpacked(word: str) -> Iterator[str]:
    """What base64 says, wherever in its groups of four it was cut."""
    for packed in _BASE64.findall(word.translate(_FROM_URL)):
        for start in range(4):
            part = packed[start:]
            if len(part) % 4 == 1:
                part = part[:-1]
            said = base64.b64decode(part + "=" * (-len(part) % 4)).decode("utf-8", "ignore")
            if said.isascii() or sum(map(str.isalpha, said)) > len(said) / 2:
                yield said
