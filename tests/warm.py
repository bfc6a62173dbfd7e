"""Compile kernels that many tests use, before several processes need them at once.

`python -m tests.warm scalars` and `python -m tests.warm vectors` share few kernels, so that each
may take a processor.
"""

import sys

import numpy as np

from palettery import kernels
from palettery.kernels.vector.cpu import cluster


def vectors() -> None:
    """Compile kernels of vectors: each dimension has its own, for small groups and large ones."""
    for dimension in (2, 3, 4, 8):
        for count in (4_000, 40_000):
            points = np.random.default_rng(0).normal(size=(1, count, dimension))
            cluster(points.astype(np.float32), 16, None, seed=0)


if __name__ == "__main__":
    {"scalars": kernels.warm_up, "vectors": vectors}[sys.argv[1]]()
