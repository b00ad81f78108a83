"""Documentation cannot lie: its code runs, its commands run, its links lead somewhere."""

import os
import random
import re
import subprocess
import sys
import tomllib
from collections.abc import Generator, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from providers import PROVIDERS, Imitation
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from wire import WireServer

from guard import Gate, judges
from guard.config import VARIABLES, Deployment, resolve

pytestmark = pytest.mark.local

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("guard/data/guide/*.md")])
OURS = ("rag-guard ", "python examples/", "printf ")
MARK = re.compile(r"\b[0-9a-f]{16}\b")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    """A page's path as it is written in links."""
    return str(page.relative_to(ROOT))


def blocks(language: str, page: Path) -> Iterator[str]:
    """The fenced blocks of one language on a page."""
    for found in BLOCK.finditer(page.read_text("utf-8")):
        if found[1] == language:
            yield found[2]


class Unsure(Imitation):
    """Where passages are several, it is surer of some than of others, and wrong about a few."""

    def belief(self, prompt: str) -> float:
        """The log-odds of sufficient; the same texts between delimiters give the same."""
        sure = super().belief(prompt)
        if "passage 3 begins" not in prompt:
            return sure
        return sure + random.Random(MARK.sub("", prompt)).gauss(0, 2.4)


def endpoint() -> Imitation:
    """What answers readers."""
    model = PROVIDERS["llama-cpp"]
    values: dict[str, Any] = {
        each.name: getattr(model, each.name) for each in fields(model) if each.init
    }
    values["model"] = "MODEL"
    return Unsure(**values)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Path]:
    """Where a reader stands: an endpoint, a key, the examples, and the guard.toml of the README."""
    server = WireServer(endpoint())
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-reader-0123456789")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    written(ROOT / "README.md", tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    server.close()


@pytest.mark.parametrize("page", PAGES, ids=name)
@pytest.mark.usefixtures("reader")
def test_python_blocks_run(page: Path) -> None:
    """Every Python block of a page runs, in order, in one namespace."""
    written(page, Path())
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(page)
    gates: set[Gate] = set()
    for example in document.examples():
        example.evaluate()
        gates |= {value for value in document.namespace.values() if isinstance(value, Gate)}
    for gate in gates:
        judges.close(gate.judge)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_run(page: Path, reader: Path) -> None:
    """Every command of a page works, or ends with the exit code that the page says.

    A `toml` block that begins with its file's name is written to that file; what a `text` block
    shows, the commands of the block before it print.
    """
    printed = ""
    for found in BLOCK.finditer(page.read_text("utf-8")):
        language, text = found.groups()
        if language == "sh":
            printed = "".join(run(command, reader) for command in commands(text))
        elif language == "toml" and (file := re.match(r"# ([\w-]+\.toml)\n", text)):
            (reader / file[1]).write_text(text, "utf-8")
        elif language == "text":
            # A line of `…` stands for lines left out; tables are as wide as the terminal.
            shown = [words(line) for line in text.splitlines() if line.strip() not in ("", "…")]
            assert [line for line in shown if line not in words(printed)] == [], printed


def written(page: Path, folder: Path) -> None:
    """Writes each `toml` block that begins with its file's name to that file."""
    for text in blocks("toml", page):
        if file := re.match(r"# ([\w-]+\.toml)\n", text):
            (folder / file[1]).write_text(text, "utf-8")


def commands(block: str) -> list[str]:
    """The lines of a block; one that goes on after a backslash is one."""
    return block.replace("\\\n", " ").splitlines()


def run(command: str, folder: Path) -> str:
    """What a command prints, if it is one of ours; its scripts must exist."""
    for script in re.findall(r"\bscripts/[\w.]+", command):
        assert (ROOT / script).exists(), script
    if not command.startswith(OURS):
        return ""
    code = re.search(r"# exit code (\d+)$", command)
    ended = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert ended.returncode == (int(code[1]) if code else 0), (command, ended.stdout)
    return ended.stdout


def words(text: str) -> str:
    """A text with single spaces, for comparing."""
    return " ".join(text.split())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page points to a file."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_toml_of_the_readme_loads(reader: Path) -> None:
    """The README's guard.toml is valid and means what it says."""
    file = reader / "guard.toml"
    assert set(tomllib.loads(file.read_text("utf-8"))["deployment"]) == {"default", "support-bot"}
    _, deployment = resolve(file, "support-bot")
    assert (deployment.mode, deployment.deadline) == ("shadow", 3.0)


def test_configuration_page_names_every_key_and_variable() -> None:
    """docs/configuration.md knows every key of a deployment and every variable."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    missing = [key for key in Deployment.model_fields if f"`{key}" not in text]
    missing += [variable for variable in VARIABLES if f"`{variable}`" not in text]
    assert missing in ([], ["messages"])


def test_architecture_page_names_every_file() -> None:
    """docs/architecture.md has a line for each file and folder of the package."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    files = [path.name for path in (ROOT / "guard").iterdir() if not path.name.startswith("_")]
    files = [one for one in files if one.endswith(".py") or "." not in one]
    assert [one for one in files if f"guard/{one}" not in text] == []
