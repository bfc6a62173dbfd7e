"""`check` is called often, by the calling thread, and what it raises ends the work."""

import threading

import numpy as np
import pytest
import torch

from palettery.kernels import PaletteSettings
from palettery.kernels.palettize import palettize_on

DEVICES = {"cpu": None, "torch": torch.device("cpu")}
CASES = {
    "small groups": (np.float32, (1 << 10, 1 << 9), PaletteSettings(4, group_size=4), "cpu"),
    "scaled": (
        np.float32,
        (1 << 10, 1 << 10),
        PaletteSettings(4, group_size=16, per_channel_scale=True),
        "cpu",
    ),
    "per tensor": (np.float32, (1 << 11, 1 << 11), PaletteSettings(4), "cpu"),
    "two bytes, groups": (np.float16, (1 << 10, 1 << 10), PaletteSettings(6, group_size=16), "cpu"),
    "two bytes, per tensor": (np.float16, (1 << 12, 1 << 11), PaletteSettings(4), "cpu"),
    "vectors": (np.float32, (1 << 9, 1 << 8), PaletteSettings(8, cluster_dim=4), "cpu"),
    "few vectors": (np.float32, (1 << 10, 1 << 9), PaletteSettings(4, cluster_dim=2), "cpu"),
    "torch": (np.float32, (1 << 6, 1 << 10), PaletteSettings(4, group_size=16), "torch"),
    "torch, vectors": (np.float32, (1 << 6, 1 << 7), PaletteSettings(4, cluster_dim=4), "torch"),
}


class Stopped(Exception):
    pass


def weight_of(dtype, shape):
    return np.random.default_rng(0).normal(0, 0.02, shape).astype(np.float32).astype(dtype)


@pytest.mark.parametrize(
    ("name", "threads"),
    [
        *((name, 2) for name in CASES),
        *((name, 1) for name in list(CASES)[:2]),
        *(pytest.param(name, 1, marks=pytest.mark.heavy) for name in list(CASES)[2:]),
    ],
)
def test_what_it_raises_ends_the_work_at_any_call(name, threads):
    dtype, shape, settings, device = CASES[name]
    weight, calls, before = weight_of(dtype, shape), [], set(threading.enumerate())

    def run(check):
        palettize_on(DEVICES[device], weight, settings, threads=threads, check_cancelled=check)

    run(lambda: calls.append(threading.get_ident()))
    assert len(calls) > 4
    assert set(calls) == {threading.get_ident()}
    for last in (1, len(calls) // 2, len(calls)):
        left = iter(range(last - 1))

        def stop(left=left):
            if next(left, None) is None:
                raise Stopped

        with pytest.raises(Stopped):
            run(stop)
        assert next(left, None) is None
    assert set(threading.enumerate()) <= before
