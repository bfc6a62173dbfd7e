"""The service scaled out on one machine: a process for each role, Postgres, an S3 server."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import httpx
from sqlalchemy import create_engine, make_url, text

from palettery.app.database.engine import open_database
from palettery.app.roles.role import migrate
from palettery.app.storage.base import Storage
from palettery.app.storage.open import open_storage
from tests.conftest import Postgres
from tests.integration.service import DEADLINE_S, Program, Service
from tests.object_store import ObjectStoreServer
from tests.ports import free_port


@contextmanager
def scaled(
    folder: Path,
    postgres: Postgres,
    bucket: ObjectStoreServer,
    *,
    reached_by: ObjectStoreServer | None = None,
    workers: int = 2,
    **environment: str,
) -> Iterator[Service]:
    """A scheduler, workers, a controller and an API; `reached_by` has them take another way."""
    port, health_port, scheduler_port = free_port(), free_port(), free_port()
    scheduler = f"tcp://127.0.0.1:{scheduler_port}"
    with own_database(postgres) as database_url:
        shared = {
            **(reached_by or bucket).environment,
            "PALETTERY_STORAGE_URL": bucket.url,
            "PALETTERY_DATABASE_URL": database_url,
            **environment,
        }
        behind = {**shared, "PALETTERY_SCHEDULER_URL": scheduler}
        folder.mkdir(parents=True, exist_ok=True)

        def program(name: str, its: dict[str, str], *words: str) -> Program:
            return Program(words, its, folder / f"{name}.log")

        programs = {
            "scheduler": program(
                "scheduler", environment, "scheduler", "--port", str(scheduler_port)
            ),
            "worker": program("worker", behind, "worker", "--workers", str(workers)),
            "controller": program(
                "controller",
                {**behind, "PALETTERY_EXECUTOR_ID": "controller-0"},
                *("serve", "--role", "controller", "--port", str(health_port)),
            ),
            "api": program("api", shared, "serve", "--role", "api", "--port", str(port)),
        }
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as http:
            unfinished = bucket.unfinished_uploads
            service = Service(programs, http, opened(bucket), database_url, unfinished, folder)
            try:
                service.start()
                yield service
            finally:
                service.end()


@contextmanager
def own_database(postgres: Postgres) -> Iterator[str]:
    """URL of a new, migrated database; the server may be restarted meanwhile."""
    name = f"cluster_{uuid.uuid4().hex}"
    _tell(postgres, f"CREATE DATABASE {name} STRATEGY FILE_COPY TEMPLATE {_migrated(postgres)}")
    try:
        yield _url(postgres, name)
    finally:
        _tell(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@cache
def _migrated(postgres: Postgres) -> str:
    """Name of a database as `palettery migrate` leaves it, to be copied."""
    name = "migrated"
    _tell(postgres, f"CREATE DATABASE {name} STRATEGY FILE_COPY")
    database = open_database(_url(postgres, name))
    migrate(database)
    database.close()
    return name


def _url(postgres: Postgres, name: str) -> str:
    return make_url(postgres.url).set(database=name).render_as_string(hide_password=False)


def _tell(postgres: Postgres, statement: str) -> None:
    address = make_url(postgres.url).set(drivername="postgresql+psycopg")
    engine = create_engine(address, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


def opened(bucket: ObjectStoreServer) -> Storage:
    """The bucket, as this process reaches it."""
    with mock.patch.dict("os.environ", bucket.environment):
        return open_storage(bucket.url)
