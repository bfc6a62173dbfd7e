"""Paths that a sandboxed process may access, and its environment variables."""

import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_cache_dir

PACKAGES = ("app", "schemas", "kernels")
"""Packages of this project; in a checkout they are links inside `palettery`."""
COMPILED_VARIABLE = "SANDBOX_COMPILED_KERNELS"
"""Environment variable with the numba cache folder of the process that starts the sandbox."""
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
_SYSTEM_FILES = (
    *("/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/zero", "/proc/cpuinfo"),
    *("/proc/meminfo", "/proc/stat", "/proc/sys/vm/overcommit_memory", "/sys/devices/system"),
)
_PROC_FILES = ("maps", "stat", "statm", "status", "cgroup", "limits")
"""Files of /proc/self, without the environment, which may be that of the parent."""


def readable() -> Sequence[Path]:
    """Return the files and folders that Python code of this installation reads."""
    packages = {Path(path) for path in (*site.getsitepackages(), *_python_paths())}
    packages |= {Path(path).resolve() for path in sys.path if path} - {_package_parent()}
    packages |= {_package_folder(), *((_package_folder() / name).resolve() for name in PACKAGES)}
    system = [Path(path) for path in (*_LIBRARIES, *_SYSTEM_FILES)]
    process = [Path("/proc/self", name) for name in _PROC_FILES]
    compiled = [Path(path) for path in (os.environ.get(COMPILED_VARIABLE),) if path]
    return [*sorted(packages), *compiled, *system, *process]


def writable() -> Sequence[Path]:
    """Return the devices that any process may write to."""
    return [Path("/dev/null")]


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a sandboxed process: search paths, and `folder` for its files."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join(
            filter(None, (os.environ.get("PYTHONPATH"), str(_package_parent())))
        ),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "USER": "sandbox",
        "NUMBA_CACHE_DIR": str(folder / "compiled"),
        "NUMBA_CACHE_LOCATOR_CLASSES": "palettery.app.sandbox.numba_cache.CopiedCache",
        COMPILED_VARIABLE: os.environ.get("NUMBA_CACHE_DIR")
        or user_cache_dir("numba", appauthor=False),
        **variables,
    }


def _python_paths() -> Sequence[str]:
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    shared = [str(Path(prefix, "lib")) for prefix in (sys.prefix, sys.base_prefix)]
    return [*(paths[name] for name in names), *shared]


def _package_folder() -> Path:
    return Path(__file__).absolute().parents[2]  # not resolved: it is imported through a link


def _package_parent() -> Path:
    """Return the folder that contains `palettery`; other folders in it are not readable."""
    return _package_folder().parent
