"""Documentation cannot lie: its code runs, its commands run, its links lead somewhere."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from providers import PROVIDERS
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from wire import WireServer

from guard import Gate, judges
from guard.config import VARIABLES, Deployment, resolve

pytestmark = pytest.mark.local

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("guard/data/guide/*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    """A page's path as it is written in links."""
    return str(page.relative_to(ROOT))


def blocks(language: str, page: Path) -> Iterator[str]:
    """The fenced blocks of one language on a page."""
    for found in BLOCK.finditer(page.read_text("utf-8")):
        if found[1] == language:
            yield found[2]


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Path]:
    """Where a reader stands: an endpoint, a key, and the guard.toml of the README."""
    endpoint = WireServer(replace(PROVIDERS["llama-cpp"], model="MODEL"))
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-reader-0123456789")
    (tmp_path / "guard.toml").write_text("".join(blocks("toml", ROOT / "README.md")), "utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    endpoint.close()


@pytest.mark.parametrize("page", PAGES, ids=name)
@pytest.mark.usefixtures("reader")
def test_python_blocks_run(page: Path) -> None:
    """Every Python block of a page runs, in order, in one namespace."""
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(page)
    gates: set[Gate] = set()
    for example in document.examples():
        example.evaluate()
        gates |= {value for value in document.namespace.values() if isinstance(value, Gate)}
    for gate in gates:
        judges.close(gate.judge)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_run(page: Path, reader: Path) -> None:
    """Every `rag-guard` command of a page works; every script that it names exists."""
    for block in blocks("sh", page):
        for command in block.replace("\\\n", " ").splitlines():
            if command.startswith("rag-guard "):
                bin_folder = str(Path(sys.executable).parent)
                path = os.pathsep.join([bin_folder, os.environ["PATH"]])
                subprocess.run(
                    command, shell=True, cwd=reader, env={**os.environ, "PATH": path}, check=True
                )
            for script in re.findall(r"\bscripts/[\w.]+", command):
                assert (ROOT / script).exists(), script


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
