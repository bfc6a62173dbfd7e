"""The program of a sandboxed process: `python -P -m palettery.app.sandbox.child REQUEST`.

It confines itself before it imports anything large or reads anything of strangers, then calls one
function with the request that lies in its folder, and leaves the answer there.
"""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from palettery.app.errors import OutOfMemory, PaletteryError, SandboxCrashed, SandboxMissing
from palettery.app.sandbox.confinement import (
    confine,
    end_with_parent,
    lift_memory_limit,
    limit_memory,
)
from palettery.app.sandbox.installation import readable, writable
from palettery.app.sandbox.messages import (
    ANSWER,
    DETAIL_CHARACTERS,
    OUTCOME,
    REQUEST,
    SandboxOutcome,
    SandboxRequest,
)


def main() -> None:
    """Carry out the order in the first argument."""
    order = SandboxRequest.model_validate_json(sys.argv[1])
    end_with_parent(order.parent)
    lift_memory_limit()  # of a process that reads documents, if one started this
    folder = Path.cwd()
    missing = confine(
        read=readable(),
        write=[folder, *writable()],
        by_name=[Path(path) for path in order.by_name],
        cpu_s=order.cpu_s,
        file_bytes=order.file_bytes,
    )
    try:
        if missing and order.required:
            raise SandboxMissing("; ".join(missing))
        (folder / ANSWER).write_bytes(_answer(order, (folder / REQUEST).read_bytes()))
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
    os._exit(0)  # threads may run still, and libraries crash at their end


def _answer(order: SandboxRequest, request: bytes) -> bytes:
    """Import the code, which takes memory that no model is charged for; then call the function."""
    module = importlib.import_module(order.module)
    for name in order.imports:
        importlib.import_module(name)
    limit_memory(order.memory_bytes)
    function: Callable[[bytes], bytes] = module.answer
    return function(request)


if __name__ == "__main__":
    main()
