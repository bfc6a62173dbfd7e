"""Run one task: fetch its bytes, palettize, write one part."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import kernels
from app.artifacts.dtypes import NUMPY
from app.artifacts.writer import Entry, arranged, array_entry, stream
from app.compression.dense import laid_out
from app.errors import Cancelled, InvalidSensitivities
from app.storage import Storage, open_storage
from kernels import Palette, PaletteSettings
from kernels.errors import NonFiniteError, SensitivityError
from schemas.artifact import PALETTE_KEYS
from schemas.config.spec import PalettizationSpec
from schemas.plan import Clustering
from schemas.report import SliceOutcome
from schemas.tasks import CompressionTask, StoredRows, TensorSlice


def run_task(task: CompressionTask, threads: int | None = None) -> None:
    """Palettize a task's slices into its part file; the part appears whole or not at all.

    `threads` None uses every core.

    Raises:
        Cancelled: the cancel marker was seen between two slices.
        InvalidSensitivities: some are negative or not finite. Non-finite weights are kept as they
            are, for such is the model; a bad sensitivity is bad input, and an artifact without its
            say would not be what was asked for.
    """
    source, store = open_storage(task.source_url), open_storage(task.store_url)
    beside = open_storage(task.sensitivities_url) if task.sensitivities_url else source
    entries: list[Entry] = []
    outcomes: list[SliceOutcome] = []
    for number, item in enumerate(task.slices):
        if task.cancel_path and store.exists(task.cancel_path):
            raise Cancelled("the job was cancelled while it ran")
        sensitivity = load(beside, item.sensitivity) if item.sensitivity else None
        outcome, arrays = _palettize(load(source, item), sensitivity, item, threads)
        outcomes.append(outcome)
        entries += [array_entry(f"{number}.{part}", array) for part, array in arrays.items()]
    ordered = arranged(entries)
    store.write(task.part_path, stream(ordered, _metadata(outcomes)))


def load(source: Storage, rows: StoredRows) -> NDArray[np.generic]:
    """Rows of a tensor, straight from their byte range."""
    data = source.read(rows.path, rows.offset, rows.size_bytes)
    return laid_out(data, NUMPY[rows.dtype], rows.shape, rows.strides)


def settings(spec: PalettizationSpec, clustering: Clustering) -> PaletteSettings:
    """What the kernel is asked to do, from the plan's words."""
    plain = PaletteSettings(
        n_bits=spec.n_bits,
        axis=clustering.axis,
        group_size=clustering.group_size,
        cluster_dim=spec.cluster_dim,
        per_channel_scale=spec.enable_per_channel_scale,
        rounding_precision=clustering.rounding_precision,
    )
    if spec.lut_qspec is None:
        return plain
    return replace(
        plain,
        lut_dtype=spec.lut_qspec.dtype,
        lut_scheme=spec.lut_qspec.qscheme,
        lut_float_range=spec.lut_qspec.float_range,
        lut_scale_dtype=spec.lut_qspec.scale_dtype,
    )


def _palettize(
    weight: NDArray[np.generic],
    sensitivity: NDArray[np.generic] | None,
    item: TensorSlice,
    threads: int | None,
) -> tuple[SliceOutcome, dict[str, NDArray[np.generic]]]:
    started = time.perf_counter()
    try:
        palette = kernels.palettize(
            weight, settings(item.spec, item.clustering), sensitivity, "auto", threads
        )
    except SensitivityError as error:
        raise InvalidSensitivities(
            f"{item.name}: {error}; mend its sensitivities, or leave them out, and submit again"
        ) from error
    except NonFiniteError as error:
        kept = SliceOutcome(
            name=item.name,
            first_row=item.first_row,
            action="kept",
            reason=str(error),
            weights=weight.size,
        )
        return kept, {}
    metrics = palette.metrics
    assert metrics is not None  # noqa: S101 - palettize always measures
    outcome = SliceOutcome(
        name=item.name,
        first_row=item.first_row,
        action="palettized",
        notes=metrics.notes,
        weights=weight.size,
        sse=metrics.sse,
        signal=metrics.signal,
        max_error=metrics.max_error,
        seconds=time.perf_counter() - started,
    )
    return outcome, _arrays(palette, item.spec.n_bits)


def _arrays(palette: Palette, n_bits: int) -> dict[str, NDArray[np.generic]]:
    arrays = {part: getattr(palette, part) for part in PALETTE_KEYS}
    arrays["indices"] = kernels.pack(palette.indices, n_bits)
    return {part: array for part, array in arrays.items() if array is not None}


def _metadata(outcomes: Sequence[SliceOutcome]) -> dict[str, str]:
    return {"outcomes": json.dumps([outcome.model_dump(mode="json") for outcome in outcomes])}
