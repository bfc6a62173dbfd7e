"""The devices that torch paths are tested on."""

import pytest
import torch

GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)
on_devices = pytest.mark.parametrize("device", ["cpu", GPU])
