"""Commands for calibrations on a server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palettery.app.cli.options import (
    LOCAL_SERVER,
    ApiKey,
    Json,
    Server,
    connected,
    print_json,
)
from palettery.schemas.calibration import CalibrationKind

if TYPE_CHECKING:
    from palettery.app.client import Client

calibrations = typer.Typer(help="Calibrate models on a server; without one: palettery calibrate.")

CalibrationId = Annotated[str, typer.Argument(metavar="CALIBRATION", help="The calibration's id.")]


@calibrations.command()
def submit(
    model: Annotated[list[Path], typer.Argument(help="Model's files, or the id of one there.")],
    inputs: Annotated[
        list[Path],
        typer.Option(
            "--inputs",
            help="A .safetensors file with the model's inputs by name, a sample a row, or the id "
            "of one there; repeatable.",
        ),
    ],
    kind: Annotated[
        CalibrationKind | None,
        typer.Option(help="What matters: all outputs alike, or the probabilities of logits."),
    ] = None,
    output: Annotated[
        list[str] | None, typer.Option(help="An output that counts; repeatable. All by default.")
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Random directions a sample.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Samples that run at once.")
    ] = None,
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
    wait: Annotated[bool, typer.Option(help="Follow the calibration until it ends.")] = False,
) -> None:
    """Calibrate a model on a server; print the calibration's id, for submit --calibration."""
    from palettery.app.client.progress import stage_progress

    with connected(server, key) as client:
        with stage_progress() as advance:
            calibration = client.submit_calibration(
                model,
                inputs,
                kind=kind,
                outputs=output,
                draws=draws,
                batch=batch,
                advance=advance,
            )
        typer.echo(calibration.id)
        if wait:
            _follow(client, calibration.id)


@calibrations.command("list")
def list_(server: Server = LOCAL_SERVER, key: ApiKey = None, as_json: Json = False) -> None:
    """List a server's calibrations, newest first."""
    from palettery.app.cli.tables import print_calibrations

    with connected(server, key) as client:
        items = list(client.calibrations())
    if as_json:
        print_json(items)
    else:
        print_calibrations(items)


@calibrations.command()
def wait(calibration_id: CalibrationId, server: Server = LOCAL_SERVER, key: ApiKey = None) -> None:
    """Wait until a calibration ends; exit with 1 unless it succeeds."""
    with connected(server, key) as client:
        _follow(client, calibration_id)


@calibrations.command()
def cancel(
    calibration_id: CalibrationId, server: Server = LOCAL_SERVER, key: ApiKey = None
) -> None:
    """Cancel a queued or running calibration."""
    with connected(server, key) as client:
        client.cancel_calibration(calibration_id)


@calibrations.command()
def retry(calibration_id: CalibrationId, server: Server = LOCAL_SERVER, key: ApiKey = None) -> None:
    """Retry a failed or cancelled calibration, from its last saved batch."""
    with connected(server, key) as client:
        client.retry_calibration(calibration_id)


@calibrations.command()
def delete(
    calibration_id: CalibrationId, server: Server = LOCAL_SERVER, key: ApiKey = None
) -> None:
    """Delete an ended calibration; jobs that used it keep what they need."""
    with connected(server, key) as client:
        client.delete_calibration(calibration_id)


@calibrations.command()
def download(
    calibration_id: CalibrationId,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for its files.")],
    server: Server = LOCAL_SERVER,
    key: ApiKey = None,
) -> None:
    """Download a calibration into a folder, for palettery compress --calibration."""
    from palettery.app.client.progress import progress

    with connected(server, key) as client, progress("downloading") as advance:
        client.download_calibration(calibration_id, out, advance=advance)


def _follow(client: "Client", calibration_id: str) -> None:
    """Wait for a calibration, and print what is odd about it.

    Raises:
        PaletteryError: the error with which it failed.
    """
    from palettery.app.client.calibrations import check_succeeded

    calibration = check_succeeded(client.wait_for_calibration(calibration_id))
    assert calibration.result is not None  # noqa: S101 - of one that has succeeded
    for warning in calibration.result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for name in calibration.result.unreached:
        typer.echo(f"unreached: {name}", err=True)
