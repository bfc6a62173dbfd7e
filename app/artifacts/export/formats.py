"""What each format is, can express, and is written by."""

import importlib
import importlib.util
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from app.artifacts.export.dense import check_dense, write_dense
from app.artifacts.reader import Artifact
from app.errors import ExtraMissing, Inexpressible
from app.storage import Storage
from schemas.artifact import PalettizedWeight
from schemas.exports import ExportFormat
from schemas.problem import InvalidField

EXTRA = "export"
Write = Callable[[Artifact, Storage, str, Collection[str]], None]
"""Called with the artifact, a store, a path in it, and the weights to write dense."""


@dataclass(frozen=True)
class Format:
    """A form of an artifact; whatever is written in it is read back and compared."""

    write: Write
    check: Write
    """Raises InvalidArtifact where what was written is not LUT[indices]."""
    lacks: Callable[[PalettizedWeight, bool], str | None]
    """What it has not that this weight needs, which may have a per-channel scale; None: nothing."""
    suffix: str
    """Of its file's name."""
    package: str | None = None
    """That it needs, beside those that are always installed."""


def _of_torchao(function: str) -> Write:
    """A function of its module, which brings torch, so that only who calls it waits for that."""

    def call(artifact: Artifact, store: Storage, path: str, dense: Collection[str]) -> None:
        module = importlib.import_module("app.artifacts.export.torchao")
        getattr(module, function)(artifact, store, path, dense)

    return call


def _nothing(_: PalettizedWeight, __: bool) -> None:
    """Dense tensors express everything."""


def _lacking_in_torchao(weight: PalettizedWeight, is_scaled: bool) -> str | None:
    if weight.cluster_dim > 1:
        return f"palettes of vectors (cluster_dim is {weight.cluster_dim})"
    if is_scaled:
        return "a scale of each channel beside the palette"
    return "float64" if weight.dtype == "F64" else None


FORMATS: Mapping[ExportFormat, Format] = {
    "dense": Format(write_dense, check_dense, _nothing, ".safetensors"),
    "torchao": Format(
        _of_torchao("write_torchao"),
        _of_torchao("check_torchao"),
        _lacking_in_torchao,
        ".pt",
        "torchao",
    ),
}


def export(
    artifact: Artifact, to: ExportFormat, store: Storage, path: str, *, keep_dense: bool
) -> Collection[str]:
    """Write an artifact in a format, and see that it is right; the weights that are dense in it.

    Raises:
        Inexpressible: the format cannot express a weight, and `keep_dense` is not given.
        ExtraMissing: it needs packages that are not installed.
        InvalidArtifact: what was written is not what the artifact says.
    """
    wanted = FORMATS[to]
    check_installed(to)
    lacking = {
        name: lacks
        for name, weight in artifact.weights.items()
        if (lacks := wanted.lacks(weight, "per_channel_scale" in artifact.palettes[name]))
    }
    if lacking and not keep_dense:
        raise inexpressible(to, lacking)
    wanted.write(artifact, store, path, lacking)
    wanted.check(artifact, store, path, lacking)
    return lacking


def check_installed(to: ExportFormat) -> None:
    """See that a format can be written here.

    Raises:
        ExtraMissing: names the extra.
    """
    package = FORMATS[to].package
    if package is not None and importlib.util.find_spec(package) is None:
        raise ExtraMissing(
            f"{to} needs {package}, which is not installed here; pip install 'palettery[{EXTRA}]', "
            f"or in a clone pip install -e '.[{EXTRA}]'"
        )


def inexpressible(to: ExportFormat, lacking: Mapping[str, str]) -> Inexpressible:
    """The error that tells what a format lacks, tensor by tensor."""
    return Inexpressible.about(
        f"{to} cannot express {len(lacking):,} tensors, which `errors` names; have them kept "
        "dense in it, or change the config for them",
        [
            InvalidField(
                pointer=f"/tensors/{name}", detail=f"{name} needs {lacks}, which {to} has not"
            )
            for name, lacks in lacking.items()
        ],
    )
