"""The service as who looks at it sees it: what runs, what waits, what there is room for."""

from datetime import datetime
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from palettery.schemas.base import Schema
from palettery.schemas.keys import OwnerLimits, Usage


class WorkerProcess(Schema):
    """A process that works on one task at a time."""

    state: str
    """`busy`, `idle`, or what else its scheduler calls it, such as `closing`."""
    cpu_percent: NonNegativeFloat | None = None
    """Of one core, as it said lately; null before it said so."""
    memory_bytes: NonNegativeInt | None = None
    """That it takes, as it said lately; null before it said so."""
    memory_limit_bytes: NonNegativeInt | None = None
    """Past which it is replaced; null for no limit."""


class WorkerPool(Schema):
    """All workers that this process knows of."""

    count: NonNegativeInt
    """Workers that can take a task; where this process has none, the most any controller sees."""
    busy: NonNegativeInt | None = None
    """Those that work on one; null where this process does not know, as with the role `api`."""
    idle: NonNegativeInt | None = None
    """Those that wait for one; null where this process does not know."""
    processes: tuple[WorkerProcess, ...] | None = None
    """Each of them, a thousand at most; null where this process does not know."""


class Controller(Schema):
    """A process that runs jobs."""

    executor_id: str
    """Its name."""
    version: str
    """Of Palettery."""
    workers: NonNegativeInt
    """That it sees."""
    seen_at: datetime
    """When it last said so."""


class Depth(Schema):
    """Jobs that have not ended."""

    queued: NonNegativeInt = 0
    """Those that wait."""
    running: NonNegativeInt = 0
    """Those that are worked on."""


class Queue(Schema):
    """What there is to do."""

    own: Depth
    """Jobs of the owner that asks."""
    all: Depth
    """Jobs of every owner."""


class Store(Schema):
    """Where the bytes lie."""

    kind: str
    """Scheme of its URL: `file` for a folder; else a cloud's, such as `s3`."""
    free_bytes: NonNegativeInt | None = None
    """Room left on the disk of a folder; null for a cloud."""
    size_bytes: NonNegativeInt | None = None
    """Of that disk; null for a cloud."""


class Service(Schema):
    """One service, as the process that was asked knows it."""

    version: str
    """Of Palettery."""
    software: dict[str, str]
    """Name -> version, of Palettery, Python, and the packages that do the work."""
    role: Literal["all", "api", "controller"]
    """Of the process that was asked."""
    started_at: datetime
    """When that process began to answer."""
    controllers: tuple[Controller, ...]
    """Processes that run jobs and were heard of lately."""
    workers: WorkerPool
    """What works on their tasks."""
    queue: Queue
    """What they have to do."""
    store: Store
    """Where models and artifacts lie."""
    database: str
    """Its kind: `sqlite` or `postgresql`."""
    has_keys: bool
    """Whether every request needs a key."""
    limits: OwnerLimits
    """The most that the owner which asks may have."""
    used: Usage
    """What it has."""
