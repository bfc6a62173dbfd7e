"""Cache folder of compiled kernels, and the processor that they are compiled for."""

import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding as llvm
from numba import njit

from palettery.kernels.fingerprint import fingerprint

CACHE_DIR_VARIABLE = "KERNELS_CACHE_DIR"
"""Environment variable with a cache folder to use where numba has none: NUMBA_CACHE_DIR is not set,
and neither the folder of these sources nor the user's home is writable."""
X86_64_V3 = ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
"""CPU features of this level, in LLVM's names.
Source: the x86-64 psABI, "Micro-Architecture Levels"."""

CONFIG: Any = numba.config

log = logging.getLogger(__name__)


def configure() -> None:
    """Set the target processor and a writable cache folder; call before compiling a kernel."""
    _choose_processor()
    if CONFIG.DISABLE_JIT or _has_cache_folder():
        return
    original_folder = CONFIG.CACHE_DIR
    for folder in (_configured_folder, _user_folder, _process_folder):
        _set_cache_folder(folder() / fingerprint())
        if _has_cache_folder():
            break
    _copy_compiled(Path(original_folder) if original_folder else None, Path(CONFIG.CACHE_DIR))
    log.warning(
        "compiled kernels are cached in %s, because %s writable; set NUMBA_CACHE_DIR to use "
        "another folder",
        CONFIG.CACHE_DIR,
        f"{original_folder} is not"
        if original_folder
        else "neither the installation nor a home folder is",
    )


def _has_cache_folder() -> bool:
    """Return whether numba can cache compiled functions in the configured folder, or in any.

    Numba raises an error if no folder is writable. If the home folder is unknown, it uses one
    called `~` in the working directory, which does not count.
    """
    try:
        folder = Path(njit(cache=True)(_has_cache_folder).stats.cache_path or "")
    except RuntimeError:
        return False
    return folder.is_relative_to(CONFIG.CACHE_DIR) if CONFIG.CACHE_DIR else folder.is_absolute()


def _choose_processor() -> None:
    """Compile for this machine if it lacks features of the processor that NUMBA_CPU_NAME names."""
    level, features = CONFIG.CPU_NAME, llvm.get_host_cpu_features()
    if level == "x86-64-v3" and not all(features.get(feature) for feature in X86_64_V3):
        log.warning(
            "this processor does not support %s; kernels are compiled for it specifically", level
        )
        for name in ("CPU_NAME", "CPU_FEATURES"):
            setattr(CONFIG, name, None)
            os.environ.pop(f"NUMBA_{name}", None)


def _configured_folder() -> Path:
    return Path(os.environ.get(CACHE_DIR_VARIABLE) or _user_folder())


def _user_folder() -> Path:
    """Return a temporary folder of this user; its files are executed, so nobody else may own it."""
    folder = Path(tempfile.gettempdir(), f"palettery-kernels-{os.geteuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return _process_folder()
    is_ours = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if is_ours and stat.S_ISDIR(status.st_mode) else _process_folder()


def _process_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="palettery-kernels-"))


def _set_cache_folder(folder: Path) -> None:
    """Set the cache folder of this process and of its child processes."""
    CONFIG.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = str(folder)


def _copy_compiled(source: Path | None, target: Path) -> None:
    """Copy compiled kernels from a read-only folder to the cache folder, if that is empty."""
    if source is None or not source.is_dir() or any(target.rglob("*.nbi")):
        return
    try:
        shutil.copytree(source, target, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        log.warning("the compiled kernels in %s cannot be copied: %s", source, error)
