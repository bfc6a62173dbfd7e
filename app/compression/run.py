"""Run one task: fetch its bytes, palettize, write one part."""

import hashlib
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
from app.compression.stop import StopCheck
from app.errors import InvalidSensitivities, ObjectMissing
from app.storage import Storage, open_storage
from kernels import Palette, PaletteSettings
from kernels.errors import NonFiniteError, SensitivityError
from schemas.artifact import PALETTE_KEYS
from schemas.config.spec import PalettizationSpec
from schemas.plan import Clustering
from schemas.report import SliceOutcome
from schemas.tasks import CompressionTask, StoredRows, TensorSlice

Slice = tuple[SliceOutcome, dict[str, NDArray[np.generic]]]
"""What became of a slice, and its arrays; none when it was kept."""


def run_task(task: CompressionTask, threads: int | None = None) -> None:
    """Palettize a task's slices into its part file; the part appears whole or not at all.

    `threads` None uses every core.

    Raises:
        Cancelled: see `StopCheck`.
        InvalidSensitivities: some are negative or not finite. Non-finite weights are kept as they
            are, for such is the model; a bad sensitivity is bad input, and an artifact without its
            say would not be what was asked for.
    """
    source, store = open_storage(task.source_url), open_storage(task.store_url)
    beside = open_storage(task.sensitivities_url) if task.sensitivities_url else source
    stop = StopCheck(store, task.cancel_path)
    entries: list[Entry] = []
    outcomes: list[SliceOutcome] = []
    for number, item in enumerate(task.slices):
        stop()
        found = _known(store, item) if item.known else None
        outcome, arrays = found or _computed(source, beside, item, task.digests, threads, stop)
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


def content_sha256(source: Storage, beside: Storage, item: TensorSlice) -> str:
    """Hex digest of a slice's bytes, its sensitivities' behind them; held in pieces only."""
    digest = hashlib.sha256()
    for store, rows in ((source, item), (beside, item.sensitivity)):
        for chunk in store.chunks(rows.path, rows.offset, rows.size_bytes) if rows else ():
            digest.update(chunk)
    return digest.hexdigest()


def _known(store: Storage, item: TensorSlice) -> Slice | None:
    """The result of an earlier job; None when it is gone, as that job may be."""
    assert item.known is not None  # noqa: S101 - callers checked
    path, outcome = item.known.path, item.known.outcome
    try:
        arrays = {
            key: np.frombuffer(
                store.read(path, tensor.offset, tensor.size_bytes), NUMPY[tensor.dtype]
            ).reshape(tensor.shape)
            for key, tensor in item.known.tensors.items()
        }
    except ObjectMissing:
        return None
    here = {"name": item.name, "first_row": item.first_row, "reused": True}
    return outcome.model_copy(update=here), arrays


def _computed(
    source: Storage,
    beside: Storage,
    item: TensorSlice,
    digests: bool,
    threads: int | None,
    stop: StopCheck,
) -> Slice:
    weight = load(source, item)
    sensitivity = load(beside, item.sensitivity) if item.sensitivity else None
    outcome, arrays = _palettize(weight, sensitivity, item, threads, stop)
    if digests:
        sha256 = content_sha256(source, beside, item)
        outcome = outcome.model_copy(update={"content_sha256": sha256})
    return outcome, arrays


def _palettize(
    weight: NDArray[np.generic],
    sensitivity: NDArray[np.generic] | None,
    item: TensorSlice,
    threads: int | None,
    stop: StopCheck,
) -> Slice:
    started = time.perf_counter()
    try:
        palette = kernels.palettize(
            weight, settings(item.spec, item.clustering), sensitivity, "auto", threads, stop
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
