"""Record what an older version of coreai-opt makes of random documents.

After `pip install --no-deps --target OLD coreai-opt==0.3.0`, `PYTHONPATH=OLD python -m
tests.record_coreai_opt` writes tests/schemas/coreai_opt_0.3.0.json.
"""

import copy
import importlib.metadata
import json
import warnings
from pathlib import Path

from tests.config_documents import Documents

DOCUMENTS = 400
KEPT = 40
"""Accepted documents to keep, the longest; most others are short and alike."""


def record() -> None:
    """Write the accepted documents with their dumps, whose objects become text."""
    from coreai_opt.palettization import KMeansPalettizerConfig

    version = importlib.metadata.version("coreai-opt")
    made, accepted = Documents(seed=11), []
    for _ in range(DOCUMENTS):
        document = made.document()
        try:
            config = KMeansPalettizerConfig.from_dict(copy.deepcopy(document))
        except (ValueError, TypeError, RuntimeError, KeyError, AttributeError):
            continue
        accepted.append({"document": document, "dump": config.to_dict()})
    accepted.sort(key=lambda case: len(str(case["document"])))
    path = Path(__file__).parent / "schemas" / f"coreai_opt_{version}.json"
    path.write_text(json.dumps(accepted[-KEPT:], default=str, separators=(",", ":")) + "\n")
    print(f"{version}: {len(accepted)} of {DOCUMENTS} accepted; {path}")  # noqa: T201


if __name__ == "__main__":
    with warnings.catch_warnings(action="ignore"):
        record()
