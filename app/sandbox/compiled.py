"""Machine code of numba for a confined process, which must not write where others read it from."""

import os
import shutil
from pathlib import Path
from typing import Any

from numba.core.caching import UserProvidedCacheLocator

from palettery.app.sandbox.installation import COMPILED


class Copied(UserProvidedCacheLocator):
    """A folder of the process's own, begun with what is compiled beside the source or for the user.

    numba finds this class by NUMBA_CACHE_LOCATOR_CLASSES.
    """

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        """The folder for a function's machine code, with the code that there is."""
        parent: Any = super()
        locator = parent.from_function(py_func, py_file)
        if locator is not None:
            line = py_func.__code__.co_firstlineno
            to = locator.get_cache_path()
            of_user = Path(os.environ.get(COMPILED, os.devnull), Path(to).name)
            for folder in (Path(py_file).parent / "__pycache__", of_user):
                for file in folder.glob(f"{Path(py_file).stem}.*-{line}.py*.nb[ci]"):
                    shutil.copyfile(file, Path(to, file.name))
        return locator
