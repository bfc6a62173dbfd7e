"""Fingerprint of the code that computes palettes, for caches of results."""

import hashlib
from functools import cache
from pathlib import Path

import numba
import numpy as np


@cache
def fingerprint() -> str:
    """Return a digest of these sources and of the numba and numpy versions.

    Equal fingerprints give equal results for equal input.

    Units: 16 hexadecimal digits.
    """
    digest = hashlib.sha256(f"numba {numba.__version__} numpy {np.__version__}\n".encode())
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        text = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]
