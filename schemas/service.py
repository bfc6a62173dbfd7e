"""State of the service: processes, queue, store and limits."""

from datetime import datetime
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from palettery.schemas.base import Schema
from palettery.schemas.keys import OwnerLimits, Usage


class WorkerProcess(Schema):
    """A worker process, which runs one task at a time."""

    state: str
    """State of the worker: `busy`, `idle`, or another state of its scheduler, such as `closing`."""
    cpu_percent: NonNegativeFloat | None = None
    """Percentage of one core, as last reported; null before the first report."""
    memory_bytes: NonNegativeInt | None = None
    """Memory in use, as last reported; null before the first report."""
    memory_limit_bytes: NonNegativeInt | None = None
    """Memory use above which the worker is replaced; null for no limit."""


class WorkerPool(Schema):
    """Workers known to this process."""

    count: NonNegativeInt
    """Number of workers; if this process has none, the largest number known to any controller."""
    busy: NonNegativeInt | None = None
    """Number of workers running a task; null if unknown, as with the role `api`."""
    idle: NonNegativeInt | None = None
    """Number of workers waiting for a task; null if unknown."""
    processes: tuple[WorkerProcess, ...] | None = None
    """Worker processes, at most a thousand; null if unknown."""


class Controller(Schema):
    """A process that runs jobs."""

    executor_id: str
    """Name of the controller."""
    version: str
    """Version of Palettery that it runs."""
    workers: NonNegativeInt
    """Number of workers it is connected to."""
    seen_at: datetime
    """Time of its last heartbeat, in UTC."""


class Depth(Schema):
    """Numbers of unfinished jobs."""

    queued: NonNegativeInt = 0
    """Number of waiting jobs."""
    running: NonNegativeInt = 0
    """Number of running jobs."""


class Queue(Schema):
    """Queue of jobs."""

    own: Depth
    """Jobs of the caller's owner."""
    all: Depth
    """Jobs of every owner."""


class Store(Schema):
    """Object store."""

    kind: str
    """Scheme of the store's URL: `file` for a folder, or that of a cloud, such as `s3`."""
    free_bytes: NonNegativeInt | None = None
    """Free space on the disk of a folder; null for a cloud."""
    size_bytes: NonNegativeInt | None = None
    """Size of that disk; null for a cloud."""


class Service(Schema):
    """State of the service, as seen by the process that answers."""

    version: str
    """Version of Palettery that it runs."""
    software: dict[str, str]
    """Versions of Palettery, Python and the main packages, by name."""
    role: Literal["all", "api", "controller"]
    """Role of the process that answered the request."""
    started_at: datetime
    """Time that process started, in UTC."""
    controllers: tuple[Controller, ...]
    """Controllers with a recent heartbeat."""
    workers: WorkerPool
    """Workers that run the tasks of jobs."""
    queue: Queue
    """Numbers of unfinished jobs."""
    store: Store
    """Store of models and artifacts."""
    database: str
    """Kind of database: `sqlite` or `postgresql`."""
    has_keys: bool
    """Whether requests need an API key."""
    limits: OwnerLimits
    """Limits of the caller's owner."""
    used: Usage
    """Current usage of the caller's owner."""
