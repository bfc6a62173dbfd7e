"""What a process of its own gets of ours, and how it limits itself; nothing is imported for it."""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def environment(here: Path, **more: str) -> dict[str, str]:
    """Nothing of ours but where programs and modules are; files go to this folder."""
    ours = str(Path(__file__).parents[1])
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), ours))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(here),
        "TMPDIR": str(here),
        **more,
    }


def limit(kind: int, most: int) -> None:
    """Lower a limit of this process; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def limit_memory(more_bytes: int, *, soft: bool = False) -> None:
    """Limit address space to what is mapped by now, and so much more.

    With `soft`, programs that this process starts can lift the limit for themselves.
    """
    mapped = Path("/proc/self/statm")  # absent where the kernel does not enforce the limit either
    if mapped.exists():
        pages = int(mapped.read_text().split()[0])
        most = pages * resource.getpagesize() + more_bytes
        if soft:
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        else:
            limit(resource.RLIMIT_AS, most)


def lift_memory_limit() -> None:
    """Lift a soft limit of address space that this process inherited."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however it ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
