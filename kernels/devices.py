"""Which device palettes are computed on."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from palettery.kernels.errors import DeviceError

if TYPE_CHECKING:
    import torch

NAMES = "'cpu', 'cuda', 'cuda:1', 'mps', 'auto'"
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Where an NVIDIA driver, an AMD driver, or Windows' bridge to either shows itself."""


def resolve_device(name: str) -> "torch.device | None":
    """The torch device of a name; None for the CPU, which works without torch.

    "auto" is the first CUDA (or ROCm) device, or else the CPU. Torch is imported only where a
    driver for one is there.

    Raises:
        DeviceError: no such device, or it is not there.
    """
    if name == "cpu":
        return None
    if name == "auto":
        if not any(Path(driver).exists() for driver in _DRIVERS):
            return None
        import torch

        return torch.device("cuda", torch.cuda.current_device()) if _count() else None
    if name == "mps":
        raise DeviceError(
            "device is 'mps', which has no float64, and the optimum cannot be told without; "
            "use 'cpu'"
        )
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", name)
    if match is None:
        raise DeviceError(f"device is {name!r}; expected one of {NAMES}")
    import torch

    index, count = int(match[1] or 0), _count()
    if index >= count:
        found = f"{count} CUDA devices are" if count else "no CUDA device is"
        raise DeviceError(f"device is {name!r}, but {found} here; use 'cpu' or 'auto'")
    return torch.device("cuda", index)


def visible_devices() -> int:
    """CUDA (or ROCm) devices that this process may use; torch is imported only with a driver."""
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return 0
    import torch  # noqa: F401 - `_count` finds it

    return _count()


def _count() -> int:
    cuda = sys.modules["torch"].cuda
    return int(cuda.device_count()) if cuda.is_available() else 0
