"""Commands for models and jobs on a server."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from palettery.app.cli.job_flags import with_job_flags
from palettery.app.cli.options import (
    LOCAL_SERVER,
    ApiKey,
    AtLeast,
    Config,
    JobId,
    Json,
    Label,
    Model,
    Out,
    PerSample,
    ReportFile,
    Sensitivities,
    Server,
    connected,
    print_json,
)
from palettery.schemas.exports import ExportFormat

FAILED = 1

remote = typer.Typer()


@remote.command()
def upload(
    model: Model,
    label: Label = None,
    part_mib: Annotated[int | None, typer.Option(min=8, max=5120, help="MiB per request.")] = None,
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
) -> None:
    """Upload a model, and print its id; an interrupted upload is resumed next time."""
    from palettery.app.client.progress import stage_progress

    with connected(server, key) as client, stage_progress() as advance:
        part_bytes = None if part_mib is None else part_mib << 20
        uploaded = client.upload(model, label=label, part_size_bytes=part_bytes, advance=advance)
    typer.echo(uploaded.id)


@remote.command()
def models(server: Server = LOCAL_SERVER, key: ApiKey = None, as_json: Json = False) -> None:
    """List a server's models, newest first."""
    from palettery.app.cli.tables import print_models

    with connected(server, key) as client:
        items = list(client.models())
    if as_json:
        print_json(items)
    else:
        print_models(items)


@remote.command()
def delete_model(
    model_id: Annotated[str, typer.Argument(metavar="MODEL", help="The model's id.")],
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
) -> None:
    """Delete a model from a server; its jobs keep the files they need."""
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
    """Compress a model on a server; print the job's id."""
    from palettery.app.cli.tables import follow
    from palettery.app.client.progress import stage_progress

    with connected(server, key) as client:
        with stage_progress() as advance:
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
        items = list(client.jobs())
    if as_json:
        print_json(items)
    else:
        print_jobs(items)


@remote.command()
def wait(job_id: JobId, server: Server = LOCAL_SERVER, key: ApiKey = None) -> None:
    """Wait until a job ends; exit with 1 unless it succeeds."""
    from palettery.app.cli.tables import follow

    with connected(server, key) as client:
        if follow(client, job_id).state != "succeeded":
            raise typer.Exit(FAILED)


@remote.command()
def events(
    job_id: JobId,
    after: Annotated[int, typer.Option(min=0, help="Start after this event number.")] = 0,
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
) -> None:
    """Print the events of a job live, as JSON lines."""
    with connected(server, key) as client:
        for event in client.events(job_id, after=after):
            data = event.data.model_dump_json(exclude_none=True)
            typer.echo(f'{{"number": {event.number}, "{event.kind}": {data}}}')


@remote.command()
def log(job_id: JobId, server: Server = LOCAL_SERVER, key: ApiKey = None) -> None:
    """Print the log of a job so far."""
    with connected(server, key) as client:
        for line in client.log(job_id):
            about = f" {line.tensor}:" if line.tensor else ""
            typer.echo(f"{line.at:%Y-%m-%d %H:%M:%S} {line.level}{about} {line.message}")


@remote.command()
def cancel(job_id: JobId, server: Server = LOCAL_SERVER, key: ApiKey = None) -> None:
    """Cancel a queued or running job."""
    with connected(server, key) as client:
        client.cancel(job_id)


@remote.command()
def retry(job_id: JobId, server: Server = LOCAL_SERVER, key: ApiKey = None) -> None:
    """Retry a failed or cancelled job; finished tensors are kept."""
    with connected(server, key) as client:
        client.retry(job_id)


@remote.command()
def delete(job_id: JobId, server: Server = LOCAL_SERVER, key: ApiKey = None) -> None:
    """Delete an ended job and its artifact."""
    with connected(server, key) as client:
        client.delete(job_id)


@remote.command()
def evaluate_job(
    job_id: JobId,
    inputs: Annotated[
        list[Path],
        typer.Option(
            "--inputs", help="The inputs' .safetensors file, or the id of an upload; repeatable."
        ),
    ],
    at_least: AtLeast = None,
    per_sample: PerSample = False,
    as_json: Json = False,
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
) -> None:
    """Run a job's model on a server before and after, and compare its outputs."""
    from palettery.app.cli.tables import print_evaluation, print_missed
    from palettery.app.errors import ERRORS, PaletteryError
    from palettery.app.evaluation.goals import goals_quality, parse_goal

    quality = goals_quality([parse_goal(goal) for goal in at_least or ()])
    with connected(server, key) as client:
        done = client.evaluate(job_id, inputs, at_least=quality, per_sample=per_sample)
    if done.result is None:
        problem = done.error
        kind = ERRORS.get(problem.code, PaletteryError) if problem else PaletteryError
        raise kind(problem.detail if problem else f"the evaluation is {done.state}")
    if as_json:
        typer.echo(done.result.model_dump_json(indent=2))
    else:
        print_evaluation(done.result)
    print_missed(done.result)
    if done.result.missed:
        raise typer.Exit(FAILED)


@remote.command()
def download(
    job_id: JobId,
    out: Out,
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
    report: ReportFile = None,
    export: Annotated[
        ExportFormat | None, typer.Option(help="Download this export instead.")
    ] = None,
) -> None:
    """Download and verify a job's artifact; an interrupted download is resumed next time."""
    from palettery.app.client.progress import progress
    from palettery.app.storage.output_files import Output, check_distinct, is_html

    outputs = [Output(report)] if report else []
    check_distinct([*outputs, Output(out, or_folder=True)])
    with ExitStack() as stack:
        reports = [stack.enter_context(output) for output in outputs]
        client = stack.enter_context(connected(server, key))
        advance = stack.enter_context(progress("downloading"))
        if export is None:
            client.download(job_id, out, advance=advance)
        else:
            client.download_export(job_id, export, out, advance=advance)
        for output in reports:
            if is_html(output.path):
                output.write([client.report_page(job_id)])
            else:
                output.write([client.report(job_id).model_dump_json(indent=2).encode() + b"\n"])
