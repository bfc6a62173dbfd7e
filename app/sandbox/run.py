"""Run a function over a folder in a process of its own, which may do nothing else."""

import contextlib
import functools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from palettery.app.errors import (
    ERRORS,
    BadInput,
    OutOfMemory,
    PaletteryError,
    SandboxCrashed,
    SandboxMissing,
    SandboxTimeout,
)
from palettery.app.sandbox.folder import open_regular
from palettery.app.sandbox.installation import environment
from palettery.app.sandbox.messages import (
    ANSWER,
    OUTCOME,
    REQUEST,
    Bounds,
    SandboxOutcome,
    SandboxRequest,
)

LOOK_EVERY_S = 0.2
"""Between two calls of `check`."""
OUTCOME_BYTES = 1 << 20

log = logging.getLogger(__name__)


def run(
    module: str,
    request: bytes,
    folder: Path,
    bounds: Bounds,
    *,
    what: str,
    required: bool | None,
    imports: Sequence[str] = (),
    by_name: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    check: Callable[[], None] = lambda: None,
) -> bytes:
    """The answer of a module's function `answer` to a request, from a sandboxed process.

    Args:
        module: Where the function is; it takes bytes and returns bytes, the folder its current one.
        request: For the function.
        folder: All that it writes and, beside the installation, reads.
        bounds: Of the process.
        what: The work, as messages name it, such as "running the model".
        required: Whether the work is refused where a protection is missing; None for a warning.
        imports: Modules to import before memory is limited.
        by_name: Further folders whose files it may read, by their names.
        variables: For the environment of the process, which is empty otherwise.
        check: Called several times a second; what it raises ends the process.

    Raises:
        SandboxMissing: a protection is missing, and `required`.
        SandboxTimeout: it took longer than it may.
        OutOfMemory: it took more memory than it may.
        SandboxCrashed: it ended otherwise without an answer.
        PaletteryError: whatever of these the function raised.
    """
    (folder / REQUEST).write_bytes(request)
    order = SandboxRequest(
        module=module,
        imports=tuple(imports),
        by_name=tuple(by_name),
        parent=os.getpid(),
        required=bool(required),
        memory_bytes=bounds.memory_bytes,
        cpu_s=bounds.cpu_s,
        file_bytes=bounds.file_bytes,
    )
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-P", "-m", "palettery.app.sandbox.child", order.model_dump_json()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment(folder, **(variables or {})),
        start_new_session=True,
    )
    _wait(process, bounds, what, check)
    outcome = _outcome(folder)
    if outcome is None:
        raise death(process.returncode, what, bounds)
    if required is None:
        for sentence in outcome.missing:
            warn(sentence)
    if outcome.code is not None:
        raise _error(outcome, what, bounds)
    return _read(folder / ANSWER, bounds.answer_bytes, what)


def death(code: int, what: str, bounds: Bounds) -> PaletteryError:
    """The error of a sandboxed process that ended with this code, and no answer."""
    if code >= 0:
        return SandboxCrashed(f"{what} ended without an answer (exit code {code})")
    number = -code
    name = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
    if number == signal.SIGXCPU:
        return SandboxTimeout(
            f"{what} took over the {bounds.cpu_s:,} s of processor time allowed; send a smaller "
            "model"
        )
    if number == signal.SIGKILL:
        return OutOfMemory(
            f"{what} was killed (SIGKILL), as the kernel does when the machine runs out of memory; "
            "send a smaller model, or use a machine with more"
        )
    return SandboxCrashed(
        f"{what} crashed (signal {number}, {name}); a library failed on this model, in a process "
        "of its own, and nothing else was harmed"
    )


@functools.cache
def warn(sentence: str) -> None:
    """Log once what a sandbox here lacks."""
    log.warning("%s; strangers' models are not safe to run here", sentence)


def _wait(
    process: subprocess.Popen[bytes], bounds: Bounds, what: str, check: Callable[[], None]
) -> None:
    """Wait until the process ends; it ends with its whole group whatever happens."""
    ends = time.monotonic() + bounds.wall_s
    with process:
        try:
            while process.poll() is None:
                check()
                if time.monotonic() > ends:
                    raise SandboxTimeout(
                        f"{what} took over the {bounds.wall_s:g} s allowed ({bounds.wall_setting})"
                    )
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(LOOK_EVERY_S, bounds.wall_s))
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def _outcome(folder: Path) -> SandboxOutcome | None:
    """How it ended, in its own words; None if it has none that can be read."""
    try:
        with open_regular(folder / OUTCOME) as file:
            return SandboxOutcome.model_validate_json(file.read(OUTCOME_BYTES))
    except (FileNotFoundError, ValidationError):
        return None


def _error(outcome: SandboxOutcome, what: str, bounds: Bounds) -> PaletteryError:
    kind = ERRORS.get(outcome.code or "", SandboxCrashed)
    if not issubclass(kind, BadInput | OutOfMemory | SandboxMissing):
        kind = SandboxCrashed  # nothing else is for it to say
    if kind is SandboxMissing:
        return SandboxMissing(
            f"{what} takes a sandbox that this machine does not give ({outcome.detail}); whoever "
            "runs the service may mend that, or do without by PALETTERY_SANDBOX_REQUIRED=false"
        )
    if kind is OutOfMemory:
        return OutOfMemory(
            f"{what} took more than the {bounds.memory_bytes:,} bytes of memory that it may; send "
            f"a smaller model, or raise {bounds.memory_setting}"
        )
    if kind is SandboxCrashed:
        return SandboxCrashed(f"{what} failed ({outcome.detail})")
    return kind(outcome.detail)


def _read(path: Path, most: int, what: str) -> bytes:
    try:
        with open_regular(path) as file:
            answer = file.read(most + 1)
    except FileNotFoundError as error:
        raise SandboxCrashed(f"{what} left no answer") from error
    if len(answer) > most:
        raise SandboxCrashed(f"{what} gave an answer over the {most:,} bytes allowed")
    return answer
