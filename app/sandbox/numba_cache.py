"""A private numba cache for sandboxed processes, which must not write to a shared one."""

import os
import shutil
from pathlib import Path
from typing import Any

from numba.core.caching import UserProvidedCacheLocator

from palettery.app.sandbox.allowed_paths import COMPILED_VARIABLE


class CopiedCache(UserProvidedCacheLocator):
    """A cache folder of the process, filled with copies of existing compiled code.

    Copies are taken from `__pycache__` and from the user's cache. numba finds this class by
    NUMBA_CACHE_LOCATOR_CLASSES.
    """

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        """Return the cache locator of a function, with existing compiled code copied to it."""
        parent: Any = super()
        locator = parent.from_function(py_func, py_file)
        if locator is not None:
            line = py_func.__code__.co_firstlineno
            target = locator.get_cache_path()
            user_cache = Path(os.environ.get(COMPILED_VARIABLE, os.devnull), Path(target).name)
            for folder in (Path(py_file).parent / "__pycache__", user_cache):
                for file in folder.glob(f"{Path(py_file).stem}.*-{line}.py*.nb[ci]"):
                    shutil.copyfile(file, Path(target, file.name))
        return locator
