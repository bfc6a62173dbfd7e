"""Sensitivities of a calibration under the names of another file of the same model.

Names may differ, such as by the prefix of a wrapper; tensors of equal values are the same tensor.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from palettery.app.artifacts.writer import TensorEntry, sort_entries, stream
from palettery.app.calibration.calibrate import (
    CALIBRATION_FILE,
    SENSITIVITIES,
    content_sha256,
    is_calibrated,
)
from palettery.app.errors import BadInput, InvalidSensitivities
from palettery.app.storage.base import Storage
from palettery.app.storage.input_files import check_readable
from palettery.schemas.calibration import Calibration
from palettery.schemas.checkpoint import Checkpoint

TINY = np.finfo(np.float32).tiny


def read_calibration(folder: Path) -> Calibration:
    """Return the description of a calibration.

    Raises:
        BadInput: the folder holds none.
    """
    path = folder / CALIBRATION_FILE
    check_readable(path)
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BadInput(f"{path} is not of a calibration; make one: palettery calibrate") from error


def matched_names(
    calibration: Calibration,
    storage: Storage,
    checkpoint: Checkpoint,
    *,
    is_same: bool = False,
) -> dict[str, str]:
    """Return name in the model -> name in the calibration, for tensors of equal values.

    `is_same` means that the files are those that were calibrated; then they need not be read.

    Raises:
        InvalidSensitivities: no tensor has the values that were calibrated.
    """
    name_by_digest = {tensor.sha256: tensor.name for tensor in calibration.tensors}
    digest_by_name = {tensor.name: tensor.sha256 for tensor in calibration.tensors}
    names = {}
    for tensor in filter(is_calibrated, checkpoint.tensors):
        sha256 = digest_by_name.get(tensor.name) if is_same else None
        sha256 = sha256 or content_sha256(storage, checkpoint, tensor)
        if sha256 in name_by_digest:  # of equal tensors, the one of the same name
            has_same_name = digest_by_name.get(tensor.name) == sha256
            names[tensor.name] = tensor.name if has_same_name else name_by_digest[sha256]
    if not names:
        raise InvalidSensitivities(
            "the calibration is of other weights: none of the model's tensors has the values of "
            f"one that was calibrated, such as {next(iter(digest_by_name), 'none')}; calibrate "
            "this model (palettery calibrate)"
        )
    return names


def matched_second_moments(
    calibration: Calibration, names: Mapping[str, str], moments: Checkpoint
) -> Checkpoint:
    """Return a calibration's second moments under the model's names; layers may share them."""
    by_name = {tensor.name: tensor for tensor in moments.tensors}
    layers = {tensor.name: tensor.second_moments for tensor in calibration.tensors}
    tensors = (
        by_name[layer].model_copy(update={"name": name, "aliases": ()})
        for name, source_name in names.items()
        if (layer := layers.get(source_name)) in by_name and layer is not None
    )
    return moments.model_copy(update={"tensors": tuple(tensors), "modules": (), "ops": ()})


def write_sensitivities(
    folder: Path, calibration: Calibration, names: Mapping[str, str], to: Path
) -> None:
    """Write smoothed sensitivities; `names` maps their new names to those in the calibration.

    Raises:
        BadInput: the file cannot be read.
    """
    path = folder / SENSITIVITIES
    check_readable(path)
    layers = {tensor.name for tensor in calibration.tensors if tensor.second_moments}
    try:
        with safe_open(path, "numpy") as source:
            available = {*source.keys()}
            entries = sort_entries(
                _entry(name, source, source_name, is_layer=source_name in layers)
                for name, source_name in names.items()
                if source_name in available
            )
            with to.open("wb") as file:
                file.writelines(stream(entries, {}))
    except SafetensorError as error:
        raise BadInput(f"{path} is damaged ({error}); calibrate again") from error


def smooth(sensitivities: NDArray[np.float32], *, is_layer: bool) -> NDArray[np.float32]:
    """Return sensitivities with less noise, which is large if there are few samples.

    Those of a layer are averaged with their rank-1 approximation by row and column means, which
    would be exact if inputs and gradients were independent. To others the column means are added,
    so that rows of an embedding that no sample used count as well.

    Shapes: (rows, ...) -> the same.
    """
    table = sensitivities.reshape(len(sensitivities), -1)
    columns = table.mean(0, keepdims=True)
    if is_layer:
        product = table.mean(1, keepdims=True) * (columns / max(table.mean(), TINY))
        smoothed: NDArray[np.float32] = np.float32(0.5) * (table + product)
    else:
        smoothed = table + columns
    return smoothed.reshape(sensitivities.shape)


def _entry(name: str, source: Any, source_name: str, *, is_layer: bool) -> TensorEntry:
    """Return an entry whose tensor is read when it is written."""
    tensor = source.get_slice(source_name)
    shape = tuple(tensor.get_shape())

    def chunks() -> Iterator[memoryview]:
        smoothed = smooth(source.get_tensor(source_name), is_layer=is_layer)
        yield smoothed.reshape(-1).view(np.uint8).data

    return TensorEntry(name, "F32", shape, 4 * math.prod(shape), chunks)
