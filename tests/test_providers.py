"""Providers: a file of data that is complete, whose lines load, and a page that repeats it."""

import ast
import re
import tomllib
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest

from guard import judges
from guard.config import resolve
from guard.doctor.report import Conclusion
from guard.judges import KNOWN
from guard.providers import Provider, likely_local, provider_of, providers
from guard.verdict import Signal
from scripts.judges_page import CHECKED, PAGE, VERDICTS, page, slug

KINDS = {name.partition(":")[0] for name in KNOWN}
MAY_BE_EMPTY = {"hosts", "ports", "models", "needs", "alternatives_note", "instead", "note"}
EVERY = pytest.mark.parametrize("each", providers(), ids=lambda each: each.id)


def load(lines: str, folder: Path) -> str:
    """The judge that a guard.toml of these lines names."""
    file = folder / "guard.toml"
    file.write_text(lines, "utf-8")
    _, deployment = resolve(file, environ={})
    assert deployment.judge is not None
    return deployment.judge


def test_page_is_the_generated_one() -> None:
    """docs/judges.md is what `python scripts/judges_page.py --write` would write."""
    assert PAGE.read_text("utf-8") == page()


def test_rows_have_the_fields_of_a_provider_and_no_others() -> None:
    """A field that is missing from the file, or unknown, is found here."""
    text = files("guard").joinpath("data", "providers.toml").read_text("utf-8")
    document = tomllib.loads(text)
    assert set(document) == {"provider"}
    names = [field.name for field in fields(Provider)]
    for row in document["provider"]:
        assert list(row) == sorted(row, key=names.index), row["id"]
        assert set(row) == set(names), row["id"]


def test_ids_and_names_are_unique() -> None:
    """An id finds one provider; a name makes one anchor."""
    assert len({each.id for each in providers()}) == len(providers())
    assert len({slug(each.name) for each in providers()}) == len(providers())
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", each.id) for each in providers())


@EVERY
def test_fields_are_filled_with_what_they_may_hold(each: Provider) -> None:
    """Sentences are there, on one line and without white space around; choices are known ones."""
    for field in fields(each):
        value = getattr(each, field.name)
        if field.name not in MAY_BE_EMPTY | {"alternatives"}:
            assert value, field.name
        if isinstance(value, str) and field.name not in ("lines", "models"):
            assert value == value.strip() and "\n" not in value and "|" not in value, field.name
    assert each.verdict in VERDICTS
    assert each.checked in CHECKED
    assert each.signal in get_args(Signal)
    assert each.alternatives > 0 or each.alternatives_note
    assert each.verdict in ("works", "only with") or each.instead
    assert each.verdict != "only with" or each.needs


@EVERY
def test_patterns_compile(each: Provider) -> None:
    """Hosts are names, ports are ports, models are regular expressions with a beginning."""
    assert all(re.fullmatch(r"-?[a-z0-9]+([.-][a-z0-9]+)+", host) for host in each.hosts)
    assert all(0 < port < 65536 for port in each.ports)
    assert re.compile(each.models)
    assert not each.models or each.models.startswith("^")


@EVERY
def test_lines_load_and_name_a_judge_that_is_known(each: Provider, tmp_path: Path) -> None:
    """What the file tells people to write is a valid guard.toml with a judge of the row's kind."""
    assert load(each.lines, tmp_path).partition(":")[0] == each.kind
    assert each.kind in KINDS
    keys = tomllib.loads(each.lines)["deployment"]["default"]
    hosted = [host for host in each.hosts if host != "api.openai.com"]
    assert not hosted or each.serves(keys["base_url"].split("/")[2].lower())
    assert not each.hosts or "api_key_env" in keys


def test_every_toml_block_of_the_page_loads(tmp_path: Path) -> None:
    """The page's blocks are the rows' lines and the chain; each loads."""
    found: list[str] = re.findall(r"^```toml\n(.*?)^```", page(), re.DOTALL | re.MULTILINE)
    assert len(found) == len(providers()) + 1
    for block in found:
        load(block, tmp_path)


def test_anchors_of_the_table_are_headings() -> None:
    """Every row of the table leads to a section of the page."""
    text = page()
    headings = {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    anchors = re.findall(r"\]\(#(.+?)\)", text)
    assert len(anchors) == len(providers())
    assert set(anchors) <= headings


def test_rows_are_sorted() -> None:
    """First what runs on one's own machine, then what is hosted, each in the alphabet's order."""
    names = re.findall(r"^\| \[(.+?)\]\(#", page(), re.MULTILINE)
    middle = names.index("vLLM") + 1
    for part in (names[:middle], names[middle:]):
        assert part == sorted(part, key=str.casefold)
    hosted = {each.name for each in providers() if each.hosts}
    assert hosted <= set(names[middle:])
    assert {each.name for each in providers() if each.ports} <= set(names[:middle])


def test_the_page_explains_whatever_doctor_says() -> None:
    """Its conclusions, and the names of all its findings."""
    text = page()
    said = text[text.index("## When doctor says") : text.index("## Common beliefs")]
    sources = files("guard").joinpath("doctor").iterdir()
    code = "".join(one.read_text("utf-8") for one in sources if one.name.endswith(".py"))
    names = set(re.findall(r"\bFinding\(\s*\"(\w+)\"", code))
    assert {"reachable", "logprobs", "prompt_limit"} <= names
    assert [name for name in sorted(names | {"decisions"}) if f"`{name}`" not in said] == []
    assert [one for one in get_args(Conclusion) if f"*{one}*" not in said] == []


README = Path(__file__).parent.parent / "README.md"
IN_README: list[str] = re.findall(r"`judges\.from_name\((.+?)\)`", README.read_text("utf-8"))


@pytest.mark.wire
@pytest.mark.parametrize("arguments", IN_README)
def test_judges_of_the_readme_are_made(
    arguments: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the table says to write is taken as it stands, given a key."""
    for variable in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY"):
        monkeypatch.setenv(variable, "sk-canary-0123456789")
    call = ast.parse(f"from_name({arguments})", mode="eval").body
    assert isinstance(call, ast.Call)
    [name] = (ast.literal_eval(one) for one in call.args)
    keys = {one.arg: ast.literal_eval(one.value) for one in call.keywords if one.arg}
    assert name.partition(":")[0] in KINDS
    if name.partition(":")[0] not in ("gguf", "embedded"):  # They need files.
        judges.close(judges.from_name(name, **keys))


@pytest.mark.parametrize(
    ("base_url", "model", "kind", "expected"),
    [
        (None, "gpt-4o-mini", "openai", "openai-full"),
        (None, "gpt-4.1-2025-04-14", "openai", "openai-full"),
        (None, "ft:gpt-4o-mini:us:x:1", "openai", "openai-full"),
        (None, "gpt-5", "openai", "openai-never"),
        (None, "o3", "samples", "openai-never"),
        (None, "gpt-5.4-pro", "openai", "openai-never"),
        (None, "gpt-5.1-chat-latest", "openai", "openai-never"),
        (None, "gpt-5.4-mini", "openai", "openai-effort-none"),
        (None, "gpt-5.6-luna", "openai", "openai-effort-set"),
        (None, "gpt-6-luna", "openai", "openai-effort-set"),
        (None, "gpt-6-luna", "decisions", "openai-decisions"),
        (None, "a-model-of-next-year", "openai", None),
        ("https://mine.openai.azure.com", "anything", "azure", "azure-openai"),
        ("https://API.Groq.com/openai/v1", "anything", "openai", "groq"),
        ("https://api.x.ai/v1", "grok-5", "openai", "xai"),
        ("https://not-x.ai/v1", "grok-5", "openai", None),
        ("https://api.anthropic.com/v1", "claude", "samples", "anthropic"),
        ("https://api.deepseek.com/v1", "deepseek-reasoner", "openai", "deepseek-reasoner"),
        ("https://api.deepseek.com/v1", "deepseek-chat", "openai", "deepseek"),
        ("https://europe-west4-aiplatform.googleapis.com/v1", "gemini", "openai", "vertex"),
        ("https://openrouter.ai/api/v1", "openai/gpt-4o", "openai", "openrouter"),
        ("https://openrouter.ai/api/v1", "jev-latest", "systemone", "openrouter-system-one"),
        ("https://openrouter.ai/api/alpha", "openai/x", "systemone", "openrouter-decisions"),
        ("https://api.upstage.ai/v1", "solar-pro3", "openai", None),
        ("http://127.0.0.1:8000/v1", "gpt-4o", "openai", None),
        ("http://192.168.0.7:11434/v1", "gpt-4o", "openai", None),
    ],
)
def test_provider_of(base_url: str | None, model: str, kind: str, expected: str | None) -> None:
    """A host's name tells the provider; a model's name tells which of its rows; a port nothing."""
    found = provider_of(base_url, model, kind)
    assert (None if found is None else found.id) == expected


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("http://127.0.0.1:11434/v1", "ollama"),
        ("http://localhost:8000/v1", "vllm"),
        ("http://[::1]:30000/v1", "sglang"),
        ("http://localhost:1/v1", None),
        ("http://localhost/v1", None),
        ("https://api.groq.com:8000/v1", None),
    ],
)
def test_likely_local(base_url: str, expected: str | None) -> None:
    """On this machine a port is a hint; elsewhere it is none."""
    found = likely_local(base_url)
    assert (None if found is None else found.id) == expected


def test_no_two_local_providers_share_a_port() -> None:
    """Else the first one in the file would hide the others."""
    ports = [port for each in providers() for port in each.ports]
    assert len(ports) == len(set(ports))
