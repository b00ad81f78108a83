"""Private files, no code from data, harmless regular expressions, no secrets in what is said, and
an audit of what is installed."""

import ast
import asyncio
import base64
import hashlib
import importlib
import os
import re
import stat
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import pytest
from ambiguity import EXPONENTIAL, power
from reported import sample
from wire import Answer, Script, WireServer

from guard import ConfigError, Decision, Gate, JudgeError, Policy, Profile, Query, Retry, Thresholds
from guard import judges as judges_by_name
from guard.audit import AuditLog
from guard.cli import app, main
from guard.dataset import Dataset, Row
from guard.judges import JudgeOptions
from guard.judges.client_judge import ClientJudge
from guard.label_file import LabelFile
from guard.labelling import Pick
from guard.outcomes import OutcomeFile, Said
from guard.prompt import Prompt
from guard.providers import providers
from guard.sqlite_cache import SqliteCache
from guard.survey import survey
from guard.testing import ScriptedJudge
from guard.verdict import Verdict
from scripts import audit

ROOT = Path(__file__).parent.parent
FOLDERS = ("guard", "integrations")
KEY = "sk-canary-0123456789"
ROW = Row("a", Query.of("Which ferry?", ["The ferry."]), True, "a", (), "rows.jsonl, line 1")


def chat(text: str, before: str = "") -> dict[str, object]:
    """A chat completion of one token."""
    token = {"token": before + text, "bytes": None, "logprob": -0.1}
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": f"{before}{text}x"},
        "logprobs": {"content": [{**token, "token": f"{before}{text}x", "top_logprobs": [token]}]},
    }
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


# ── Private files ────────────────────────────────────────────────────────────────────────────────

Write = Callable[[Path], object]
"""Writes into a folder; what it returns is kept open until the files have been looked at."""


def gate(p: float = 0.9, **options: Any) -> Gate:
    return Gate(ScriptedJudge(p), retry=Retry(attempts=1), **options)


def write_audit(folder: Path) -> object:
    log = AuditLog(folder / "audit.jsonl", texts=True, max_bytes=10_000)
    asked = gate(observers=[log])
    for _ in range(30):  # So that it is rotated.
        asked.check("Which ferry?", ["The ferry."])
    return log


def write_cache(folder: Path) -> object:
    cache = SqliteCache(folder / "cache.db")
    cache.put("key", Verdict(0.9, 0.9, 0.9, 1.0, "True", "scripted", "scripted"))
    assert (folder / "cache.db-wal").exists() and (folder / "cache.db-shm").exists()
    return cache


def write_labels(folder: Path) -> None:
    file = LabelFile(folder / "labels.jsonl")
    for said in (True, None):
        file.add(ROW, said, Pick(ROW.id, "random"), "anna")
    file.undo("anna", [ROW.id])


def write_changes(folder: Path) -> None:
    with AuditLog(folder / "audit.jsonl") as log:
        gate(0.6, observers=[log]).check("Which ferry?", ["The ferry."])
    run(
        "replay",
        folder / "audit.jsonl",
        "--answer-at",
        0.5,
        "--refuse-below",
        0.1,
        "--changes",
        folder / "changes",
    )


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code


WRITERS: Mapping[str, tuple[Write, set[str]]] = {
    "audit": (write_audit, {"guard/audit.py", "guard/line_file.py"}),
    "outcomes": (
        lambda folder: OutcomeFile(folder / "audit.jsonl").add([Said("0" * 32, "wrong", "anna")]),
        {"guard/line_file.py"},
    ),
    "cache": (write_cache, {"guard/sqlite_cache.py"}),
    "survey": (
        lambda folder: survey(gate(), Dataset.of([ROW]), path=folder / "verdicts.jsonl"),
        {"guard/survey.py"},
    ),
    "labels": (write_labels, {"guard/label_file.py"}),
    "report": (
        lambda folder: sample(30).report().write(folder / "report.html"),
        {"guard/report.py"},
    ),
    "changes": (write_changes, {"guard/cli/replay.py"}),
}
"""Every writer of what may hold questions, verdicts, labels or records, and the files it is in."""

OTHERS: Mapping[str, str] = {
    "guard/_profile_file.py": "a profile holds no text and is for a deployment to read; see below",
    "guard/cli/__init__.py": "opens the null device",
    "guard/cli/label.py": "opens a file that is there, to see whether it can be written",
    "guard/cli/paths.py": "a nameless file, to see whether there can be one",
}


@contextmanager
def no_umask() -> Generator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """What is not private below a folder."""
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in sorted(folder.rglob("*"))}
    return {
        path.name: oct(mode)
        for path, mode in found.items()
        if mode != (0o700 if path.is_dir() else 0o600)
    }


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_written_is_private(tmp_path: Path, writer: str) -> None:
    """Whatever the umask."""
    with no_umask():
        kept = WRITERS[writer][0](tmp_path)
    assert any(tmp_path.iterdir())
    assert modes(tmp_path) == {}
    del kept


# A team may share a label file by its mode, which `label` therefore keeps.
@pytest.mark.parametrize("writer", sorted(WRITERS.keys() - {"labels"}))
def test_what_was_open_to_all_is_private_from_the_next_time_on(tmp_path: Path, writer: str) -> None:
    """Also files that a database keeps beside its own. Whoever can write can plant."""
    write = WRITERS[writer][0]
    with no_umask():
        kept = [write(tmp_path)]
        # Not the files put aside: nothing is written to them again.
        for path in tmp_path.rglob("*"):
            if not re.search(r"[0-9]T[0-9]{12}Z", path.name):
                path.chmod(0o777 if path.is_dir() else 0o666)
        kept.append(write(tmp_path))
    assert modes(tmp_path) == {}


FOREIGN = "my notes\n" * 200
OWN_NAMES = {
    "audit": "audit.jsonl",
    "outcomes": "audit.outcomes.jsonl",
    "cache": "cache.db",
    "survey": "verdicts.jsonl",
    "labels": "labels.jsonl",
    "report": "report.html",
}


@pytest.mark.parametrize("writer", OWN_NAMES)
def test_somebody_elses_file_is_refused_and_keeps_its_mode(tmp_path: Path, writer: str) -> None:
    path = tmp_path / OWN_NAMES[writer]
    path.write_text(FOREIGN, "utf-8")
    path.chmod(0o644)
    with pytest.raises(ConfigError):
        WRITERS[writer][0](tmp_path)
    assert path.read_text("utf-8") == FOREIGN
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_profile_may_be_read_and_not_planted(tmp_path: Path) -> None:
    """It holds no text, and another user's service may load it. Who writes it sets thresholds."""
    path = tmp_path / "profile.json"
    with no_umask():
        Profile(Thresholds(0.8, 0.2)).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


WRITING = {
    *("mkdir", "touch", "write_text", "write_bytes", "NamedTemporaryFile", "mkstemp"),
    *("mkdtemp", "TemporaryFile", "TemporaryDirectory", "copyfile", "copytree"),
}


def test_every_writer_is_known() -> None:
    """Who adds one adds it to the table."""
    found = {place for place, call in calls() if writes(call)}
    assert found == {*OTHERS}.union(*(files for _, files in WRITERS.values()))


def writes(call: ast.Call) -> bool:
    name, owner = called(call)
    if name == "open" and owner == "os":
        return "O_WRONLY" in (text := ast.unparse(call)) or "O_RDWR" in text or "flags" in text
    if name == "open":
        modes = [each.value for each in call.args if isinstance(each, ast.Constant)]
        return any(re.fullmatch(r"r?b?[wax+][b+]*", str(mode)) for mode in modes)
    return name in WRITING or (owner, name) == ("sqlite3", "connect")


# ── No code from data ────────────────────────────────────────────────────────────────────────────

FORBIDDEN_MODULES = {
    *("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "xml", "lxml", "pty"),
    *("telnetlib", "ftplib", "subprocess", "dbm", "code", "codeop", "runpy", "jsonpickle"),
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "__import__", "mktemp", "system", "popen", "loadtxt", "genfromtxt"),
    *("_create_unverified_context", "fromfile", "read_pickle", "execv", "spawnl", "spawnv"),
}
FORBIDDEN_KEYWORDS = {"allow_pickle": False, "shell": False, "verify": True}
MAY_IMPORT: Mapping[str, str] = {
    "guard/_extras.py": "one of our own names, with a hint where its package is missing",
    "guard/judges/__init__.py": "one of our own files",
    "guard/judges/gguf.py": "xllamacpp",
    "guard/config/messages.py": "the module that the owner of guard.toml names; no data is asked",
    "guard/cli/demo.py": "the demo's application",
    "integrations/guard_llama_index/demo.py": "a package without types",
}
"""Who may import by a name that is not written in an import, and which."""


def test_no_code_comes_from_data() -> None:
    """What is kept is JSON; nothing that is read can run."""
    found = [f"{place}: {name}" for place, name in modules() if name in FORBIDDEN_MODULES]
    for place, call in calls():
        found += [f"{place}: {wrong}" for wrong in forbidden(call)]
    assert found == []


def test_imports_by_name_are_known() -> None:
    found = {place for place, call in calls() if called(call)[0] == "import_module"}
    assert found == {*MAY_IMPORT}


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "builtins.exec(text)",
        "compile(text, '', 'exec')",
        "os.system(text)",
        "tempfile.mktemp()",
        "numpy.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=wanted)",
        "httpx.Client(verify=False)",
        "run(text, shell=True)",
        "hashlib.md5(text)",
    ],
)
def test_planted_code_is_found(line: str) -> None:
    (statement,) = ast.parse(line).body
    assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    assert list(forbidden(statement.value))


def forbidden(call: ast.Call) -> Iterator[str]:
    name, owner = called(call)
    if name in FORBIDDEN_CALLS or name in ("md5", "sha1") or (name, owner) == ("compile", None):
        yield name
    for keyword in call.keywords:
        allowed, value = FORBIDDEN_KEYWORDS.get(keyword.arg or ""), keyword.value
        if allowed is not None and not (isinstance(value, ast.Constant) and value.value is allowed):
            yield f"{keyword.arg}={ast.unparse(value)}"


@cache
def trees() -> list[tuple[str, ast.Module]]:
    """Every file of ours, by its path, and what is in it."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return [
        (path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))) for path in paths
    ]


def calls() -> Iterator[tuple[str, ast.Call]]:
    for place, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield place, node


def modules() -> Iterator[tuple[str, str]]:
    """The top of each module that a file imports."""
    for place, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ((place, each.name.partition(".")[0]) for each in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield place, node.module.partition(".")[0]


def called(call: ast.Call) -> tuple[str, str | None]:
    """The name of what is called, and of what it belongs to."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr, ast.unparse(call.func.value)
    return (call.func.id, None) if isinstance(call.func, ast.Name) else ("", None)


# ── Regular expressions ──────────────────────────────────────────────────────────────────────────

FUNCTIONS = {
    *("compile", "search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer"),
}
BUILT = {
    ("guard/audit_file.py", "fullmatch"): [r"[0-9a-f]{4,32}"],
    ("guard/line_file.py", "name"): [r"audit\.[0-9]{8}T[0-9]{12}Z\.jsonl"],
    ("guard/providers.py", "search"): sorted({each.models for each in providers()}),
}
"""Expressions that are made as they are used, and what they can be."""

SHORT: Mapping[str, str] = {
    "integrations/guard_llama_index/clarifier.py: _MORE_THAN_WORDS": "200 characters at most",
}
"""Expressions that take the square of a text's length, and why the text is short."""


@dataclass(frozen=True)
class Expression:
    """One regular expression, and what is asked of it."""

    place: str
    pattern: str | bytes
    flags: int
    searches: bool
    ends: bool

    @property
    def power(self) -> int:
        return power(self.pattern, self.flags, searches=self.searches, ends=self.ends)


def expressions() -> Iterator[Expression]:
    for place, tree in trees():
        for node in ast.walk(tree):
            for target in node.targets if isinstance(node, ast.Assign) else ():
                if isinstance(node, ast.Assign) and is_of_re(node.value):
                    yield from made(place, tree, node.value, ast.unparse(target))
        named = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign)}
        for node in ast.walk(tree):
            if id(node) not in named and is_of_re(node):
                yield from made(place, tree, node, None)


def is_of_re(node: ast.AST) -> bool:
    """A use of `re`, or a pattern that pydantic is to hold a text to."""
    if not isinstance(node, ast.Call):
        return False
    name, owner = called(node)
    return (owner == "re" and name in FUNCTIONS) or any(
        one.arg == "pattern" for one in node.keywords
    )


def made(place: str, tree: ast.Module, call: ast.AST, name: str | None) -> Iterator[Expression]:
    assert isinstance(call, ast.Call)
    used = {called(call)[0]} if name is None else uses(tree, name)
    named = next((each.value for each in call.keywords if each.arg == "pattern"), None)
    rest = () if named else call.args[1:]
    flags = [each.value for each in call.keywords if each.arg == "flags"]
    flags += [each for each in rest if ast.unparse(each).startswith("re.")]
    told = f"{place}: {name or f'line {call.lineno}'}"
    for pattern in values(place, name or called(call)[0], named or call.args[0]):
        yield Expression(
            told,
            pattern,
            sum(int(eval(ast.unparse(each), {"re": re})) for each in flags),
            searches=not used <= {"match", "fullmatch"},
            ends=used == {"fullmatch"},
        )


def uses(tree: ast.Module, name: str) -> set[str]:
    found = [called(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {function for function, owner in found if owner == name} or {"search"}


def values(place: str, name: str, node: ast.expr) -> list[str | bytes]:
    """What an expression can be: as it is written, as its module makes it, or as the table says."""
    if (known := BUILT.get((place, name))) is not None:
        return [*known]
    with suppress(ValueError):
        value: object = ast.literal_eval(node)
        assert isinstance(value, str | bytes)
        return [value]
    module = importlib.import_module(place.removesuffix(".py").replace("/", "."))
    return [eval(ast.unparse(node), vars(module))]  # It stands there already.


def test_all_are_looked_at() -> None:
    """None hides behind another name of `re`."""
    for place, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert all(each.asname is None for each in node.names if each.name == "re"), place
                assert all(each.name != "regex" for each in node.names), place
            assert not isinstance(node, ast.ImportFrom) or node.module not in ("re", "regex"), place
    found = [each.place for each in expressions()]
    assert len(found) > 40
    assert {*SHORT} <= {*found}


def test_no_text_makes_a_regular_expression_slow() -> None:
    """Passages and replies have megabytes; `re` holds the interpreter's lock past any deadline."""
    powers = {each: each.power for each in expressions()}
    slow = {each for each, found in powers.items() if found > (2 if each.place in SHORT else 1)}
    assert {each.place: each.pattern for each in slow} == {}


PLANTED = [
    (r"(a+)+$", EXPONENTIAL),
    (r"(a*)*b", EXPONENTIAL),
    (r"(?:a|b|ab)*c", EXPONENTIAL),
    (r"(?:\w+\s?)*!", EXPONENTIAL),
    (r"((a|b*)c?)*d", EXPONENTIAL),
    (r"(.*),(.*),(.*)x", 4),
    (r"[a-z]+\d*[a-z]+\d*!", 3),
    (r"\s+$", 2),
    (r"a+b", 2),
    (r"(?=a*b)a", 2),
    (r"expected\W+(?:an? )?\W*int", 2),
    (r"^a+b", 1),
    (r"\w+", 1),
    (r"x\s{0,10}y", 1),
    (r"\bin [a-z]{1,20} of\b", 1),
]


@pytest.mark.parametrize(("pattern", "expected"), PLANTED, ids=[each for each, _ in PLANTED])
def test_planted_expressions_are_found(pattern: str, expected: int) -> None:
    assert power(pattern) == expected


HOSTILE: Mapping[str, tuple[int, object]] = {
    "white space in front of no verdict": (200, chat(" " * 30_000, before="json")),
    "ends of turns in front of no verdict": (200, chat("<s>" * 20_000)),
    "white space in a complaint": (
        400,
        {"error": {"message": f"logprobs expected{' ' * 40_000}x"}},
    ),
}


@pytest.mark.wire
@pytest.mark.parametrize("reply", HOSTILE)
def test_no_reply_holds_up_the_process(wire: Callable[[Script], WireServer], reply: str) -> None:
    """No deadline ends what holds the interpreter's lock."""
    status, body = HOSTILE[reply]
    server = wire(Answer(body, status=status))
    with named("openai:m", server.url) as judge:
        asked = Gate(judge, Policy(deadline=1.0), retry=Retry(attempts=1))
        started = time.monotonic()
        asked.check("Which ferry?", ["The ferry."])
        assert time.monotonic() - started < 3.0  # 0.1 if all is well; else 7 and more.


@contextmanager
def named(name: str, url: str) -> Generator[ClientJudge]:
    judge = judges_by_name.from_name(name, base_url=url, api_key=KEY)
    assert isinstance(judge, ClientJudge)
    try:
        yield judge
    finally:
        judge.close()


SCRIPT_EXPRESSION = re.compile(
    r"\.(?:replace|replaceAll|match|matchAll|test|split|search)\(/(.+?)(?<!\\)/[a-z]*"
)


def test_the_reports_script_is_as_harmless() -> None:
    script = (ROOT / "guard/data/report/page.js").read_text("utf-8")
    found = SCRIPT_EXPRESSION.findall(script)
    assert found and [pattern for pattern in found if power(pattern) > 1] == []
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "RegExp("):
        assert word not in script


# ── Secrets ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["openai:m", "azure:m", "samples:m", "systemone:m", "decisions:m"])
def test_nothing_shows_a_key(name: str) -> None:
    """Neither a judge nor what it is made of, nor a gate, shows it when it is printed."""
    options = JudgeOptions("http://127.0.0.1:1", KEY, prompt=Prompt(secret=KEY))
    version = "2024-10-21" if name.startswith("azure") else None
    judge = judges_by_name.from_name(
        name, base_url=options.base_url, api_key=KEY, prompt=options.prompt, api_version=version
    )
    shown = [options, options.prompt, judge, judge.fingerprint, Gate(judge), vars(Gate(judge))]
    assert KEY not in " ".join(map(repr, [*shown, vars(judge)]))


@pytest.mark.wire
@pytest.mark.parametrize("name", ["openai:m", "samples:m", "systemone:m", "decisions:m"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_no_traceback_repeats_an_endpoint(
    wire: Callable[[Script], WireServer], name: str, asynchronous: bool
) -> None:
    """Web frameworks log, and tracers record, the whole chain of what is raised."""
    said = f"Incorrect API key provided: {KEY}. Near: The ferry of Anrode."
    server = wire(Answer({"error": {"message": said}}, status=401))
    policy, contexts = Policy(on_unmeasured="raise"), ["The ferry of Anrode."]
    with named(name, server.url) as judge, pytest.raises(JudgeError) as caught:
        asked = Gate(judge, policy, retry=Retry(attempts=1))
        if asynchronous:
            asyncio.run(asked.acheck("Which ferry?", contexts))
        else:
            asked.check("Which ferry?", contexts)
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown and "Near: The ferry" not in shown


class Failing:
    """An observer whose own words hold what it could not send."""

    blocks = False

    def observe(self, decision: Decision) -> None:
        """Fails as an exporter may."""
        raise ValueError(f"could not send {decision.query.contexts} with {KEY}")


def test_the_log_repeats_no_observer(caplog: pytest.LogCaptureFixture) -> None:
    """It says which kind of error it was, and where."""
    gate(observers=[Failing()]).check("Which ferry?", ["The ferry of Anrode."])
    assert "ValueError" in caplog.text and "in observe" in caplog.text
    assert "Anrode" not in caplog.text and KEY not in caplog.text


def test_tracebacks_on_the_command_line_show_no_values() -> None:
    """typer's own would show what each variable holds."""
    assert app.pretty_exceptions_enable is False


def test_library_logs_are_left_alone() -> None:
    """openai and httpx log requests when they are told to; nothing here tells them."""
    for place, call in calls():
        assert called(call)[0] not in ("basicConfig", "setLevel", "dictConfig"), place


# ── The audit of what is installed ───────────────────────────────────────────────────────────────


def install(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    said: str = "License-Expression: MIT",
    needs: str = "",
) -> Path:
    """A package as pip would leave it; gives its module."""
    module, about = folder / f"{name}.py", folder / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    module.write_text(f"name = {name!r}\n", "utf-8")
    requires = "".join(f"Requires-Dist: {each}\n" for each in needs.split(",") if each)
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{said}\n{requires}"
    (about / "METADATA").write_text(metadata, "utf-8")
    digest = hashlib.sha256(module.read_bytes()).digest()
    checksum = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    lines = [f"{name}.py,sha256={checksum},{module.stat().st_size}"]
    lines += [f"{about.name}/{each},," for each in ("METADATA", "RECORD", "direct_url.json")]
    (about / "RECORD").write_text("\n".join(lines[:-1]) + "\n", "utf-8")
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An environment that nothing is wrong with."""
    extra = "Provides-Extra: more"
    needs = "alpha>=1,beta; extra == 'more',gamma; python_version < '3'"
    install(tmp_path, "rag_guard", said=f"License-Expression: Apache-2.0\n{extra}", needs=needs)
    metadata = tmp_path / "rag_guard-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text("utf-8").replace("rag_guard", "rag-guard"), "utf-8")
    for name in ("alpha", "beta", "gamma"):
        install(tmp_path, name)
    return tmp_path


PINS = "# Why.\nAlpha==1.0\nbeta==1.0\ngamma==1.0\n"


def complaints(folder: Path, pins: str = PINS) -> list[str]:
    found = list[Distribution](distributions(path=[str(folder)]))
    return [
        *audit.unpinned(found, audit.read_pins(pins)),
        *audit.forbidden(found),
        *audit.from_elsewhere(found),
        *audit.changed(folder, found),
    ]


def test_nothing_is_wrong(folder: Path) -> None:
    assert complaints(folder) == []


@pytest.mark.parametrize(
    ("pins", "complaint"),
    [
        (PINS.replace("beta==1.0\n", ""), "beta 1.0 is not pinned"),
        (PINS.replace("beta==1.0", "beta==1.1"), "beta 1.0 is installed, 1.1 is pinned"),
        (PINS + "delta==1.0\n", "delta is pinned and not installed"),
    ],
)
def test_pins_are_what_is_installed(folder: Path, pins: str, complaint: str) -> None:
    (found,) = complaints(folder, pins)
    assert found.startswith(complaint)


@pytest.mark.parametrize("line", ["alpha>=1", "alpha==1.*", "alpha", "alpha @ https://x.example/a"])
def test_a_constraint_names_one_version(line: str) -> None:
    with pytest.raises(SystemExit, match="pins no version"):
        audit.read_pins(line)
    with pytest.raises(SystemExit, match="pinned twice"):
        audit.read_pins("a.b==1\nA_b==2")


def test_what_is_needed_at_run_time_must_be_pinned(folder: Path) -> None:
    """setuptools may be there unpinned; not where something needs it."""
    install(folder, "setuptools")
    assert complaints(folder) == []
    metadata = folder / "beta-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text("utf-8") + "Requires-Dist: setuptools\n", "utf-8")
    assert complaints(folder)[0].startswith("setuptools 1.0 is not pinned")


LICENCES = {
    "License-Expression: GPL-3.0-only": False,
    "License-Expression: MIT AND GPL-3.0-only": False,
    "License-Expression: MIT AND (BSD-3-Clause OR GPL-2.0-only)": False,
    "License-Expression: GPL-2.0-only OR MIT": True,
    "License-Expression: MIT AND PSF-2.0": True,
    "License: Proprietary": False,
    "License: MIT License\n        with more lines": True,
    "Classifier: License :: OSI Approved :: MIT License": True,
    "Classifier: License :: OSI Approved :: GNU Affero General Public License v3": False,
    "Classifier: Topic :: Software Development": False,
}


@pytest.mark.parametrize(("said", "allowed"), LICENCES.items())
def test_licences_at_run_time(folder: Path, said: str, allowed: bool) -> None:
    """Also of what only an extra needs; what is needed for tests alone may have any."""
    install(folder, "delta", said=said)
    pins = PINS + "delta==1.0\n"
    assert complaints(folder, pins) == []
    metadata = folder / "beta-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text("utf-8") + "Requires-Dist: delta\n", "utf-8")
    found = complaints(folder, pins)
    assert [each.partition(" has the licence")[0] for each in found] == (
        [] if allowed else ["delta 1.0"]
    )


def test_a_changed_file(folder: Path) -> None:
    (folder / "beta.py").write_text("name = 'beat'\n", "utf-8")
    assert complaints(folder) == ["beta: beta.py was changed"]


def test_a_missing_file(folder: Path) -> None:
    (folder / "beta.py").unlink()
    assert complaints(folder) == ["beta: beta.py is gone"]


@pytest.mark.parametrize("name", ["planted.pth", "sitecustomize.py", "alpha-1.0.dist-info/more"])
def test_a_file_of_no_package(folder: Path, name: str) -> None:
    """Python runs the first two whenever it starts."""
    (folder / name).touch()
    assert complaints(folder) == [f"{name} belongs to no package"]


@pytest.mark.parametrize("kind", ["", "md5=abc", "sha256=abc"])
def test_a_checksum_that_is_none(folder: Path, kind: str) -> None:
    record = folder / "beta-1.0.dist-info" / "RECORD"
    text = re.sub(r"(?m)^beta.py,[^,]*", f"beta.py,{kind}", record.read_text("utf-8"))
    record.write_text(text, "utf-8")
    assert len(complaints(folder)) == 1


def test_a_package_from_an_address(folder: Path) -> None:
    about = folder / "beta-1.0.dist-info"
    (about / "direct_url.json").write_text("{}", "utf-8")
    with (about / "RECORD").open("a", encoding="utf-8") as record:
        record.write(f"{about.name}/direct_url.json,,\n")
    assert complaints(folder) == ["beta 1.0 was installed from an address or a folder"]


def test_a_package_that_shadows_another(folder: Path) -> None:
    install(folder, "beta", "0.9")
    assert "beta is installed 2 times: one of them shadows the rest" in complaints(folder)
