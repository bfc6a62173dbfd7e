"""What passes between a process and the sandboxed one that it starts."""

from pydantic import Field, PositiveFloat, PositiveInt

from palettery.schemas.base import Schema

REQUEST, ANSWER, OUTCOME = "request", "answer", "outcome"
"""Files in the folder; the first is there before the process starts."""


DETAIL_CHARACTERS = 8_000
"""Of an error that the process tells of."""


class Bounds(Schema):
    """The most that a sandboxed process may use."""

    memory_bytes: PositiveInt
    """Address space beyond what importing its code takes."""
    cpu_s: PositiveInt
    """Processor time, of all its threads."""
    wall_s: PositiveFloat
    """Time from start to end."""
    file_bytes: PositiveInt
    """Size of each file that it writes."""
    answer_bytes: PositiveInt = 64 << 20
    """Size of its answer."""
    wall_setting: str = "PALETTERY_SANDBOX_TIMEOUT_S"
    """The setting that `wall_s` comes from."""
    memory_setting: str = "PALETTERY_SANDBOX_MEMORY_BYTES"
    """The one that `memory_bytes` comes from."""


class SandboxRequest(Schema):
    """What a sandboxed process is started with."""

    module: str
    """Its function `answer` takes the request and returns the answer."""
    imports: tuple[str, ...] = ()
    """Further modules to import before memory is limited."""
    by_name: tuple[str, ...] = ()
    """Folders whose files it reads by name, beside what it reads of the installation."""
    parent: int
    """Process id of whoever started it."""
    required: bool
    """Whether it refuses to run without all protections."""
    memory_bytes: int
    cpu_s: int
    file_bytes: int


class SandboxOutcome(Schema):
    """How a sandboxed process ended by itself."""

    code: str | None = None
    """Of an error; None if it gave an answer."""
    detail: str = Field(default="", max_length=DETAIL_CHARACTERS)
    missing: tuple[str, ...] = ()
    """Protections that it ran without."""
