"""Writes the demo's table into README.md, as `rag-guard demo --markdown` prints it.

    python scripts/demo_table.py [--write]

Without --write the block is printed. A test holds that the one in the README is what comes out.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"<!-- demo -->\n(.*?)<!-- /demo -->", re.DOTALL)
"""Where the table stands in a page, with its caption."""

COMMAND = (sys.executable, "-m", "guard.cli", "demo", "--markdown")


def block() -> str:
    """What stands between the marks, by a run of the demo with the embedded judge."""
    done = subprocess.run(COMMAND, stdout=subprocess.PIPE, check=True, encoding="utf-8")
    return f"<!-- demo -->\n{done.stdout}<!-- /demo -->"


def main() -> None:
    """Prints the block, or writes it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write README.md")
    found = block()
    if not parser.parse_args().write:
        print(found)
        return
    page = PAGE.read_text("utf-8")
    if not BLOCK.search(page):
        sys.exit(f"{PAGE.name} has no block <!-- demo --> to fill.")
    PAGE.write_text(BLOCK.sub(lambda _: found, page), "utf-8")


if __name__ == "__main__":
    main()
