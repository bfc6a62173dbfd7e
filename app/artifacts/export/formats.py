"""What each format is, can express, and is written by."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

from palettery.app.artifacts.export.dense import check_dense, write_dense
from palettery.app.artifacts.export.request import Export
from palettery.app.artifacts.export.sandboxed import write_apart
from palettery.app.errors import ExtraMissing, Inexpressible, UnsupportedFormat
from palettery.schemas.artifact import PalettizedWeight
from palettery.schemas.exports import Exported, ExportFormat
from palettery.schemas.problem import InvalidField

EXTRA = "export"
DTYPES = {"F64": "float64", "BF16": "bfloat16", "F16": "float16"}
"""As messages name those that a form may lack."""
Write = Callable[[Export], str]
"""Gives the hex digest of what was written."""
Check = Callable[[Export], None]
"""Raises InvalidArtifact where what was written is not LUT[indices]."""


@dataclass(frozen=True)
class Format:
    """A form of an artifact; whatever is written in it is read back and compared."""

    write: Write
    check: Check
    lacks: Callable[[PalettizedWeight, bool], str | None]
    """What it has not that this weight needs, which may have a per-channel scale; None: nothing."""
    suffix: str
    """Of its file's name."""
    package: str | None = None
    """That it needs, beside those that are always installed."""
    runs: bool = False
    """Whether it is a whole model, which takes a graph: a `.pt2`."""


def _torchao() -> ModuleType:
    """Its module, which brings torch, so that only who calls it waits for that."""
    return importlib.import_module("palettery.app.artifacts.export.torchao")


def _checked_apart(_: Export) -> None:
    """It was, by the process that wrote it."""


def _nothing(_: PalettizedWeight, __: bool) -> None:
    """Dense tensors express everything."""


def _lacking_in_torchao(weight: PalettizedWeight, is_scaled: bool) -> str | None:
    if weight.cluster_dim > 1:
        return f"palettes of vectors (cluster_dim is {weight.cluster_dim})"
    if is_scaled:
        return "a scale of each channel beside the palette"
    return "float64" if weight.dtype == "F64" else None


def _lacking_in_coreai(weight: PalettizedWeight, _: bool) -> str | None:
    if weight.n_bits == 3:
        return "palettes of 3 bits"
    return "float64" if weight.dtype == "F64" else None


def _lacking_in_coreml(weight: PalettizedWeight, is_scaled: bool) -> str | None:
    if weight.cluster_dim > 1 and is_scaled:
        return f"a scale of each channel beside vectors (cluster_dim is {weight.cluster_dim})"
    if is_scaled and weight.dtype != "F32":
        return f"a float32 scale of each channel beside {DTYPES.get(weight.dtype, weight.dtype)}"
    return None if weight.dtype in ("F32", "F16") else DTYPES.get(weight.dtype, weight.dtype)


FORMATS: Mapping[ExportFormat, Format] = {
    "dense": Format(write_dense, check_dense, _nothing, ".safetensors"),
    "torchao": Format(
        lambda wanted: _torchao().write_torchao(wanted),
        lambda wanted: _torchao().check_torchao(wanted),
        _lacking_in_torchao,
        ".pt",
        "torchao",
    ),
    "coreai": Format(
        partial(write_apart, "coreai"),
        _checked_apart,
        _lacking_in_coreai,
        ".aimodel.zip",
        "coreai_torch",
        runs=True,
    ),
    "coreml": Format(
        partial(write_apart, "coreml"),
        _checked_apart,
        _lacking_in_coreml,
        ".mlpackage.zip",
        "coremltools",
        runs=True,
    ),
}


def export(wanted: Export, to: ExportFormat, *, keep_dense: bool) -> Exported:
    """Write an artifact in a format, and see that it is right.

    Raises:
        Inexpressible: the format cannot express a weight, and `keep_dense` is not given.
        ExtraMissing: it needs packages that are not installed.
        UnsupportedFormat: it needs a graph, and there is none.
        InvalidArtifact: what was written is not what the artifact says.
    """
    form, artifact = FORMATS[to], wanted.artifact
    check_installed(to)
    check_graph(to, has_graph=wanted.source is not None)
    lacking = {
        name: lacks
        for name, weight in artifact.weights.items()
        if (lacks := form.lacks(weight, "per_channel_scale" in artifact.palettes[name]))
    }
    if lacking and not keep_dense:
        raise inexpressible(to, lacking)
    wanted = replace(wanted, dense=tuple(lacking))
    sha256 = form.write(wanted)
    form.check(wanted)
    return Exported(
        format=to,
        sha256=sha256,
        size_bytes=wanted.store.size_bytes(wanted.path),
        dense=tuple(sorted(lacking)),
    )


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


def check_graph(to: ExportFormat, *, has_graph: bool) -> None:
    """See that a model is there as what a format takes.

    Raises:
        UnsupportedFormat: the format takes a graph, and there is none.
    """
    if FORMATS[to].runs and not has_graph:
        raise UnsupportedFormat(
            f"{to} is a model that runs, so it takes the model's graph: send it as a .pt2, written "
            "by torch.export.save (on the command line: --model)"
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
