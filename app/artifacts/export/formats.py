"""Export formats: what each can express, and how it is written and checked."""

import importlib
import importlib.util
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Literal

from palettery.app.artifacts.export.dense import check_dense, write_dense
from palettery.app.artifacts.export.model_folder import (
    check_packed_folder,
    write_packed_folder,
)
from palettery.app.artifacts.export.request import ExportRequest
from palettery.app.artifacts.export.sandboxed import convert_in_sandbox
from palettery.app.artifacts.reader import Artifact
from palettery.app.errors import ExtraMissing, Inexpressible, UnsupportedFormat
from palettery.schemas.artifact import PalettizedWeight
from palettery.schemas.exports import Exported, ExportFormat
from palettery.schemas.problem import InvalidField

_THRESHOLD = "sparsity_detection_threshold"
DTYPES = {"F64": "float64", "BF16": "bfloat16", "F16": "float16"}
"""Names, for messages, of dtypes that a format may lack."""
Source = Literal["graph", "config"]
"""What a format needs beside the artifact: the graph of a `.pt2`, or a model's config.json."""
Write = Callable[[ExportRequest], str]
"""Function that writes an export and returns its SHA-256."""
Check = Callable[[ExportRequest], None]
"""Function that raises InvalidArtifact if the export is not LUT[indices]."""


@dataclass(frozen=True)
class Format:
    """A format; every export is read back and compared with the artifact."""

    write: Write
    check: Check
    unsupported_feature: Callable[[PalettizedWeight, bool], str | None]
    """Function that returns the feature that a weight needs and the format lacks; the second
    argument is whether the weight has a per-channel scale."""
    suffix: str
    """Suffix of the file name."""
    packages: Sequence[str] = ()
    """Optional packages that it needs."""
    extra: str = "export"
    """Extra of Palettery that installs the package."""
    needs: Source | None = None
    """What it needs beside the artifact."""
    pads_groups: bool = False
    """Whether groups of sparse weights need equal numbers of stored ones; see `pad_groups`."""


def _torchao() -> ModuleType:
    """Return the module, which imports torch, only when it is used."""
    return importlib.import_module("palettery.app.artifacts.export.torchao")


def _gguf() -> ModuleType:
    """Return the module, which imports gguf, only when it is used."""
    return importlib.import_module("palettery.app.artifacts.export.gguf_file")


def _skip_check(_: ExportRequest) -> None:
    """Do nothing: the process that wrote the export has checked it."""


def _no_unsupported_feature(_: PalettizedWeight, __: bool) -> None:
    """Return None: the format expresses everything."""


def _unsupported_by_torchao(weight: PalettizedWeight, is_scaled: bool) -> str | None:
    if weight.cluster_dim > 1:
        return f"palettes of vectors (cluster_dim is {weight.cluster_dim})"
    if is_scaled:
        return "a scale of each channel beside the palette"
    if weight.stored is not None:
        return f"zeros outside of the palette ({_THRESHOLD})"
    return "float64" if weight.dtype == "F64" else None


def _unsupported_by_coreai(weight: PalettizedWeight, _: bool) -> str | None:
    if weight.n_bits == 3:
        return "palettes of 3 bits"
    if weight.stored is not None and weight.group_size is not None:
        if weight.axis == 1:
            return f"zeros outside of the palettes of groups on axis 1 ({_THRESHOLD})"
        if weight.cluster_dim > 1:
            return (
                f"vectors of stored weights (cluster_dim {weight.cluster_dim} and {_THRESHOLD}) in "
                "groups, which may have unequal numbers of them"
            )
    return "float64" if weight.dtype == "F64" else None


def _unsupported_by_coreml(weight: PalettizedWeight, is_scaled: bool) -> str | None:
    if weight.cluster_dim > 1 and weight.stored is not None:
        return f"vectors of stored weights (cluster_dim {weight.cluster_dim} and {_THRESHOLD})"
    if weight.cluster_dim > 1 and is_scaled:
        return f"a scale of each channel beside vectors (cluster_dim is {weight.cluster_dim})"
    if is_scaled and weight.dtype != "F32":
        return f"a float32 scale of each channel beside {DTYPES.get(weight.dtype, weight.dtype)}"
    return _other_than_single_or_half(weight)


def _unsupported_by_onnx(weight: PalettizedWeight, _: bool) -> str | None:
    """Return the dtype if onnxruntime has few operators of it."""
    return _other_than_single_or_half(weight)


def _other_than_single_or_half(weight: PalettizedWeight) -> str | None:
    return None if weight.dtype in ("F32", "F16") else DTYPES.get(weight.dtype, weight.dtype)


FORMATS: Mapping[ExportFormat, Format] = {
    "dense": Format(write_dense, check_dense, _no_unsupported_feature, ".safetensors"),
    "transformers": Format(
        write_packed_folder,
        check_packed_folder,
        _no_unsupported_feature,
        ".zip",
        needs="config",
    ),
    "gguf": Format(
        lambda request: _gguf().write_gguf(request),
        lambda request: _gguf().check_gguf(request),
        _no_unsupported_feature,
        ".gguf",
        ["gguf"],
    ),
    "torchao": Format(
        lambda request: _torchao().write_torchao(request),
        lambda request: _torchao().check_torchao(request),
        _unsupported_by_torchao,
        ".pt",
        ["torchao"],
    ),
    "coreai": Format(
        partial(convert_in_sandbox, "coreai"),
        _skip_check,
        _unsupported_by_coreai,
        ".aimodel.zip",
        ["coreai_torch"],
        needs="graph",
        pads_groups=True,
    ),
    "coreml": Format(
        partial(convert_in_sandbox, "coreml"),
        _skip_check,
        _unsupported_by_coreml,
        ".mlpackage.zip",
        ["coremltools"],
        needs="graph",
    ),
    "onnx": Format(
        partial(convert_in_sandbox, "onnx"),
        _skip_check,
        _unsupported_by_onnx,
        ".onnx",
        ["onnxscript", "onnxruntime"],
        extra="onnx",
        needs="graph",
    ),
}


def export_artifact(request: ExportRequest, to: ExportFormat, *, keep_dense: bool) -> Exported:
    """Write an artifact in a format, and check the result.

    Raises:
        Inexpressible: the format cannot express a weight, and `keep_dense` is false.
        ExtraMissing: it needs packages that are not installed.
        UnsupportedFormat: it needs a graph, and there is none.
        InvalidArtifact: the export differs from the artifact.
    """
    format_, artifact = FORMATS[to], request.artifact
    check_installed(to)
    check_source(to, tuple(request.sources()))
    unsupported = {
        name: feature
        for name, weight in artifact.weights.items()
        if (
            feature := format_.unsupported_feature(
                weight, "per_channel_scale" in artifact.palettes[name]
            )
        )
    }
    if unsupported and not keep_dense:
        raise inexpressible_error(to, unsupported)
    request = replace(request, dense=tuple(unsupported))
    sha256 = format_.write(request)
    format_.check(request)
    return Exported(
        format=to,
        sha256=sha256,
        size_bytes=request.store.size_bytes(request.path),
        dense=tuple(sorted(unsupported)),
        padded=tuple(_padded(artifact, request.dense)) if format_.pads_groups else (),
    )


def _padded(artifact: Artifact, dense: Collection[str]) -> Iterator[str]:
    """Yield the sparse weights that are not dense and whose groups are padded."""
    for name in sorted(artifact.weights.keys() - set(dense)):
        if artifact.has_unequal_groups(name):
            yield name


def check_installed(to: ExportFormat) -> None:
    """Check that the packages of a format are installed.

    Raises:
        ExtraMissing: names the missing package.
    """
    extra = FORMATS[to].extra
    for package in FORMATS[to].packages:
        if importlib.util.find_spec(package) is None:
            raise ExtraMissing(
                f"{to} needs {package}, which is not installed here; "
                f"pip install 'palettery[{extra}]', or in a clone pip install -e '.[{extra}]'"
            )


def check_source(to: ExportFormat, sources: Collection[Source]) -> None:
    """Check that there is what a format needs beside the artifact.

    Raises:
        UnsupportedFormat: it is missing.
    """
    needs = FORMATS[to].needs
    if needs == "graph" and needs not in sources:
        raise UnsupportedFormat(
            f"{to} is a runnable model, so it needs the model's graph: send it as a .pt2, written "
            "by torch.export.save (on the command line: --model)"
        )
    if needs == "config" and needs not in sources:
        raise UnsupportedFormat(
            f"{to} is a folder of transformers, so it needs the model's config.json, with which "
            "transformers builds a model of these weights: send it beside them (on the command "
            "line: --model)"
        )


def inexpressible_error(to: ExportFormat, unsupported: Mapping[str, str]) -> Inexpressible:
    """Return the error that names, for each tensor, the feature that a format lacks."""
    return Inexpressible.about(
        f"{to} cannot express {len(unsupported):,} tensors, which `errors` names; have them kept "
        "dense in it, or change the config for them",
        [
            InvalidField(
                pointer=f"/tensors/{name}", detail=f"{name} needs {feature}, which {to} lacks"
            )
            for name, feature in unsupported.items()
        ],
    )
