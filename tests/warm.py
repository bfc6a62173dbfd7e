"""Compile the kernels that many tests use, once, before several processes need them at once."""

import numpy as np

from palettery import kernels
from palettery.kernels.vector.cpu import cluster

kernels.warm_up()
for dimension in (2, 3, 4, 8):  # vectors of each have machine code of their own
    points = np.random.default_rng(0).normal(size=(1, 40_000, dimension))
    cluster(points.astype(np.float32), 16, None, seed=0)
