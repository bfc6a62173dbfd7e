"""Files that a confined process reads: of Python, of its packages and ours, and of Linux."""

import site
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

OURS = ("app", "schemas", "kernels")
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
    packages |= {_root() / name for name in OURS}
    system = [Path(path) for path in (*_LIBRARIES, *_OF_LINUX)]
    itself = [Path("/proc/self", name) for name in _OF_ITSELF]
    return [*sorted(packages), *system, *itself]


def writable() -> Sequence[Path]:
    """Devices that anybody may write to."""
    return [Path("/dev/null")]


def _of_python() -> Sequence[str]:
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    shared = [str(Path(prefix, "lib")) for prefix in (sys.prefix, sys.base_prefix)]
    return [*(paths[name] for name in names), *shared]


def _root() -> Path:
    """The folder that holds our packages; of it nothing else is read, such as a data folder."""
    return Path(__file__).resolve().parents[2]
