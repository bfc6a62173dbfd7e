"""Processes of their own for what strangers send: no network, no files but their own, limits.

`run` starts one and returns its answer; `confine` is for a process that restricts itself.
"""

from palettery.app.sandbox.confinement import (
    confine,
    confine_calls,
    confine_files,
    end_with_parent,
    limit,
    limit_memory,
    missing,
)
from palettery.app.sandbox.folder import open_regular, working_folder
from palettery.app.sandbox.installation import readable, writable
from palettery.app.sandbox.messages import Bounds
from palettery.app.sandbox.notice import note_sandbox
from palettery.app.sandbox.run import run

__all__ = [
    "Bounds",
    "confine",
    "confine_calls",
    "confine_files",
    "end_with_parent",
    "limit",
    "limit_memory",
    "missing",
    "note_sandbox",
    "open_regular",
    "readable",
    "run",
    "working_folder",
    "writable",
]
