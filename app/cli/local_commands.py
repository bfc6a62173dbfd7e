"""Commands that work on local files, without a server."""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from palettery.app.cli.options import (
    Config,
    Json,
    KeepDense,
    Model,
    Out,
    Preset,
    ReportFile,
    Sensitivities,
    Strict,
    config_of,
)
from palettery.schemas.exports import ExportFormat

local = typer.Typer()


@local.command()
def compress(
    model: Model,
    out: Out,
    config: Config = None,
    preset: Preset = None,
    sensitivities: Sensitivities = None,
    strict: Strict = False,
    report: ReportFile = None,
) -> None:
    """Palettize a model locally, without a server."""
    from palettery.app.cli.offline import compress as run
    from palettery.app.cli.tables import print_report
    from palettery.app.client.progress import progress
    from palettery.app.storage.output_files import is_stdout

    with progress("palettizing") as advance:
        result = run(
            model,
            config_of(config, preset),
            out,
            advance,
            sensitivities=sensitivities or (),
            strict=strict,
            report=report,
        )
    is_piped = any(is_stdout(path) for path in (out, report) if path is not None)
    with redirect_stdout(sys.stderr if is_piped else sys.stdout):
        print_report(result)
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)


@local.command()
def plan(
    model: Model,
    config: Config = None,
    preset: Preset = None,
    sensitivities: Sensitivities = None,
    strict: Strict = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show every tensor on a line of its own.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what would happen to every tensor, without running anything."""
    from palettery.app.cli.offline import plan as run
    from palettery.app.cli.tables import print_plan

    chosen = config_of(config, preset)
    result = run(model, chosen, sensitivities=sensitivities or (), strict=strict)
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        print_plan(result, every=every)


@local.command()
def inspect(artifact: Model, as_json: Json = False) -> None:
    """Show the contents of an artifact."""
    from palettery.app.cli.offline import inspect as run
    from palettery.app.cli.tables import print_artifact

    summary = run(artifact)
    if as_json:
        typer.echo(summary.model_dump_json(indent=2))
    else:
        print_artifact(summary)


@local.command()
def export(
    artifact: Model,
    to: Annotated[ExportFormat, typer.Option(help="Format to export to.")],
    out: Out,
    model: Annotated[
        Path | None, typer.Option(help="The .pt2 that was palettized, for coreai and coreml.")
    ] = None,
    keep_dense: KeepDense = False,
) -> None:
    """Export an artifact to another format, and verify that it has the same weights."""
    from palettery.app.cli.offline import export as run

    for name in run(artifact, to, out, model=model, keep_dense=keep_dense):
        typer.echo(f"kept dense: {name}", err=True)


@local.command()
def decompress(artifact: Model, out: Out) -> None:
    """Write an artifact's weights as dense safetensors; short for `export --to dense`."""
    from palettery.app.cli.offline import export as run

    run(artifact, "dense", out)


@local.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="The .pt2 that was palettized.")],
    artifact: Model,
    inputs: Annotated[
        Path, typer.Option(help="A .safetensors file with the model's inputs, by name.")
    ],
    as_json: Json = False,
) -> None:
    """Run a model before and after, and compare its outputs."""
    from palettery.app.cli.offline import evaluate as run
    from palettery.app.cli.tables import print_outputs

    outputs = run(model, artifact, inputs)
    if as_json:
        typer.echo(json.dumps([output.model_dump(mode="json") for output in outputs], indent=2))
    else:
        print_outputs(outputs)
