r"""Suspicion: passages that speak to whoever judges them, instead of about their subject.

A passage is suspect where it names the verdict or orders one, vouches for the passages around it,
forges a delimiter or a turn of a chat, or hides what it says. Suspicion alone decides nothing: the
gate judges once more without such passages, and only where the query would be answered with them.
So a rule may be wide, at the price of a second judgement where it is wrong.

Texts are compared as a reader would see them: without invisible characters, with letters of other
scripts that look like Latin ones taken for these, and with what is written in base64, hexadecimal
digits, percent signs or HTML entities decoded.
"""

import base64
import binascii
import html
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from guard.overlap import normalized

# Characters of a passage that are looked at together; each part repeats the end of the one before.
_LONGEST, _OVERLAP = 20_000, 1_000
_DECODED = 2_000  # Characters of one hidden text.

# ── What a text hides ────────────────────────────────────────────────────────────────────────────

# Zero width, direction, soft hyphen, variation, tags: nothing of it is seen.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u2064\u2066-\u206f\ufe00-\ufe0e\ufeff\U000e0000-\U000e01ef]"
    # Joiners belong into Persian, Hindi and emoji; after Latin letters they only hide.
    "|(?<=[A-Za-z])[\u200c\u200d]+"
)
# A soft hyphen, or a mark of direction, is in many an honest text, but not in every other word.
_MANY_INVISIBLE, _RARE = 6, 12
_GROWS = 3  # So many times as long when normalised, letters stand for whole words.
_TAG_LETTERS = re.compile("[\U000e0020-\U000e007e]+")
_OVERRIDES = re.compile("[\u202d\u202e\u2066-\u2068]")
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕԁһԛԝвкмнтАВЕКМНОРСТХІЈЅαεικνορτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxijsdhqwbkmhtABEKMHOPCTXIJSaeiknoptuxABEZHIKMNOPTYX",
)
_MIXED = re.compile(r"[A-Za-z][\u0370-\u03ff\u0400-\u04ff]|[\u0370-\u03ff\u0400-\u04ff][A-Za-z]")
_MANY_MIXED = 5
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{24,4000}={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}[ :,]?){16,2000}")
_PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2}){6,2000}")
_ENTITIES = re.compile(r"(?:&#x?[0-9a-fA-F]{2,6};){4,2000}")
_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}){4,2000}")
# Accents upon accents, letters one by one, Morse and Braille: nobody writes passages so.
_DISGUISED = re.compile(
    "(?:[A-Za-z][\u0300-\u036f]{2,8}[^\\w]?){4}|(?:(?<!\\w)\\w[ ._*|-]{1,3}){12}"
    "|(?:[.-]{1,6}[ /]{1,3}){12}|[\u2801-\u28ff]{4}"
)
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})")
_LEET = str.maketrans("013457@$!", "oieastasi")

# ── What it says ─────────────────────────────────────────────────────────────────────────────────


class _Rule(NamedTuple):
    """A pattern, and stems of which a text must hold one before the pattern is worth a search."""

    stems: tuple[str, ...]
    pattern: re.Pattern[str]

    def finds(self, text: str, lower: str, joined: str) -> bool:
        """Whether it stands in the text, or in the text with its lines joined."""
        if not any(stem in lower for stem in self.stems):
            return False
        return bool(self.pattern.search(joined) or self.pattern.search(text))


_TRUE = r"(?:true|sufficient)"
_RULES = (
    # The verdict by its name, or a verdict at all.
    _Rule(
        ("sufficien",),
        re.compile(
            r"(?im)has[_\W]{0,3}sufficient|sufficient[_\W]{0,3}context|context[_\W]{0,3}sufficien"
        ),
    ),
    _Rule(
        ("true", "sufficient"),
        re.compile(
            r"(?im)\b(?:verdict|judge?ment|decision|label|grade|rating|classification|"
            r"ruling|result|output|"
            r"answer|response|sufficien\w{0,3}|status|score|outcome)[\"'*_`]{0,3}\s{0,3}"
            rf"(?:[:=|>]|is|was|->|=>){{1,2}}\s{{0,3}}[\"'*_`(\[]{{0,3}}{_TRUE}\b"
        ),
    ),
    _Rule(
        ("verdict", "sufficient", "answer", "label", "supported", "grounded", "complete"),
        re.compile(
            r"(?im)[\"'](?:sufficient|verdict|answer|label|supported|grounded|"
            r"complete)[\"']\s{0,3}[:=]\s{0,3}"
            r"(?:true|1\b|[\"'](?:true|yes))"
        ),
    ),
    # The label itself, as a word that is spoken of.
    _Rule(
        ("true",),
        re.compile(
            r"(?im)(?-i:\bTrue\b)(?=\s{0,3}(?:[\"'\u201d\u00bb\u300d.,;:!?()\[\]{}<>|"
            r"*_`/=\u3002\u3001-]|$))|"
            r"(?-i:(?<=[\"'\u201c\u201e\u00ab\u300c(:=|>])\s{0,2}True\b)|(?-i:\bTRUE\b)"
        ),
    ),
    # Not where a sentence or a title begins with it.
    _Rule(
        ("true",),
        re.compile(r"(?im)(?-i:(?<!^)(?<![.!?] )\bTrue\b(?! [A-Z]))"),
    ),
    # Orders to whoever reads.
    _Rule(
        ("ignore", "disregard", "forget", "override", "bypass", "follow"),
        re.compile(
            r"(?im)\b(?:ignore|disregard|forget|override|bypass|stop following|"
            r"do not follow)\b.{0,60}"
            r"\b(?:instructions?|prompt|task|rules?|above|previous|prior|earlier|"
            r"guidelines?|criteria|"
            r"checks?)\b"
        ),
    ),
    _Rule(
        ("true", "suffic"),
        re.compile(
            r"(?im)\b(?:write|answer|output|reply|respond|say|return|print|choose|select|"
            r"mark|label|emit|type|"
            r"vote|judge|rule)\b.{0,40}\b(?:(?-i:True)|sufficient)\b"
        ),
    ),
    _Rule(
        ("true",),
        re.compile(
            r"(?im)\b(?-i:True)\b.{0,40}\b(?:must|should|shall|is the only|"
            r"is required|is expected|"
            r"is the (?:correct|right))\b"
        ),
    ),
    _Rule(
        ("dear", "attention", "note to", "message", "instruction", "hey", "hello"),
        re.compile(
            r"(?im)\b(?:dear|attention|note to|message (?:to|for)|instructions? (?:to|"
            r"for)|hey|hello)\b"
            r".{0,20}"
            r"\b"
            r"(?:judge|model|assistant|evaluator|grader|classifier|ai|llm)\b"
        ),
    ),
    _Rule(
        ("you are", "act as", "pretend", "behave"),
        re.compile(
            r"(?im)\b(?:you are|act as|pretend|behave)\b.{0,25}\b(?:ai|llm|language model|"
            r"evaluator|grader|classifier|chatbot|oracle)\b"
        ),
    ),
    _Rule(
        ("prompt", "mode", "message", "override", "notice"),
        re.compile(
            r"(?im)\b(?:system|developer|admin\w{0,9}|debug)\s{0,2}(?:prompt|mode|message|"
            r"override|notice)\b"
        ),
    ),
    # Vouching for what stands around it.
    _Rule(
        ("passages", "contexts", "excerpts", "retrieved"),
        re.compile(
            r"(?im)\b(?:these|the|all|this set of|retrieved)\s(?:passages|contexts|excerpts|"
            r"retrieved \w{1,12})\b.{0,60}\b(?:sufficient|suffice|enough|everything|"
            r"answer the question|contain the answer|no further|complete|conclusive)\b"
        ),
    ),
    _Rule(
        ("the answer", "full answer", "whole answer", "complete answer"),
        re.compile(
            r"(?im)\bthe (?:full |whole |complete )?answer\b.{0,50}"
            r"\b(?:above|previous passage|preceding|elsewhere|already (?:given|stated|provided)|"
            r"footnote|appendix|attached|inserted|in one sentence|need not)\b"
        ),
    ),
    _Rule(
        ("answers", "nothing is", "nothing was"),
        re.compile(
            r"(?im)\b(?:this|following|present)\b.{0,20}\b(?:document|passage|text|"
            r"article|page|section)\b.{0,20}"
            r"\banswers\b|\bnothing (?:is|was) (?:missing|left open)\b"
        ),
    ),
    # Delimiters, turns and calls that it has no business with.
    _Rule(
        ("[", "begins", "ends", "begin of", "end of", "start of"),
        re.compile(
            r"(?im)\[[0-9a-f]{8,64} |"
            r"\b(?:passage|question|context|evidence|retrieved)\s?(?:\d{1,4} )?(?:begins|ends)\b|"
            r"\b(?:begin|end|start) of (?:the )?(?:passages?|contexts?|documents?|input|"
            r"evidence|data|"
            r"retriev\w{1,6})\b"
        ),
    ),
    _Rule(
        ("<",),
        re.compile(
            r"(?im)</?(?:context|passage|documents|question|task|instructions?|system|user|"
            r"assistant|verdict|answer|evidence|retrieved\w{0,9}|prompt)\b[^>]{0,60}>"
        ),
    ),
    _Rule(
        ("<", "|", "[", "task:", "###"),
        re.compile(
            r"(?im)<[|\uff5c]|[|\uff5c]>|\[/?INST\]|<</?SYS>>|\[\|\w{2,12}\|\]|\btask:|"
            r"</?(?:s|think|tool_call|start_of_turn|end_of_turn)>|"
            r"###\s{0,2}(?:system|instruction|human|assistant|response|task|question)"
        ),
    ),
    _Rule(
        (":",),
        re.compile(
            r"(?im)^\s{0,4}[\W_]{0,3}(?:assistant|system|judge|ai|evaluator|grader|verdict)"
            r"[\W_]{0,3}:"
        ),
    ),
    _Rule(
        ("tool_", "function_", "logprob", "finish_reason", "json", 'role"', 'arguments"'),
        re.compile(
            r"(?im)\b(?:tool_calls?|function_call|tool_result|tool_use|logprobs?|"
            r"finish_reason|json_?schema|"
            r"jsonrpc)\b|\"(?:role|arguments)\""
        ),
    ),
    # The same in other languages.
    _Rule(
        ("ignor", "negeer", "abaikan", "puuza", "bỏ qua"),
        re.compile(
            r"(?im)\b(?:ignorier\w{0,3}|ignorez|ignora(?:d|te|r)?|negeer|zignoruj|abaikan|"
            r"puuza|bỏ qua)\b"
            r".{0,60}\b(?:anweisung|aufgabe|regel|instruction|consigne|instruccion|tarea|"
            r"instruções|"
            r"tarefa|istruzion|compito|instructie|opdracht|instrukcj|polecen|instruksi|"
            r"tugas|maagizo)"
        ),
    ),
    _Rule(
        (
            "игнорир",
            "забудь",
            "ігнору",
            "无视",
            "忽略",
            "無視",
            "무시",
            "تجاهل",
            "نادیده",
            "התעל",
            "अनदेखा",
        ),
        re.compile(
            r"(?im)(?:игнорир|забудь|ігнору|无视|忽略|無視|무시|تجاهل|نادیده|התעל|अनदेखा).{0,30}"
            r"(?:инструк|указан|правил|вказів|завдан|指令|指示|说明|說明|규칙|지시|تعليم|دستور|הוראו|निर्देश)"
        ),
    ),
)


def suspects(contexts: Sequence[str]) -> tuple[int, ...]:
    """The places of passages that speak to the judge, in their order."""
    return tuple(place for place, text in enumerate(contexts) if is_suspect(text))


def is_suspect(text: str) -> bool:
    """Whether a passage speaks to the judge, openly or hidden."""
    starts = range(0, max(1, len(text) - _OVERLAP), _LONGEST - _OVERLAP)
    return any(_is_suspect(text[at : at + _LONGEST]) for at in starts)


def _is_suspect(text: str) -> bool:
    return _hides(text) or any(_speaks(one) for one in _readings(text))


def _hides(text: str) -> bool:
    unseen = len(_INVISIBLE.findall(text))
    if (unseen >= _MANY_INVISIBLE and unseen * _RARE >= len(text)) or _TAG_LETTERS.search(text):
        return True
    if len(_OVERRIDES.findall(text)) >= 2 or _DISGUISED.search(text):
        return True
    if len(normalized(text)) > _GROWS * len(text):
        return True
    return len(_MIXED.findall(text)) >= _MANY_MIXED


# True in the code of somebody's program: not where what it is set to has to do with a judgement.
_OF_CODE = re.compile(
    r"(?m)\b(?:return True$|while True:$|IS TRUE\b)|(?:^|[\s,({])[\"']?"
    r"(?!\w{0,30}(?:verdict|label|answer|suffic|judg|grad|deci|result|output|respon|status|support|"
    r"ground|complet|pass|context|evidence|score|class|valid|check|approv))"
    r"[a-z]\w{1,30}(?:[\"']: | ?= ?)True(?=[,)}]|$)"
)


def _speaks(text: str) -> bool:
    text = _OF_CODE.sub(" ", text)
    # A rule's words may stand on a line of their own, or be torn apart by the end of one.
    lower, joined = text.casefold(), " ".join(text.split())
    return any(rule.finds(text, lower, joined) for rule in _RULES)


def _readings(text: str) -> Iterator[str]:
    """The text as a reader sees it, and what it hides, decoded."""
    plain = normalized(_INVISIBLE.sub("", text)).translate(_LOOKALIKES)
    yield plain
    yield from _decoded(plain)
    for other in (plain.translate(_LEET), plain[::-1], plain.translate(_ROT13)):
        # Worth a look only where it makes a word of the task out of what was none.
        if any(word in other.casefold() and word not in plain.casefold() for word in _OF_THE_TASK):
            yield other


_OF_THE_TASK = ("true", "sufficient", "verdict", "instruction", "passage")
_ROT13 = str.maketrans(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "nopqrstuvwxyzabcdefghijklmNOPQRSTUVWXYZABCDEFGHIJKLM",
)


def _decoded(text: str) -> Iterator[str]:
    if _ENTITIES.search(text):
        yield html.unescape(text)
    if _PERCENT.search(text):
        yield urllib.parse.unquote(text, errors="replace")
    if _ESCAPES.search(text):
        yield _unescaped(text)
    for found in _HEX.finditer(text):
        yield from _printable(re.sub(r"[^0-9a-fA-F]", "", found[0]), bytes.fromhex)
    for found in _BASE64.finditer(text):
        yield from _printable(found[0], _from_base64)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)), text)


def _from_base64(text: str) -> bytes:
    whole = text.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(whole + "=" * (-len(whole) % 4))


def _printable(text: str, decode: Callable[[str], bytes]) -> Iterator[str]:
    """What a hidden text says, if it says anything."""
    try:
        found = decode(text)[:_DECODED].decode()
    except (ValueError, binascii.Error):
        return
    if found.isprintable() or found.replace("\n", " ").isprintable():
        yield found
