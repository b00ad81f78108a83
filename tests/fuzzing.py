"""Fuzzing: what anybody may send, set or leave in a file, made of what really is sent and kept.

    scripts/fuzz --minutes 10 [--target NAME] [--seed N]

Each target takes bodies, headers, files or settings that are good, and changes them: parts are
lost, doubled, swapped, replaced by any JSON; bytes are cut and flipped. What comes of it must be a
sound result or one of our own errors. Hypothesis makes the changes and finds the smallest one.
"""

import argparse
import asyncio
import copy
import gzip
import hashlib
import json
import logging
import math
import os
import re
import sqlite3
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, chdir, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial, reduce
from importlib.metadata import version
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple, cast

import hypothesis
from hypothesis import HealthCheck, Phase, currently_in_test_context, given, settings, target
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI
from providers import anthropic_error, detail_error, gemini_error, openai_error, plain_error
from wire import Answer, Json, Request, WireServer, chat, padded, token, verdict

from guard import Decision, Gate, Policy, Profile, Query, Retry, Route, Thresholds, Usage, Verdict
from guard import dataset as dataset_of
from guard._json import as_list, as_map
from guard.audit import AuditLog
from guard.audit_file import Audit, Record
from guard.calibration import Isotonic, Platt
from guard.certificate import Bound, Certificate
from guard.config import VARIABLES, load_gate
from guard.config.deployment import Table
from guard.dataset import Dataset, Row
from guard.errors import ConfigError, GuardError, Unmeasured
from guard.judges import ChatJudge, DecisionsJudge, SampledJudge, SystemOneJudge, close
from guard.judges.endpoint import endpoint_for
from guard.label_file import LabelFile
from guard.labelling import Pick
from guard.labels import Labels
from guard.outcomes import OutcomeFile, Said
from guard.price import Price
from guard.prompt import DEFAULT_PROMPT
from guard.reading import read_verdict
from guard.sqlite_cache import SqliteCache
from guard.survey import survey
from guard.testing import ScriptedJudge, no_network

Draw = st.DrawFn

CANARY = "the canary passage, which nobody may see"
QUESTION, CONTEXTS = "When did the bridge open?", ["It opened in 1932.", CANARY]
QUERY = Query.of(QUESTION, CONTEXTS)
RENDERED = DEFAULT_PROMPT.render(QUERY)

VERSION = version("hypothesis")
DEADLINE, SLACK_SECONDS = 1.0, 2.0
CPU_SECONDS = 1.0
"""What one reading may take at most: a few milliseconds are usual."""

# ── Any JSON ─────────────────────────────────────────────────────────────────────────────────────

_AGAIN, _DEEP = "\0again", "\0deep"

NUMBERS: tuple[int | float, ...] = (
    *(0, 1, -1, 2, 255, 256, -9999, 2**53 + 1, 2**63, -(2**63), 10**400, -(10**400)),
    *(10**4300 - 1, 1 - 10**4300, 0.0, -0.0, 5e-324, -5e-324, 1e308, -1e308, math.nan),
    *(math.inf, -math.inf, -9999.0, -1000.0, -999.99, -745.2, -0.69314718056, -1e-12, 0.0005),
    *(0.001, 0.0011, 0.5, 0.99, 1.0, 1.0000001, 1.5),
)
TEXTS = (
    *("", " ", "\n", "True", "False", " true", "TRUE.", "Tr", "ue", "Fa", "lse", "▁True", "ĠFalse"),
    *("\x00", "\x1b[31m", "\x7f", "\ud800", "\udfff\ud800", "\ufffd", "\u2028", "\ufeff", "é", "ı"),
    *("-0.1", "0.9", "NaN", "null", "stop", "length", "content_filter", "tool_calls", "refusal"),
    *(
        "<think>",
        "</think>",
        "<|channel|>final<|message|>",
        "<|im_end|>",
        "</s>",
        "[DONE]",
        "data: ",
    ),
    *("logprobs is not supported", "expected an integer", "at most 5", "insufficient_quota"),
    *("context_length_exceeded", "max_tokens unsupported", "2026-01-01T00:00:00Z", CANARY),
)
LONG = tuple(
    begun + unit * (60_000 // len(unit)) + ended
    for begun, ended in (("", ""), ("True", "x"), ("expected", "x"), ("logprobs at least", "x"))
    for unit in (" ", "\n", "<", "</s>", "<|a", "a", "0", '"', "\ufffd", "é", "expected ")
)
DEPTHS = (2, 50, 200, 400, *range(450, 1000, 25), 5_000)

_odd: st.SearchStrategy[Json] = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from([None, True, False, [], {}, [[]], {"": None}, [None], [1, "a"]]),
    st.text(max_size=6),
    st.floats(-30, 0.01),
    st.integers(-(10**6), 10**6),
)
# Copied, since what is drawn may be changed further.
ODD: st.SearchStrategy[Json] = st.one_of(
    _odd,
    st.recursive(
        _odd,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(TEXTS), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    st.sampled_from([f"{_DEEP}{depth}\0" for depth in DEPTHS]),
).map(copy.deepcopy)
"""Any JSON, of the kinds that have broken readers; see `written` for what is nested deeply."""

Places = Sequence[tuple[str | int, ...]]


def written(body: Json) -> bytes:
    """The body as JSON, with its doubled keys and deep nesting, which Python's writer cannot do."""
    text = json.dumps(body)
    text = re.sub(r'"\\u0000deep(\d+)\\u0000"', lambda one: _nested(int(one[1])), text)
    return text.replace("\\u0000again", "").encode()


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def _places(value: Json, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    members: list[tuple[str | int, Json]] = [*as_map(value).items(), *enumerate(as_list(value))]
    for key, each in members:
        yield (*at, key)
        yield from _places(each, (*at, key))


def _drop(_draw: Draw, owner: Json, key: Json, _whole: Json) -> None:
    del owner[key]


def _replace(draw: Draw, owner: Json, key: Json, _whole: Json) -> None:
    owner[key] = draw(ODD)


def _swap(draw: Draw, owner: Json, key: Json, whole: Json) -> None:
    other = draw(st.sampled_from(list(_places(whole))))
    owner[key] = copy.deepcopy(reduce(getitem, other, whole))


def _double(draw: Draw, owner: Json, key: Json, _whole: Json) -> None:
    if as_map(owner):
        owner[f"{key}{_AGAIN}"] = draw(ODD)
    else:
        owner.insert(draw(st.integers(0, len(owner))), copy.deepcopy(owner[key]))


def _rename(draw: Draw, owner: Json, key: Json, whole: Json) -> None:
    names = [place[-1] for place in _places(whole) if isinstance(place[-1], str)]
    if as_map(owner):
        owner[draw(st.sampled_from([*names, *TEXTS]))] = owner.pop(key)


def _wrap(draw: Draw, owner: Json, key: Json, _whole: Json) -> None:
    value = owner[key]
    owner[key] = draw(st.sampled_from([[value], {"error": value}, [value, value], str(value)[:99]]))


def _turn(_draw: Draw, owner: Json, key: Json, _whole: Json) -> None:
    if isinstance(owner[key], list):
        owner[key].reverse()


def _lengthen(draw: Draw, owner: Json, key: Json, _whole: Json) -> None:
    owner[key] = draw(st.sampled_from(LONG))


# What changes a body least comes first: Hypothesis simplifies towards it.
_CHANGES = (_replace, _drop, _replace, _swap, _double, _rename, _wrap, _turn, _replace, _lengthen)


@st.composite
def changed(draw: Draw, good: Sequence[Json], most: int = 4) -> Json:
    """One of these bodies, with at most so many changes; now and then any JSON at all."""
    if draw(st.integers(0, 24)) == 24:
        return draw(ODD)
    whole = copy.deepcopy(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(0, most))):
        if not (places := list(_places(whole))):
            break
        *above, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(_CHANGES))
        change(draw, reduce(getitem, above, whole), key, whole)
    return whole


@st.composite
def damaged(draw: Draw, data: st.SearchStrategy[bytes]) -> bytes:
    """The same bytes, or most of them."""
    whole = draw(data)
    match draw(st.integers(0, 11)):
        case 8:
            return whole[: draw(st.integers(0, len(whole)))]
        case 9:
            at, bit = draw(st.integers(0, max(0, len(whole) - 1))), draw(st.integers(0, 7))
            return b"".join(
                bytes([byte ^ (1 << bit)]) if index == at else bytes([byte])
                for index, byte in enumerate(whole)
            )
        case 10:
            at = draw(st.integers(0, len(whole)))
            return whole[:at] + draw(st.sampled_from(_BYTES)) + whole[at:]
        case 11:
            return draw(st.one_of(st.binary(max_size=40), st.sampled_from(_BYTES)))
        case _:
            return whole


_BYTES = (
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", b"\xc3", b"}", b"]", b'"'),
    *(b"NaN", b"\xff\xfe", b"\x00\x00\xfe\xff", b"9" * 5000, b"[" * 100_000, b'{"a":' * 20_000),
)

# ── Replies ──────────────────────────────────────────────────────────────────────────────────────

_TOP = [("True", -0.02), ("False", -4.1), (" true", -6.0), ("Tr", -7.5)]
_SURE = token("True", -0.02, padded(*_TOP[:3], k=4))
_NATIVE = {"id": 7, "token": " False", "bytes": [32, 70, 97, 108, 115, 101], "logprob": -0.01}
_USAGE = {"input_tokens": 9, "output_tokens": 1, "input_tokens_details": {"cached_tokens": 3}}
_LISTS: Json = {
    "tokens": ["\n", "True"],
    "token_logprobs": [-0.001, -0.05],
    "token_ids": [13, 7],
    "top_logprobs": [{"\n": -0.001, "True": -7.0}, {"True": -0.05, "False": -3.2}],
}
_THOUGHT = chat(
    *(token(text, -0.1, [(text, -0.1), ("x", -3.0)]) for text in ("<think>", " so", "</think>")),
    token("False", -0.1, [("False", -0.1), ("True", -2.4)]),
    content="False",
)

REPLIES: tuple[Json, ...] = (
    verdict(-0.01, -6.0, k=3),
    chat(_SURE),
    chat(token("Tr", -0.2, [("Tr", -0.2), ("Fa", -1.8)]), token("ue", -0.01, [("ue", -0.01)])),
    chat(token("```", -0.1, [("```", -0.1)]), token("json", -0.1), token("{", -0.3), _SURE),
    chat(token("True", -0.0, [])),
    _THOUGHT,
    chat(content="True", logprobs=None),
    chat(message={"content": [{"type": "text", "text": "True"}]}),
    chat(message={"content": None, "refusal": "I can't."}, logprobs={"content": None}),
    {"choices": [{"text": "\nTrue", "logprobs": _LISTS, "finish_reason": "stop"}], "model": "m"},
    {
        "content": " False",
        "stop": True,
        "model": "ggml",
        "completion_probabilities": [{**_NATIVE, "top_logprobs": [_NATIVE]}],
    },
    {
        "content": "False",
        "completion_probabilities": [{"token": "False", "prob": 0.9, "top_probs": [{"prob": 0.9}]}],
    },
    {
        "status": "completed",
        "output": [
            {"type": "reasoning", "content": None},
            {
                "type": "message",
                "content": [{"type": "output_text", "text": "True", "logprobs": [_SURE]}],
            },
        ],
        "incomplete_details": None,
        "usage": _USAGE,
    },
    {
        "message": {"content": "True", "thinking": None},
        "done": True,
        "done_reason": "stop",
        "logprobs": [_SURE],
        "prompt_eval_count": 3,
        "eval_count": 1,
    },
    {"error": {"code": 502, "message": "Provider returned error"}},
    {"choices": [{"error": {"code": "upstream", "message": "…"}, "finish_reason": "error"}]},
)
DECISIONS: tuple[Json, ...] = (
    {
        "id": "dec_1",
        "model": "gpt-5.5",
        "answers": [
            {"type": "predicate", "name": "has_sufficient_context", "probability": 0.93},
            {"type": "refusal", "name": None, "refusal": "No."},
        ],
        "usage": _USAGE,
    },
)
SYSTEM_ONE: tuple[Json, ...] = (
    {
        "model": "jev-1.13.0",
        "answers": {
            "has_sufficient_context": {"type": "noul", "noul": 0.93},
            "is_underspecified": {"type": "noul", "noul": 0.2},
        },
        "usage": _USAGE,
    },
)
_TOLD = (
    "Unsupported parameter: 'logprobs' is not supported with this model.",
    "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
    "Invalid 'top_logprobs': integer above maximum value. Expected a value <= 5.",
    "Invalid type for 'logprobs': expected an integer, but got a boolean instead.",
    "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16.",
    "This model's maximum context length is 8192 tokens.",
    "Could not finish the message because max_tokens was reached.",
    "temperature does not support 0",
    f"logprobs: {RENDERED.text}",
)
ERRORS: tuple[Json, ...] = (
    *(
        answer.body
        for told in _TOLD
        for answer in (
            openai_error(told, "unsupported_value", "logprobs"),
            plain_error(told),
            detail_error(told, "not_found", 404),
            gemini_error(told),
            anthropic_error(told),
        )
    ),
    plain_error(f"logprobs expected{' ' * 60_000}x").body,
    plain_error(f"tokens at least{'-' * 60_000}").body,
    plain_error(f"logprobs {'<= ' * 20_000}").body,
)


class Reading(NamedTuple):
    """A reply to read, and how."""

    body: bytes
    asked: int | None = 20
    min_mass: float = 0.5
    labels: Labels = Labels()


readings = st.builds(
    Reading,
    damaged(changed(REPLIES).map(written)),
    st.sampled_from([20, 5, 0, None, sys.maxsize]),
    st.sampled_from([0.5, 0.0, 1.0]),
    st.sampled_from([Labels(), Labels("Yes", "No"), Labels("是", "否"), Labels("İ", "ß")]),
)


def check_reading(case: Reading, _folder: Path) -> None:
    """A verdict whose numbers are sound, or `Unmeasured`; and in no time."""
    try:
        body = json.loads(case.body)
    except (ValueError, RecursionError):
        return
    started, found = time.thread_time(), read(body, case)
    assert time.thread_time() - started < CPU_SECONDS, "The reading took too long."
    if currently_in_test_context():
        # What is still read although much of it is odd is worth changing further.
        target(0.0 if found is None else float(len(case.body)))
    if found is not None:
        require_sound(found)
        assert found.mass >= case.min_mass


def read(body: object, case: Reading) -> Verdict | None:
    """The verdict, if there is one; its absence must be told as it should be."""
    try:
        return read_verdict(
            body,
            RENDERED,
            fingerprint="fuzz",
            asked=case.asked,
            min_mass=case.min_mass,
            labels=case.labels,
        )
    except Unmeasured as error:
        require_told(error)
        return None


UNUSABLE: tuple[Json, ...] = (
    *(None, math.nan, math.inf, -math.inf, -9999.0, -9999, -(10**400), 10**400, 0.5, 1, True),
    *(False, "-0.1", "", [], [-0.1], {}, {"logprob": -0.1}),
)


class Silent(NamedTuple):
    """A reply, and what stands in place of its numbers."""

    body: Json
    instead: tuple[Json, ...]


silent = st.builds(
    Silent, changed(REPLIES), st.lists(st.sampled_from(UNUSABLE), min_size=1, max_size=4).map(tuple)
)


def check_silent(case: Silent, _folder: Path) -> None:
    """Where no logprob can be used there is no verdict, whatever the words say."""
    try:
        body = json.loads(written(case.body))
    except (ValueError, RecursionError):
        return
    found = read(_without_numbers(body, iter(case.instead * 2000)), Reading(b"", min_mass=0.0))
    assert found is None, f"No logprob could be used, but P(True) = {found.p_true}."


def _without_numbers(value: Json, instead: Iterator[Json]) -> Json:
    if found := as_map(value):
        return {key: _without_numbers(each, instead) for key, each in found.items()}
    if listed := as_list(value):
        return [_without_numbers(each, instead) for each in listed[:200]]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return next(instead) if is_number else value


# ── What must hold ───────────────────────────────────────────────────────────────────────────────


def require_sound(found: Verdict) -> None:
    """Numbers that do not contradict each other, and a record that is JSON."""
    assert all(map(math.isfinite, (found.low, found.p_true, found.high, found.mass)))
    assert 0 <= found.low <= found.p_true <= found.high <= 1
    assert 0 <= found.mass <= 1
    json.dumps(asdict(found), allow_nan=False)


def require_told(error: GuardError) -> None:
    """An error in one line, which can be written down, and repeats no passage."""
    assert error.message and "\n" not in error.message
    assert CANARY not in str(error)
    str(error).encode()


def require_decided(decision: Decision) -> None:
    """Measured with a sound verdict behind it, or refused; and the audit's reader can read it."""
    record = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    Record.from_dict(record)
    assert CANARY not in decision.detail
    assert decision.measured is not decision.unmeasured
    if decision.verdict is not None:
        require_sound(decision.verdict)
    if decision.unmeasured:
        assert (decision.probability, decision.verdict) == (None, None)
        assert (decision.route, decision.passes) == (Route.REFUSE, False)
    else:
        assert decision.verdict is not None and decision.probability is not None


# ── The wire ─────────────────────────────────────────────────────────────────────────────────────


class Served(NamedTuple):
    """Who is asked, and what comes back; the last answer goes on for ever."""

    judge: str
    answers: tuple[Answer, ...]


_CONTENT_TYPES = (
    *("application/json", "application/json; charset=utf-8", "application/JSON;charset=utf-16"),
    *("application/json; charset=latin-1", "application/problem+json", "text/plain", ""),
    *("text/event-stream", "text/html; charset=iso-8859-1", "application/octet-stream", ";;;"),
    *(
        f"text/plain; charset={codec}"
        for codec in (
            *("utf-16", "utf-7", "hex", "base64", "zlib", "bz2", "uu", "rot13", "quopri", "idna"),
            *("punycode", "undefined", "unicode_escape", "raw_unicode_escape", "cp037", "mbcs"),
            *("nonsense", "\xff", '"', "utf-8; charset=hex"),
        )
    ),
)
_TIMES = (
    *("0", "0.01", "-1", "nan", "inf", "1e309", "1e308", "999999999999", "1_0", "٣", "", " ", ","),
    *("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Foo 99999 99:99:99 +9999", "0 0 0 0 0 0", "x y z"),
    *("Mon, 1 Jan 0001 00:00:00 -2400", "1 Jan 1 00:00:00", ":::", "1 2 3:4:5:6 +", "0x10", "1,0"),
)
_HEADERS: Mapping[str, Sequence[str]] = {
    "content-type": _CONTENT_TYPES,
    "content-encoding": ("gzip", "deflate", "br", "zstd", "identity", "gzip, gzip", "nonsense", ""),
    "retry-after": _TIMES,
    "retry-after-ms": _TIMES,
    "x-should-retry": ("true", "false", "\xff"),
    "x-request-id": ("", "req_1", "\xff\xfe", "x" * 5000, CANARY),
    "location": ("", "//", "http://[", "http://127.0.0.1:1/", "ftp://127.0.0.1/", "\xff", "?", "x"),
    "connection": ("close", "keep-alive", "upgrade"),
    "date": ("", "nonsense"),
    "set-cookie": ("a=b", "=;=;"),  # Others stay in the client: tests/test_fuzz.py has them.
}
_STATUSES = (
    *(200, 200, 200, 200, 200, 400, 400, 429, 500, 422, 403, 404, 201, 204, 206, 301, 304, 307),
    *(401, 402, 405, 408, 409, 413, 425, 501, 502, 503, 504, 529, 599, 600, 999),
)


@st.composite
def _answers(draw: Draw, good: Sequence[Json]) -> Answer:
    status = draw(st.sampled_from(_STATUSES))
    bodies = good if status < 300 else (*ERRORS, *good[:1])
    data = draw(damaged(st.one_of(changed(bodies).map(written), _streams(bodies))))
    names = draw(st.lists(st.sampled_from([*_HEADERS]), max_size=3, unique=True))
    headers = {name: draw(st.sampled_from(_HEADERS[name])) for name in names}
    # The server writes them as Latin-1; what it cannot write nobody can send.
    headers = {
        name: text.encode("latin-1", "replace").decode("latin-1") for name, text in headers.items()
    }
    data, more = draw(_framed(data))
    cut = draw(st.none() | st.none() | st.none() | st.integers(0, len(data)))
    return Answer(data, status, {**headers, **more}, cut=cut)


@st.composite
def _streams(draw: Draw, good: Sequence[Json]) -> bytes:
    """Server-sent events where none were asked for, good ones and others."""
    body = written(draw(changed(good)))
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    lines = [b"data: " + body, b"data:" + body[:40], b"data: " + body[40:], b": a comment"]
    lines += [
        b"event: error",
        b"data: [DONE]",
        b"data",
        b"id: \x00",
        b"retry: x",
        b"",
        b"\xef\xbb\xbf",
    ]
    some = draw(st.lists(st.sampled_from(lines), min_size=1, max_size=6))
    return end.join(some) + draw(st.sampled_from([b"", end, end * 2]))


@st.composite
def _framed(draw: Draw, data: bytes) -> tuple[bytes, Mapping[str, str]]:
    """The bytes packed or in chunks, as the headers say, or not as they say."""
    match draw(st.integers(0, 9)):
        case 6:
            return gzip.compress(data, mtime=0), {"content-encoding": "gzip"}
        case 7:
            packed = zlib.compress(data)
            return packed[: draw(st.integers(0, len(packed)))], {"content-encoding": "deflate"}
        case 8:
            return _chunks(data, draw(st.integers(1, 64))), {"transfer-encoding": "chunked"}
        case 9:
            framed = draw(damaged(st.just(_chunks(data, max(1, len(data))))))
            return framed, {"transfer-encoding": "chunked"}
        case _:
            return data, {}


def _chunks(data: bytes, size: int) -> bytes:
    parts = [data[at : at + size] for at in range(0, min(len(data), 64 * size), size)]
    parts.append(data[64 * size :])
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return framed + b"0\r\n\r\n"


_GOOD: Mapping[str, Sequence[Json]] = {
    "chat": REPLIES,
    "samples": REPLIES,
    "decisions": DECISIONS,
    "systemone": SYSTEM_ONE,
}


@st.composite
def served(draw: Draw) -> Served:
    """A judge, and up to three answers for it."""
    kind = draw(st.sampled_from([*_GOOD]))
    answers = draw(st.lists(_answers(_GOOD[kind]), min_size=1, max_size=3))
    return Served(f"{kind}, {draw(st.sampled_from(['sync', 'async']))}", tuple(answers))


@dataclass
class _Script:
    """Follows the answers of whichever case is being tried."""

    answers: Sequence[Answer] = ()
    at: int = 0

    def __call__(self, _request: Request) -> Answer:
        self.at += 1
        return self.answers[min(self.at, len(self.answers)) - 1]


def _judge(name: str, url: str) -> Any:
    kind, _, way = name.partition(", ")
    client = (OpenAI if way == "sync" else AsyncOpenAI)(base_url=url, api_key="sk-fuzz-0123456789")
    match kind:
        case "chat":
            return ChatJudge(client, model="m", close_clients=True)
        case "samples":
            return SampledJudge(client, model="m", samples=3, close_clients=True)
        case "decisions":
            return DecisionsJudge(client, model="m", ask_underspecified=True, close_clients=True)
        case _:
            return SystemOneJudge(client, model="m", ask_underspecified=True, close_clients=True)


@contextmanager
def on_the_wire(_folder: Path) -> Generator[Callable[[Served], None]]:
    """The judges on a real server, each through a blocking and an asynchronous client."""
    script = _Script()
    policy = Policy(on_unmeasured="refuse", deadline=DEADLINE)
    retry = Retry(attempts=2, first_wait=0.0, max_wait=0.0)
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        server = stack.enter_context(closing(WireServer(script)))
        gates = dict[str, Gate]()
        for name in (f"{kind}, {way}" for kind in _GOOD for way in ("sync", "async")):
            judge = _judge(name, server.url)
            judge.use_breaker(failures=0)  # Or after the first few nobody would be asked.
            stack.callback(judge.close)
            gates[name] = Gate(judge, policy, retry=retry, price=Price(0.15, 0.6, 0.01))

        def check(case: Served) -> None:
            endpoint_for.cache_clear()
            server.requests.clear()
            script.answers, script.at = case.answers, 0
            started = time.monotonic()
            gate = gates[case.judge]
            if case.judge.endswith(", sync"):
                decision = gate.check(QUESTION, CONTEXTS)
            else:
                decision = runner.run(gate.acheck(QUESTION, CONTEXTS))
            assert time.monotonic() - started < DEADLINE + SLACK_SECONDS, "It took too long."
            assert script.at > 0, "Nobody was asked."
            require_decided(decision)

        yield check


# ── Files ────────────────────────────────────────────────────────────────────────────────────────

BUILT = Verdict(
    *(0.7, 0.6, 0.8, 0.9, " True", "logprobs", "scripted:scripted"),
    model="served-1",
    system_fingerprint="fp_1",
    coverage=0.5,
    usage=Usage(10, None, 3, requests=2),
    p_underspecified=0.25,
)
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
_ID = "0123456789abcdef" * 2
_ROW: Json = {
    "id": "r1",
    "question": QUESTION,
    "contexts": ["It opened in 1932.", {"text": "…"}],
    "sufficient": True,
    "group": "g1",
    "lang": "en",
    "history": [["user", "Hi"], {"role": "assistant", "content": "Hello"}],
    "answers": ["1932"],
    "sampling": "random",
    "annotator": "anna",
    "labelled_at": "2026-03-10T12:00:00.000000+00:00",
}
ROWS: tuple[Json, ...] = (
    _ROW,
    {"user_input": QUESTION, "retrieved_contexts": ["…"], "reference": "1932"},
    {"id": 7, "question": "Why?", "contexts": [], "sufficient": 0},
)
LABELS: tuple[Json, ...] = (
    _ROW,
    {**_ROW, "id": "r2", "annotator": "ben", "sampling": "targeted", "sufficient": False},
    {"id": "r3", "skipped": True, "annotator": "anna", "labelled_at": "2026-03-11T12:00:00+00:00"},
)
OUTCOMES: tuple[Json, ...] = (
    {"id": _ID, "outcome": "wrong", "time": "2026-11-21T13:15:00+00:00", "by": "anna"},
    {"id": _ID, "outcome": "sufficient", "time": "2026-11-21T13:15:00+00:00", "by": None},
)


def _decided(script: Any) -> Json:
    gate = Gate(ScriptedJudge(script), Policy(on_unmeasured="refuse"), retry=Retry(attempts=1))
    decision = replace(gate.check(QUESTION, CONTEXTS, lang="en"), id=_ID, time=NOON)
    return json.loads(json.dumps(decision.to_dict()))


def _lines(good: Sequence[Json]) -> st.SearchStrategy[bytes]:
    """A few lines of a file, of which some are changed and some are damaged."""
    ends = st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b""])
    line = st.builds(bytes.__add__, damaged(changed(good, most=2).map(written)), ends)
    return damaged(st.lists(line, max_size=4).map(b"".join))


class Kept(NamedTuple):
    """What stands in a file, and in one beside it."""

    data: bytes
    beside: bytes = b""


def check_audit(case: Kept, folder: Path) -> None:
    """Every record of an audit is sound; else a `ConfigError`, which says where."""
    path = folder / "audit.jsonl"
    texts = folder / "audit.jsonl.texts"
    texts.mkdir(exist_ok=True)
    path.write_bytes(case.data)
    (texts / "2026-03-10.jsonl").write_bytes(case.beside)
    audit = Audit(path)
    for look in (
        audit.records,
        audit.outcomes,
        partial(audit.texts, [_ID]),
        partial(audit.find, _ID[:8]),
    ):
        with ours():
            for each in _each(look()):
                json.dumps(asdict(each), default=str, allow_nan=False)
    with ours():
        AuditLog(path).close()
    assert len(audit.broken_at) <= audit.broken


def _each(found: Any) -> Iterable[Record]:
    return (
        [found]
        if isinstance(found, Record)
        else (each for each in found if isinstance(each, Record))
    )


def check_outcomes(case: bytes, folder: Path) -> None:
    """Outcomes, or a `ConfigError`; where they can be read, one more can be added."""
    file = OutcomeFile(folder / "bot.jsonl")
    file.path.write_bytes(case)
    with ours():
        before = file.read()
        file.add([Said("f" * 32, "wrong", "\ud800")])
        assert file.read()["f" * 32].helpful is False
        assert before.keys() <= file.read().keys()


def check_labels(case: Kept, folder: Path) -> None:
    """Labels, or a `ConfigError`; nothing that was said is lost by what is done next."""
    path = folder / "labels.jsonl"
    path.write_bytes(case.data)
    path.with_name("labels.skipped.jsonl").write_bytes(case.beside)
    with ours():
        file = LabelFile(path)
        before = len(file.entries())
        file.mark_random("anna", {"r1", "r2"})
        file.add(Row("new", QUERY, True, "g", (), "here"), True, Pick("new", "random"), "zoe")
        assert len(file.entries()) == before + 1
        assert file.undo("zoe", {"new"}) == "new"
        assert len(file.entries()) == before


def check_rows(case: bytes, folder: Path) -> None:
    """Rows with ids of their own, or a `ConfigError`."""
    path = folder / "rows.jsonl"
    path.write_bytes(case)
    with ours():
        found = dataset_of.read(path, labelled=False)
        assert len({row.id for row in found.rows}) == len(found.rows)


_DATASET = Dataset.of(
    [Row(f"r{at}", Query.of(f"Which is {at}?", ["…"]), True, "g", (), "here") for at in range(2)]
)


def _surveyed() -> Sequence[Json]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "judgements.jsonl"
        survey(Gate(ScriptedJudge(BUILT)), _DATASET, path=path)
        return [json.loads(line) for line in path.read_bytes().splitlines()]


def check_judgements(case: bytes, folder: Path) -> None:
    """A judgement of every row, or a `ConfigError`."""
    path = folder / "judgements.jsonl"
    path.write_bytes(case)
    with ours():
        found = survey(Gate(ScriptedJudge(0.5)), _DATASET, path=path, workers=1)
        assert [each.id for each in found] == [row.id for row in _DATASET.rows]
        for each in found:
            json.dumps(each.to_dict(), allow_nan=False)


@contextmanager
def ours() -> Generator[None]:
    """Lets a `ConfigError` pass that can be shown to a person."""
    try:
        yield
    except ConfigError as error:
        require_told(error)


class Cached(NamedTuple):
    """What a cache's file holds for the query; or the file's bytes with one changed."""

    value: Json
    flipped: tuple[int, int] | None = None


def check_cache(case: Cached, folder: Path) -> None:
    """A sound verdict, or none; a file that is no cache is a `ConfigError`. No query fails."""
    path = folder / "verdicts"
    for mark in ("", "-wal", "-shm"):
        path.with_name(f"verdicts{mark}").unlink(missing_ok=True)
    judge = ScriptedJudge(BUILT)
    with closing(SqliteCache(path)) as cache:
        Gate(judge, cache=cache).check(QUESTION, CONTEXTS)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE verdicts SET verdict = ?", (case.value,))
    if case.flipped is not None:
        data, (at, bit) = bytearray(path.read_bytes()), case.flipped
        data[at % len(data)] ^= 1 << bit
        path.write_bytes(data)
    try:
        again = SqliteCache(path)
    except ConfigError as error:
        require_told(error)
        return
    with closing(again):
        gate = Gate(judge, cache=again, price=Price(1.0, 1.0))
        require_decided(gate.check(QUESTION, CONTEXTS))


# ── Profiles ─────────────────────────────────────────────────────────────────────────────────────

PROFILES = (
    Profile(
        Thresholds(0.85, 0.3),
        fingerprint="scripted:scripted",
        calibrator=Platt(1.1, -0.2),
        certificate=Certificate(
            *(Bound(0.05, 3, 90), Bound(0.1, 4, 80), 0.95, 200, 40, "ltt", (("timeout", "refuse"),))
        ),
        signal="logprobs",
        model="served-1",
        system_fingerprints=("fp_1",),
        languages=("en", "de-CH"),
        data_version="abc",
        created=NOON,
    ),
    Profile(Thresholds(0.5, 0.5), calibrator=Isotonic((0.0, 0.4, 1.0), (0.1, 0.1, 0.9))),
)


def _content(profile: Profile) -> Json:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.json"
        profile.save(path)
        return json.loads(path.read_bytes())["profile"]


class Sealed(NamedTuple):
    """A profile's content, under a checksum that is right, in a file of this form."""

    content: Json
    form: Mapping[str, Json]


def _sealed(case: Sealed) -> bytes:
    text = written(case.content)
    try:
        parsed = json.dumps(
            ["rag-guard profile", 1, json.loads(text)], sort_keys=True, allow_nan=False
        )
    except (ValueError, RecursionError):
        parsed = ""
    checksum = hashlib.sha256(parsed.encode()).hexdigest()
    form = {"format": "rag-guard profile", "version": 1, "sha256": checksum, **case.form}
    return written({**form, "profile": "\1"}).replace(b'"\\u0001"', text)


def check_profile(case: bytes, folder: Path) -> None:
    """A profile that calibrates, is written and read again as it was; or a `ConfigError`."""
    path = folder / "bot.profile.json"
    path.write_bytes(case)
    with ours():
        profile = Profile.load(path)
        for p in (0.0, 1e-300, 0.3, 0.5, 1 - 1e-16, 1.0):
            low, middle, high = sorted(profile.calibrated(replace(BUILT, low=p, p_true=p, high=p)))
            assert 0 <= low <= middle <= high <= 1
        profile.difference(BUILT, "en")
        profile.save(path)
        assert Profile.load(path) == profile


# ── Configuration ────────────────────────────────────────────────────────────────────────────────

ADDRESSES = (
    *("http://127.0.0.1:8080/v1", "http://localhost", "https://api.openai.com/v1", "http://[::1]"),
    *("http://[::1", "http://[v1.x]", "http://a..b", "http://.", "http://-", "http://xn--a", "x"),
    *("http://\u00df.de", "http://\u2100", "http://1.2.3.4.5", "http://999.1.1.1", "http://a%zz"),
    *("http://127.0.0.1:99999", "http://127.0.0.1:0", "http://127.0.0.1:-1", "http://127.0.0.1:x"),
    *("http://a/" + "x" * 70_000, "http://" + "a" * 70, "http://u:p@a", "HTTP://A", "http:///x"),
    *("http://127.0.0.1/\ud800", "http://127.0.0.1/%", "http://127.0.0.1/systemone", "ftp://a"),
    *("http://127.0.0.1\\x", "http://127.0.0.1?x", "http://127.0.0.1#x", "http://*", "http://_a"),
    *("http://\u0661", "http://a\u200bb", "http://127.0.0.1/[", "http://127.0.0.1/ü", "http://%41"),
)
JUDGES = (
    *("openai:m", "azure:d", "decisions:m", "systemone:m", "samples:m", "scripted:0.9", "gguf:no"),
    *(
        "scripted:nan",
        "openai:",
        "openai",
        ":",
        "nobody:x",
        "openai:\x00",
        "gguf:\x00",
        "gguf:~\x00",
    ),
    *("samples:\ud800", "openai:\ud800", "openai:é", "gguf:.", "gguf:~nobody/x", "scripted:1e400"),
)
_NUMERIC: tuple[Json, ...] = (0, 1, 0.5, 0.85, 3, 20, 200, 1e-3, -0.0, "0.5", 16**5000, -(16**5000))
POOL: Mapping[str, Sequence[Json]] = {
    "judge": JUDGES,
    "base_url": ADDRESSES,
    "api_key_env": ("MY_KEY", "RAG_GUARD_MY_KEY", "NOT_SET", "", "a b", "sk-key"),
    "model_family": ("gpt-5.4-mini", " ", "\x00"),
    "api_version": ("2024-10-21", "\x00", "é"),
    "cache": ("memory", "verdicts", "a\x00b", ".", "no/such", "x" * 300, "bad.cache"),
    "profile": ("bot.profile.json", "a\x00b", "no.json", "bad.json", ".", "x" * 300),
    "on_stale": ("refuse", "raise", "answer", "nothing"),
    "extends": ("a", "b", "c", "none"),
    "fallback": ("a", "b", "c", "none"),
    "mode": ("enforce", "shadow", "dry"),
    "on_unmeasured": (
        "clarify",
        {"timeout": "answer", "default": "raise"},
        {"x": "y"},
        {"default": 1},
    ),
    "price": ({"input": 1.0, "output": 2.0}, {"input": 16**5000, "output": 1}, {"input": "x"}),
    "audit": (
        {"path": "audit.jsonl", "texts": True},
        {"path": "a\x00"},
        {"path": "."},
        {"texts": 1},
    ),
    "labels": ({"true": "Yes", "false": "No"}, {"true": "Yes", "false": "Yesterday"}, {"true": ""}),
    "messages": (
        {"refuse": "Sorry.", "clarify": {"default": "…", "de": "Wie?"}},
        {"refuse": "json:dumps", "clarify": "no_such_module_here:f", "unmeasured": "guard:nothing"},
        {"clarify": {"de": "Wie?"}},
        {"refuse": {}},
    ),
}


class Configured(NamedTuple):
    """A file, and what is set beside it."""

    data: bytes
    deployment: str | None
    environ: Mapping[str, str]
    options: Mapping[str, Json]
    flags: tuple[bool, bool, bool] = (True, True, True)


def _value(key: str) -> st.SearchStrategy[Json]:
    pool = st.sampled_from(POOL.get(key, _NUMERIC))
    # No other path: what is opened lies in the campaign's folder.
    others = ODD.filter(lambda value: not (isinstance(value, str) and {*value} & {*"/~"}))
    return st.integers(0, 5).flatmap(lambda dice: others if dice == 5 else pool)


@st.composite
def _tables(draw: Draw) -> dict[str, Json]:
    keys = st.lists(
        st.sampled_from([*Table.model_fields, "unknown", "api-key"]), max_size=3, unique=True
    )
    names = draw(
        st.lists(
            st.sampled_from(["a", "b", "default", "é", '"']), min_size=1, max_size=3, unique=True
        )
    )
    tables: dict[str, Json] = {}
    for name in names:
        tables[name] = {"judge": draw(st.sampled_from([*JUDGES[:6], *JUDGES[5:6] * 4]))}
        tables[name] |= {key: draw(_value(key)) for key in draw(keys)}
    return tables


def toml(value: Json) -> str:
    """A value as TOML; whole numbers beyond what decimal digits can say in hexadecimal ones."""
    match value:
        case bool() | None:
            return str(bool(value)).lower()
        case int():
            return hex(value) if value > 10**300 else repr(max(value, -(10**300)))
        case float():
            return repr(value)
        case str():
            return re.sub(r"\\ud[89a-f]..", "?", json.dumps(value).replace("\x7f", "\\u007f"))
        case list():
            return f"[{', '.join(map(toml, as_list(cast(object, value))))}]"
        case dict():
            pairs = as_map(cast("object", value)).items()
            return f"{{ {', '.join(f'{toml(key)} = {toml(each)}' for key, each in pairs)} }}"
        case _:
            return date(2026, 1, 1).isoformat()


def _document(tables: Mapping[str, Mapping[str, Json]]) -> bytes:
    lines = list[str]()
    for name, table in tables.items():
        lines.append(f"[deployment.{toml(name)}]")
        lines.extend(f"{toml(key)} = {toml(value)}" for key, value in table.items())
    return "\n".join([*lines, ""]).encode("utf-8", "replace")


_VARIABLES = st.dictionaries(
    st.sampled_from([*VARIABLES[1:], "RAG_GUARD_X", "RAG_GUARD_MY_KEY", "MY_KEY"]),
    st.one_of(
        st.sampled_from(
            [*JUDGES, *ADDRESSES, "a", "shadow", "refuse", "0.5", "nan", "1e999", "9" * 5000]
        ),
        st.sampled_from([text for text in TEXTS if "/" not in text]),
        st.just("sk-key-é\n"),
    ),
    max_size=3,
)
_OPTIONS = st.sampled_from([*Table.model_fields, "unknown"]).flatmap(
    lambda key: st.dictionaries(st.just(key), _value(key), max_size=1)
)
configured = st.builds(
    Configured,
    damaged(
        st.one_of(
            _tables().map(_document),
            st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")),
        )
    ),
    st.sampled_from([None, None, "a", "b", "é", "no", "\ud800"]),
    _VARIABLES,
    _OPTIONS,
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)


def check_config(case: Configured, folder: Path) -> None:
    """A gate, or a `ConfigError`."""
    path = folder / "guard.toml"
    path.write_bytes(case.data)
    PROFILES[1].save(folder / "bot.profile.json")
    (folder / "bad.json").write_bytes(b"{}")
    (folder / "bad.cache").write_bytes(b"no database, but long enough to be one" * 9)
    profiles, audit, asks = case.flags
    with ours():
        gate = load_gate(
            path,
            deployment=case.deployment,
            environ=case.environ,
            options=case.options,
            profiles=profiles,
            audit=audit,
            asks=asks,
        )
        assert isinstance(gate, Gate)
        free(gate)


def free(gate: Gate) -> None:
    """Closes all that a gate holds."""
    for each in (gate.judge, gate.cache, *gate.observers):
        close(each)  # type: ignore[arg-type]


# ── Targets ──────────────────────────────────────────────────────────────────────────────────────

Check = Callable[[Any], None]


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        cases: what it is given.
        ready: makes it ready, in a folder of its own; what it gives raises where a case breaks it.
        share: of a campaign's time.
    """

    cases: st.SearchStrategy[Any]
    ready: Callable[[Path], AbstractContextManager[Check]]
    share: float = 1.0


def target_of(
    cases: st.SearchStrategy[Any], check: Callable[[Any, Path], None], share: float = 1.0
) -> Target:
    """A target that needs nothing but a folder for its files."""

    @contextmanager
    def ready(folder: Path) -> Generator[Check]:
        yield lambda case: check(case, folder)

    return Target(cases, ready, share)


def targets() -> dict[str, Target]:
    """All targets, by name."""
    records = [_decided(0.9), _decided(BUILT), _decided(Unmeasured("No logprobs."))]
    texts = [{"id": _ID, "time": NOON.isoformat(), "question": QUESTION, "contexts": CONTEXTS}]
    contents = [_content(profile) for profile in PROFILES]
    forms: st.SearchStrategy[dict[str, Json]] = st.dictionaries(
        st.sampled_from(["version", "sha256", "format", "x"]), ODD, max_size=1
    )
    forms = st.builds(dict[str, Json]) | st.builds(dict[str, Json]) | forms
    sealed = st.builds(Sealed, changed(contents, most=2), forms).map(_sealed)
    rows = json.loads(json.dumps(asdict(BUILT)))
    cached = st.one_of(
        changed([rows], most=2).map(written).map(bytes.decode),
        st.binary(max_size=9),
        st.integers(-9, 9),
    )
    flips = st.none() | st.none() | st.tuples(st.integers(0, 20_000), st.integers(0, 7))
    surveyed = _surveyed()
    return {
        "reading": target_of(readings, check_reading, 2.0),
        "silent": target_of(silent, check_silent, 2.0),
        "wire": Target(served(), on_the_wire, 6.0),
        "config": target_of(configured, check_config, 3.0),
        "profile": target_of(damaged(sealed), check_profile),
        "audit": target_of(st.builds(Kept, _lines(records), _lines(texts)), check_audit),
        "outcomes": target_of(_lines(OUTCOMES), check_outcomes),
        "labels": target_of(st.builds(Kept, _lines(LABELS[:2]), _lines(LABELS[2:])), check_labels),
        "rows": target_of(_lines(ROWS), check_rows),
        "judgements": target_of(_kept_lines(surveyed), check_judgements),
        "cache": target_of(st.builds(Cached, cached, flips), check_cache),
    }


def _kept_lines(surveyed: Sequence[Json]) -> st.SearchStrategy[bytes]:
    """A file of judgements whose first line mostly is as it was."""
    header = st.one_of(st.just(written(surveyed[0])), changed(surveyed[:1]).map(written))
    return st.tuples(header, _lines(surveyed[1:])).map(b"\n".join)


# ── Campaigns ────────────────────────────────────────────────────────────────────────────────────


class Failure(NamedTuple):
    """One way in which a target fails.

    Attributes:
        where: the error's type and the innermost line of ours that raised it.
        told: the smallest case that was found.
        blob: what `replay` takes.
    """

    where: str
    told: str
    blob: str


@dataclass
class Report:
    """What became of one target."""

    examples: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list[Failure])


@dataclass
class Campaign:
    """Tries one target; what has failed once is not reported again."""

    target: Target
    check: Check
    report: Report = field(default_factory=Report)

    def round(self, seed: int, examples: int, blob: str | None = None) -> None:
        """So many examples from one seed; or the one that a failure's ``blob`` stands for."""
        run = given(self.target.cases)(self._try)
        run = settings(
            max_examples=examples,
            database=None,
            deadline=None,
            print_blob=True,
            phases=[Phase.generate, Phase.target, Phase.shrink],
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.filter_too_much,
                HealthCheck.large_base_example,
            ],
        )(hypothesis.seed(seed)(run))
        if blob is not None:
            run = hypothesis.reproduce_failure(VERSION, blob.encode())(run)
        try:
            run()
        except BaseExceptionGroup as group:
            for error in group.exceptions:
                self._note(error)
        except Exception as error:
            self._note(error)

    def _try(self, case: Any) -> None:
        self.report.examples += 1
        try:
            self.check(case)
        except Exception as error:
            if where(error) not in {each.where for each in self.report.failures}:
                raise

    def _note(self, error: BaseException) -> None:
        notes = "\n".join(getattr(error, "__notes__", []))
        blob = re.search(r"reproduce_failure\('[^']*', b'([^']*)'\)", notes)
        example = notes.partition("\nYou can reproduce")[0]
        told = f"{type(error).__name__}: {error!s:.300}\n{_shortened(example)}"
        if where(error) not in {each.where for each in self.report.failures}:
            self.report.failures.append(Failure(where(error), told, blob[1] if blob else ""))


def _shortened(example: str) -> str:
    """Without what repeats itself, and without lines that nobody reads to their end."""
    return re.sub(r"(.{1,12}?)\1{40,}", r"\1…", example)[:1500]


def where(error: BaseException) -> str:
    """The error's type and the innermost line of this repository."""
    root = str(Path(__file__).parent.parent)
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if one.filename.startswith(root) and ".venv" not in one.filename]
    last = [*frames, *own][-1]
    place = f"{os.path.relpath(last.filename, root)}:{last.lineno}"
    return f"{type(error).__name__} at {place}"


@contextmanager
def scratch() -> Generator[Path]:
    """A folder of its own, which is the working one meanwhile."""
    with tempfile.TemporaryDirectory() as name, chdir(name):
        yield Path(name)


def fuzz(
    target: Target,
    *,
    seed: int = 0,
    examples: int = 500,
    seconds: float = 0.0,
    blob: str | None = None,
) -> Report:
    """Tries a target.

    Args:
        seed: of the first round; each further one takes the next number.
        examples: in a round, at least one of which is made.
        seconds: rounds go on for so long.
        blob: the one example to try, instead of rounds.
    """
    started = time.monotonic()
    with scratch() as folder, target.ready(folder) as check:
        campaign = Campaign(target, check)
        campaign.round(seed, examples, blob)
        while blob is None and time.monotonic() - started < seconds:
            seed += 1
            campaign.round(seed, examples)
        campaign.report.seconds = time.monotonic() - started
        return campaign.report


def _told(name: str, report: Report) -> str:
    failures = report.failures
    lines = [
        f"{name:11} {report.examples:>9,} examples {report.seconds:>6.0f} s "
        f"{len(failures):>3} distinct failures"
    ]
    for each in failures:
        lines += [f"  {each.where}", *(f"    {line}" for line in each.told.splitlines())]
        lines += [f"    again: scripts/fuzz --target {name} --replay '{each.blob}'"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, known: Mapping[str, Target] | None = None) -> int:
    """The command line; gives 1 where anything has failed."""
    known = targets() if known is None else known
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzzes rag-guard.")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together")
    parser.add_argument("--target", choices=[*known], help="only this one")
    parser.add_argument(
        "--seed", type=int, default=time.time_ns() % 10**6, help="of the first round"
    )
    parser.add_argument("--examples", type=int, default=500, help="in a round")
    parser.add_argument("--replay", metavar="BLOB", help="the example of a failure, once more")
    options = parser.parse_args(arguments)
    chosen = {name: one for name, one in known.items() if options.target in (None, name)}
    whole, failed = sum(one.share for one in chosen.values()), 0
    print(f"seed {options.seed}, hypothesis {VERSION}", flush=True)
    for name, one in chosen.items():
        seconds = 60 * options.minutes * one.share / whole
        with no_network():
            report = fuzz(
                one,
                seed=options.seed,
                examples=options.examples,
                seconds=seconds,
                blob=options.replay,
            )
        print(_told(name, report), flush=True)
        failed += len(report.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    sys.exit(main())
