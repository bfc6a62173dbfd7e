"""Where compiled kernels are kept, and the processor that they are compiled for."""

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

FALLBACK = "KERNELS_CACHE_DIR"
"""Names a folder of the caller's, for where numba finds none: neither NUMBA_CACHE_DIR, nor beside
these sources, nor in the user's home."""
X86_64_V3 = ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
"""What a processor has that is of this level, in LLVM's names.
Source: the x86-64 psABI, "Micro-Architecture Levels"."""

CONFIG: Any = numba.config

log = logging.getLogger(__name__)


def prepare() -> None:
    """See to a place for compiled kernels, and to a processor that runs them, before the first."""
    _choose_processor()
    if CONFIG.DISABLE_JIT or _has_place():
        return
    compiled = CONFIG.CACHE_DIR
    for folder in (_named_folder, _folder_of_user, _folder_of_process):
        _keep_in(folder() / fingerprint())
        if _has_place():
            break
    _copy_compiled(Path(compiled) if compiled else None, Path(CONFIG.CACHE_DIR))
    log.warning(
        "compiled kernels are kept in %s, since %s be written; NUMBA_CACHE_DIR names another",
        CONFIG.CACHE_DIR,
        f"{compiled} cannot" if compiled else "neither the installation nor a home folder can",
    )


def _has_place() -> bool:
    """Whether numba keeps compiled functions where it is told to, or else anywhere.

    It raises where there is no place. A home folder that nobody knows is one called `~`, wherever
    the process happens to work.
    """
    try:
        found = Path(njit(cache=True)(_has_place).stats.cache_path or "")
    except RuntimeError:
        return False
    return found.is_relative_to(CONFIG.CACHE_DIR) if CONFIG.CACHE_DIR else found.is_absolute()


def _choose_processor() -> None:
    """Compile for this machine where NUMBA_CPU_NAME names a processor that has more."""
    level, has = CONFIG.CPU_NAME, llvm.get_host_cpu_features()
    if level == "x86-64-v3" and not all(has.get(feature) for feature in X86_64_V3):
        log.warning("this processor is not of the level %s; kernels are compiled for it", level)
        for name in ("CPU_NAME", "CPU_FEATURES"):
            setattr(CONFIG, name, None)
            os.environ.pop(f"NUMBA_{name}", None)


def _named_folder() -> Path:
    return Path(os.environ.get(FALLBACK) or _folder_of_user())


def _folder_of_user() -> Path:
    """A temporary folder that lasts; only if it is ours, since what lies in it is run."""
    folder = Path(tempfile.gettempdir(), f"palettery-kernels-{os.geteuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return _folder_of_process()
    is_ours = found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if is_ours and stat.S_ISDIR(found.st_mode) else _folder_of_process()


def _folder_of_process() -> Path:
    return Path(tempfile.mkdtemp(prefix="palettery-kernels-"))


def _keep_in(folder: Path) -> None:
    """Have this process and those that it starts keep what they compile in a folder."""
    CONFIG.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = str(folder)


def _copy_compiled(source: Path | None, target: Path) -> None:
    """Begin with what was compiled for this version before, in a folder that can only be read."""
    if source is None or not source.is_dir() or any(target.rglob("*.nbi")):
        return
    try:
        shutil.copytree(source, target, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        log.warning("the compiled kernels in %s cannot be copied: %s", source, error)
