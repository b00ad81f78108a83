"""Makes an audit to try things on: 150 made-up queries through a gate in shadow mode.

    python examples/rollout/make_audit.py CONFIG OUTCOMES

The configuration names judge and audit. What "people" later say of these queries goes to OUTCOMES,
as `rag-guard outcome --from` takes it.
"""

import json
import subprocess
import sys
from pathlib import Path

from guard import judges
from guard.config import load_gate

ROWS = 150
WORDS = {True: "sufficient", False: "insufficient"}


def main(config: str, outcomes: str) -> None:
    """Asks the gate about made-up rows, and writes what they were labelled as."""
    script = Path(__file__).parent.parent / "thresholds" / "make_rows.py"
    made = subprocess.check_output([sys.executable, str(script)], text=True, encoding="utf-8")
    gate = load_gate(config)
    with open(outcomes, "w", encoding="utf-8") as file:
        for row in map(json.loads, made.splitlines()[:ROWS]):
            decision = gate.check(row["question"], row["contexts"], lang=row.get("lang"))
            said = {"id": decision.id, "outcome": WORDS[row["sufficient"]]}
            file.write(json.dumps(said) + "\n")
    judges.close(gate.judge)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("python make_audit.py CONFIG OUTCOMES: the gate's file, and the one to write")
    main(*sys.argv[1:])
