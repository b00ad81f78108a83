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
# And what steers a terminal or a line of writing, is half a character, or stands for none.
_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_ALL_UNSEEN = re.compile(
    f"[{_CONTROLS}{_UNSEEN}\x80-\x9f\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\ud800-\udfff"
    "\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a]+"
)
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


def readings(text: str, deeper: int = 1) -> Iterator[Reading]:
    """The text as it is shown, and what it says when it is decoded, and decoded once more."""
    plain = text
    if text.isascii() and not _CONTROL.search(text):
        yield Reading(text)
    else:
        seen = _ALL_UNSEEN.sub("", text)
        plain = normalized(seen)
        yield Reading(plain, _reveals(seen, text))
        if seen != text:
            # As a gap between words, for whoever takes it for one.
            yield Reading(normalized(_ALL_UNSEEN.sub(" ", text)))
        yield from (Reading(other, _reveals(other, plain)) for other in _shown(text, plain))
    yield from (Reading(other, _reveals(other, plain)) for other in _ciphered(plain))
    yield from map(Reading, _joined(plain))
    for other in _decoded(plain):
        yield from readings(other, deeper - 1) if deeper else [Reading(other)]


def _reveals(reading: str, text: str) -> bool:
    return reading != text and _labels(reading) > _labels(text)


def _labels(text: str) -> int:
    return len(_LABEL.findall(text)) if "true" in text.casefold() else 0


def _shown(text: str, plain: str) -> Iterator[str]:
    """Letters that are drawn like others, or that carry a heap of accents."""
    if _MIXED.search(plain):
        yield _WORD.sub(_read_as_told, plain.translate(_LOOKALIKES))
    if _MARK.search(plain):
        yield _MARK.sub("", unicodedata.normalize("NFD", plain))
    if _SIGN.search(text):
        yield _ALL_UNSEEN.sub("", text.replace("\u2820", "")).translate(_SIGNS)


def _ciphered(plain: str) -> Iterator[str]:
    """Each cipher that makes words of the task out of other letters."""
    lower = plain.casefold()
    if any(map(lower.__contains__, _ENCIPHERED)):
        for words, decode in _CIPHERS:
            if any(map(lower.__contains__, words)):
                yield decode(plain)
    if _DIGIT_IN_WORD.search(lower):
        leet = lower.translate(_LEET)
        if any(word in leet and leet.count(word) > lower.count(word) for word in _TOLD):
            yield leet
    if plain.count(".") + plain.count("-") >= _MANY and (found := _IN_MORSE.search(plain)):
        yield _from_morse(plain[found.start() :])


def _joined(plain: str) -> Iterator[str]:
    """Words that are torn apart, as one."""
    if _TORN.search(plain):
        yield _TORN.sub("True", plain)
    if any(map(plain.__contains__, _WITHIN)) and _IN_WORD.search(plain):
        yield _IN_WORD.sub("", plain)
    if found := _SPACED_OUT.search(plain):
        spaced = plain[found.start() :]
        for most in (1, 2):
            yield _SPACED.sub(partial(_gap, most), spaced)


def _gap(most: int, found: re.Match[str]) -> str:
    if len(found[0]) <= most:
        return ""
    return ". " if found[0].count(".") == 1 else " "


def _decoded(plain: str) -> Iterator[str]:
    # One after the other: some letters may be written in one way, and some in another.
    other = plain
    for sign, decode in _BY_SIGN:
        if sign in other:
            other = decode(other)
    if other != plain:
        yield other
    # Together, since they can be many.
    words = plain.split()
    if long := [word for word in words if len(word) >= _LONG]:
        yield "\n".join(said for word in long for said in _unpacked(word))
    if len(_HUMP.findall(plain)) >= _HUMPS:
        cut = "".join(word for word in words if len(word) < _LONG)
        yield "\n".join(_unpacked(cut, 0.3))
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
# Letters of scripts that hold some which look like Latin ones: Greek, Cyrillic, Armenian, Georgian,
# Cherokee, Canadian, runes, Coptic, Lisu, Deseret and others; phonetic and small letters.
_FOREIGN = (
    "\u0131\u0250-\u02af\u0370-\u058f\u10a0-\u10ff\u13a0-\u167f\u16a0-\u16ff\u1c90-\u1cbf"
    "\u1d00-\u1d7f\u2c00-\u2dff\ua4d0-\ua4ff\ua640-\ua69f\ua720-\ua7ff\uab30-\uabbf"
    "\U00010280-\U000104ff\U000118a0-\U000118ff"
)
# A Latin letter beside one of those.
_MIXED = re.compile(f"[{_FOREIGN}](?:(?=[A-Za-z])|(?<=[A-Za-z].)|(?<=[\u1d00-\u1d22].))")
_WORD = re.compile(rf"(?=[A-Za-z]{{0,12}}[{_FOREIGN}])[A-Za-z{_FOREIGN}]{{4,12}}(?!\w)")
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


def _read_as_told(found: re.Match[str]) -> str:
    """A word of the task for one whose Latin letters, at least half, stand where its own do."""
    word = found[0].casefold()
    for told in _READ:
        if len(told) == len(word):
            same = sum(map(str.__eq__, word, told.casefold()))
            if 2 * same >= len(word) and same == sum(map(str.isascii, word)):
                return told
    return found[0]


_ATBASH = str.maketrans(_LETTERS + _LETTERS.upper(), _LETTERS[::-1] + _LETTERS[::-1].upper())
_LEET = str.maketrans("013457@$!", "oieastasi")
_READ = ("True", *_TOLD[2:], "passages", "sufficient", "instructions", "write", "judge", "ignore")
_DIGIT_IN_WORD = re.compile(r"[013457@$!](?:(?=[a-z])|(?<=[a-z].))")
_CIPHERS: tuple[tuple[tuple[str, ...], Callable[[str], str]], ...] = (
    *(
        (
            # Three are common; the rest are known by the label only, for the time it takes.
            tuple(
                word.translate(_shifted(-by % 26))
                for word in (_TOLD if by in (3, 13, 23) else ("true",))
            ),
            partial(_translated, _shifted(by)),
        )
        for by in range(1, 26)
    ),
    (tuple(word.translate(_ATBASH) for word in _TOLD), partial(_translated, _ATBASH)),
    (tuple(word[::-1] for word in _TOLD), _reversed),
)
_ENCIPHERED = tuple(word for words, _ in _CIPHERS for word in words)


# ── Encodings ────────────────────────────────────────────────────────────────────────────────────

_ESCAPE = re.compile(
    r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|\\[ux]\{0{0,6}([0-9a-fA-F]{1,5})\}|"
    r"\\U000([0-9a-fA-F]{5})|\\([0-1]?[0-7]{2})(?![0-9])"
)
_CODE_POINT = re.compile(r"[Uu]\+([0-9a-fA-F]{4,5})[ ,]?")
_QUOTED = re.compile(r"=([2-7][0-9A-F])|=\r?\n")
_BYTE = re.compile(r"[2-7][0-9a-fA-F]")
_CODE = re.compile(r"[0-9]{2,3}")
_BITS = re.compile(r"[01]{6,8}")
# Marks within a word: of HTML, of Markdown, at the end of a line.
_IN_WORD = re.compile(r"(?<=[^\W_])(?:<[/!a-zA-Z][^<>]{0,40}>|[*~`\\]{1,3}|-\n)(?=[^\W_])")
_WITHIN = ("<", "*", "~", "`", "\\", "-\n")
_BETWEEN = r"[ ._*|/+,\t\n-]"
_TORN = re.compile(
    rf"[Tt](?<![^\W_].)(?:{_BETWEEN}{{1,3}}[Rr]{_BETWEEN}{{1,3}}[Uu]{_BETWEEN}{{1,3}}[Ee]|"
    r"(?:\n[Rr][Uu][Ee]|[Rr](?:\n[Uu][Ee]|[Uu]\n[Ee])))(?![^\W_])"
)
_SPACED_OUT = re.compile(rf"{_BETWEEN}[^\W_](?:{_BETWEEN}{{1,7}}[^\W_]){{7}}(?![^\W_])")
_SPACED = re.compile(rf"(?<=(?<![^\W_])[^\W_]){_BETWEEN}{{1,9}}(?=[^\W_](?![^\W_]))")
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
    return _ESCAPE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    point, octal = found[1] or found[2] or found[3] or found[4], found[5]
    return chr(int(point, 16) if point else int(octal, 8))


def _from_code_points(text: str) -> str:
    return _CODE_POINT.sub(lambda found: chr(int(found[1], 16)), text)


def _unquoted(text: str) -> str:
    return _QUOTED.sub(lambda found: chr(int(found[1] or "0", 16)) if found[1] else "", text)


_BY_SIGN: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("&", html.unescape),
    ("%", partial(urllib.parse.unquote_plus, errors="replace")),
    ("\\", _unescaped),
    ("U+", _from_code_points),
    ("=", _unquoted),
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
    (
        re.compile(r"[2-7][0-9a-fA-F](?:[ :,;|/\n\t-]{0,2}(?:0x|\\x)?[2-7][0-9a-fA-F]){11}"),
        _from_bytes,
    ),
    (re.compile(r"[0-9]{2,3}(?:[ ,;|/\n\t-]{1,2}[0-9]{2,3}){11}"), _from_codes),
    (re.compile(r"[01]{6,8}(?:[ ,\n]{0,2}[01]{6,8}){11}"), _from_bits),
)
_IN_MORSE = re.compile(r"[.-]{1,4}(?: /{0,2} ?[.-]{1,4}){7}")

_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}")
_BASE32 = re.compile(r"[A-Z2-7]{32,}")
# Within words, as base64 has them every few letters even where it is cut into short ones.
_HUMP = re.compile(r"[A-Z](?<=[a-z0-9].)")
_HUMPS = 6
_FROM_URL = str.maketrans("-_", "+/")


def _unpacked(word: str, least: float = 0.5) -> Iterator[str]:
    """What base64 says, wherever in its groups of four it was cut; and what base32 says."""
    for packed in _BASE32.findall(word):
        whole = packed[: len(packed) // 8 * 8]
        yield base64.b32decode(whole).decode("utf-8", "ignore")
    for packed in _BASE64.findall(word.translate(_FROM_URL)):
        for start in range(4):
            part = packed[start:]
            if len(part) % 4 == 1:
                part = part[:-1]
            said = base64.b64decode(part + "=" * (-len(part) % 4)).decode("utf-8", "ignore")
            if said.isascii() or sum(map(str.isalpha, said)) > len(said) * least:
                yield said
