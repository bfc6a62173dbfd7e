"""Commands about the configs that a server keeps."""

from pathlib import Path
from typing import Annotated

import typer

from palettery.app.cli.options import LOCAL_SERVER, ApiKey, JobId, Json, Server, connected

BAD_INPUT = 2

configs = typer.Typer(
    help="Configs that a server keeps under names, in versions.", no_args_is_help=True
)
Document = Annotated[Path, typer.Argument(metavar="FILE", help="Config, as JSON or YAML.")]


@configs.command()
def put(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    file: Document,
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
) -> None:
    """Keep a config, as the next version of its name; prints name@version."""
    with connected(server, key) as client:
        typer.echo(client.put_config(name, file).reference)


@configs.command()
def get(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Which one.")],
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Print a config as YAML, with every default filled in."""
    with connected(server, key) as client:
        config = client.config(reference).config
    typer.echo(config.to_json() if as_json else config.to_yaml())


@configs.command()
def of(
    job_id: JobId, server: Server = LOCAL_SERVER, key: ApiKey = None, as_json: Json = False
) -> None:
    """Print the config that a job was given as YAML, with every default filled in."""
    with connected(server, key) as client:
        config = client.job_config(job_id)
    typer.echo(config.to_json() if as_json else config.to_yaml())


@configs.command(name="list")
def list_(server: Server = LOCAL_SERVER, key: ApiKey = None, as_json: Json = False) -> None:
    """List the newest version of every config."""
    from palettery.app.cli.tables import print_configs

    with connected(server, key) as client:
        found = list(client.configs())
    if as_json:
        typer.echo("[" + ",\n".join(config.model_dump_json() for config in found) + "]")
    else:
        print_configs(found)


@configs.command()
def validate(
    file: Document, server: Server = LOCAL_SERVER, key: ApiKey = None, as_json: Json = False
) -> None:
    """Print a config with every default filled in, or everything that is wrong with it."""
    with connected(server, key) as client:
        told = client.validate(file)
    for fault in told.errors:
        place = f"line {fault.line}, " if fault.line else ""
        typer.echo(f"{place}{fault.pointer or '/'}: {fault.detail}", err=True)
    if not told.is_valid:
        raise typer.Exit(BAD_INPUT)
    typer.echo(told.json_text if as_json else told.yaml_text)
