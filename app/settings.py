"""Settings of the service, read once from the environment (`PALETTERY_*`) and passed down."""

import os
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict


class Limits(BaseSettings):
    """The most of everything whose size a stranger chooses."""

    model_config = SettingsConfigDict(
        env_prefix="PALETTERY_LIMIT_", frozen=True, use_attribute_docstrings=True
    )

    upload_bytes: PositiveInt = 100 << 30
    """Of one request's files together."""
    upload_files: PositiveInt = 1_000
    """Files in one request."""
    header_bytes: PositiveInt = 64 << 20
    """Of one safetensors header or index file."""
    tensors: PositiveInt = 250_000
    """In one checkpoint."""
    config_bytes: PositiveInt = 1 << 20
    """Of one config document."""
    regex_timeout_s: PositiveFloat = 5.0
    """Processor time for all patterns of one config together."""
    hf_timeout_s: PositiveFloat = 60.0
    """To build, without weights, the model that an uploaded config.json describes."""


class Settings(BaseSettings):
    """Everything a deployment chooses."""

    model_config = SettingsConfigDict(
        env_prefix="PALETTERY_", frozen=True, use_attribute_docstrings=True
    )

    data_dir: Path = Path("data")
    """Folder of the embedded database and store."""
    database_url: str | None = None
    """SQLAlchemy URL; None for SQLite below `data_dir`."""
    storage_url: str | None = None
    """Object store URL; None for the folder `store` below `data_dir`."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: PositiveInt = 8400
    """Port to listen on."""
    allow_remote: bool = False
    """Listen on other addresses than loopback, though there are no keys yet."""
    workers: PositiveInt = Field(default_factory=lambda: os.cpu_count() or 1)
    """Worker processes, one thread each."""
    running_jobs: PositiveInt = 4
    """Jobs worked on at once; the others wait queued."""
    task_bytes: PositiveInt = 64 << 20
    """Weights that one task takes; a larger tensor is split along its groups where it can be."""
    limits: Limits = Field(default_factory=Limits)

    def resolved_storage_url(self) -> str:
        """The object store's URL, the embedded default filled in."""
        return self.storage_url or (self.data_dir / "store").resolve().as_uri()

    def resolved_database_url(self) -> str:
        """The database's URL, the embedded default filled in."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'palettery.db').resolve()}"

    def resolved_dbos_url(self) -> str:
        """Where the engine keeps its state: beside our tables, or a file of its own."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'engine.db').resolve()}"
