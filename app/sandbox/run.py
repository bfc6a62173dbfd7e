"""Execution of a function in a sandboxed process, with access to one folder."""

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
from palettery.app.sandbox.allowed_paths import environment
from palettery.app.sandbox.messages import (
    ANSWER,
    OUTCOME,
    REQUEST,
    Bounds,
    SandboxOutcome,
    SandboxRequest,
)
from palettery.app.sandbox.working_folder import open_regular

CHECK_EVERY_S = 0.2
"""Maximum interval between calls of `check`."""
OUTCOME_BYTES = 1 << 20
"""Maximum size of an outcome that is read."""

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
    """Run a module's entry point, the function `answer`, in a sandboxed process; return its result.

    Args:
        module: Module of the function, which takes and returns bytes.
        request: Argument of the function.
        folder: Current folder; the only one that it writes and, apart from the installation, reads.
        bounds: Resource limits of the process.
        what: Name of the work in messages, such as "running the model".
        required: Whether to refuse the work if a protection is missing; None logs a warning.
        imports: Modules to import before memory is limited.
        by_name: Further folders whose files it may read by name.
        variables: Additional environment variables of the process.
        check: Called several times a second; if it raises, the process is killed.

    Raises:
        SandboxMissing: a protection is missing, and `required`.
        SandboxTimeout: it exceeded its time limit.
        OutOfMemory: it exceeded its memory limit.
        SandboxCrashed: it ended without an answer for another reason.
        PaletteryError: the function raised it.
    """
    (folder / REQUEST).write_bytes(request)
    sandbox_request = SandboxRequest(
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
        [
            sys.executable,
            "-P",
            "-m",
            "palettery.app.sandbox.child",
            sandbox_request.model_dump_json(),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment(folder, **(variables or {})),
        start_new_session=True,
    )
    _wait(process, bounds, what, check)
    outcome = _read_outcome(folder)
    if outcome is None:
        raise exit_error(process.returncode, what, bounds)
    if required is None:
        for sentence in outcome.missing:
            warn_once(sentence)
    if outcome.code is not None:
        raise _outcome_error(outcome, what, bounds)
    return _read_answer(folder / ANSWER, bounds.answer_bytes, what)


def exit_error(code: int, what: str, bounds: Bounds) -> PaletteryError:
    """Return the error for a sandboxed process that exited with this code and no answer."""
    if code >= 0:
        return SandboxCrashed(f"{what} ended without an answer (exit code {code})")
    number = -code
    name = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
    if number == signal.SIGXCPU:
        return SandboxTimeout(
            f"{what} exceeded the limit of {bounds.cpu_s:,} s of CPU time; send a smaller model"
        )
    if number == signal.SIGKILL:
        return OutOfMemory(
            f"{what} was killed (SIGKILL), probably because the machine ran out of memory; send a "
            "smaller model, or use a machine with more memory"
        )
    return SandboxCrashed(
        f"{what} crashed (signal {number}, {name}): a library failed on this model; the crash was "
        "contained in a separate process"
    )


@functools.cache
def warn_once(sentence: str) -> None:
    """Log a missing protection once."""
    log.warning("%s; untrusted models are not safe to run here", sentence)


def _wait(
    process: subprocess.Popen[bytes], bounds: Bounds, what: str, check: Callable[[], None]
) -> None:
    """Wait until the process ends; kill its process group in any case."""
    deadline = time.monotonic() + bounds.wall_s
    with process:
        try:
            while process.poll() is None:
                check()
                if time.monotonic() > deadline:
                    raise SandboxTimeout(
                        f"{what} exceeded the limit of {bounds.wall_s:g} s ({bounds.wall_setting})"
                    )
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(CHECK_EVERY_S, bounds.wall_s))
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def _read_outcome(folder: Path) -> SandboxOutcome | None:
    """Return the outcome that the process wrote; None if missing or not valid."""
    try:
        with open_regular(folder / OUTCOME) as file:
            return SandboxOutcome.model_validate_json(file.read(OUTCOME_BYTES))
    except (FileNotFoundError, ValidationError):
        return None


def _outcome_error(outcome: SandboxOutcome, what: str, bounds: Bounds) -> PaletteryError:
    kind = ERRORS.get(outcome.code or "", SandboxCrashed)
    if not issubclass(kind, BadInput | OutOfMemory | SandboxMissing):
        kind = SandboxCrashed  # an untrusted process may not report other errors
    if kind is SandboxMissing:
        return SandboxMissing(
            f"{what} needs a sandbox, which is missing here ({outcome.detail}); the operator can "
            "fix that, or disable it with PALETTERY_SANDBOX_REQUIRED=false"
        )
    if kind is OutOfMemory:
        return OutOfMemory(
            f"{what} exceeded the limit of {bounds.memory_bytes:,} bytes of memory; send a smaller "
            f"model, or raise {bounds.memory_setting}"
        )
    if kind is SandboxCrashed:
        return SandboxCrashed(f"{what} failed ({outcome.detail})")
    return kind(outcome.detail)


def _read_answer(path: Path, max_bytes: int, what: str) -> bytes:
    try:
        with open_regular(path) as file:
            answer = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise SandboxCrashed(f"{what} ended without an answer") from error
    if len(answer) > max_bytes:
        raise SandboxCrashed(f"{what} returned more than the {max_bytes:,} bytes allowed")
    return answer
