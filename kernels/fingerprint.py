"""What decides results, as one short name."""

import hashlib
from functools import cache
from pathlib import Path

import numba
import numpy as np


@cache
def fingerprint() -> str:
    """Digest of the kernels' source and of the libraries that compile and run it."""
    digest = hashlib.sha256(f"{numba.__version__} {np.__version__}".encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
