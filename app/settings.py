"""Settings of the service, read once from the environment (`PALETTERY_*`) and passed down."""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from palettery.app.errors import BadInput

ADMIN_KEY_LENGTH = 32
"""The least of it, so that it cannot be guessed."""
PREFIX = "PALETTERY_"
"""Of everything in the environment that is ours."""
CLIENTS_OWN = (f"{PREFIX}SERVER", f"{PREFIX}KEY")
"""What of the environment is the command line's, as a client."""
PORT = 8400
SQLITE_PATH_BYTES = 500
"""Of a database's path; SQLite takes 512, with what it appends to it."""
SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
"""What Kubernetes and Docker's links set `<SERVICE>_PORT` to, for every service that there is.
Source: kubernetes.io/docs/concepts/services-networking/service/#environment-variables."""


def names_loopback(host: str) -> bool:
    """Whether a name or an address is that of this machine for itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _usable_cores() -> int:
    """Cores that this process may use: by its affinity, and by the quota of its cgroup."""
    from dask.system import CPU_COUNT  # which takes a while

    return CPU_COUNT


def _unless_service(port: object) -> object:
    """The port, or ours where it is the address of a service that is called palettery."""
    return PORT if isinstance(port, str) and SERVICE_ADDRESS.fullmatch(port) else port


def _without_brackets(host: str) -> str:
    """An IPv6 address as sockets take it, also where it is written as URLs have it: `[::1]`."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _check_admin_key(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if len(text) < ADMIN_KEY_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"it has {len(text)} characters; it needs at least {ADMIN_KEY_LENGTH}, ASCII without "
            "spaces, such as `openssl rand -hex 32` gives"
        )
    return key


def _checked_root(path: str) -> str:
    path = path.rstrip("/")
    if path and not re.fullmatch(r"(/[\w.~-]+)+", path, re.ASCII):
        raise ValueError(f"it is {path!r}; it is a path such as /pal, or empty")
    return path


class Sandbox(BaseSettings):
    """Processes of their own, in which strangers' models run and their configs are built."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}SANDBOX_", frozen=True, use_attribute_docstrings=True
    )

    required: bool | None = None
    """Whether such work is refused where the kernel does not protect network and files; None for
    yes on a service that others reach, and for a warning elsewhere."""
    memory_bytes: PositiveInt = 8 << 30
    """Address space of such a process, beyond a multiple of the model's size."""
    timeout_s: PositiveFloat = 3_600.0
    """From its start to its end, when it runs a model."""


class Limits(BaseSettings):
    """The most of everything whose size a stranger chooses."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}LIMIT_", frozen=True, use_attribute_docstrings=True
    )

    upload_bytes: PositiveInt = 100 << 30
    """Of one upload's files together."""
    queued_jobs: PositiveInt = 10_000
    """Of one owner's jobs that have not ended."""
    stored_bytes: PositiveInt | None = None
    """Of one owner's uploads, models and artifacts; None for all there is room for."""
    upload_files: PositiveInt = 1_000
    """Files in one request."""
    header_bytes: PositiveInt = 64 << 20
    """Of one safetensors header, index file, pickle, graph or zip directory."""
    tensors: PositiveInt = 250_000
    """In one checkpoint; it also bounds a pickle's opcodes, a JSON document's values and a zip
    archive's members."""
    config_bytes: PositiveInt = 8 << 20
    """Of one config document."""
    regex_timeout_s: PositiveFloat = 5.0
    """Processor time for all patterns of one config together."""
    hf_timeout_s: PositiveFloat = 60.0
    """To build, without weights, the model that an uploaded config.json describes."""
    document_timeout_s: PositiveFloat = 120.0
    """To read one request's documents: its config, and the headers of its model."""
    document_memory_bytes: PositiveInt = 1 << 30
    """Of a process that reads documents, beyond what its code takes."""
    open_uploads: PositiveInt = 100
    """Of one owner, that are not complete and have not expired."""
    announced_files: PositiveInt = 100_000
    """Of one owner, in all uploads that have not expired; complete ones count, too."""
    sandbox: Sandbox = Field(default_factory=Sandbox)
    """Of the processes that run strangers' models."""

    def allowed(self, limit: str) -> str:
        """How a message names a limit: the most that it allows, and the setting that raises it."""
        most = getattr(self, limit)
        return f"{most:,} are allowed (PALETTERY_LIMIT_{limit.upper()})"


class Clients(BaseSettings):
    """How much of the service's patience a client may use."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}CLIENTS_", frozen=True, use_attribute_docstrings=True
    )

    head_timeout_s: PositiveFloat = 20.0
    """For a request's line and headers."""
    keep_alive_s: PositiveFloat = 30.0
    """Between two requests on a connection, and before the first."""
    stall_timeout_s: PositiveFloat = 30.0
    """In which `stall_bytes` of a request's body, or of what is to be read of a response, move."""
    stall_bytes: PositiveInt = 30_000
    """A connection that moves fewer is given up; with its timeout, that is 1 kB/s."""
    connections: PositiveInt = 4_096
    """Open at once; those with no request under way make room for others."""
    owner_streams: PositiveInt = 1_000
    """Event streams of one owner open at once; all together may take half of the connections."""


class Settings(BaseSettings):
    """Everything a deployment chooses."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, use_attribute_docstrings=True)

    data_dir: Path = Path("data")
    """Folder of the embedded database and store."""
    scheduler_url: str | None = None
    """Address of the scheduler, such as `tcp://scheduler:8786`; None for workers of our own."""
    executor_id: str = Field(default="palettery-0", pattern=r"^[\w.-]{1,64}$")
    """Name of this process as one that runs jobs: it takes up the jobs that it left, so it stays
    the same over restarts, and no two processes have the same."""
    database_url: str | None = None
    """SQLAlchemy URL; None for SQLite below `data_dir`."""
    storage_url: str | None = None
    """Object store URL; None for the folder `store` below `data_dir`."""
    host: Annotated[str, AfterValidator(_without_brackets)] = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[PositiveInt, BeforeValidator(_unless_service)] = PORT
    """Port to listen on; the address that Kubernetes sets for a Service `palettery` is ignored."""
    root_path: Annotated[str, AfterValidator(_checked_root)] = ""
    """Path below which a proxy serves this server, such as `/pal`, and which it takes off."""
    log_format: Literal["text", "json"] | None = None
    """Of the log's lines; None for text on a terminal, and JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least of our own that is logged; of other packages, warnings and errors are."""
    admin_key: Annotated[SecretStr, AfterValidator(_check_admin_key)] | None = None
    """A key of the owner `admin` with all scopes, to make the others with; while it is set, every
    request needs a key."""
    workers: PositiveInt = Field(default_factory=_usable_cores)
    """Worker processes, one task each at a time, by default one for each core that this process may
    use (affinity, cgroup); where there are GPUs, there is one for each."""
    worker_memory_bytes: PositiveInt | None = None
    """A worker that takes more is replaced, and its task tried elsewhere; None shares the memory of
    this process's cgroup out among the workers, and sets no limit where there is none."""
    task_threads: PositiveInt | None = None
    """Cores that a task uses; None shares the machine's out among its workers."""
    running_jobs: PositiveInt = 16
    """Jobs that this process works on at once; the others wait queued."""
    owner_weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    """How often an owner's jobs are served, where several owners have any, as JSON such as
    `{"search": 2}`: owners that are not named have a weight of 1."""
    poll_s: PositiveFloat = 0.1
    """Between two looks at the queue."""
    reuse_results: bool = True
    """Whether results of earlier jobs are taken where they are the same."""
    retain_days: PositiveFloat = 30.0
    """How long a job is kept, with its artifact, once it has ended; and a model that no new job
    uses."""
    upload_hours: PositiveFloat = 24.0
    """How long an upload stays open after the last part that came in."""
    sweep_every_s: PositiveFloat = 300.0
    """Between two searches for what nobody needs any more."""
    orphan_age_s: PositiveFloat = 86_400.0
    """Age at which bytes that belong to nothing are removed; longer than any upload takes."""
    webhook_private: bool = False
    """Whether webhooks may call addresses that are not public, such as this machine's."""
    webhook_retry_s: PositiveFloat = 5.0
    """From a failed call of a webhook to the second try; each wait is four times the one before."""
    task_bytes: PositiveInt = 64 << 20
    """Weights that one task takes; a larger tensor is split along its groups where it can be."""
    limits: Limits = Field(default_factory=Limits)
    clients: Clients = Field(default_factory=Clients)

    def is_loopback(self) -> bool:
        """Whether only this machine reaches the address that is listened on."""
        return names_loopback(self.host)

    def with_sandbox(self, *, required: bool) -> Self:
        """These settings, where they leave open whether a sandbox is required, with an answer."""
        sandbox = self.limits.sandbox
        if sandbox.required is not None:
            return self
        limits = {"sandbox": sandbox.model_copy(update={"required": required})}
        return self.model_copy(update={"limits": self.limits.model_copy(update=limits)})

    def resolved_storage_url(self) -> str:
        """The object store's URL, the embedded default filled in."""
        return self.storage_url or (self.data_dir / "store").resolve().as_uri()

    def resolved_database_url(self) -> str:
        """The database's URL, the embedded default filled in."""
        return self.database_url or sqlite_url(self.data_dir / "palettery.db")


def sqlite_url(file: Path) -> str:
    """The URL of a SQLite database in a file, whatever the names of its folders are.

    Raises:
        BadInput: SQLite takes only names in UTF-8, and no longer path.
    """
    if len(path := os.fsencode(file.resolve())) > SQLITE_PATH_BYTES:
        raise BadInput(
            f"the database's path has {len(path)} bytes, and SQLite takes {SQLITE_PATH_BYTES}; "
            "choose a shorter --data-dir"
        )
    from sqlalchemy import URL  # which takes a while

    try:
        return URL.create("sqlite", database=str(file.resolve())).render_as_string()
    except UnicodeEncodeError as error:
        shown = str(file).encode("utf-8", "backslashreplace").decode()
        raise BadInput(f"the name {shown} is not UTF-8; choose another --data-dir") from error


def read_settings(**said: object) -> Settings:
    """What the environment says, and over it what the caller does.

    Raises:
        BadInput: names every setting that is not valid.
    """
    try:
        return Settings(**said)  # type: ignore[arg-type] # checked here
    except ValidationError as error:
        kinds = {kind.__name__: kind for kind in (Limits, Clients, Sandbox)}
        prefix = kinds.get(error.title, Settings).model_config["env_prefix"]
        faults = [
            f"{prefix}{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise BadInput(f"the settings are not valid: {'; '.join(faults)}") from error


def unknown_settings(environment: Mapping[str, str]) -> Iterator[str]:
    """A line on each variable that looks like a setting and is none, such as one mistyped.

    What Kubernetes sets for services whose names begin with ours is nobody's mistake.
    """
    settings = [
        f"{kind.model_config['env_prefix']}{field}".upper()
        for kind in (Settings, Limits, Clients, Sandbox)
        for field in kind.model_fields
    ]
    known = [name.removeprefix(PREFIX) for name in (*CLIENTS_OWN, *settings)]
    services = tuple(
        f"{name.removesuffix('_PORT')}_{what}"
        for name, value in environment.items()
        if name.endswith("_PORT") and SERVICE_ADDRESS.fullmatch(value)
        for what in ("PORT", "SERVICE_HOST", "SERVICE_PORT")
    )
    for name in sorted(environment):
        what = name.removeprefix(PREFIX)
        if what != name and what not in known and not name.startswith(services):
            like = get_close_matches(what, known, 1)
            told = f"; did you mean {PREFIX}{like[0]}?" if like else ""
            yield f"{name} is in the environment, and is no setting{told}"
