"""Commands that run a model on inputs, and that make such inputs, without a server."""

from pathlib import Path
from typing import Annotated

import typer

from palettery.app.cli.options import (
    AtLeast,
    CalibrationFolder,
    Inputs,
    Json,
    Model,
    Out,
    PerSample,
)
from palettery.schemas.calibration import CalibrationKind

models = typer.Typer()
PalettizedModel = Annotated[
    Path,
    typer.Argument(help="The palettized model: its .pt2, or its Hugging Face folder."),
]


@models.command()
def calibrate(
    model: Model,
    inputs: Inputs,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make.")],
    kind: Annotated[
        CalibrationKind,
        typer.Option(help="What matters: all outputs alike, or the probabilities of logits."),
    ] = "outputs",
    output: Annotated[
        list[str] | None, typer.Option(help="An output that counts; repeatable. All by default.")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, max=1024, help="Random directions a sample.")] = 1,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Samples that run at once.")] = 8,
) -> None:
    """Run a model on inputs, and tell how much each weight matters; a second try goes on."""
    from palettery.app.cli.offline_models import calibrate as run
    from palettery.app.cli.tables import print_calibration
    from palettery.app.client.progress import count_progress
    from palettery.schemas.calibration import CalibrationOptions

    options = CalibrationOptions(kind=kind, outputs=tuple(output or ()), draws=draws, batch=batch)
    with count_progress("calibrating") as advance:
        result = run(model, inputs, out, options, advance)
    print_calibration(result)
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)


@models.command()
def evaluate(
    model: PalettizedModel,
    artifact: Model,
    inputs: Inputs,
    at_least: AtLeast = None,
    calibration: CalibrationFolder = None,
    per_sample: PerSample = False,
    as_json: Json = False,
) -> None:
    """Run a model before and after, and compare its outputs."""
    from palettery.app.cli.offline_models import evaluate as run
    from palettery.app.cli.tables import print_evaluation, print_missed
    from palettery.app.client.progress import count_progress

    with count_progress("evaluating") as advance:
        result = run(
            model,
            artifact,
            inputs,
            advance,
            goals=at_least or (),
            calibration=calibration,
            per_sample=per_sample,
        )
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        print_evaluation(result)
    print_missed(result)
    if result.missed:
        raise typer.Exit(1)


@models.command("run")
def run_model(model: PalettizedModel, artifact: Model, inputs: Inputs, out: Out) -> None:
    """Run a model with an artifact's weights, and write its outputs as safetensors."""
    from palettery.app.cli.offline_models import run
    from palettery.app.client.progress import count_progress

    with count_progress("running") as advance:
        result = run(model, artifact, inputs, out, advance)
    for name, shape in result.shapes.items():
        typer.echo(f"{name}: {list(shape)}", err=True)


@models.command()
def tokenize(
    folder: Annotated[Path, typer.Argument(help="The model's Hugging Face folder.")],
    texts: Annotated[
        list[Path], typer.Option("--texts", help="A file with one text a line; repeatable.")
    ],
    out: Out,
    separator: Annotated[
        str | None,
        typer.Option(help="The line between texts, such as %; then texts may have several lines."),
    ] = None,
    first: Annotated[int, typer.Option(min=0, help="Texts to leave out at the start.")] = 0,
    count: Annotated[int | None, typer.Option(min=1, help="Most texts to take.")] = None,
    max_length: Annotated[int, typer.Option(min=1, help="Tokens to which texts are cut.")] = 128,
) -> None:
    """Write texts as a model's inputs, by the tokenizer of its folder."""
    from palettery.app.cli.offline_models import tokenize as run

    number = run(
        folder,
        texts,
        out,
        separator=separator,
        first=first,
        count=count,
        max_length=max_length,
    )
    typer.echo(f"{number:,} texts", err=True)


@models.command()
def images(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    out: Out,
    size: Annotated[int, typer.Option(min=1, max=8192, help="Pixels of each side.")] = 224,
    mean: Annotated[
        tuple[float, float, float], typer.Option(help="Mean of red, green and blue, from 0 to 1.")
    ] = (0.485, 0.456, 0.406),
    std: Annotated[tuple[float, float, float], typer.Option(help="Their standard deviations.")] = (
        0.229,
        0.224,
        0.225,
    ),
    name: Annotated[str, typer.Option(help="Name of the model's input.")] = "pixel_values",
) -> None:
    """Write the pictures of a folder as a model's inputs."""
    from palettery.app.cli.offline_models import images as run

    number = run(folder, out, tensor=name, size=size, mean=mean, std=std)
    typer.echo(f"{number:,} pictures", err=True)
