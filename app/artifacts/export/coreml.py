"""Core ML: a zipped `.mlpackage`, whose weights are decoded from palettes.

Source: coremltools 9.0; palettes come as buffers of the model, `_COREML_/<parameter>/...`, beside
weights that hold LUT[indices] exactly, and become `constexpr_lut_to_dense`.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from coremltools.converters.mil.mil.ops.defs.iOS18.compression import (
    constexpr_blockwise_shift_scale,
    constexpr_lut_to_dense,
    constexpr_lut_to_sparse,
    constexpr_sparse_to_dense,
)
from coremltools.optimize.coreml._quantization_passes import prune_weights
from numpy.typing import NDArray
from torch.export import ExportedProgram

from palettery.app.artifacts.export.live_model import palettized_inputs
from palettery.app.artifacts.packed_weights import SCALE
from palettery.app.artifacts.pytorch import to_tensor
from palettery.app.artifacts.reader import Artifact
from palettery.app.errors import InvalidArtifact

PRUNING, PALETTIZATION, QUANTIZATION = 1, 2, 3
"""Source: coremltools 9.0, `CompressionType`."""
Array = NDArray[Any]


def convert(program: ExportedProgram, artifact: Artifact, dense: Collection[str], to: Path) -> None:
    """Write a model whose weights are LUT[indices], palettized except for the `dense` ones."""
    buffers = {"_COREML_/metadata_version": torch.tensor(1)}
    first_names = artifact.first_names()
    for name in program.state_dict:
        first = first_names.get(name, "")
        weight = artifact.weights.get(first)
        if weight is not None and first not in dense and weight.stored != 0:
            path, _, local = name.rpartition(".")
            for key, tensor in _metadata(artifact, first):
                buffers[f"{path}._COREML_/{local}/{key}".removeprefix(".")] = tensor
    decomposed = program.run_decompositions(_unknown_operators())
    decomposed.state_dict.update(buffers)
    with _exact_pruning():
        ct.convert(
            decomposed,
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        ).save(str(to))


@contextmanager
def _exact_pruning() -> Iterator[None]:
    """Prune zeros alone; coremltools prunes every weight of at most 0.001, in silence."""
    theirs = prune_weights.compress_by_threshold

    def prune_zeros(weight: Array, threshold: float, minimum_sparsity_percentile: float) -> Any:
        del threshold
        return theirs(weight, 0.0, minimum_sparsity_percentile)

    prune_weights.compress_by_threshold = staticmethod(prune_zeros)
    try:
        yield
    finally:
        prune_weights.compress_by_threshold = staticmethod(theirs)


def _unknown_operators() -> dict[Any, Any]:
    """Return torch's decompositions of the operators that coremltools does not know."""
    get_converter, aten = _TORCH_OPS_REGISTRY.get_func, torch.ops.aten
    decompositions: dict[Any, Any] = dict(torch.export.default_decompositions())
    unknown = {
        operator: steps
        for operator, steps in decompositions.items()
        if get_converter(operator.name().removeprefix("aten::").split(".")[0]) is None
    }
    return unknown | {
        aten.__and__.Tensor: aten.bitwise_and.Tensor,
        aten.__or__.Tensor: aten.bitwise_or.Tensor,
    }


def check(path: Path, program: ExportedProgram, artifact: Artifact, dense: Collection[str]) -> None:
    """Compare the weights of a package, as coremltools reads and decodes them, with the artifact.

    Raises:
        InvalidArtifact: names the weight that differs.
    """
    weights = list(_weights(path))
    for argument, name in palettized_inputs(program, artifact, dense).items():
        weight = artifact.dense(name).tobytes()
        # coremltools chooses its own names where an operation takes several steps.
        if not any(
            each.startswith(argument) and data.tobytes() == weight for each, data in weights
        ):
            raise InvalidArtifact(f"{name}: the Core ML package as read back is not LUT[indices]")


def _weights(path: Path) -> Iterator[tuple[str, Array]]:
    """Yield every palettized weight of a package, decoded, with the name of its input."""
    package = ct.models.MLModel(str(path), skip_model_load=True)
    spec = package.get_spec()
    program = load(spec, spec.specificationVersion, package.weights_dir)
    for function in program.functions.values():
        for operation in function.operations:
            is_decoded = operation.op_type.startswith("constexpr") and len(operation.outputs) == 1
            if is_decoded:
                (output,) = operation.outputs
                yield output.name, _value(output)


def _value(variable: Any) -> Array:
    """Return the value of a variable that depends on constants only."""
    if variable.val is not None:
        value: Array = variable.val
        return value
    step = variable.op
    if step.op_type == "constexpr_sparse_to_dense":
        palette = step.nonzero_data.op
        mask = _value(palette.indices_mask)
        indices, lut = _value(palette.indices_nonzero_data), _value(palette.lut)
        _, stored = constexpr_lut_to_sparse.decompress(mask, indices, lut, None)
        return np.asarray(constexpr_sparse_to_dense.decompress(stored, mask))
    if step.op_type == "constexpr_lut_to_dense":
        axis = step.vector_axis
        arguments = (_value(step.indices), _value(step.lut), None if axis is None else axis.val)
        return np.asarray(constexpr_lut_to_dense.decompress(*arguments))
    offset = None if step.offset is None else _value(step.offset)
    arguments = (_value(step.data), _value(step.scale), offset)
    return np.asarray(constexpr_blockwise_shift_scale.decompress(*arguments))


def _metadata(artifact: Artifact, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the buffers that say how a weight is compressed."""
    parts, quantized = artifact.palettes[name], artifact.quantized(name)
    if quantized is not None and quantized["quantized"].dtype.kind in "iu":
        yield "compression_type", torch.tensor([QUANTIZATION])
        yield "quantization_n_bits", torch.tensor(8)
        yield "quantization_scale", to_tensor(quantized["scale"])
        yield "zero_point", to_tensor(quantized["zero_point"])
        return
    types = [PALETTIZATION] if "mask" not in parts else [PRUNING, PALETTIZATION]
    yield "compression_type", torch.tensor(types)
    yield "lut", to_tensor(artifact.lut(name))
    yield "vector_axis", torch.tensor(0)
    if SCALE in parts:
        yield "palettization_scale", to_tensor(artifact.array(parts[SCALE]))
