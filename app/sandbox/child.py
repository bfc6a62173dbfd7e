"""The program of a sandboxed process: `python -P -m palettery.app.sandbox.child REQUEST`.

It confines itself before it imports large modules or reads untrusted input. Then it calls one
function with the request file in its folder, and writes the answer file there.
"""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from palettery.app.errors import OutOfMemory, PaletteryError, SandboxCrashed, SandboxMissing
from palettery.app.sandbox.allowed_paths import readable, writable
from palettery.app.sandbox.confinement import (
    confine,
    end_with_parent,
    lift_memory_limit,
    limit_memory,
)
from palettery.app.sandbox.messages import (
    ANSWER,
    DETAIL_CHARACTERS,
    OUTCOME,
    REQUEST,
    SandboxOutcome,
    SandboxRequest,
)


def main() -> None:
    """Run the request in the first argument."""
    request = SandboxRequest.model_validate_json(sys.argv[1])
    end_with_parent(request.parent)
    lift_memory_limit()  # inherited if a document process started this one
    folder = Path.cwd()
    missing = confine(
        read=readable(),
        write=[folder, *writable()],
        by_name=[Path(path) for path in request.by_name],
        cpu_s=request.cpu_s,
        file_bytes=request.file_bytes,
    )
    try:
        if missing and request.required:
            raise SandboxMissing("; ".join(missing))
        (folder / ANSWER).write_bytes(_call_entry_point(request, (folder / REQUEST).read_bytes()))
        outcome = SandboxOutcome(missing=missing)
    except PaletteryError as error:
        outcome = SandboxOutcome(
            code=error.code, detail=error.detail[:DETAIL_CHARACTERS], missing=missing
        )
    except MemoryError:
        outcome = SandboxOutcome(code=OutOfMemory.code, missing=missing)
    except Exception as error:  # noqa: BLE001 - the request ends here
        outcome = SandboxOutcome(
            code=SandboxCrashed.code,
            detail=f"{type(error).__name__}: {error}"[:DETAIL_CHARACTERS],
            missing=missing,
        )
    (folder / OUTCOME).write_text(outcome.model_dump_json(), "utf-8")
    os._exit(0)  # threads may still run, and libraries may crash at exit


def _call_entry_point(request: SandboxRequest, content: bytes) -> bytes:
    """Import the modules, limit the memory, then call the function `answer` of the module."""
    module = importlib.import_module(request.module)
    for name in request.imports:
        importlib.import_module(name)
    limit_memory(request.memory_bytes)
    function: Callable[[bytes], bytes] = module.answer
    return function(content)


if __name__ == "__main__":
    main()
