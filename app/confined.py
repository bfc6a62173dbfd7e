"""What a process of its own gets of ours, and how it limits itself; nothing is imported for it."""

import os
import resource
from pathlib import Path


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


def limit_memory(more_bytes: int) -> None:
    """Limit address space to what is mapped by now, and so much more."""
    mapped = Path("/proc/self/statm")  # absent where the kernel does not enforce the limit either
    if mapped.exists():
        pages = int(mapped.read_text().split()[0])
        limit(resource.RLIMIT_AS, pages * resource.getpagesize() + more_bytes)
