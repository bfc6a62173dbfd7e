"""Messages between a process and the sandboxed process that it starts."""

from pydantic import Field, PositiveFloat, PositiveInt

from palettery.schemas.base import Schema

REQUEST, ANSWER, OUTCOME = "request", "answer", "outcome"
"""Files in the working folder; the first exists before the process starts."""
DETAIL_CHARACTERS = 8_000
"""Maximum length of an error message of a sandboxed process."""


class Bounds(Schema):
    """Resource limits of a sandboxed process."""

    memory_bytes: PositiveInt
    """Address space beyond what its imports take."""
    cpu_s: PositiveInt
    """CPU time of all its threads."""
    wall_s: PositiveFloat
    """Time from start to end."""
    file_bytes: PositiveInt
    """Maximum size of each file that it writes."""
    answer_bytes: PositiveInt = 64 << 20
    """Maximum size of its answer."""
    wall_setting: str = "PALETTERY_SANDBOX_TIMEOUT_S"
    """Setting that determines `wall_s`."""
    memory_setting: str = "PALETTERY_SANDBOX_MEMORY_BYTES"
    """Setting that determines `memory_bytes`."""


class SandboxRequest(Schema):
    """The request that a sandboxed process is started with."""

    module: str
    """Module whose entry point, the function `answer`, takes the request and returns the answer."""
    imports: tuple[str, ...] = ()
    """Modules to import before memory is limited."""
    by_name: tuple[str, ...] = ()
    """Folders whose files it may read by name, in addition to the installation."""
    parent: int
    """Process id of its parent."""
    required: bool
    """Whether it refuses to run if a protection is missing."""
    memory_bytes: int
    cpu_s: int
    file_bytes: int


class SandboxOutcome(Schema):
    """Outcome that a sandboxed process writes before it exits."""

    code: str | None = None
    """Code of its error; None if it wrote an answer."""
    detail: str = Field(default="", max_length=DETAIL_CHARACTERS)
    missing: tuple[str, ...] = ()
    """Missing protections."""
