"""Pairs: an answerable and an unanswerable row each, told apart by little but the evidence."""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from data import Row, plain
from sklearn.feature_extraction.text import TfidfVectorizer

MULTI_HOP = ("hotpotqa", "wiki2multihop", "musique")
PASSAGES = ("squad1_devother", "squad1_train44", "squad1_train_mix", "nq_oracle", "qed_dev")
"""Sets of single passages of which sets of several are built."""
DISTRACTORS = 8
"""How many near passages are looked up for one question."""


class Pair(NamedTuple):
    """Two rows: ``good`` is sufficient, ``bad`` is not."""

    good: Row
    bad: Row


def matched(rows: Sequence[Row], rng: random.Random) -> list[Pair]:
    """Every row in a pair: with one of the same question, else passage, else article, else any."""
    left, pairs = list(rows), list[Pair]()
    keys: list[Callable[[Row], object]] = [
        lambda row: plain(row.question),
        lambda row: row.contexts,
        lambda row: row.group,
        lambda row: row.origin,
    ]
    for key in keys:
        found, left = _by(key, left, rng)
        pairs += found
    return pairs


def _by(
    key: Callable[[Row], object], rows: Iterable[Row], rng: random.Random
) -> tuple[list[Pair], list[Row]]:
    buckets = defaultdict[object, list[Row]](list)
    for row in rows:
        buckets[key(row)].append(row)
    pairs, left = list[Pair](), list[Row]()
    for bucket in buckets.values():
        found = _crossed(bucket, rng)
        pairs += found
        left += [] if found else bucket
    return pairs, left


def _crossed(rows: Iterable[Row], rng: random.Random) -> list[Pair]:
    """As many pairs as the larger class has rows; none where one class is missing."""
    good, bad = list[Row](), list[Row]()
    for row in rows:
        (good if row.sufficient else bad).append(row)
    if not good or not bad:
        return []
    rng.shuffle(good)
    rng.shuffle(bad)
    count = max(len(good), len(bad))
    return [Pair(good[i % len(good)], bad[i % len(bad)]) for i in range(count)]


def multi_hop(rows: Sequence[Row], rng: random.Random, *, words: int) -> list[Pair]:
    """All needed passages against all but one, with as many distractors as ``words`` allow.

    The needed ones are those that some insufficient row of the question lacks. Where not all of
    them can be known so, the rows stay whole.
    """
    by_question = defaultdict[str, list[Row]](list)
    for row in rows:
        by_question[row.question].append(row)
    pairs = list[Pair]()
    for variants in by_question.values():
        whole = [row for row in variants if row.sufficient]
        broken = [row for row in variants if not row.sufficient]
        if whole and broken:
            pairs += [_shrunk(whole[0], row, broken, rng, words) for row in broken]
    return pairs


def _shrunk(good: Row, bad: Row, broken: list[Row], rng: random.Random, words: int) -> Pair:
    needed = {text for row in broken for text in good.contexts if text not in row.contexts}
    if len(needed) != good.golds:
        return Pair(good, bad)
    common = [text for text in good.contexts if text in bad.contexts and text not in needed]
    rng.shuffle(common)
    budget = rng.uniform(0.4, 1) * words - sum(_length(text) for text in needed)
    kept = set[str]()
    for text in common:
        budget -= _length(text)
        if budget < 0:
            break
        kept.add(text)
    drop = set(common) - kept
    return Pair(_without(good, drop), _without(bad, drop))


def _without(row: Row, drop: set[str]) -> Row:
    return replace(row, contexts=tuple(text for text in row.contexts if text not in drop))


def _length(text: str) -> int:
    return len(text.split())


class Near:
    """For each question, passages of its set that are near it and do not hold its answer."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._texts = sorted({text for row in rows for text in row.contexts})
        self._plain = [f" {plain(text)} " for text in self._texts]
        self._words = TfidfVectorizer(sublinear_tf=True, stop_words="english", max_df=0.2)
        self._matrix = self._words.fit_transform(self._texts).T.tocsc()

    def to(self, row: Row, count: int = DISTRACTORS) -> list[str]:
        """The nearest passages first, none of them the row's own."""
        scores = (self._words.transform([row.question]) @ self._matrix).toarray()[0]
        answers = [f" {plain(answer)} " for answer in row.answers]
        found = list[str]()
        for at in np.argsort(-scores, kind="stable")[: 6 * count]:
            text = self._texts[at]
            held = any(answer in self._plain[at] for answer in answers)
            if not held and text not in row.contexts and len(found) < count:
                found.append(text)
        return found


def distracted(
    rows: Sequence[Row], near: Near, rng: random.Random, *, words: int, passages: int = 5
) -> list[Pair]:
    """Evidence among near passages against near passages alone, as many of the one as the other."""
    pairs = list[Pair]()
    for row in rows:
        others = near.to(row)
        room = _fitting([row.contexts[0], *others], words, passages) - 1
        if room < 1 or len(others) <= room:
            continue
        good = [row.contexts[0], *others[:room]]
        bad = others[: room + 1]
        rng.shuffle(good)
        rng.shuffle(bad)
        pairs.append(_variant(row, good, bad, "distracted"))
    return pairs


def _fitting(texts: Sequence[str], words: int, most: int) -> int:
    lengths = np.cumsum([_length(text) for text in texts[:most]])
    return int((lengths <= words).sum())


def halved(rows: Sequence[Row], near: Near, rng: random.Random) -> list[Pair]:
    """A passage in two parts against the part that lacks the answer, with a near one beside it."""
    pairs = list[Pair]()
    for row in rows:
        parts = _halves(row)
        others = near.to(row, 1) if parts else []
        if not parts or not others:
            continue
        kept = _halves_of(others[0])[0]
        good, bad = list(parts), [parts[0], kept]
        rng.shuffle(good)
        rng.shuffle(bad)
        pairs.append(_variant(row, good, bad, "halved"))
    return pairs


def _halves(row: Row) -> tuple[str, str] | None:
    """The part without the answer and the part with it; nothing where both or none hold it."""
    parts = _halves_of(row.contexts[0])
    answers = [f" {plain(answer)} " for answer in row.answers]
    held = [any(answer in f" {plain(part)} " for answer in answers) for part in parts]
    if len(parts) < 2 or sum(held) != 1:
        return None
    return (parts[1], parts[0]) if held[0] else (parts[0], parts[1])


def _halves_of(text: str) -> list[str]:
    ends = [match.end() for match in re.finditer(r"[.!?][\"')\]]* ", text)]
    inner = [end for end in ends if 0.25 * len(text) < end < 0.75 * len(text)]
    if not inner:
        return [text]
    cut = min(inner, key=lambda end: abs(end - len(text) / 2))
    return [text[:cut].strip(), text[cut:].strip()]


def _variant(row: Row, good: Sequence[str], bad: Sequence[str], kind: str) -> Pair:
    made = replace(row, id=f"{row.id}-{kind}", kind=kind)
    return Pair(
        replace(made, contexts=tuple(good), sufficient=True),
        replace(made, contexts=tuple(bad), sufficient=False),
    )


def evidence(rows: Iterable[Row]) -> list[Row]:
    """Sufficient rows of one passage whose answer stands in it word for word."""
    return [
        row
        for row in rows
        if row.sufficient and len(row.contexts) == 1 and row.origin in PASSAGES and _stands(row)
    ]


def _stands(row: Row) -> bool:
    text = f" {plain(row.contexts[0])} "
    return any(f" {plain(answer)} " in text for answer in row.answers)
