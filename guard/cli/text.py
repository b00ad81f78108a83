"""Text for a terminal: what others wrote, without what commands, hides or turns round."""

import unicodedata

# What turns writing round or cannot be seen, so that people would read other words than the judge:
# bidirectional controls, zero-width signs (joiners stay: Persian and emoji need them), tags.
_INVISIBLE = {
    *(0x061C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xE0000, 0xE0080),
}
_STAND_INS = {**dict.fromkeys(_INVISIBLE, "\ufffd"), 0x2028: "\n", 0x2029: "\n", 0x85: "\n"}


def plain(text: str) -> str:
    """``text`` as it may be shown: no control character, nothing that hides or turns round.

    Every end of a line becomes a line feed, a tab a space, and all else of that kind ``U+FFFD``.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").translate(_STAND_INS)
    return "".join(map(_harmless, lines))


def _harmless(character: str) -> str:
    if character in "\n\t":
        return " " if character == "\t" else character
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cs") else character


def one_line(text: str) -> str:
    """`plain` text with every run of white space made one space."""
    return " ".join(plain(text).split())
