"""Files that a confined process reads: of Python, of its packages and ours, and of Linux."""

import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_cache_dir

PACKAGES = ("app", "schemas", "kernels")
"""Of ours; in a checkout they are links out of the one that is imported."""
COMPILED = "SANDBOX_COMPILED_KERNELS"
"""Environment variable: folder where the process that starts a sandbox has numba's machine code."""
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
_OF_LINUX = (
    *("/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/zero", "/proc/cpuinfo"),
    *("/proc/meminfo", "/proc/stat", "/proc/sys/vm/overcommit_memory", "/sys/devices/system"),
)
_OF_ITSELF = ("maps", "stat", "statm", "status", "cgroup", "limits")
"""Of /proc/self; not the environment, which may still be that of the process it was forked from."""


def readable() -> Sequence[Path]:
    """Files and folders to read for whoever runs Python code of this installation."""
    packages = {Path(path) for path in (*site.getsitepackages(), *_of_python())}
    packages |= {Path(path).resolve() for path in sys.path if path} - {_root()}
    packages |= {_package(), *((_package() / name).resolve() for name in PACKAGES)}
    system = [Path(path) for path in (*_LIBRARIES, *_OF_LINUX)]
    itself = [Path("/proc/self", name) for name in _OF_ITSELF]
    compiled = [Path(path) for path in (os.environ.get(COMPILED),) if path]
    return [*sorted(packages), *compiled, *system, *itself]


def writable() -> Sequence[Path]:
    """Devices that anybody may write to."""
    return [Path("/dev/null")]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Nothing of ours but where programs and modules are; files go to this folder."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(_root())))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "USER": "sandbox",
        "NUMBA_CACHE_DIR": str(folder / "compiled"),
        "NUMBA_CACHE_LOCATOR_CLASSES": "palettery.app.sandbox.compiled.Copied",
        COMPILED: os.environ.get("NUMBA_CACHE_DIR") or user_cache_dir("numba", appauthor=False),
        **more,
    }


def _of_python() -> Sequence[str]:
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    shared = [str(Path(prefix, "lib")) for prefix in (sys.prefix, sys.base_prefix)]
    return [*(paths[name] for name in names), *shared]


def _package() -> Path:
    return Path(__file__).absolute().parents[2]  # not resolved: it is imported by a link


def _root() -> Path:
    """The folder that holds our package; of it nothing else is read, such as a data folder."""
    return _package().parent
