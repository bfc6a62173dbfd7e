"""Commands that talk to a server about models and jobs."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from palettery.app.cli.job_flags import with_job_flags
from palettery.app.cli.options import (
    LOCAL_SERVER,
    ApiKey,
    Config,
    JobId,
    Json,
    Label,
    Model,
    Out,
    ReportFile,
    Sensitivities,
    Server,
    connected,
)
from palettery.schemas.exports import ExportFormat

FAILED = 1

remote = typer.Typer()


@remote.command()
def upload(
    model: Model,
    label: Label = None,
    part_mib: Annotated[
        int | None, typer.Option(min=8, max=5120, help="MiB that one request sends.")
    ] = None,
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
) -> None:
    """Send a model's files, and print the model's id; interrupted, it goes on next time."""
    from palettery.app.client.progress import staged

    with connected(server, key) as client, staged() as advance:
        part_bytes = None if part_mib is None else part_mib << 20
        found = client.upload(model, label=label, part_size_bytes=part_bytes, advance=advance)
    typer.echo(found.id)


@remote.command()
def models(server: Server = LOCAL_SERVER, key: ApiKey = None, as_json: Json = False) -> None:
    """List a server's models, newest first."""
    from palettery.app.cli.tables import print_models

    with connected(server, key) as client:
        found = list(client.models())
    if as_json:
        typer.echo("[" + ",\n".join(model.model_dump_json() for model in found) + "]")
    else:
        print_models(found)


@remote.command()
def delete_model(
    model_id: Annotated[str, typer.Argument(metavar="MODEL", help="The model's id.")],
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
) -> None:
    """Remove a model from a server; jobs made of it keep what they need."""
    with connected(server, key) as client:
        client.delete_model(model_id)


@remote.command()
@with_job_flags
def submit(
    model: Annotated[list[Path], typer.Argument(help="Model's files, or the id of one there.")],
    options: dict[str, Any],
    config: Config = None,
    sensitivities: Sensitivities = None,
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
    wait: Annotated[bool, typer.Option(help="Follow the job until it ends.")] = False,
) -> None:
    """Have a server compress a model; prints the job's id."""
    from palettery.app.cli.tables import follow
    from palettery.app.client.progress import staged

    with connected(server, key) as client:
        with staged() as advance:
            job = client.submit(
                model,
                config=config,
                sensitivities=sensitivities or None,
                advance=advance,
                **options,
            )
        typer.echo(job.id)
        if wait and follow(client, job.id).state != "succeeded":
            raise typer.Exit(FAILED)


@remote.command()
def jobs(server: Server = LOCAL_SERVER, key: ApiKey = None, as_json: Json = False) -> None:
    """List a server's jobs, newest first."""
    from palettery.app.cli.tables import print_jobs

    with connected(server, key) as client:
        found = list(client.jobs())
    if as_json:
        typer.echo("[" + ",\n".join(job.model_dump_json() for job in found) + "]")
    else:
        print_jobs(found)


@remote.command()
def wait(job_id: JobId, server: Server = LOCAL_SERVER, key: ApiKey = None) -> None:
    """Follow a job until it ends; fails unless it succeeds."""
    from palettery.app.cli.tables import follow

    with connected(server, key) as client:
        if follow(client, job_id).state != "succeeded":
            raise typer.Exit(FAILED)


@remote.command()
def events(
    job_id: JobId,
    after: Annotated[int, typer.Option(min=0, help="Begin behind this number.")] = 0,
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
) -> None:
    """Print what happens to a job, as it happens: one JSON object a line."""
    with connected(server, key) as client:
        for event in client.events(job_id, after=after):
            data = event.data.model_dump_json(exclude_none=True)
            typer.echo(f'{{"number": {event.number}, "{event.kind}": {data}}}')


@remote.command()
def log(job_id: JobId, server: Server = LOCAL_SERVER, key: ApiKey = None) -> None:
    """Print the lines of a job's log so far."""
    with connected(server, key) as client:
        for line in client.log(job_id):
            about = f" {line.tensor}:" if line.tensor else ""
            typer.echo(f"{line.at:%Y-%m-%d %H:%M:%S} {line.level}{about} {line.message}")


@remote.command()
def cancel(job_id: JobId, server: Server = LOCAL_SERVER, key: ApiKey = None) -> None:
    """Stop a queued or running job."""
    with connected(server, key) as client:
        client.cancel(job_id)


@remote.command()
def retry(job_id: JobId, server: Server = LOCAL_SERVER, key: ApiKey = None) -> None:
    """Have a failed or cancelled job go on over what it had finished."""
    with connected(server, key) as client:
        client.retry(job_id)


@remote.command()
def delete(job_id: JobId, server: Server = LOCAL_SERVER, key: ApiKey = None) -> None:
    """Remove an ended job with its artifact."""
    with connected(server, key) as client:
        client.delete(job_id)


@remote.command()
def download(
    job_id: JobId,
    out: Out,
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
    report: ReportFile = None,
    export: Annotated[
        ExportFormat | None, typer.Option(help="Fetch this form of it instead.")
    ] = None,
) -> None:
    """Fetch a finished job's artifact, and check its digest; interrupted, it goes on next time."""
    from palettery.app.client.progress import progress
    from palettery.app.storage.output_files import Output, check_apart, is_page

    outputs = [Output(report)] if report else []
    check_apart([*outputs, Output(out, or_folder=True)])
    with ExitStack() as stack:
        reports = [stack.enter_context(output) for output in outputs]
        client = stack.enter_context(connected(server, key))
        advance = stack.enter_context(progress("downloading"))
        if export is None:
            client.download(job_id, out, advance=advance)
        else:
            client.download_export(job_id, export, out, advance=advance)
        for output in reports:
            if is_page(output.path):
                output.write([client.report_page(job_id)])
            else:
                output.write([client.report(job_id).model_dump_json(indent=2).encode() + b"\n"])
