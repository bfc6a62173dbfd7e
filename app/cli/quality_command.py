"""`palettery compress` to a quality: what it checks, prints and writes."""

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from palettery.app.allocation.target_parsing import parse_target
from palettery.app.cli.offline_models import UsedCalibration
from palettery.app.cli.offline_quality import QualityRequest
from palettery.app.cli.offline_quality import compress_to_quality as run
from palettery.app.cli.options import read_choices
from palettery.app.cli.tables import describe_measured
from palettery.app.cli.targets import check_outputs, print_and_write, scored_model
from palettery.app.client.progress import CONSOLE, progress
from palettery.app.errors import BadInput
from palettery.app.evaluations.conclusion import quality_error
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.evaluation import Quality
from palettery.schemas.report import Report
from palettery.schemas.targets import Target


def quality_of(targets: Sequence[str] | None, inputs: Sequence[Path] | None) -> Quality | None:
    """Return the quality that a target is; None for other targets, and without one.

    Raises:
        BadInput: a quality has no inputs to be measured on, or inputs have no quality.
    """
    quality = parse_target(targets).quality if targets else None
    if quality is not None and not inputs:
        raise BadInput(
            "a target of a quality is measured on inputs: add --inputs FILE, which `palettery "
            "tokenize` or `palettery images` makes"
        )
    if inputs and quality is None:
        raise BadInput(
            "--inputs are for a target of a quality, such as --target 'cosine>=0.98'; to measure "
            "an artifact, use `palettery evaluate`"
        )
    return quality


def compress_to_quality(
    model: Sequence[Path],
    config: KMeansPalettizerConfig,
    quality: Quality,
    inputs: Sequence[Path],
    out: Path,
    *,
    used: UsedCalibration,
    calibration: Path | None,
    report: Path | None,
    choices: Path | None,
    config_out: Path | None,
    curve: Path | None,
) -> Report:
    """Compress a model to a quality; print each size that is measured, and write what was chosen.

    Raises:
        BadInput: see `palettery.app.cli.offline_quality.compress_to_quality`.
    """
    others = [out] if report is None else [out, report]
    written = check_outputs(model, used.sensitivities, config_out, curve, others)
    with progress("scoring") as advance:
        allocator = scored_model(
            model, config, read_choices(choices), advance, sensitivities=used.sensitivities
        )
    request = QualityRequest(
        model, allocator, quality, inputs, used.sensitivities, used.second_moments, calibration
    )
    with progress("palettizing") as advance:
        result = run(
            request,
            out,
            advance,
            measured=lambda size: CONSOLE.print(f"measured: {escape(describe_measured(size))}"),
            report=report,
        )
    assert result.allocation is not None  # noqa: S101 - of a target
    allocation = result.allocation
    if curve is not None:
        allocation = allocation.model_copy(update={"curve": allocator.curve()})
    print_and_write(allocation, written)
    return result


def check_reached(report: Report, quality: Quality) -> None:
    """Check that an artifact has its quality.

    Raises:
        QualityNotReached: it has not; says what it has instead.
    """
    if report.evaluation is not None and report.evaluation.missed:
        raise quality_error(report.evaluation, Target(quality=quality))
