"""Inputs of an image model, made of pictures."""

from collections.abc import Sequence
from pathlib import Path

from palettery.app.errors import BadInput
from palettery.app.inference.made_inputs import make_in_sandbox
from palettery.app.settings import Sandbox
from palettery.app.storage.input_files import check_readable
from palettery.schemas.base import Schema

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class ImagesRequest(Schema):
    """Request to the sandboxed process."""

    names: tuple[str, ...]
    """Files, in order."""
    tensor: str
    """Name of the resulting tensor."""
    size: int
    """Height and width of the cropped pictures, in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def images(
    folder: Path,
    sandbox: Sandbox,
    out: Path,
    *,
    tensor: str,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> int:
    """Write the pictures of a folder as one tensor [pictures, 3, size, size]; return their number.

    Each is scaled so that its shorter side is `size`, center-cropped, scaled to 0 to 1, and
    normalized by the mean and standard deviation of each channel.

    Raises:
        BadInput: there are none, or one cannot be read.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise BadInput(f"{folder} holds no pictures ({', '.join(SUFFIXES)})")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise BadInput("mean and standard deviation are three numbers, the latter above 0")
    for path in paths:
        check_readable(path)
    request = ImagesRequest(
        names=tuple(path.name for path in paths),
        tensor=tensor,
        size=size,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )
    make_in_sandbox("images_worker", request, paths, sandbox, out, what="reading the pictures")
    return len(paths)
