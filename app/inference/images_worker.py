"""Sandboxed process that reads pictures."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from palettery.app.errors import BadInput, ExtraMissing
from palettery.app.inference.image_inputs import ImagesRequest
from palettery.app.inference.made_inputs import FILES, OUT

try:
    pictures: Any = importlib.import_module("PIL.Image")
    operations: Any = importlib.import_module("PIL.ImageOps")
    pictures.init()
except ImportError:
    pictures = operations = None


def answer(request: bytes) -> bytes:
    """Entry point in the sandbox: write the pictures of a request into the current folder."""
    options = ImagesRequest.model_validate_json(request)
    if pictures is None:
        raise ExtraMissing("reading pictures needs Pillow; install palettery[hf]")
    result = np.empty((len(options.names), 3, options.size, options.size), np.float32)
    mean, std = (np.array(values, np.float32) for values in (options.mean, options.std))
    for row, name in zip(result, options.names, strict=True):
        row[:] = ((_center_crop(Path(FILES, name), options.size) - mean) / std).transpose(2, 0, 1)
    save_file({options.tensor: result}, OUT)
    return b""


def _center_crop(path: Path, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the center of a picture, scaled. Shapes: -> (size, size, 3), from 0 to 1."""
    try:
        with pictures.open(path) as opened:
            upright = operations.exif_transpose(opened)
            fitted = operations.fit(
                upright.convert("RGB"), (size, size), pictures.Resampling.BILINEAR
            )
    except Exception as error:
        raise BadInput(f"the picture {path.name} cannot be read: {error}") from error
    return np.asarray(fitted, np.float32) / np.float32(255)
