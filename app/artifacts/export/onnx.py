"""ONNX: a model whose weights are computed from packed indices and LUTs, run by onnxruntime.

torch converts the graph. Palettized weights are inputs of it for that time, so that no pass folds
or transposes them; then nodes that compute them take their places.

Source: torch 2.13, onnx-ir 1.1, onnxruntime 1.32.
"""

from collections.abc import Collection, Sequence
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
    names = _to_inputs(converted.model.graph, artifact, dense)
    converted.optimize()
    model: ir.Model = converted.model
    _add_palettes(model.graph, artifact, names)
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


def _to_inputs(graph: ir.Graph, artifact: Artifact, dense: Collection[str]) -> dict[str, str]:
    """Turn palettized weights into inputs; return input -> first name of the weight."""
    first_names = artifact.first_names()
    names: dict[str, str] = {}
    for state, value in list(graph.initializers.items()):
        name = first_names.get(state, "")
        if name in artifact.weights and name not in dense:
            graph.initializers.pop(state)
            value.const_value = None
            graph.inputs.append(value)
            names[state] = name
    return names


def _add_palettes(graph: ir.Graph, artifact: Artifact, names: dict[str, str]) -> None:
    """Put nodes that compute weights in the places of inputs."""
    weights: dict[str, list[ir.Value]] = {}
    for value in list(graph.inputs):
        if (name := names.get(value.name or "")) is not None:
            graph.inputs.remove(value)
            weights.setdefault(name, []).append(value)
    for name, values in weights.items():
        tape = Tape()
        result = WeightNodes(tape, artifact, name).add()
        result.type, result.shape = values[0].type, values[0].shape
        first = _first_use(graph, values)
        for value in values:
            value.name = None
            ir.convenience.replace_all_uses_with(value, result, replace_graph_outputs=True)
        result.name = name
        for stored in tape.initializers:
            graph.register_initializer(stored)
        if first is None:
            graph.extend(tape.nodes)
        else:
            graph.insert_before(first, tape.nodes)


def _first_use(graph: ir.Graph, values: Sequence[ir.Value]) -> ir.Node | None:
    """Return the first node that needs a weight, so that it is computed just before.

    The first of all if a subgraph needs it; None if only the caller does.
    """
    users = {node for value in values for node in value.consumers()}
    for node in graph:
        if node in users or any(user.graph is not graph for user in users):
            return node
    return None


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
    for name in sorted(set(palettized_inputs(program, artifact, dense).values())):
        if _decode(model, name) != artifact.dense(name).tobytes():
            raise InvalidArtifact(f"{name}: the ONNX model as read back is not LUT[indices]")
    inputs = random_inputs(program)
    session = _session(str(path))
    feeds = {each.name: inputs[each.name].numpy() for each in session.get_inputs()}
    check_outputs(program, inputs, session.run(None, feeds), "ONNX")


def _decode(model: ir.Model, name: str) -> bytes | None:
    """Return the bytes of a weight as onnxruntime computes them; None if they are not computed."""
    value = ir.convenience.create_value_mapping(model.graph).get(name)
    if value is None or value.producer() is None:
        return None
    graph = ir.convenience.extract(model.graph, [], [value])
    part = ir.Model(graph, ir_version=model.ir_version)
    (weight,) = _session(ir.to_proto(part).SerializeToString()).run(None, {})
    array: NDArray[Any] = weight
    return array.tobytes()


def _session(model: bytes | str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # without affinity to processors
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
