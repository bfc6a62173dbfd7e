"""The `palettery` command; commands import their code when run, so that help is fast."""

import contextlib
import errno
import io
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from palettery.app.cli.calibration_commands import calibrations
from palettery.app.cli.config_commands import configs
from palettery.app.cli.key_commands import keys
from palettery.app.cli.local_commands import local
from palettery.app.cli.model_commands import models
from palettery.app.cli.remote_commands import remote
from palettery.app.cli.service_commands import service

FAILED, BAD_INPUT = 1, 2


class Commands(TyperGroup):
    """A group of commands that removes pydantic's prefix from error messages."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


cli = typer.Typer(
    cls=Commands,
    help="Palettize neural-network weights, and account for every tensor.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for commands in (service, local, models, remote):
    cli.add_typer(commands)
cli.add_typer(calibrations, name="calibrations")
cli.add_typer(configs, name="config")
cli.add_typer(keys, name="keys")


def show_version(is_set: bool) -> None:
    """Print the version, and exit."""
    if is_set:
        from palettery.app.version import VERSION

        typer.echo(VERSION)
        raise typer.Exit


@cli.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Palettize neural-network weights, and account for every tensor."""


def main() -> None:
    """Run the command; errors are one line; exit codes: 0 success, 1 failure, 2 bad input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None if it is closed
            stream.reconfigure(errors="backslashreplace")  # names may have any character
    try:
        cli()
    except Exception as error:
        from palettery.app.errors import BadInput, Conflict, NotFound, PaletteryError

        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _exit_on_full_disk(error)
        if not isinstance(error, PaletteryError):
            raise
        typer.echo(f"palettery: {error.detail}", err=True)
        for field in error.errors:
            line = "" if field.line is None else f"line {field.line}, "
            typer.echo(f"  {line}{field.pointer or '/'}: {field.detail}", err=True)
        sys.exit(BAD_INPUT if isinstance(error, BadInput | NotFound | Conflict) else FAILED)


def _exit_on_full_disk(error: OSError) -> NoReturn:
    """Exit when standard output or a file cannot be written."""
    what = error.filename or "the output"
    typer.echo(f"palettery: cannot write {what}: {error.strerror}; free some space", err=True)
    with contextlib.suppress(OSError):
        sys.stdout.close()  # or Python would flush its buffer again at exit
    sys.exit(FAILED)
