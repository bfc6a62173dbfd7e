"""Choice of the device that palettes are computed on."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from palettery.kernels.errors import DeviceError

if TYPE_CHECKING:
    import torch

DEVICE_NAMES = "'cpu', 'cuda', 'cuda:1', 'mps', 'auto'"
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of the NVIDIA driver, the AMD driver, and the GPU bridge of WSL."""


def resolve_device(name: str) -> "torch.device | None":
    """Return the torch device with this name; None for the CPU, which needs no torch.

    "auto" is the current CUDA (or ROCm) device, or else the CPU. Torch is imported only if a GPU
    driver is installed.

    Raises:
        DeviceError: the name is unknown, or the device is not available.
    """
    if name == "cpu":
        return None
    if name == "auto":
        if not any(Path(driver).exists() for driver in _DRIVERS):
            return None
        import torch

        return torch.device("cuda", torch.cuda.current_device()) if _count_cuda_devices() else None
    if name == "mps":
        raise DeviceError(
            "device is 'mps', which has no float64, and clustering needs float64; use 'cpu'"
        )
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", name)
    if match is None:
        raise DeviceError(f"device is {name!r}; expected one of {DEVICE_NAMES}")
    import torch

    index, count = int(match[1] or 0), _count_cuda_devices()
    if index >= count:
        available = f"{count} CUDA devices are" if count else "no CUDA device is"
        raise DeviceError(f"device is {name!r}, but {available} available; use 'cpu' or 'auto'")
    return torch.device("cuda", index)


def visible_devices() -> int:
    """Return how many CUDA (or ROCm) devices this process may use; imports torch only for a GPU."""
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return 0
    import torch  # noqa: F401 - `_count_cuda_devices` finds it

    return _count_cuda_devices()


def _count_cuda_devices() -> int:
    cuda = sys.modules["torch"].cuda
    return int(cuda.device_count()) if cuda.is_available() else 0
