"""`palettize` on a torch device against the CPU path: on torch's CPU, and where there is a GPU."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from palettery.kernels import PaletteSettings, palettize, reconstruct
from palettery.kernels.errors import DeviceError, NonFiniteError
from palettery.kernels.palettize import palettize_on
from palettery.kernels.scalar import torch_backend
from tests.devices import on_devices
from tests.spanning import pairwise, spanning

DTYPES = [torch.float32, torch.bfloat16]
OTHERS = [torch.float16, torch.float64]
SETTINGS = {
    "per tensor": PaletteSettings(4),
    "groups": PaletteSettings(3, group_size=8),
    "axis 1": PaletteSettings(2, axis=1, group_size=12),
    "scaled": PaletteSettings(4, group_size=16, per_channel_scale=True),
    "fast": PaletteSettings(4, rounding_precision=4),
    "fast with few values": PaletteSettings(6, group_size=8, rounding_precision=2),
    "quantized": PaletteSettings(4, group_size=16, lut_dtype="int8", lut_scheme="asymmetric"),
    "one bit": PaletteSettings(1, group_size=2),
}


def weight(dtype=torch.float32, rows=48, columns=36):
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(rows, columns, generator=generator) * 0.05).to(dtype)


@on_devices
@pytest.mark.parametrize(
    ("name", "weighted", "dtype"),
    [
        *spanning(list(SETTINGS), [False, True], DTYPES),
        *(
            pytest.param(
                list(SETTINGS)[name], weighted == 1, OTHERS[dtype], marks=pytest.mark.heavy
            )
            for name, weighted, dtype in sorted(pairwise(SETTINGS, [False, True], OTHERS))
        ),
    ],
)
def test_error_is_that_of_the_cpu_path(name, weighted, dtype, device):
    given = weight(dtype)
    sensitivity = torch.rand(given.shape, dtype=torch.float64) + 0.01 if weighted else None
    found = palettize_on(torch.device(device), given, SETTINGS[name], sensitivity)
    expected = palettize(given, SETTINGS[name], sensitivity)
    assert _error(found, given, sensitivity) == pytest.approx(
        _error(expected, given, sensitivity), rel=1e-6
    )
    assert found.lut.shape == expected.lut.shape
    assert found.lut.dtype == expected.lut.dtype
    assert found.metrics.notes == expected.metrics.notes
    assert found.metrics.occupancy.sum() == given.numel()


def _error(palette, given, sensitivity):
    error = (reconstruct(palette).double() - given.double()).square()
    return float((error if sensitivity is None else error * sensitivity).sum())


@on_devices
def test_batches_do_not_change_the_result(device, monkeypatch):
    whole = palettize_on(torch.device(device), weight(), SETTINGS["groups"])
    monkeypatch.setattr(torch_backend, "MEMORY_BYTES", 1)
    single = palettize_on(torch.device(device), weight(), SETTINGS["groups"])
    assert_array_equal(whole.indices, single.indices)
    assert_array_equal(whole.lut, single.lut)


@on_devices
def test_vectors(device):
    settings = PaletteSettings(3, cluster_dim=4)
    found = palettize_on(torch.device(device), weight(), settings)
    expected = palettize(weight(), settings)
    assert found.indices.shape == expected.indices.shape
    assert found.metrics.sse <= 1.02 * expected.metrics.sse


@on_devices
def test_non_finite_weights_are_named(device):
    bad = weight()
    bad[2, 3] = torch.inf
    with pytest.raises(NonFiniteError, match=r"1 of 1728 .*\[2, 3\]"):
        palettize_on(torch.device(device), bad, SETTINGS["groups"])


@pytest.mark.parametrize("name", ["abacus", "cuda:x", "cuda:-1", "CPU", "", "mps"])
def test_a_device_that_is_not_known_is_named(name):
    with pytest.raises(DeviceError, match=f"device is {name!r}"):
        palettize(np.ones((4, 4), np.float32), PaletteSettings(1), device=name)


def test_a_device_that_is_not_there_is_named():
    name = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(DeviceError, match=r"devices? (is|are) available; use 'cpu' or 'auto'"):
        palettize(np.ones((4, 4), np.float32), PaletteSettings(1), device=name)


def test_auto_needs_no_torch_where_there_is_no_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code = (
        "import sys, numpy; from palettery.kernels import PaletteSettings, palettize;"
        "palettize(numpy.ones((4, 4), 'f'), PaletteSettings(1), device='auto');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
