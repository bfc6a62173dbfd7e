"""ONNX: a model whose weights are computed from packed indices and LUTs, run by onnxruntime.

torch converts the graph. Palettized weights are inputs of it for that time, so that no pass folds
or transposes them; then nodes that compute them take their places.

Source: torch 2.13, onnx-ir 1.1, onnxruntime 1.32.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnx_ir.tape import Tape
from torch.export import ExportedProgram

from palettery.app.artifacts.export.live_model import palettized_inputs
from palettery.app.artifacts.export.onnx_palettes import WeightNodes
from palettery.app.artifacts.export.output_checks import check_outputs, random_inputs
from palettery.app.artifacts.reader import Artifact
from palettery.app.errors import InvalidArtifact, UnsupportedFormat
from palettery.app.version import VERSION

MAX_MESSAGE_CHARACTERS = 500
"""Most characters of a message of torch's."""
MAX_BYTES = 2 << 30
"""Exclusive limit of a file's size, which is protobuf's."""


def convert(program: ExportedProgram, artifact: Artifact, dense: Collection[str], to: Path) -> None:
    """Write a model with palettized weights, except for the `dense` ones.

    Raises:
        UnsupportedFormat: torch cannot convert the graph, or the model is too large for a file.
    """
    converted = _convert_graph(program)
    weights = _to_inputs(converted.model.graph, artifact, dense)
    converted.optimize()
    model: ir.Model = converted.model
    _add_palettes(model.graph, artifact, weights)
    _clear_metadata(model)
    model.producer_name, model.producer_version = "palettery", VERSION
    size_bytes = sum(_size_bytes(each) for each in model.graph.initializers.values())
    if size_bytes >= MAX_BYTES:
        raise UnsupportedFormat(
            f"an ONNX file holds less than {MAX_BYTES:,} bytes, and the weights of this model are "
            f"{size_bytes:,}; choose fewer bits, or export to another format"
        )
    ir.save(model, to)


def _convert_graph(program: ExportedProgram) -> Any:
    try:
        return torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        reason: BaseException = error
        while reason.__cause__ is not None:  # the first one names the operator
            reason = reason.__cause__
        message = " ".join(str(reason).split())[:MAX_MESSAGE_CHARACTERS]
        raise UnsupportedFormat(
            f"torch cannot convert this model to ONNX ({message}); change the model, or export to "
            "another format"
        ) from error


def _to_inputs(
    graph: ir.Graph, artifact: Artifact, dense: Collection[str]
) -> dict[str, list[ir.Value]]:
    """Turn palettized weights into inputs; return weight -> its inputs, one for each name."""
    first_names = artifact.first_names()
    weights: dict[str, list[ir.Value]] = {}
    for state, value in list(graph.initializers.items()):
        name = first_names.get(state, "")
        if name in artifact.weights and name not in dense:
            graph.initializers.pop(state)
            value.const_value = None
            graph.inputs.append(value)
            weights.setdefault(name, []).append(value)
    return weights


def _add_palettes(
    graph: ir.Graph, artifact: Artifact, weights: Mapping[str, Sequence[ir.Value]]
) -> None:
    """Put nodes that compute weights in the places of inputs."""
    for name, values in weights.items():
        tape = Tape()
        result = WeightNodes(tape, artifact, name).add()
        first = values[0]
        result.name, result.type, result.shape = first.name, first.type, first.shape
        for value in values:
            graph.inputs.remove(value)
            ir.convenience.replace_all_uses_with(value, result)
        for stored in tape.initializers:
            graph.register_initializer(stored)
        graph.extend(tape.nodes)
    graph.sort()  # which moves each weight's nodes before its first use


def _clear_metadata(model: ir.Model) -> None:
    """Remove what torch notes about its conversion, such as stack traces: files are to be small."""
    ClearMetadataAndDocStringPass()(model)
    for value in ir.convenience.create_value_mapping(model.graph).values():
        value.metadata_props.clear()


def _size_bytes(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.nbytes


def check(path: Path, program: ExportedProgram, artifact: Artifact, dense: Collection[str]) -> None:
    """Compare weights and outputs, as onnxruntime computes them, with the artifact and with torch.

    Raises:
        InvalidArtifact: a weight or an output differs.
    """
    model = ir.load(path)
    values = ir.convenience.create_value_mapping(model.graph)
    first_names = artifact.first_names()
    for name in sorted(set(palettized_inputs(program, artifact, dense).values())):
        named = [value for alias, value in values.items() if first_names.get(alias) == name]
        if _decode(model, named) != artifact.dense(name).tobytes():
            raise InvalidArtifact(f"{name}: the ONNX model as read back is not LUT[indices]")
    inputs = random_inputs(program)
    session = _session(str(path))
    names = [each.name for each in session.get_inputs()]  # others, if it returns an input
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs.values(), strict=True)}
    check_outputs(program, inputs, session.run(None, feeds), "ONNX")


def _decode(model: ir.Model, named: Sequence[ir.Value]) -> bytes | None:
    """Return the bytes of a weight, by any of its names, as onnxruntime computes them.

    None if it is not computed.
    """
    if not named or any(value.producer() is None for value in named):
        return None
    graph = ir.convenience.extract(model.graph, [], [named[0]])
    part = ir.Model(graph, ir_version=model.ir_version)
    (weight,) = _session(ir.to_proto(part).SerializeToString()).run(None, {})
    array: NDArray[Any] = weight
    return array.tobytes()


def _session(model: bytes | str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # without affinity to processors
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
