"""Commands for configs stored on a server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from palettery.app.cli.options import (
    LOCAL_SERVER,
    ApiKey,
    JobId,
    Json,
    Server,
    connected,
    print_json,
)

if TYPE_CHECKING:
    from palettery.schemas.config import KMeansPalettizerConfig

BAD_INPUT = 2

configs = typer.Typer(help="Store, list and validate configs on a server.", no_args_is_help=True)
Document = Annotated[Path, typer.Argument(metavar="FILE", help="Config, as JSON or YAML.")]
Version = Annotated[
    Literal["0.2", "0.3", "0.4"],
    typer.Option("--coreai-opt", help="Version of coreai-opt that must be able to read it."),
]


@configs.command()
def put(
    name: Annotated[str, typer.Argument(help="Name of the config.")],
    file: Document,
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
) -> None:
    """Store a config as the next version of its name; print name@version."""
    with connected(server, key) as client:
        typer.echo(client.put_config(name, file).reference)


@configs.command()
def get(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Config to print.")],
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
    as_json: Json = False,
    version: Version = "0.4",
) -> None:
    """Print a config as YAML, with every default."""
    with connected(server, key) as client:
        config = client.config(reference).config
    _print_config(config, as_json, version)


@configs.command()
def of(
    job_id: JobId,
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
    as_json: Json = False,
    version: Version = "0.4",
) -> None:
    """Print the config of a job as YAML, with every default."""
    with connected(server, key) as client:
        config = client.job_config(job_id)
    _print_config(config, as_json, version)


@configs.command(name="list")
def list_(server: Server = LOCAL_SERVER, key: ApiKey = None, as_json: Json = False) -> None:
    """List the newest version of every config."""
    from palettery.app.cli.tables import print_configs

    with connected(server, key) as client:
        entries = list(client.configs())
    if as_json:
        print_json(entries)
    else:
        print_configs(entries)


@configs.command()
def validate(
    file: Document, server: Server = LOCAL_SERVER, key: ApiKey = None, as_json: Json = False
) -> None:
    """Print a config with every default, or all its errors."""
    with connected(server, key) as client:
        validated = client.validate(file)
    for error in validated.errors:
        line = f"line {error.line}, " if error.line else ""
        typer.echo(f"{line}{error.pointer or '/'}: {error.detail}", err=True)
    if not validated.is_valid:
        raise typer.Exit(BAD_INPUT)
    typer.echo(validated.json_text if as_json else validated.yaml_text)


def _print_config(config: "KMeansPalettizerConfig", as_json: bool, version: Version) -> None:
    from palettery.schemas.config import ConfigError

    try:
        typer.echo(config.to_json(version) if as_json else config.to_yaml(version))
    except ConfigError as error:
        for fault in error.errors:
            typer.echo(f"{fault.pointer}: {fault.detail}", err=True)
        raise typer.Exit(BAD_INPUT) from error
