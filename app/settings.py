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
"""Fewest characters of the admin key, so that it cannot be guessed."""
PREFIX = "PALETTERY_"
"""Prefix of our environment variables."""
CLIENTS_OWN = (f"{PREFIX}SERVER", f"{PREFIX}KEY")
"""Environment variables that the command line reads as a client."""
PORT = 8400
SQLITE_PATH_BYTES = 500
"""Longest path of a database; SQLite allows 512 bytes, with the suffixes that it appends."""
SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
"""Value that Kubernetes and Docker links give to `<SERVICE>_PORT` for every service.
Source: kubernetes.io/docs/concepts/services-networking/service/#environment-variables."""


def names_loopback(host: str) -> bool:
    """Return whether a host name or address is loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ignore_service_address(port: object) -> object:
    """Return the port; the default if the variable is a service address that Kubernetes set."""
    return PORT if isinstance(port, str) and SERVICE_ADDRESS.fullmatch(port) else port


def _strip_brackets(host: str) -> str:
    """Return a host without the brackets that an IPv6 address has in URLs, as in `[::1]`."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _check_admin_key(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if len(text) < ADMIN_KEY_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"it has {len(text)} characters; it needs at least {ADMIN_KEY_LENGTH} ASCII characters "
            "without spaces; generate one with `openssl rand -hex 32`"
        )
    return key


def _check_root_path(path: str) -> str:
    path = path.rstrip("/")
    if path and not re.fullmatch(r"(/[\w.~-]+)+", path, re.ASCII):
        raise ValueError(f"it is {path!r}; it must be a path such as /pal, or empty")
    return path


class Sandbox(BaseSettings):
    """Sandboxed processes that run the models and build the configs of users."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}SANDBOX_", frozen=True, use_attribute_docstrings=True
    )

    required: bool | None = None
    """Whether such work is refused where the kernel cannot isolate network and files; None means
    true on a service that other machines can reach, and only a warning otherwise."""
    memory_bytes: PositiveInt = 8 << 30
    """Address space of a sandboxed process, in addition to a multiple of the model's size."""
    timeout_s: PositiveFloat = 3_600.0
    """Longest run time of a sandboxed process that runs a model."""


class Limits(BaseSettings):
    """Limits on everything whose size a user controls."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}LIMIT_", frozen=True, use_attribute_docstrings=True
    )

    upload_bytes: PositiveInt = 100 << 30
    """Most bytes of one upload, all files together."""
    queued_jobs: PositiveInt = 10_000
    """Most queued and running jobs of one owner."""
    stored_bytes: PositiveInt | None = None
    """Most bytes of one owner's uploads, models and artifacts; None for no limit."""
    upload_files: PositiveInt = 1_000
    """Most files in one request."""
    header_bytes: PositiveInt = 64 << 20
    """Most bytes of one safetensors header, index file, pickle, graph or zip directory."""
    tensors: PositiveInt = 250_000
    """Most tensors in one checkpoint; also limits a pickle's opcodes, a JSON document's values and
    a zip archive's members."""
    config_bytes: PositiveInt = 8 << 20
    """Most bytes of one config document."""
    regex_timeout_s: PositiveFloat = 5.0
    """Most processor time for matching all patterns of one config."""
    hf_timeout_s: PositiveFloat = 60.0
    """Most time to build, without weights, the model that an uploaded config.json describes."""
    document_timeout_s: PositiveFloat = 120.0
    """Most time to parse one request's documents: its config and its model's headers."""
    document_memory_bytes: PositiveInt = 1 << 30
    """Most memory of a process that parses documents, in addition to its code."""
    open_uploads: PositiveInt = 100
    """Most incomplete uploads of one owner that have not expired."""
    announced_files: PositiveInt = 100_000
    """Most files in all uploads of one owner that have not expired, complete ones included."""
    output_bytes: PositiveInt = 4 << 30
    """Most bytes of a model's outputs that an evaluation stores; beyond that, each evaluation runs
    the model again."""
    sandbox: Sandbox = Field(default_factory=Sandbox)
    """Limits of the processes that run users' models."""

    def allowed(self, limit: str) -> str:
        """Return a limit as messages show it: its value, and the setting that raises it."""
        most = getattr(self, limit)
        return f"{most:,} are allowed (PALETTERY_LIMIT_{limit.upper()})"


class Clients(BaseSettings):
    """Timeouts and limits of client connections."""

    model_config = SettingsConfigDict(
        env_prefix=f"{PREFIX}CLIENTS_", frozen=True, use_attribute_docstrings=True
    )

    head_timeout_s: PositiveFloat = 20.0
    """Timeout for a request's line and headers."""
    keep_alive_s: PositiveFloat = 30.0
    """Idle timeout of a connection, before its first request and between two requests."""
    stall_timeout_s: PositiveFloat = 30.0
    """Window in which at least `stall_bytes` of a request or response body must move."""
    stall_bytes: PositiveInt = 30_000
    """Fewest bytes per window; a slower connection is closed. The defaults amount to 1 kB/s."""
    connections: PositiveInt = 4_096
    """Most open connections; when it is reached, idle connections are closed for new ones."""
    owner_streams: PositiveInt = 1_000
    """Most open event streams of one owner; all owners together may use half of the connections."""


class Settings(BaseSettings):
    """Settings of a deployment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, use_attribute_docstrings=True)

    data_dir: Path = Path("data")
    """Folder of the embedded database and store."""
    scheduler_url: str | None = None
    """Address of a Dask scheduler, such as `tcp://scheduler:8786`; None for local workers."""
    executor_id: str = Field(default="palettery-0", pattern=r"^[\w.-]{1,64}$")
    """Name of this process as a controller. It must be unique, and the same after a restart: the
    process resumes its own jobs."""
    database_url: str | None = None
    """SQLAlchemy URL; None for SQLite below `data_dir`."""
    storage_url: str | None = None
    """Object store URL; None for the folder `store` below `data_dir`."""
    host: Annotated[str, AfterValidator(_strip_brackets)] = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[PositiveInt, BeforeValidator(_ignore_service_address)] = PORT
    """Port to listen on; an address that Kubernetes sets for a Service `palettery` is ignored."""
    root_path: Annotated[str, AfterValidator(_check_root_path)] = ""
    """Path under which a proxy serves this server, such as `/pal`; the proxy must strip it."""
    log_format: Literal["text", "json"] | None = None
    """Format of log lines; None for text on a terminal and JSON otherwise."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged; other packages log warnings and errors only."""
    admin_key: Annotated[SecretStr, AfterValidator(_check_admin_key)] | None = None
    """API key of the owner `admin` with all scopes, to create other keys with; while it is set,
    every request needs a key."""
    workers: PositiveInt | None = None
    """Worker processes, each with one task at a time. None is one per core that this process may
    use (affinity, cgroup); with GPUs, there is one worker per GPU."""
    worker_memory_bytes: PositiveInt | None = None
    """Memory limit of a worker; a worker above it is replaced, and its task is retried. None
    divides the limit of this process's cgroup among the workers; no limit without a cgroup."""
    task_threads: PositiveInt | None = None
    """Cores that one task uses; None divides the machine's cores among its workers."""
    running_jobs: PositiveInt = 16
    """Most jobs that this process runs at once; others stay queued."""
    owner_weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Share of each owner when several owners have queued jobs, as JSON such as `{"search": 2}`;
    the default weight is 1."""
    poll_s: PositiveFloat = 0.2
    """Interval at which the job queue is polled."""
    reuse_results: bool = True
    """Whether identical results of earlier jobs are reused."""
    retain_days: PositiveFloat = 30.0
    """Retention of an ended job with its artifact, and of a model after its last use."""
    upload_hours: PositiveFloat = 24.0
    """Time until an upload expires, from its last part."""
    sweep_every_s: PositiveFloat = 300.0
    """Interval at which expired jobs, uploads and unused files are deleted."""
    orphan_age_s: PositiveFloat = 86_400.0
    """Age at which orphaned files are deleted; it must be longer than any upload takes."""
    webhook_private: bool = False
    """Whether webhooks may call private addresses, such as this machine's."""
    webhook_retry_s: PositiveFloat = 5.0
    """Delay before the first retry of a webhook; each further delay is four times as long."""
    task_bytes: PositiveInt = 64 << 20
    """Bytes of weights per task; a larger tensor is split along its groups if possible."""
    limits: Limits = Field(default_factory=Limits)
    clients: Clients = Field(default_factory=Clients)

    def is_loopback(self) -> bool:
        """Return whether the service listens on a loopback address only."""
        return names_loopback(self.host)

    def with_sandbox(self, *, required: bool) -> Self:
        """Return these settings with `sandbox.required` set, unless it is set already."""
        sandbox = self.limits.sandbox
        if sandbox.required is not None:
            return self
        limits = {"sandbox": sandbox.model_copy(update={"required": required})}
        return self.model_copy(update={"limits": self.limits.model_copy(update=limits)})

    def resolved_storage_url(self) -> str:
        """Return the object store's URL, or that of the embedded default."""
        return self.storage_url or (self.data_dir / "store").resolve().as_uri()

    def resolved_database_url(self) -> str:
        """Return the database's URL, or that of the embedded default."""
        return self.database_url or sqlite_url(self.data_dir / "palettery.db")


def sqlite_url(file: Path) -> str:
    """Return the URL of a SQLite database in a file; its path may have any characters of UTF-8.

    Raises:
        BadInput: the path is too long for SQLite, or not UTF-8.
    """
    if len(path := os.fsencode(file.resolve())) > SQLITE_PATH_BYTES:
        raise BadInput(
            f"the database's path has {len(path)} bytes; SQLite allows {SQLITE_PATH_BYTES}; "
            "choose a shorter --data-dir"
        )
    from sqlalchemy import URL  # slow to import

    try:
        return URL.create("sqlite", database=str(file.resolve())).render_as_string()
    except UnicodeEncodeError as error:
        shown = str(file).encode("utf-8", "backslashreplace").decode()
        raise BadInput(f"the name {shown} is not UTF-8; choose another --data-dir") from error


def read_settings(**options: object) -> Settings:
    """Return the settings of the environment, overridden by `options`.

    Raises:
        BadInput: a setting is not valid; names each.
    """
    try:
        return Settings(**options)  # type: ignore[arg-type] # checked here
    except ValidationError as error:
        kinds = {kind.__name__: kind for kind in (Limits, Clients, Sandbox)}
        prefix = kinds.get(error.title, Settings).model_config["env_prefix"]
        faults = [
            f"{prefix}{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise BadInput(f"the settings are not valid: {'; '.join(faults)}") from error


def unknown_settings(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a message for each `PALETTERY_*` variable that is not a setting, such as a typo.

    Variables that Kubernetes sets for services whose names begin with ours are no typos.
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
            similar = get_close_matches(what, known, 1)
            hint = f"; did you mean {PREFIX}{similar[0]}?" if similar else ""
            yield f"the environment variable {name} is not a setting{hint}"
