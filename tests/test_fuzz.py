"""A short run of what `scripts/fuzz` does for minutes, and that it can fail."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fuzzing
import pytest
from hypothesis import strategies as st
from providers import plain_error
from wire import Answer, Json, chat, token, verdict

from guard import Profile

pytestmark = pytest.mark.wire

ROOT = Path(__file__).parent.parent
TARGETS = fuzzing.targets()
EXAMPLES = 40


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    """A sound result, or an error of ours; the same examples in every run."""
    report = fuzzing.fuzz(TARGETS[name], seed=7, examples=EXAMPLES)
    assert report.failures == []
    assert report.examples >= EXAMPLES


def test_what_is_good_is_read(tmp_path: Path) -> None:
    """Before it is changed, most of it is measured, and all of it is what it is called."""
    found = [fuzzing.read(body, fuzzing.Reading(b"")) for body in fuzzing.REPLIES]
    assert sum(one is not None for one in found) >= 9
    for number, profile in enumerate(fuzzing.PROFILES):
        profile.save(tmp_path / str(number))
        assert Profile.load(tmp_path / str(number)) == profile


def dear(tokens: int) -> Json:
    """A reply that says it took so many tokens."""
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
    return {**verdict(-0.01, -6.0, k=3), "id": None, "usage": usage}


def deployment(*lines: str) -> fuzzing.Configured:
    """A file with one deployment of these lines."""
    data = "\n".join(["[deployment.a]", *lines]).encode()
    return fuzzing.Configured(data, None, {}, {}, (True, True, False))


SPACES, KEPT = " " * 60_000, json.loads(json.dumps(asdict(fuzzing.BUILT)))
FOUND: dict[str, tuple[str, Any]] = {
    "white space takes a minute": (
        "reading",
        fuzzing.Reading(fuzzing.written(chat(token(f"True{SPACES}x", -0.01)))),
    ),
    "so does it in a complaint": (
        "wire",
        fuzzing.Served(
            "chat, sync", (plain_error(f"logprobs expected{SPACES * 2}x"), Answer(dear(1)))
        ),
    ),
    "a charset that is for no text": (
        "wire",
        fuzzing.Served(
            "chat, async", (Answer(b"\xff", 200, {"content-type": "a/b; charset=hex"}),)
        ),
    ),
    "another, of an error": (
        "wire",
        fuzzing.Served(
            "samples, sync", (Answer(b"x", 500, {"content-type": "a/b; charset=rot13"}),)
        ),
    ),
    "more tokens than a float holds": (
        "wire",
        fuzzing.Served("chat, sync", (Answer(fuzzing.written(dear(10**400))),)),
    ),
    "their sum has more digits than Python writes": (
        "wire",
        fuzzing.Served("samples, sync", (Answer(fuzzing.written(dear(10**4300 - 1))),)),
    ),
    "a number of 5000 digits": ("config", deployment(f"attempts = {hex(16**5000)}")),
    "a cache with NUL in its name": (
        "config",
        deployment('judge = "scripted:0.9"', 'cache = "a\\u0000b"'),
    ),
    "a model with NUL in its name": ("config", deployment('judge = "gguf:a\\u0000b"')),
    "an address that httpx refuses": (
        "config",
        deployment('judge = "openai:m"', 'base_url = "http://999.1.1.1"'),
    ),
    "a kept token that is none": (
        "cache",
        fuzzing.Cached(json.dumps({**KEPT, "emitted": math.nan})),
    ),
    "kept tokens that are no number": (
        "cache",
        fuzzing.Cached(json.dumps({**KEPT, "usage": {"input_tokens": "a", "output_tokens": 1}})),
    ),
    "a name that breaks the line": (
        "rows",
        2 * b'{"id": "1", "question": "q", "contexts": [], "annotator": "a\\nb"}\n',
    ),
    "a fingerprint that cannot be printed": (
        "judgements",
        b'{"format": "rag-guard judgements 1", "fingerprint": "\\ud800\\n"}\n',
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_found_before(tmp_path: Path, name: str) -> None:
    """What once broke it does so no more."""
    target, case = FOUND[name]
    with TARGETS[target].ready(tmp_path) as check:
        check(case)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_cookie_spoils_nothing(tmp_path: Path, way: str) -> None:
    """One that HTTP cannot carry back would turn down every later query of this client."""
    good = fuzzing.written(verdict(-0.01, -6.0, k=3))
    spoilt = Answer(good, headers={"set-cookie": "\xff=\xff"})
    with fuzzing.on_the_wire(tmp_path) as check:
        for _ in range(2):  # Who is not asked fails the check.
            check(fuzzing.Served(f"chat, {way}", (spoilt,)))


def planted(number: int, _folder: Path) -> None:
    """Fails in two ways."""
    if number > 700:
        raise KeyError(number)
    assert number < 300


PLANTED = {"planted": fuzzing.target_of(st.integers(0, 1000), planted)}


def test_what_fails_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Each way once, with its smallest example and how to see it again; the exit status is 1."""
    arguments = ["--seed", "1", "--minutes", "0.001", "--examples", "60"]
    assert fuzzing.main(arguments, PLANTED) == 1
    told = capsys.readouterr().out
    assert re.search(r"planted +\d+ examples .* 2 distinct failures", told)
    assert "KeyError: 701" in told and "case=300" in told
    assert "AssertionError at tests/test_fuzz.py" in told
    for blob in re.findall(r"--target planted --replay '(.+)'", told):
        assert fuzzing.main(["--target", "planted", "--replay", blob], PLANTED) == 1


def test_what_does_not_fail_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 0, and nothing stays behind."""
    before = {*os.listdir()}
    known = {"rows": TARGETS["rows"]}
    assert fuzzing.main(["--seed", "1", "--minutes", "0", "--examples", "5"], known) == 0
    assert " 0 distinct failures" in capsys.readouterr().out
    assert {*os.listdir()} == before


def test_a_bug_is_found(tmp_path: Path) -> None:
    """In a copy where a line that holds a crash off is taken away, the command ends with 1."""
    for folder in ("guard", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "test_*")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    file = tmp_path / "guard" / "config" / "file.py"
    source, line = file.read_text("utf-8"), "    except (ValueError, RecursionError) as error:\n"
    assert source.count(line) == 1
    file.write_text(source.replace(line, "    except RecursionError as error:\n"), "utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "tests/fuzzing.py", "--target", "config"),
            *("--seed", "1", "--minutes", "0", "--examples", "150"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(tmp_path / "tests")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "TOMLDecodeError at guard/config/file.py" in done.stdout
