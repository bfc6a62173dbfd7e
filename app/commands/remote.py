"""Commands that talk to a server."""

from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import (
    LOCAL_SERVER,
    Config,
    JobId,
    Json,
    Model,
    Out,
    Preset,
    Sensitivities,
    Server,
    Strict,
    text_of,
)

FAILED = 1

remote = typer.Typer()


@remote.command()
def submit(
    model: Model,
    config: Config = None,
    preset: Preset = None,
    sensitivities: Sensitivities = None,
    strict: Strict = False,
    priority: Annotated[
        int | None, typer.Option(min=0, max=9, help="Jobs of a higher one go first.")
    ] = None,
    deadline: Annotated[
        int | None, typer.Option(min=1, help="Seconds from now until the job is given up.")
    ] = None,
    reuse: Annotated[bool, typer.Option(help="Take results of earlier jobs.")] = True,
    server: Server = LOCAL_SERVER,
    wait: Annotated[bool, typer.Option(help="Follow the job until it ends.")] = False,
) -> None:
    """Send a model to a server; prints the job's id."""
    from app.client import Client
    from app.tables import follow

    with Client(server) as client:
        job = client.submit(
            model,
            config=text_of(config),
            preset=preset,
            sensitivities=sensitivities or (),
            strict=strict,
            priority=priority,
            deadline_s=deadline,
            reuse=reuse,
        )
        typer.echo(job.id)
        if wait and follow(client, job).state != "succeeded":
            raise typer.Exit(FAILED)


@remote.command()
def jobs(server: Server = LOCAL_SERVER, as_json: Json = False) -> None:
    """List a server's jobs, newest first."""
    from app.client import Client
    from app.tables import print_jobs

    with Client(server) as client:
        found = list(client.jobs())
    if as_json:
        typer.echo("[" + ",\n".join(job.model_dump_json() for job in found) + "]")
    else:
        print_jobs(found)


@remote.command()
def cancel(job_id: JobId, server: Server = LOCAL_SERVER) -> None:
    """Stop a queued or running job."""
    from app.client import Client

    with Client(server) as client:
        client.cancel(job_id)


@remote.command()
def retry(job_id: JobId, server: Server = LOCAL_SERVER) -> None:
    """Have a failed or cancelled job go on over what it had finished."""
    from app.client import Client

    with Client(server) as client:
        client.retry(job_id)


@remote.command()
def delete(job_id: JobId, server: Server = LOCAL_SERVER) -> None:
    """Remove an ended job with its artifact."""
    from app.client import Client

    with Client(server) as client:
        client.delete(job_id)


@remote.command()
def download(
    job_id: JobId,
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
