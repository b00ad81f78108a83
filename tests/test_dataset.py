"""Data sets: what is read, what is refused and how it is told, ids, groups, versions, splits."""

import json
import random
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import ConfigError, Query
from guard.dataset import Dataset, Row, read, split
from guard.overlap import overlap

ROW: dict[str, object] = {
    "question": "When did the ferry start?",
    "contexts": ["The ferry started in 1911.", "It is green."],
    "sufficient": True,
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines (texts as they are, the rest as JSON) to a file."""

    def written(*lines: object, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts), "utf-8")
        return path

    return written


def without(*fields: str) -> dict[str, object]:
    """The row without some fields."""
    return {key: value for key, value in ROW.items() if key not in fields}


# ── What is read ─────────────────────────────────────────────────────────────────────────────────


def test_every_field(write: Write) -> None:
    """A row holds what its line says, and where it stands."""
    more = {
        "id": "a",
        "group": "ferries",
        "lang": "en",
        "answers": ["1911", "in 1911"],
        "sampling": "random",
        "history": [["user", "Hello."], ["assistant", "Hello!"]],
        "license": {"unknown": [float("nan")]},
    }
    path = write("", ROW | more)
    query = Query.of(
        "When did the ferry start?",
        ["The ferry started in 1911.", "It is green."],
        history=[("user", "Hello."), ("assistant", "Hello!")],
        lang="en",
    )
    place = f"{path}, line 2"
    answers = ("1911", "in 1911")
    assert read(path).rows == (Row("a", query, True, "ferries", answers, place, "random"),)


@pytest.mark.parametrize(
    ("names", "answers"),
    [
        ({"user_input": "Q?", "retrieved_contexts": ["c"], "reference": "right"}, ("right",)),
        ({"question": "Q?", "contexts": ["c"], "ground_truth": "right"}, ("right",)),
        ({"question": "Q?", "contexts": ["c"], "ground_truths": ["right", "r"]}, ("right", "r")),
        # What a system said is not what is right.
        ({"question": "Q?", "contexts": ["c"], "answer": "said", "response": "said"}, ()),
        ({"question": "Q?", "user_input": "no", "contexts": ["c"], "reference": None}, ()),
        ({"question": None, "user_input": "Q?", "contexts": ["c"], "answers": "right"}, ("right",)),
    ],
)
def test_other_names(write: Write, names: dict[str, object], answers: tuple[str, ...]) -> None:
    """RAGAS's names are read, those of this project first; what is null is not there."""
    (row,) = read(write({**names, "sufficient": False})).rows
    assert (row.query, row.sufficient, row.answers) == (Query.of("Q?", ["c"]), False, answers)


@pytest.mark.parametrize(
    ("label", "read_as"),
    [(True, True), (False, False), (1, True), (0, False), (1.0, True), (0.0, False)],
)
def test_labels(write: Write, label: object, read_as: bool) -> None:
    """A JSON boolean, or 0 and 1, also as pandas writes them."""
    (row,) = read(write(ROW | {"sufficient": label})).rows
    assert row.sufficient is read_as


@pytest.mark.parametrize("fields", [{}, {"sufficient": None}])
def test_unlabelled_rows_are_read_where_they_may_be(
    write: Write, fields: dict[str, object]
) -> None:
    """No label is not a label."""
    path = write(without("sufficient") | fields)
    assert read(path, labelled=False).rows[0].sufficient is None


@pytest.mark.parametrize(
    "turn",
    [
        ["user", "Hello."],
        {"role": "user", "content": "Hello."},
        {"role": "user", "text": "Hello."},
    ],
)
def test_turns(write: Write, turn: object) -> None:
    """A turn is a pair or a chat message."""
    (row,) = read(write(ROW | {"history": [turn]})).rows
    assert row.query.history == (("user", "Hello."),)


def test_nothing_by_another_name_is_no_history(write: Write) -> None:
    """Nor is it looked at where there is a history."""
    turns = [["user", "Hello."]]
    path = write(
        ROW | {"chat_history": [], "messages": None}, ROW | {"history": turns, "messages": turns}
    )
    assert [len(row.query.history) for row in read(path).rows] == [0, 1]


@pytest.mark.parametrize(
    ("history", "told", "hint"),
    [
        ([{"role": "user", "content": "Hello."}], "`history[0]` is not a pair", 'not {"role": …}'),
        ([("user", "Hello."), ("user",)], "`history[1]` is not a pair", '("user", "Hello.")'),
        ("hello", "`history` is str, not a list", '("user", "Hello.")'),
        (b"hello", "`history` is bytes, not a list", '("user", "Hello.")'),
        ({"user": "Hello."}, "`history` is dict, not a list", '("user", "Hello.")'),
    ],
)
def test_a_query_says_how_turns_are_written(history: Any, told: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        Query.of("And him?", ["x"], history=history)
    assert hint in (caught.value.hint or "")


def test_a_question_and_its_answer_are_two_turns(write: Write) -> None:
    """As data sets of conversations have them."""
    (row,) = read(write(ROW | {"history": [{"question": "Who?", "answer": "She."}]})).rows
    assert row.query.history == (("user", "Who?"), ("assistant", "She."))


def test_contexts_may_be_objects(write: Write) -> None:
    """With ``text`` or ``content``."""
    path = write(ROW | {"contexts": [{"text": "a", "score": 1}, {"content": "b"}, "c"]})
    assert read(path).rows[0].query.contexts == ("a", "b", "c")


def test_files_of_windows_editors(tmp_path: Path) -> None:
    """A byte order mark, blank lines, \\r\\n; U+2028 ends no line."""
    path = tmp_path / "rows.jsonl"
    line = json.dumps(ROW | {"question": "a\u2028b"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n \r\n{line}\r\n".encode())
    rows = read(path).rows
    assert [row.query.question for row in rows] == ["a\u2028b"] * 2
    assert [row.place.rpartition(", ")[2] for row in rows] == ["line 1", "line 3"]


def test_several_files_are_one_set(write: Write) -> None:
    """In the order given."""
    paths = [write(ROW | {"id": name}, name=f"{name}.jsonl") for name in ("b", "a")]
    assert [row.id for row in read(paths).rows] == ["b", "a"]
    assert read(paths).version == read(reversed(paths)).version


# ── What is refused ──────────────────────────────────────────────────────────────────────────────

HALF = json.dumps(ROW)[:40]


WRONG: list[tuple[list[object], str]] = [
    ([ROW | {"sampling": "by hand"}], "line 1: `sampling` is a text, none of random, targeted."),
    ([ROW | {"sampling": ""}], "line 1: `sampling` is a text, none of"),
    ([ROW | {"sampling": ["random"]}], "line 1: `sampling` is a list, none of"),
    ([ROW, HALF], "line 2: the last line is cut off."),
    ([ROW, HALF, "", " "], "line 2: the last line is cut off."),
    ([ROW, '{"question": "Q", "contexts": [{"text": "c"}'], "line 2: the last line is cut off"),
    ([HALF, ROW], "line 1: not valid JSON (Expecting"),
    ([ROW, '{"question": "Q",, "sufficient": true}'], "line 2: not valid JSON (Expecting"),
    (["[" * 100_000 + "]"], "line 1: not valid JSON"),
    (["7" * 5000], "line 1: not valid JSON"),
    ([[ROW]], "line 1: a list, not an object."),
    (["null"], "line 1: null, not an object."),
    ([], "there is no row."),
    (["", " \t"], "there is no row."),
    ([without("question")], "line 1: `question` is missing."),
    ([ROW | {"question": " "}], "line 1: `question` is blank."),
    ([without("question") | {"user_input": 3}], "line 1: `user_input` is 3, not text."),
    ([without("question") | {"user_input": [{}]}], "line 1: `user_input` is a list, not text."),
    ([without("contexts")], "line 1: `contexts` is missing."),
    ([ROW | {"contexts": "['a', 'b']"}], "line 1: `contexts` is a text, not a list."),
    ([ROW | {"contexts": ""}], "line 1: `contexts` is a text, not a list."),
    ([ROW | {"contexts": {}}], "line 1: `contexts` is an object, not a list."),
    ([ROW | {"contexts": False}], "line 1: `contexts` is false, not a list."),
    ([ROW | {"contexts": ["a", None]}], "line 1: `contexts[1]` is null, neither"),
    ([ROW | {"contexts": [{"page": "a"}]}], "line 1: `contexts[0]` is an object, neither"),
    ([ROW, without("sufficient")], "line 2: `sufficient` is missing."),
    ([ROW | {"sufficient": None}], "line 1: `sufficient` is missing."),
    (
        [ROW, without("sufficient"), ROW | {"sufficient": None}],
        "2 of 3 rows have no label; the first: ",
    ),
    (
        [without("sufficient") | {"label": 1}],
        "`sufficient` is missing; `label` is there: call it `sufficient`.",
    ),
    (
        [without("question") | {"query": "Q"}],
        "line 1: `question` is missing; `query` is there: call it `question`.",
    ),
    (
        [without("contexts") | {"documents": ["c"]}],
        "line 1: `contexts` is missing; `documents` is there: call it `contexts`.",
    ),
    (
        [ROW | {"contexts": [{"page_content": "a ferry"}]}],
        "`contexts[0]` is an object, neither text nor an object with `text` or `content`; "
        "`page_content` is there: call it `text`.",
    ),
    ([ROW | {"sufficient": "false"}], "line 1: `sufficient` is a text."),
    ([ROW | {"sufficient": 0.5}], "line 1: `sufficient` is 0.5."),
    ([ROW | {"sufficient": float("nan")}], "line 1: `sufficient` is NaN."),
    ([ROW | {"sufficient": []}], "line 1: `sufficient` is a list."),
    ([ROW | {"lang": 1}], "line 1: `lang` is 1, not text."),
    ([ROW | {"id": True}], "line 1: `id` is true, not text."),
    ([ROW | {"id": " "}], "line 1: `id` is blank."),
    ([ROW | {"group": ["a"]}], "line 1: `group` is a list, not text."),
    ([ROW | {"group": 0.5}], "line 1: `group` is 0.5, not text."),
    ([ROW | {"history": "Hello."}], "line 1: `history` is a text, not a list."),
    ([ROW | {"history": [["user"]]}], "line 1: `history[0]` is a list, not a turn."),
    ([ROW | {"history": ["Hello."]}], "line 1: `history[0]` is a text, not a turn."),
    ([ROW | {"chat_history": [["user", "x"]]}], "line 1: `history` is missing; `chat_history` is"),
    ([ROW | {"history": [], "messages": [{}]}], "`messages` is there: call it `history`."),
    ([ROW | {"answers": ["a", 1]}], "line 1: `answers[1]` is 1, not text."),
    ([ROW | {"reference": 1911}], "line 1: `reference` is 1911, not a list."),
]


@pytest.mark.parametrize(("lines", "said"), WRONG)
def test_what_is_wrong_is_named(write: Write, lines: list[object], said: str) -> None:
    """File, line and field, and what to write; no text of the row."""
    path = write(*lines)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(path) in caught.value.message
    assert said in caught.value.message
    assert caught.value.hint
    assert "ferry" not in str(caught.value)


def test_both_rows_with_one_id_are_named(write: Write) -> None:
    """Also across files, and where one is a number."""
    paths = [write(ROW | {"id": 7}), write("", ROW | {"id": "7"}, name="more.jsonl")]
    with pytest.raises(ConfigError) as caught:
        read(paths)
    assert f"{paths[1]}, line 2: `id`" in caught.value.message
    assert f"{paths[0]}, line 1" in caught.value.message


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_is_named_twice(write: Write, tmp_path: Path, *, linked: bool) -> None:
    """Its rows would count twice, and all figures look surer than they are."""
    path = write(ROW)
    again = tmp_path / "again.jsonl" if linked else tmp_path / "." / path.name
    if linked:
        again.symlink_to(path)
    with pytest.raises(ConfigError, match=re.escape(f"{str(again)!r} is named twice")) as caught:
        read([path, again])
    assert (f"as {str(path)!r} too" in caught.value.message) is linked
    assert caught.value.hint == "Name each file once."


def test_without_labels_it_is_said_how_to_get_them(write: Write) -> None:
    """With the command for these very files."""
    paths = [write(without("sufficient"), name=f"{name}.jsonl") for name in "ab"]
    with pytest.raises(ConfigError) as caught:
        read(paths)
    assert caught.value.hint
    assert f"rag-guard label {paths[0]} {paths[1]} -o labels.jsonl" in caught.value.hint


@pytest.mark.parametrize(
    ("people", "said"),
    [
        (("anna", "ben"), "this row is labelled twice, by 'anna' and by 'ben'; first in "),
        (("anna", "anna"), "this row is labelled twice, by 'anna' both times; first in "),
        (("anna", None), "`id` is that of "),
    ],
)
def test_two_labels_of_one_row(
    write: Write, people: tuple[str | None, str | None], said: str
) -> None:
    """Whose they are, and where."""
    path = write(*(ROW | {"id": "a", "annotator": who} for who in people))
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert caught.value.message.startswith(f"{path}, line 2: {said}{path}, line 1")
    assert caught.value.hint
    assert ("--agreement" in caught.value.hint) is (None not in people)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_only_utf8(tmp_path: Path, encoding: str) -> None:
    """And the error says which line is not."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(ROW | {"id": "ä"}, ensure_ascii=False).encode(encoding) + b"\n{}")
    with pytest.raises(ConfigError, match="line 1: not UTF-8"):
        read(path)


def test_a_last_line_cut_within_a_character(tmp_path: Path) -> None:
    """Is cut off, not badly encoded."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"question": "ä'.encode()[:-1])
    with pytest.raises(ConfigError, match="line 1: the last line is cut off"):
        read(path)


@pytest.mark.parametrize("name", [".", "nowhere.jsonl"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """A folder, or nothing."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / name)


def test_no_file() -> None:
    """No path is no data set."""
    with pytest.raises(ConfigError, match="No file: there is no row"):
        read([])


# ── Ids, groups, versions ────────────────────────────────────────────────────────────────────────


def test_made_ids_outlive_labelling(write: Write) -> None:
    """They depend on the query alone; a second row with the same one gets a number behind it."""
    first = read(write(without("sufficient"), without("sufficient")), labelled=False)
    then = read(write("", ROW, ROW | {"sufficient": False, "group": "g", "lang": "en"}))
    ids = [row.id for row in then.rows]
    assert [row.id for row in first.rows] == ids
    assert ids[1] == f"{ids[0]}-2"
    assert first.version != then.version


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"contexts": ["a", "b"]}, {"contexts": ["b", "a"], "question": "Other?"}, True),
        ({"contexts": ["a", "b"]}, {"contexts": ["a"]}, False),
        ({"contexts": ["ab", "c"]}, {"contexts": ["a", "bc"]}, False),
        ({"contexts": ["a"], "group": 1}, {"contexts": ["b"], "group": "1"}, True),
        # Where nothing was retrieved, rows have no document in common.
        ({"contexts": []}, {"contexts": [" "], "question": "Other?"}, False),
        ({"contexts": []}, {"contexts": [" "]}, True),
    ],
)
def test_groups(write: Write, one: dict[str, object], other: dict[str, object], same: bool) -> None:
    """The file's own, else those of the same contexts."""
    rows = read(write(ROW | one, ROW | other)).rows
    assert (rows[0].group == rows[1].group) is same


CHANGES: list[dict[str, object]] = [
    {"question": "When?"},
    {"contexts": ["The ferry started in 1911. It is green."]},
    {"sufficient": False},
    {"history": [["user", "Hello."]]},
    {"lang": "en"},
    {"answers": ["1911"]},
    {"group": "g"},
    {"id": "b"},
    {"sampling": "random"},
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_content_is_another_version(
    write: Write, change: dict[str, object]
) -> None:
    """Whatever a row holds counts."""
    row = ROW | {"id": "a"}
    assert read(write(row)).version != read(write(row | change)).version


texts = st.text(max_size=8)
objects = st.fixed_dictionaries(
    {
        "question": texts.filter(str.strip),
        "contexts": st.lists(texts, max_size=3),
        "sufficient": st.booleans(),
    },
    optional={
        "lang": texts,
        "history": st.lists(st.tuples(texts, texts).map(list), max_size=2),
        "answers": st.lists(texts, max_size=2),
        "group": texts.filter(str.strip),
    },
)


@given(rows=st.lists(objects, min_size=1, max_size=5), seed=st.integers(0, 9))
def test_reading_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], seed: int
) -> None:
    """Whatever the texts; and spaces, keys' order, escapes and lines' order are no content."""
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    found = read(path)
    for row, given_row in zip(found.rows, rows, strict=True):
        assert [row.query.question, list(row.query.contexts)] == [
            given_row["question"],
            given_row["contexts"],
        ]
        assert row.sufficient is given_row["sufficient"]
        assert list(map(list, row.query.history)) == given_row.get("history", [])
        assert list(row.answers) == given_row.get("answers", [])
        assert row.query.lang == given_row.get("lang")
    assert len({row.id for row in found.rows}) == len(rows)

    numbered = [{**given_row, "id": number} for number, given_row in enumerate(rows)]
    path.write_text("\n".join(map(json.dumps, numbered)), "utf-8")
    version = read(path).version
    random.Random(seed).shuffle(numbered)
    turned = [dict(reversed(row.items())) for row in numbered]
    path.write_text("\n\n".join(json.dumps(row, separators=("\t,", " : ")) for row in turned))
    assert read(path).version == version


# ── Size ─────────────────────────────────────────────────────────────────────────────────────────


def test_memory_is_that_of_the_rows(tmp_path: Path) -> None:
    """Not that of the file, most of which is fields that nobody asked for."""
    path = tmp_path / "big.jsonl"
    with path.open("w") as file:
        for number in range(200):
            file.write(json.dumps({**ROW, "id": number, "log": "x" * 100_000}) + "\n")
    tracemalloc.start()
    try:
        rows = read(path).rows
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows) == 200
    assert peak < path.stat().st_size / 10


# ── Splits ───────────────────────────────────────────────────────────────────────────────────────


def made_rows(sizes: list[int]) -> list[Row]:
    """Rows in groups of these sizes."""
    return [
        Row(f"{group}-{number}", Query.of("Q?", ["c"]), True, str(group), (), "here")
        for group, size in enumerate(sizes)
        for number in range(size)
    ]


@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=12),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_groups_stay_together(sizes: list[int], share: float, seed: int) -> None:
    """No group is in both parts, no row is lost, and neither part is empty."""
    rows = made_rows(sizes)
    first, second = split(rows, share, seed=seed)
    groups = [{row.group for row in part} for part in (first, second)]
    assert not groups[0] & groups[1]
    assert abs(len(groups[0]) - share * len(sizes)) <= 1
    assert first and second
    kept = set(map(id, first))
    assert [row for row in rows if id(row) in kept] == first
    assert [row for row in rows if id(row) not in kept] == second


def test_a_split_is_its_seeds() -> None:
    """Not that of the rows' order, labels or texts."""
    rows = made_rows([1] * 40)
    first, _ = split(rows, 0.5, seed=1)
    labelled = [replace(row, sufficient=number < 20) for number, row in enumerate(rows)]
    again, _ = split(list(reversed(labelled)), 0.5, seed=1)
    assert {row.id for row in again} == {row.id for row in first}
    other, _ = split(rows, 0.5, seed=2)
    assert {row.id for row in other} != {row.id for row in first}


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_both_parts_need_a_share(share: float) -> None:
    """All or nothing is no split."""
    with pytest.raises(ConfigError, match="`share`"):
        split(made_rows([1, 1]), share, seed=0)


@pytest.mark.parametrize("sizes", [[], [9]])
def test_one_group_cannot_be_split(sizes: list[int]) -> None:
    """Rather an error than leakage."""
    with pytest.raises(ConfigError, match="cannot be split"):
        split(made_rows(sizes), 0.5, seed=0)


def test_a_data_set_of_rows() -> None:
    """Has a version, and as few double ids as one from a file."""
    rows = made_rows([2])
    assert Dataset.of(rows).version == Dataset.of(reversed(rows)).version
    with pytest.raises(ConfigError, match="`id`"):
        Dataset.of([*rows, rows[0]])
    with pytest.raises(ConfigError, match="no row"):
        Dataset.of([])


# ── Overlap ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("question", "contexts", "share"),
    [
        ("When did it open?", ["It opened.", "WHEN did it open: in 1932"], 1.0),
        ("When did it open?", ["It did", "open when"], 0.5),
        ("red red blue", ["red"], 0.5),
        ("art", ["party"], 0.0),
        ("Straße", ["STRASSE"], 1.0),
        ("café", ["cafe\u0301"], 1.0),
        ("???", ["anything"], 0.0),
        ("word", [], 0.0),
        ("word", [""], 0.0),
        # No spaces between words: 東京, 京駅 of three pairs.
        ("東京駅は", ["ここは東京駅です"], 2 / 3),
        ("水", ["水道"], 0.0),
        ("水", ["水"], 1.0),
        ("2024年", ["2024"], 0.5),
    ],
)
def test_overlap(question: str, contexts: list[str], share: float) -> None:
    """The share of the question's words in the best context."""
    assert overlap(question, contexts) == pytest.approx(share)
