"""After `warm_up` in a fresh process scalar jobs compile nothing."""

import subprocess
import sys

import pytest

JOBS = """
import sys
from itertools import product
import ml_dtypes
import numpy as np
from numba.core.dispatcher import Dispatcher
from palettery import kernels
from palettery.kernels.metrics import errors

def compiled():
    return {
        f"{name}.{of}{signature}"
        for name, module in list(sys.modules.items()) if name.startswith("palettery.kernels")
        for of, kernel in vars(module).items() if isinstance(kernel, Dispatcher)
        for signature in kernel.signatures
    }

def unaligned(array):
    "As in a memory-mapped file: read-only, and at an odd address."
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    view.flags.writeable = False
    return view

class Rows:
    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self, first, count):
        return self.array[first:first + count]

kernels.warm_up()
before = compiled()
assert len(before) > 30, before
rng = np.random.default_rng(1)
dtypes = (np.float16, ml_dtypes.bfloat16, np.float32)
shapes = ((16, 16), (64, 256), (1024, 520))
groups = ((None, 0), (4, 0), (1, 1), (8, 1))
options = product(dtypes, shapes, (3, 8), groups, (False, True), (None, 4))
for dtype, shape, n_bits, (size, axis), scaled, decimals in options:
    if shape[0] == 1024 and (n_bits, size) not in ((3, None), (8, 8)):
        continue
    threshold = (None, 0.5)[rng.integers(2)]
    settings = kernels.PaletteSettings(
        n_bits,
        axis,
        size,
        1,
        scaled,
        decimals,
        "int8" if n_bits == 8 else None,
        sparsity_threshold=threshold,
    )
    drawn = rng.normal(0, 0.02, shape) * (rng.random(shape) < (0.4 if threshold else 1))
    far = np.where(np.arange(shape[1]) % 2, 1.0, 1000.0) + drawn
    weight = unaligned((drawn, drawn.round(2), far)[rng.integers(3)].astype(dtype))
    importance = (None, np.ones(shape), np.ones(shape, np.float32), np.ones(shape, np.float16))
    palette = kernels.palettize(weight, settings, importance[rng.integers(4)])
    packed = kernels.pack(palette.indices, n_bits)
    kernels.unpack(unaligned(packed), n_bits, palette.indices.shape)
    errors(weight, kernels.reconstruct(palette))
    if shape == (64, 256) and decimals is None:
        moments = unaligned(np.eye(256, dtype=(np.float32, np.float64)[scaled]))
        kernels.palettize(weight, settings, second_moment=moments)
    if kernels.can_stream(shape, dtype, settings):
        list(kernels.palettize_rows(Rows(weight), settings).packed())
sys.exit("\\n".join(sorted(compiled() - before)) or None)
"""


def run(code, **options):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=False, capture_output=True, text=True, **options)


@pytest.mark.heavy
def test_jobs_compile_nothing_more():
    result = run(JOBS)
    assert (result.returncode, result.stderr) == (0, "")
