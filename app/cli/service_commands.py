"""Commands that run the service or a part of it."""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palettery.app.cli.options import Workers, settings_of

if TYPE_CHECKING:
    from palettery.app.settings import Settings

service = typer.Typer()
log = logging.getLogger(__name__)


class Role(StrEnum):
    """Role of a process of the service."""

    ALL = "all"
    API = "api"
    CONTROLLER = "controller"


@contextmanager
def loading() -> Iterator[None]:
    """Pause and then freeze garbage collection, to speed up imports and exit."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _configure_logging(settings: "Settings") -> None:
    """Configure logging, and log unknown settings of the environment.

    Also set the folder for compiled kernels, unless already set: kernels read it when imported.
    """
    from palettery.app.observability import logging as logs
    from palettery.app.settings import unknown_settings

    os.environ.setdefault("KERNELS_CACHE_DIR", str(settings.data_dir.absolute() / "kernels"))
    logs.configure(settings)
    for line in unknown_settings(os.environ):
        log.warning("%s", line)


@service.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of database and store.")] = None,
    workers: Workers = None,
    root_path: Annotated[
        str | None,
        typer.Option(help="Path prefix, such as /pal, that a reverse proxy strips."),
    ] = None,
    role: Annotated[
        Role, typer.Option(help="Run everything, or only the API or a controller.")
    ] = Role.ALL,
) -> None:
    """Run the service: API, queue and workers."""
    with loading():
        settings = settings_of(
            host=host, port=port, data_dir=data_dir, workers=workers, root_path=root_path
        )
        _configure_logging(settings)
        from palettery.app.main import serve as run

    run(settings, role.value)


@service.command()
def scheduler(
    host: Annotated[str, typer.Option(help="Address to listen on; keep it private.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8786,
) -> None:
    """Run the scheduler that connects controllers and workers on several machines."""
    with loading():
        from palettery.app.execution.cluster import run_scheduler

    _configure_logging(settings_of())
    run_scheduler(host, port)


@service.command()
def worker(
    scheduler: Annotated[
        str,
        typer.Option(
            envvar="PALETTERY_SCHEDULER_URL",
            help="URL of the scheduler, such as tcp://scheduler:8786.",
        ),
    ],
    workers: Workers = None,
) -> None:
    """Run workers for a scheduler: one process per GPU, or per core without GPUs."""
    with loading():
        settings = settings_of(scheduler_url=scheduler, workers=workers)
        _configure_logging(settings)
        from palettery.app.execution.cluster import run_worker
    run_worker(settings)


@service.command()
def migrate(
    data_dir: Annotated[Path | None, typer.Option(help="Folder of database and store.")] = None,
) -> None:
    """Migrate the database to this version."""
    from palettery.app.database.engine import open_database
    from palettery.app.roles.role import migrate as run
    from palettery.app.storage.data_folder import prepare

    settings = settings_of(data_dir=data_dir)
    if settings.database_url is None:
        prepare(settings)
    database = open_database(settings.resolved_database_url())
    try:
        migration = run(database)
    finally:
        database.close()
    typer.echo(f"{migration.before or 'empty'} -> {migration.after}")
