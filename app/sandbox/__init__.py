"""Sandboxed processes for untrusted input: no network, no files but their own, resource limits.

`run` starts one and returns its result; `confine` is for a process that restricts itself.
"""

from palettery.app.sandbox.allowed_paths import readable, writable
from palettery.app.sandbox.confinement import (
    confine,
    confine_calls,
    confine_files,
    end_with_parent,
    limit,
    limit_memory,
    missing_protections,
)
from palettery.app.sandbox.messages import Bounds
from palettery.app.sandbox.run import run
from palettery.app.sandbox.startup_log import log_missing_protections
from palettery.app.sandbox.working_folder import open_regular, working_folder

__all__ = [
    "Bounds",
    "confine",
    "confine_calls",
    "confine_files",
    "end_with_parent",
    "limit",
    "limit_memory",
    "log_missing_protections",
    "missing_protections",
    "open_regular",
    "readable",
    "run",
    "working_folder",
    "writable",
]
