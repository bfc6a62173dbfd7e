"""Commands that run the service, or a part of it."""

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
    """What one process of the service does."""

    ALL = "all"
    API = "api"
    CONTROLLER = "controller"


@contextmanager
def loading() -> Iterator[None]:
    """Around imports of what stays: the collector would look it all through, now and at the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _set_up_log(settings: "Settings") -> None:
    """Have this process log, and say first what of its environment has no effect.

    It also names the folder for compiled kernels where there is no other: kernels read that when
    they are imported.
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
    data_dir: Annotated[Path | None, typer.Option(help="Folder for database and store.")] = None,
    workers: Workers = None,
    root_path: Annotated[
        str | None,
        typer.Option(help="Path such as /pal below which a proxy serves it, and takes it off."),
    ] = None,
    role: Annotated[
        Role, typer.Option(help="Everything in one process, or the API or a controller alone.")
    ] = Role.ALL,
) -> None:
    """Start the service: API, queue and workers, in one command."""
    with loading():
        settings = settings_of(
            host=host, port=port, data_dir=data_dir, workers=workers, root_path=root_path
        )
        _set_up_log(settings)
        from palettery.app.main import serve as run

    run(settings, role.value)


@service.command()
def scheduler(
    host: Annotated[str, typer.Option(help="Address to listen on; keep it private.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8786,
) -> None:
    """Bring controllers and workers on many machines together."""
    with loading():
        from palettery.app.execution.cluster import run_scheduler

    _set_up_log(settings_of())
    run_scheduler(host, port)


@service.command()
def worker(
    scheduler: Annotated[
        str,
        typer.Option(envvar="PALETTERY_SCHEDULER_URL", help="Such as tcp://scheduler:8786."),
    ],
    workers: Workers = None,
) -> None:
    """Work for a scheduler: a process per GPU, or else per core."""
    with loading():
        settings = settings_of(scheduler_url=scheduler, workers=workers)
        _set_up_log(settings)
        from palettery.app.execution.cluster import run_worker
    run_worker(settings)


@service.command()
def migrate(
    data_dir: Annotated[Path | None, typer.Option(help="Folder for database and store.")] = None,
) -> None:
    """Bring the database to what this version needs."""
    from palettery.app.database.engine import open_database
    from palettery.app.roles.role import migrate as run
    from palettery.app.storage.data_folder import prepare

    settings = settings_of(data_dir=data_dir)
    if settings.database_url is None:
        prepare(settings)
    database = open_database(settings.resolved_database_url())
    try:
        done = run(database)
    finally:
        database.close()
    typer.echo(f"{done.before or 'empty'} -> {done.after}")
