"""Targets without a server: scores, cached by content, and the choice that reaches a target."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from platformdirs import user_cache_path
from pydantic import ValidationError

from palettery.app.allocation.allocate import Allocator
from palettery.app.allocation.candidates import Candidates, find_candidates
from palettery.app.allocation.measured_quality import check_measurable
from palettery.app.allocation.scoring import Advance, score_model, scores_sha256
from palettery.app.allocation.target_parsing import parse_target
from palettery.app.checkpoints.local_files import expand_path, stored_files
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.cli.curve_page import curve_json, curve_page
from palettery.app.cli.options import read_choices
from palettery.app.cli.tables import print_allocation
from palettery.app.planning.sensitivities import match_sensitivities
from palettery.app.settings import read_settings
from palettery.app.storage.atomic_file import AtomicFile
from palettery.app.storage.output_files import Output, check_distinct, is_html
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.targets import Allocation, Choices, ModelScores

Writer = Callable[[Allocation, Output], Iterator[bytes]]
"""Returns the content of an output."""


def choose_and_write(
    paths: Sequence[Path],
    config: KMeansPalettizerConfig,
    targets: Sequence[str],
    advance: Advance,
    *,
    sensitivities: Sequence[Path],
    choices: Path | None,
    config_out: Path | None,
    curve: Path | None,
    others: Sequence[Path],
) -> Allocation:
    """Return the choice that reaches a target; print it, and write its config and curve.

    `others` are outputs of the same command.

    Raises:
        BadInput: an output cannot be written or is another file of the command; see `choose`.
    """
    written = check_outputs(paths, sensitivities, config_out, curve, others)
    allocation = choose(
        paths,
        config,
        targets,
        advance,
        sensitivities=sensitivities,
        choices=read_choices(choices),
        with_curve=curve is not None,
    )
    print_and_write(allocation, written)
    return allocation


def check_outputs(
    paths: Sequence[Path],
    sensitivities: Sequence[Path],
    config_out: Path | None,
    curve: Path | None,
    others: Sequence[Path],
) -> dict[Output, Writer]:
    """Return the outputs of a choice; check that they are other files than those of the command.

    Raises:
        BadInput: they are not, or cannot be written.
    """
    writers: dict[Path | None, Writer] = {config_out: _config_text, curve: _curve_text}
    written = {Output(path): write for path, write in writers.items() if path is not None}
    check_distinct(
        [*written, *(Output(path, or_folder=True) for path in others)],
        model=[file for path in paths for file in expand_path(path)],
        sensitivities=[file for path in sensitivities for file in expand_path(path)],
    )
    return written


def print_and_write(allocation: Allocation, written: Mapping[Output, Writer]) -> None:
    """Print a choice, and write its config and curve."""
    print_allocation(allocation)
    for output, write in written.items():
        with output:
            output.write(write(allocation, output))


def choose(
    paths: Sequence[Path],
    config: KMeansPalettizerConfig,
    targets: Sequence[str],
    advance: Advance,
    *,
    sensitivities: Sequence[Path] = (),
    choices: Choices | None = None,
    with_curve: bool = False,
) -> Allocation:
    """Return the choice for the model in these files that reaches the target.

    Raises:
        BadInput: the target is not valid, cannot be reached, or has nothing to choose.
        InvalidModel, InvalidConfig, InvalidSensitivities: see `plan_job`.
    """
    target = parse_target(targets)
    check_measurable(target)
    allocator = scored_model(
        paths, config, choices or Choices(), advance, sensitivities=sensitivities
    )
    with stdout_to_stderr():
        allocation, _ = allocator.allocate(target)
        if with_curve:
            allocation = allocation.model_copy(update={"curve": allocator.curve()})
    return allocation


def scored_model(
    paths: Sequence[Path],
    config: KMeansPalettizerConfig,
    choices: Choices,
    advance: Advance,
    *,
    sensitivities: Sequence[Path],
) -> Allocator:
    """Return the choices for the model in these files, from its scores.

    Raises:
        BadInput: there is nothing to choose.
        InvalidModel, InvalidConfig, InvalidSensitivities: see `plan_job`.
    """
    limits = read_settings().limits
    model = stored_files(paths, digests=True)
    checkpoint = read_checkpoint(model.storage, model.files, limits)
    weighting, matched = None, None
    if sensitivities:
        weighting = stored_files(sensitivities, digests=True)
        uploaded = read_checkpoint(weighting.storage, weighting.files, limits)
        matched = match_sensitivities(uploaded, checkpoint)
    candidates = find_candidates(config, checkpoint, choices, limits)
    scores = _scores(candidates, checkpoint, model, matched, weighting, advance)
    return Allocator(candidates, checkpoint, matched, scores, limits)


def _config_text(allocation: Allocation, _: Output) -> Iterator[bytes]:
    yield yaml.safe_dump(chosen_document(allocation), sort_keys=False, width=100).encode()


def _curve_text(allocation: Allocation, output: Output) -> Iterator[bytes]:
    return curve_page(allocation) if is_html(output.path) else curve_json(allocation)


def chosen_document(allocation: Allocation) -> dict[str, object]:
    """Return the content of the config's file, without fields that were left out."""
    dumped = allocation.config.model_dump(mode="json", exclude_unset=True)
    return {"kmeans_palettization_config": dumped}


def _scores(
    candidates: Candidates,
    checkpoint: Checkpoint,
    model: StoredFiles,
    matched: Checkpoint | None,
    weighting: StoredFiles | None,
    advance: Advance,
) -> ModelScores:
    """Return the scores of a model from the user's cache, or compute and store them."""
    name = scores_sha256(candidates, checkpoint, matched)
    path = user_cache_path("palettery") / "scores" / f"{name}.json"
    with suppress(OSError, ValidationError):
        return ModelScores.model_validate_json(path.read_bytes())
    scores = score_model(
        candidates,
        checkpoint,
        model.storage,
        matched,
        weighting.storage if weighting else None,
        advance,
    )
    # Without a cache they are computed each time.
    with suppress(OSError), AtomicFile(path) as file:
        file.write([scores.model_dump_json().encode()])
        file.commit()
    return scores


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send standard output to standard error: HiGHS 1.12 prints lines of its own there."""
    sys.stdout.flush()
    before = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # or C would write them later, to standard output
        os.dup2(before, 1)
        os.close(before)
