r"""Suspicion: passages that speak to whoever judges them, instead of about their subject.

A passage is suspect where it names the verdict or orders one, vouches for the passages around it,
forges a delimiter or a turn of a chat, or hides what it says (`guard.disguise`). Suspicion alone
decides nothing: the gate judges once more without such passages, and only where the query would be
answered with them. A rule that is too wide costs a second request, and at times a clarify; one that
is too narrow leaves the defences of the prompt alone.

What tells an order from a subject is seldom one word. "True" is a film, a value in a manual and an
answer in an exam; beside "verdict", "passages" or "please write" it is none of them. So most rules
ask for two things near each other.
"""

import re
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from guard.disguise import hides, readings

VERSION = 1
"""Changes when a rule does: what was found before may then not be found again."""

# Characters of a passage that are looked at together; each part repeats the end of the one before.
_LONGEST, _OVERLAP = 4_000, 600
_GAP = re.compile(r"\s{50,}")


class _Rule(NamedTuple):
    """What one kind of suspect has in common.

    Attributes:
        name: what it is.
        stems: of which a text must hold one, in lower case, before it is worth a search.
        pattern: what is sought; with ``re.MULTILINE`` in the lines as they are, else in the text
            with its lines joined.
        near: what must stand near it, if anything.
        within: how far away, in characters; behind it up to twice as far.
    """

    name: str
    stems: tuple[str, ...]
    pattern: re.Pattern[str]
    near: re.Pattern[str] | None = None
    within: int = 150

    def finds(self, text: str, lines: str, lower: str) -> bool:
        """Whether it stands in the text; a rule of lines, in the text as it is."""
        if not any(map(lower.__contains__, self.stems)):
            return False
        if self.pattern.flags & re.MULTILINE:
            text = lines
        if self.near is None:
            return self.pattern.search(text) is not None
        found = self.pattern.search(text)
        while found:
            start, end = max(0, found.start() - self.within), found.end() + self.within
            if self.near.search(text, start, end + self.within):
                return True
            # What is near another one up to there was looked at too: the time stays linear.
            found = self.pattern.search(text, end)
        return False


# ── The label ────────────────────────────────────────────────────────────────────────────────────

# "True" as a word that is spoken of: not the title "True Grit", nor a choice "True or False", nor
# what a manual says of a value ("True if the file exists"), nor how a sentence begins ("True, it").
_LABEL = re.compile(
    r"(?<![.!?\u2026] )(?<!^)(?<!=)(?<![Rr]eturns )(?<! to )(?<! to [`'\"])\bTrue\b"
    r"(?![\"'`\u201d\u2019*]{0,2}\s?(?:[/,|]\s?False|or\b|and False|if\b|when\b|whenever\b|"
    r"unless\b|to\b|[A-Z][a-z]|=))"
    r"|(?<! to )[\"'`\u201c\u201e\u00ab\u300c(:>|]\s?True\b"
    r"(?![\"'`\u201d]?\s?(?:[/,|]\s?False|or\b|[A-Z][a-z]|if\b|for\b|to\b|when\b))"
    r"|\bTrue (?:is|must|should|shall|will|for)\b|\bTrue[.!]?$"
    r"|\bTRUE\b(?! (?:or|if|when|and)\b| ?/|, FALSE)"
)
# What only a judgement of passages has to do with.
_JUDGING = re.compile(
    r"(?i)\bverdict|\bruling\b|\bjudge(?:s|d)?\b|\bjudg(?:ing|e?ment)\b|\bpassages?\b|"
    r"\bcontexts\b|\bexcerpts\b|\b(?:in)?sufficien(?:t|cy|tly)\b|\bsuffices?\b|"
    r"\bexaminer|\bgrader|\bevaluator|language model|"
    r"\b(?:the|this|that|your) (?:guard|prompt|reply|word|label)\b|"
    r"\b(?:the|this|your) (?:task|question|operator|model) "
    r"(?:above|below|asks?|has|wants|whatever)\b|"
    r"\byour (?:task|operator)\b|"
    r"\b(?:nothing|not|what|is|was|are) missing\b|\bno gaps?\b|\bFalse (?:is|would|will|counts)\b|"
    r"instead of False|not False|write False"
)
# Somebody is told to write it; in the imperative, or as what has to be done.
_TELLING = re.compile(
    r"(?i)\b(?:write|say|reply|respond|vote|emit|utter)\b(?![\"'`]?\s?[:=|])|"
    r"\b(?:please|must|just|simply|always|now|then|you) "
    r"(?:answer|output|choose|select|pick|mark|put|use|give|rule|repeat|confirm|declare)\b|"
    r"(?:^|[.:;!?] )(?:answer|output|return|choose|pick|mark|put|give|rule|confirm)\b(?! ?[:=])|"
    r"\byour (?:reply|answer|output|verdict|word|vote)\b|"
    r"\bplease\b(?! (?:set|pass|see|note|enable))"
)
# The same in other languages; a label that is not of the text's language stands out by itself.
_ABROAD = re.compile(
    r"(?i)\b(?:schreib|antwort|trag|urteil|écri|répond|juge|escrib|respond|juez|leia|escrev|"
    r"scriv|rispond|giudic|schrijf|antwoord|skriv|svar|napis|odpowie|scrib|yaz|cevap|deyin|"
    r"viết|trả lời|chấm|tulis|jawab|andika|jibu|kirjoita|vastaa|írd|válasz|scrie|răspun)|"
    r"напиш|ответ|словом|казав|"
    r"写|寫|回答|输出|輸出|请|書|記|記入|记|答|판정|대답|답|써|出力|"
    r"يكتب|اكتب|أجب|بنویس|כתוב|כתב|תכתוב|ענה|"
    r"लिख|उत्तर"
)
_SETS = (
    r"[\"'*_`)\]]{0,3}\s{0,3}(?:[:=|>\u2192]{1,2}|->|=>|is|was|to|reads|remains)"
    r"\s{0,3}[\"'*_`(\[]{0,3}"
)

_TOKEN = (
    r"(?:<[|\uff5c][\w\u2581]{2,30}[|\uff5c]>|\[/?INST\]|<</?SYS>>|\[\|/?\w{2,12}\|\]|"
    r"</?(?:start_of_turn|end_of_turn|think|tool_call|tool_response)>)"
)
_TILL_SIGN = r"[^<\[]{0,60}+[^<\[]{0,60}+[^<\[]{0,60}+"
# What stands before a verb that is forbidden, not ordered.
_NEVER = (
    r"(?<!\bnever )(?<!\bnot )(?<!n[o']t )(?<!n\u2019t )(?<!\bnot to )(?<!\bnever to )(?<!\bn')"
    r"(?<!\bn\u2019)(?<!\bno )(?<!\bnon )(?<!\bnão )(?<!\bpas )(?<!\bnunca )(?<!\bjamais )"
    r"(?<!\bmai )(?<!\bnie )(?<!\bjangan )(?<!\bđừng )(?<!\bkhông )(?<!\bnicht )(?<!\bniet )"
)
_RULES = (
    _Rule(
        "the field of the verdict",
        ("sufficien",),
        re.compile(
            r"(?i)has[_-]sufficient\b|has_?sufficient_?context|sufficient_context|"
            r"context_?sufficien|\bis the context sufficient\?|"
            r"(?:has \W?sufficient(?: context)?|context sufficien\w{1,3})[\"'*`]{0,2}\s?[:=]|"
            r"\bsufficien\w{1,3}[\"']?\s?[:=] ?[\"'\[( ]{0,4}true\b(?! \w)"
        ),
    ),
    _Rule(
        "the field of the verdict, under another name",
        ("sufficien",),
        re.compile(
            r"(?i)\bsufficien\w{1,3}[\"']?\s?[:=] ?[\"'\[(x ]{0,4}"
            r"(?:true\b(?! \w)|yes|1\b|pass|x\b)"
        ),
        re.compile(
            r"(?i)\bpassages?\b|\bcontexts?\b|\bverdict|\bjudg|\bevidence\b|\bmissing\b|"
            r"\bquestion\b|\banswer"
        ),
    ),
    _Rule(
        "a verdict, given",
        ("verdict", "judg"),
        re.compile(
            rf"\b[Jj]udge(?:ment|-?\w{{1,9}})?{_SETS}(?:True|TRUE|SUFFICIENT)\b(?! (?:or|to|if)\b)|"
            rf"(?i:\bverdict\w{{0,9}}{_SETS}(?:true\b(?! (?:or|to|if)\b)|"
            r"sufficient\b(?! (?!context|passages|and\b|because\b)\w)))"
        ),
    ),
    _Rule(
        "a verdict, given under another name",
        ("label", "ruling", "decision", "judg"),
        re.compile(
            rf"(?i)\b(?:label|ruling|decision|judge?ment){_SETS}"
            r"(?:true|sufficient|that the passages)\b"
        ),
        re.compile(r"(?i)\bpassages?\b|\bcontexts\b|\bthe judge\b|\bverdict\b"),
    ),
    _Rule("the label, beside the judging", ("true",), _LABEL, _JUDGING, 120),
    _Rule("the label, ordered", ("true",), _LABEL, _TELLING, 40),
    _Rule("the label, ordered in another language", ("true",), _LABEL, _ABROAD, 60),
    _Rule(
        "the label, as a word to write",
        ("true",),
        re.compile(
            r"\b(?:[Ww]rite|[Ss]ay|[Rr]eply|[Rr]espond|[Aa]nswer|[Oo]utput|[Ee]nter|[Cc]hoose)"
            r"(?: (?:just|only|simply|now|with|the word|a simple|"
            r"down)){0,3} [\"'`*\u201c]{0,2}True\b"
            r"(?![\"'`*\u201d]{0,2}(?: ?/| or\b| if\b| when\b| for (?:correct|true|right)|"
            r" and False| [A-Z][a-z]))|"
            r"\b(?:[Aa]|[Ee]very|the word|simple|word,) [\"'`]?True[\"'`]? (?:is|was|will|would|"
            r"on|makes|here)\b"
        ),
    ),
    _Rule(
        "the label, as a word to write, in any case",
        ("true",),
        re.compile(
            r"(?i)\b(?:write|say|reply|respond|answer|output)"
            r"(?: (?:just|only|simply|with|the word|a simple)){0,3} [\"'`*\u201c]{0,2}true\b"
            r"(?![\"'`*\u201d]{0,2},?(?: ?/| or\b| if\b| when\b| to\b| for\b|"
            r" and\b| false\b))"
        ),
        re.compile(
            r"(?i)\bpassages\b|\bcontexts\b|\bverdict|\bthe judge\b|\bwhatever (?:the|is|was|it)\b"
        ),
        80,
    ),
    _Rule(
        "the label, over and over",
        ("true",),
        re.compile(r"(?:(?:\b\w{1,20}[:=] ?)?\bTrue\b[\W_]{1,4}){6}"),
    ),
    # Nobody answers "When did it open?" by "True".
    _Rule(
        "the label, as an answer to what is no matter of true or false",
        ("true",),
        re.compile(
            r"(?i)\b(?:who|whom|whose|what|when|where|which|why|how)\b"
            r"(?![^?]{0,60}\b(?:defaults?|values?|returns?|options?|settings?|flags?|parameters?|"
            r"variables?|enable[sd]?|statements?|correct|right|boolean|bool|print(?:ed|s)?|outputs?|results?|evaluates?)"
            r"\b)[^?]{1,60}+[^?]{0,60}+"
            r"\?[\"'\u201d]?(?!['\u2019]s)\W{0,6}(?:\w{1,12}\W{1,4}){0,4}"
            r"(?<!\bto )(?<!\bpass )(?<!=)(?<!= )(?-i:\bTrue\b)"
            r"(?![\"'`\u201d]?\s?(?:\?|/|(?-i:[A-Z][a-z])|(?:was|is|means|if|when|only|for|by)\b))"
        ),
    ),
    # ── Orders ──
    _Rule(
        "instructions set aside",
        ("ignore", "disregard", "forget", "override", "bypass", "follow", "skip"),
        re.compile(
            rf"(?i)\b(?=[idfobs]){_NEVER}(?:ignore|disregard|forget|override|bypass|skip|"
            r"stop following|do not follow)\b"
            r".{0,30}\b(?:(?:previous|prior|preceding|above|earlier|other|system|original|your|"
            r"all) "
            r"(?:\w{1,12} )?(?:instructions?|prompts?|rules|guidelines|orders|criteria)|"
            r"your task\b(?! (?:list|force|manager))|task (?:above|below|that)|"
            r"instructions? (?:above|below|before))"
        ),
    ),
    _Rule(
        "whoever judges, addressed",
        (
            "language model",
            "llm",
            "evaluator",
            "grader",
            "automatic",
            "assistant",
            "judge",
            "model",
            " ai",
        ),
        re.compile(
            r"(?i)\b(?:dear|attention|notes? (?:to|for)|messages? (?:to|for)|"
            r"instructions? (?:to|for)|hey|hello|listen|(?<![a-z] )to)"
            r"(?:,? (?:the|our|any|all|every|you|kind|good|reading)){0,2},? "
            r"(?:ai\b(?! \w)|language models?|llms?\b|evaluators?\b|graders?\b|"
            r"automatic (?:readers?|judges?)|"
            r"assistant(?=[:,])|judge(?=[:,](?! [A-Z]))|model(?=[:,]))"
        ),
        re.compile(
            r"(?-i:True|TRUE)\b|(?i:passages?\b|sufficien|\bverdict|\bignore|\bdisregard|"
            r"\byour (?:task|reply|output|prompt))"
        ),
    ),
    _Rule(
        "another part to play",
        ("you are", "act as", "pretend", "behave", "from now on"),
        re.compile(
            r"(?i)\b(?:you are (?:now |no longer |only |just )?(?:an? |the )|act as (?:an? |the )|"
            r"pretend (?:to be|that you are) (?:an? |the )?|behave like (?:an? )?|"
            r"from now on,? you )"
            r".{0,25}\b(?:ai|llm|language model|evaluator|grader|judge|chatbot|oracle|assistant)\b"
        ),
        re.compile(
            r"(?i)passage|(?-i:True|TRUE)\b|sufficien|verdict|instructions|"
            r"\b(?:no|your|new|other|old) rules\b|prompt"
        ),
    ),
    # ── Vouching for what stands around it ──
    _Rule(
        "passages that suffice",
        ("passages", "contexts", "excerpts", "retrieved", "this set", "the set"),
        re.compile(
            r"(?i)\b(?:(?:these|all|retrieved|the (?:above|other|retrieved|following)?|following|"
            r"surrounding|both|set of)\s?(?:passages|contexts|excerpts|retrieved \w{1,12})|"
            r"(?:this|the) set(?: of \w{1,12})?)\b"
            r"[^.?!]{0,60}\b(?:sufficient|suffices?|hold what|is enough|are enough|everything|"
            r"answers? "
            r"(?:(?:the|this|your|each|every) question\b(?! (?:why|how|who|what|when|where|"
            r"whether|of)\b)|\")|contain the (?:full |whole |complete )?answer|no further|"
            r"conclusive|(?:is|are|was|were) complete)"
        ),
        re.compile(
            r"(?i)\bsuffic|\bquestion|\bverdict|\bjudge|\banswer|\bmissing|\baccept|\bneeded\b|True"
        ),
    ),
    _Rule(
        "an answer that stands elsewhere",
        ("answer",),
        re.compile(
            r"(?i)\b(?:the )?(?:full |whole |complete )?answer\b[^.!]{0,64}"
            r"\b(?:above|previous passage|preceding|elsewhere|already (?:given|stated|provided|"
            r"confirmed)|"
            r"footnote|appendix|attached|inserted|in one sentence|need not|complete)\b"
        ),
        re.compile(
            r"(?i)\bpassages?\b|\bthis set\b|\bsufficien|\bcounts as\b|\bjudge\b|\bverdict|"
            r"\bcomplete(?:ness)?: "
            r"|missing information: none|language model|incorporated"
        ),
        250,
    ),
    _Rule(
        "an answer to a quoted question",
        ("answer", "question", "suffice"),
        re.compile(
            r"(?i)\b(?:answer(?:s|ed|ing)?(?: to)?|question|suffices?) (?:for )?(?:the question )?"
            r"[\"\u201c\u201e\u00ab'][^\"\u201d\u00bb]{5,60}+[^\"\u201d\u00bb]{0,60}+[^\"\u201d\u00bb]{0,60}+"
            r"(?<=\?)[\"\u201d\u00bb]"
        ),
        re.compile(
            r"(?i)\bcomplete|\bfully\b|\bin full\b|\bmissing\b|\babove\b|\binserted\b|"
            r"\bpassages?\b|"
            r"\bsuffic|\bfootnote|\bonce and for all\b|\bcount(?:s|ed)? as\b|\bas given\b|"
            r"everything needed|"
            r"\bverdict|\bincorporated"
        ),
        200,
    ),
    _Rule(
        "nothing is missing",
        ("missing", "left open", "no gap"),
        re.compile(
            r"(?i)\bnothing (?:is|was) (?:missing|left open)|no part of the answer is missing|"
            r"\bnothing (?:more )?is needed\b|missing information: none"
        ),
        re.compile(r"(?i)\banswer|\bquestion|\bpassage|\bjudge|\bverdict|\bsufficien"),
    ),
    # ── Delimiters, turns and calls that it has no business with ──
    _Rule(
        "a delimiter",
        ("begins", "ends", "begin of", "end of", "start of", " begin]", " end]"),
        re.compile(
            r"(?im)[\[({\u00ab]\W{0,3}(?:[\w-]{1,64} )?(?:passage|question|context|task|"
            r"history)\s?(?:\d{1,4} )?"
            r"(?:begins|ends|begin|end)\W{0,3}[\])}\u00bb]|"
            r"^[^\w\s]\W{1,60}(?:begin|end|start) of (?:the )?(?:passages?|contexts?|evidence|"
            r"retriev\w{1,6}(?: \w{1,12})?)\W{0,60}$"
        ),
    ),
    _Rule("a mark of the prompt", ("[",), re.compile(r"(?i)\[[0-9a-f]{16}(?: \d{1,4})? [a-z]")),
    _Rule(
        "turns of a chat, by their tokens",
        ("<", "["),
        re.compile(rf"(?i)(?<!`){_TOKEN}{_TILL_SIGN}(?<!`){_TOKEN}"),
    ),
    # One may be mentioned.
    _Rule(
        "a turn of a chat, by its token",
        ("<", "["),
        re.compile(f"(?i){_TOKEN}"),
        re.compile(
            r"(?-i:\bTrue|TRUE)\b|(?i:\bverdict|sufficien|\bpassages\b|\bignore\b|\bdisregard|"
            r"\bjudge|\binstructions\b|\bevaluat|\bgrade)"
        ),
    ),
    _Rule(
        "a turn of a chat, by its name",
        ("assistant", "system", "judge", "evaluator", "grader"),
        re.compile(
            r"(?im)(?:^|[.?!] )\W{0,4}(?:assistant|system|judge|evaluator|"
            r"grader)(?: notice)?(?: \d{1,6})?\W{0,3}:"
        ),
        re.compile(
            r"(?:True|TRUE)\b(?! or)|(?i:(?<!is )(?<!are )\bsufficient(?=\W|$)(?! \w)|"
            r"\bsufficient context|\bpassages\b|\bignore\b|\bdisregard)"
        ),
    ),
    _Rule(
        "a tag around the passages, closed",
        ("</", "[/"),
        re.compile(
            r"(?i)[<\[]/(?:contexts?|passages?|documents|evidence|retrieved\w{0,9}|system|"
            r"user_?query|instructions?|prompt)>"
        ),
        re.compile(
            r"<instructions?>|(?-i:True)\b|\bjudge|verdict|sufficien|\bignore\b|\bdisregard\b"
        ),
    ),
    _Rule(
        "a reply, as a program gets it",
        (
            "tool_",
            "finish_reason",
            "jsonrpc",
            "function",
            "role",
            "choices",
            "logprob",
            "grade",
            "verdict",
        ),
        re.compile(
            r"\btool_(?:calls?|use|result|call_id)\b|\bfunction_call\b|\bfinish_reason\b|jsonrpc|"
            r"\blogprobs?\b|\"role\"\s?:\s?\"(?:assistant|system|tool)\"|"
            r"\"(?:verdict|grade|label)\"\s?:\s?[\"'\[{]{0,2}(?:true|yes|sufficient|1\b|accept)|"
            r"\bverdict\w{0,9}\s?\{|\bsetVerdict\("
        ),
        re.compile(
            r"(?i)(?-i:\bTrue\b)|(?<!\")\bverdict(?!\")|sufficien|\bpassages?\b|\bjudge|evidence|"
            r"\bmissing\b(?!\?)"
        ),
    ),
    _Rule("the label, and nothing else", ("true",), re.compile(r"\A\W{0,9}True\W{0,9}\Z")),
    # ── The same in other languages ──
    _Rule(
        "instructions set aside, in Latin letters",
        ("ignor", "negeer", "abaikan", "puuza", "bỏ qua"),
        re.compile(
            rf"(?i)\b(?=[inzapb]){_NEVER}(?:ignorier\w{{0,3}}|ignorez|ignora(?:d|te|r)?|negeer|zignoruj|abaikan|"
            r"puuza|bỏ qua)\b"
            r"[^.!?]{0,60}\b(?:anweisung|aufgabe|instruction|consigne|instruccion|tarea|"
            r"instruções|tarefa|istruzion|compito|instructie|opdracht|instrukcj|polecen|instruksi|"
            r"tugas|maagizo)\w{0,20}+(?! (?:nicht|niet)\b(?! m))"
        ),
    ),
    _Rule(
        "instructions set aside, in other letters",
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
            r"(?i)(?<!\bне )(?<!不要)(?<!勿)(?<!不得)(?<!不能)(?<!不可)(?<!别)(?<!لا ت)(?<!لا )"
            r"(?:игнорир|забудь|ігнору|无视|忽略|無視|무시|تجاهل|نادیده|התעל|अनदेखा).{0,30}"
            r"(?:инструк|указан|вказів|завдан|指令|指示|说明|說明|지시|تعليمات|دستور|הוראו|निर्देश)"
        ),
    ),
)

# True in the code of somebody's program: not where what it is set to has to do with a judgement.
_NO_JUDGING = r"(?!\w{0,30}(?:verdict|label|suffic|judg|grad|decision|ground|context|evidence))"
_OF_CODE = re.compile(
    r"(?m)\b(?:return True$|while True:(?=$| [a-z]{1,9}\()|IS TRUE\b)|(?:^|[\s,({])[\"']?"
    rf"{_NO_JUDGING}"
    r"[a-z]\w{1,30}(?:[\"']: | ?= ?)True(?=[,)}]|$)|"
    rf"^[ \t]{{0,20}}(?:- )?{_NO_JUDGING}[a-z]\w{{1,30}}: True$"
)


class Looked(NamedTuple):
    """What a look at passages found.

    Attributes:
        suspects: the places, from 0, of those that were found to speak to the judge, in their
            order.
        is_whole: whether all were looked at wholly; of what was not, nothing is said.
    """

    suspects: tuple[int, ...]
    is_whole: bool


def looked(texts: Sequence[str], until: float | None = None) -> Looked:
    """Which passages speak to the judge, as far as there was time to look.

    Args:
        texts: passages, of any length.
        until: when to stop, as `time.monotonic` tells it.
    """
    places: list[int] = []
    for place, text in enumerate(texts):
        for part in _parts(text):
            if until is not None and time.monotonic() >= until:
                return Looked(tuple(places), is_whole=False)
            if found(part):
                places.append(place)
                break
    return Looked(tuple(places), is_whole=True)


def suspects(texts: Sequence[str]) -> tuple[int, ...]:
    """The places, from 0, of passages that speak to the judge, in their order."""
    return looked(texts).suspects


def is_suspect(text: str) -> bool:
    """Whether a passage speaks to the judge, openly or hidden."""
    return any(map(found, _parts(text)))


def _parts(text: str) -> Iterator[str]:
    if len(text) > _LONGEST:
        text = _GAP.sub("\n", text)
    for at in range(0, max(1, len(text) - _OVERLAP), _LONGEST - _OVERLAP):
        yield text[at : at + _LONGEST]


def found(text: str) -> str | None:
    """The name of what is found first in a short text, or in what it hides."""
    if hides(text):
        return "what nobody sees"
    for reading in readings(text):
        if reading.reveals:
            return "the label, in disguise"
        if said := _said(reading.text):
            return said
    return None


def _said(text: str) -> str | None:
    lower = text.casefold()
    if "true" in lower:
        text = _OF_CODE.sub(" ", text)
    # A rule's words may stand on a line of their own, or be torn apart by the end of one.
    joined = " ".join(text.split())
    return next((rule.name for rule in _RULES if rule.finds(joined, text, lower)), None)
