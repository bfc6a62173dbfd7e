"""Commands that work on local files, without a server."""

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palettery.app.cli.options import (
    CalibrationFolder,
    ChoicesFile,
    Config,
    ConfigOut,
    CurveFile,
    Feedback,
    Json,
    KeepDense,
    Model,
    Out,
    Preset,
    ReportFile,
    Sensitivities,
    Strict,
    TargetInputs,
    Targets,
    config_of,
)
from palettery.app.errors import BadInput
from palettery.schemas.exports import ExportFormat

if TYPE_CHECKING:
    from palettery.schemas.config import KMeansPalettizerConfig
    from palettery.schemas.targets import Allocation

local = typer.Typer()


@local.command()
def compress(
    model: Model,
    out: Out,
    config: Config = None,
    preset: Preset = None,
    sensitivities: Sensitivities = None,
    calibration: CalibrationFolder = None,
    feedback: Feedback = True,
    strict: Strict = False,
    report: ReportFile = None,
    target: Targets = None,
    choices: ChoicesFile = None,
    config_out: ConfigOut = None,
    curve: CurveFile = None,
    inputs: TargetInputs = None,
) -> None:
    """Palettize a model locally, without a server: by a config, or to a target."""
    from palettery.app.cli.offline import compress as run
    from palettery.app.cli.offline_models import used_calibration
    from palettery.app.cli.quality_command import check_reached, compress_to_quality, quality_of
    from palettery.app.cli.tables import print_report
    from palettery.app.client.progress import progress
    from palettery.app.storage.output_files import is_stdout

    quality = quality_of(target, inputs)
    if calibration is not None and sensitivities:
        raise typer.BadParameter("give --calibration or --sensitivities, not both")
    outputs = [path for path in (out, report) if path is not None]
    stdout = sys.stderr if any(map(is_stdout, outputs)) else sys.stdout
    with used_calibration(calibration, model, feedback=feedback) as used:
        weighting = sensitivities or used.sensitivities
        base = _base_config(config, preset, target)
        with redirect_stdout(stdout):
            if quality is not None:
                result = compress_to_quality(
                    model,
                    base,
                    quality,
                    inputs or (),
                    out,
                    used=replace(used, sensitivities=weighting),
                    calibration=calibration,
                    report=report,
                    choices=choices,
                    config_out=config_out,
                    curve=curve,
                )
            else:
                chosen, _ = _config_for(
                    model, base, weighting, target, choices, config_out, curve, *outputs
                )
                with progress("palettizing") as advance:
                    result = run(
                        model,
                        chosen,
                        out,
                        advance,
                        sensitivities=weighting,
                        second_moments=used.second_moments,
                        strict=strict,
                        report=report,
                    )
    with redirect_stdout(stdout):
        print_report(result)
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if quality is not None:
        check_reached(result, quality)


def _config_for(
    model: list[Path],
    config: "KMeansPalettizerConfig",
    sensitivities: list[Path] | None,
    target: list[str] | None,
    choices: Path | None,
    config_out: Path | None,
    curve: Path | None,
    *outputs: Path,
) -> "tuple[KMeansPalettizerConfig, Allocation | None]":
    """Return the config, or the one that reaches a target; print and write what was chosen.

    Raises:
        BadInput: options of a target without one; and see `choose`.
    """
    from palettery.app.errors import BadInput

    given = {"--choices": choices, "--config-out": config_out, "--curve": curve}
    if not target:
        if alone := [name for name, value in given.items() if value is not None]:
            raise BadInput(f"give --target, too, or leave out {' and '.join(alone)}")
        return config, None
    from palettery.app.cli.targets import choose_and_write
    from palettery.app.client.progress import progress

    with progress("scoring") as advance:
        allocation = choose_and_write(
            model,
            config,
            target,
            advance,
            sensitivities=sensitivities or (),
            choices=choices,
            config_out=config_out,
            curve=curve,
            others=outputs,
        )
    return allocation.config, allocation


def _base_config(
    config: Path | None, preset: str | None, target: list[str] | None
) -> "KMeansPalettizerConfig":
    """Return the config of a command, which may be left out where there is a target."""
    from palettery.schemas.config import KMeansPalettizerConfig

    if target and config is None and preset is None:
        return KMeansPalettizerConfig()
    return config_of(config, preset)


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
    target: Targets = None,
    choices: ChoicesFile = None,
    config_out: ConfigOut = None,
    curve: CurveFile = None,
) -> None:
    """Show what would happen to every tensor; a target is solved, but nothing is palettized."""
    from palettery.app.cli.offline import plan as run
    from palettery.app.cli.tables import print_plan

    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        base = _base_config(config, preset, target)
        chosen, allocation = _config_for(
            model, base, sensitivities, target, choices, config_out, curve
        )
    if allocation is not None and as_json:
        typer.echo(allocation.model_dump_json(indent=2))
        return
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
        Path | None,
        typer.Option(
            help="The .pt2 that was palettized, for coreai, coreml and onnx; the model's "
            "folder with its config.json, for transformers."
        ),
    ] = None,
    keep_dense: KeepDense = False,
) -> None:
    """Export an artifact to another format, and verify that it has the same weights.

    `transformers` writes a folder that from_pretrained loads after `import palettery.transformers`.
    """
    from palettery.app.cli.offline import export as run
    from palettery.app.cli.offline import export_to_transformers

    if to == "transformers":
        if model is None:
            raise BadInput(
                "transformers needs the model's folder for its config.json; add --model FOLDER"
            )
        export_to_transformers(artifact, model, out)
        return

    for name in run(artifact, to, out, model=model, keep_dense=keep_dense):
        typer.echo(f"kept dense: {name}", err=True)


@local.command()
def decompress(artifact: Model, out: Out) -> None:
    """Write an artifact's weights as dense safetensors; short for `export --to dense`."""
    from palettery.app.cli.offline import export as run

    run(artifact, "dense", out)
