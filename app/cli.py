"""The `palettery` command. Every command imports what it needs when it runs, so help is instant."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from app.settings import Settings
    from schemas.config import KMeansPalettizerConfig

cli = typer.Typer(
    help="Palettize neural-network weights, and account for every tensor.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Model = Annotated[
    list[Path],
    typer.Argument(help="Model file; several for shards, with or without their index."),
]
Config = Annotated[Path | None, typer.Option("--config", help="Config, as JSON or YAML.")]
Preset = Annotated[str | None, typer.Option("--preset", help="Preset: w4, w6 or w8.")]
Sensitivities = Annotated[
    list[Path] | None,
    typer.Option(
        "--sensitivities",
        help="How much the error of each weight counts: a tensor per weight; again for shards.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Fail when a key matches nothing, or a tensor does not fit."),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Where the result goes.")]
Server = Annotated[str, typer.Option("--server", envvar="PALETTERY_SERVER", help="Server's URL.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class Role(StrEnum):
    """What one process of the service does."""

    ALL = "all"
    API = "api"
    CONTROLLER = "controller"


LOCAL_SERVER = "http://127.0.0.1:8400"
FAILED, BAD_INPUT = 1, 2


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for database and store.")] = None,
    workers: Workers = None,
    role: Annotated[
        Role, typer.Option(help="Everything in one process, or the API or a controller alone.")
    ] = Role.ALL,
) -> None:
    """Start the service: API, queue and workers, in one command."""
    from app.main import serve as run

    run(_settings(host=host, port=port, data_dir=data_dir, workers=workers), role.value)


@cli.command()
def scheduler(
    host: Annotated[str, typer.Option(help="Address to listen on; keep it private.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8786,
) -> None:
    """Bring controllers and workers on many machines together."""
    from app.jobs.cluster import run_scheduler

    run_scheduler(host, port)


@cli.command()
def worker(
    scheduler: Annotated[
        str,
        typer.Option(envvar="PALETTERY_SCHEDULER_URL", help="Such as tcp://scheduler:8786."),
    ],
    workers: Workers = None,
) -> None:
    """Work for a scheduler: a process per GPU, or else per core."""
    from app.jobs.cluster import run_worker

    run_worker(_settings(scheduler_url=scheduler, workers=workers))


@cli.command()
def migrate(
    data_dir: Annotated[Path | None, typer.Option(help="Folder for database and store.")] = None,
) -> None:
    """Bring the database to what this version needs."""
    from app.database import open_database
    from app.roles import migrate as run

    settings = _settings(data_dir=data_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = open_database(settings.resolved_database_url())
    try:
        done = run(database)
    finally:
        database.close()
    typer.echo(f"{done.before or 'empty'} -> {done.after}")


@cli.command()
def compress(
    model: Model,
    out: Out,
    config: Config = None,
    preset: Preset = None,
    sensitivities: Sensitivities = None,
    strict: Strict = False,
    report: Annotated[Path | None, typer.Option(help="Also write the report as JSON.")] = None,
) -> None:
    """Palettize a model here, without a server."""
    from app.offline import compress as run
    from app.tables import print_report, progress

    with progress("palettizing") as advance:
        done = run(
            model,
            _config(config, preset),
            out,
            advance,
            sensitivities=sensitivities or (),
            strict=strict,
        )
    if report:
        report.write_text(done.model_dump_json(indent=2) + "\n")
    print_report(done)
    for warning in done.warnings:
        typer.echo(f"warning: {warning}", err=True)


@cli.command()
def plan(
    model: Model,
    config: Config = None,
    preset: Preset = None,
    sensitivities: Sensitivities = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Show what would happen to every tensor; nothing runs."""
    from app.offline import plan as run
    from app.tables import print_plan

    settled = _config(config, preset)
    planned = run(model, settled, sensitivities=sensitivities or (), strict=strict)
    if as_json:
        typer.echo(planned.model_dump_json(indent=2))
    else:
        print_plan(planned)


@cli.command()
def inspect(artifact: Model, as_json: Json = False) -> None:
    """Show what an artifact holds."""
    from app.offline import inspect as run
    from app.tables import print_artifact

    summary = run(artifact)
    if as_json:
        typer.echo(summary.model_dump_json(indent=2))
    else:
        print_artifact(summary)


@cli.command()
def decompress(artifact: Model, out: Out) -> None:
    """Write an artifact's weights back as dense safetensors: LUT[indices]."""
    from app.offline import decompress as run

    run(artifact, out)


@cli.command()
def submit(
    model: Model,
    config: Config = None,
    preset: Preset = None,
    sensitivities: Sensitivities = None,
    strict: Strict = False,
    server: Server = LOCAL_SERVER,
    wait: Annotated[bool, typer.Option(help="Follow the job until it ends.")] = False,
) -> None:
    """Send a model to a server; prints the job's id."""
    from app.client import Client
    from app.tables import follow

    with Client(server) as client:
        job = client.submit(
            model,
            config=_text(config),
            preset=preset,
            sensitivities=sensitivities or (),
            strict=strict,
        )
        typer.echo(job.id)
        if wait and follow(client, job).state != "succeeded":
            raise typer.Exit(FAILED)


@cli.command()
def jobs(server: Server = LOCAL_SERVER, as_json: Json = False) -> None:
    """List a server's jobs, newest first."""
    from app.client import Client
    from app.tables import print_jobs

    with Client(server) as client:
        found = client.jobs()
    if as_json:
        typer.echo("[" + ",\n".join(job.model_dump_json() for job in found) + "]")
    else:
        print_jobs(found)


@cli.command()
def download(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")],
    out: Out,
    server: Server = LOCAL_SERVER,
    report: Annotated[Path | None, typer.Option(help="Also write the report as JSON.")] = None,
) -> None:
    """Fetch a finished job's artifact, and check its digest."""
    from app.client import Client

    with Client(server) as client:
        client.download(job_id, out)
        if report:
            report.write_text(client.report(job_id).model_dump_json(indent=2) + "\n")


def _settings(**said: Any) -> "Settings":
    """What the environment says, and over it what the command line does."""
    from app.settings import read_settings

    return read_settings(**{name: value for name, value in said.items() if value is not None})


def _text(config: Path | None) -> str | None:
    from app.errors import BadInput

    if config is None:
        return None
    try:
        return config.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the config {config}: {error}") from error


def _config(config: Path | None, preset: str | None) -> "KMeansPalettizerConfig":
    from app.configs import chosen_config

    return chosen_config(_text(config), preset)


def main() -> None:
    """Run the command; errors are one line, exit codes are 0 fine, 1 failed, 2 bad input."""
    try:
        cli()
    except Exception as error:
        from app.errors import BadInput, Conflict, NotFound, PaletteryError

        if not isinstance(error, PaletteryError):
            raise
        typer.echo(f"palettery: {error.detail}", err=True)
        for field in error.errors:
            typer.echo(f"  {field.pointer or '/'}: {field.detail}", err=True)
        sys.exit(BAD_INPUT if isinstance(error, BadInput | NotFound | Conflict) else FAILED)
