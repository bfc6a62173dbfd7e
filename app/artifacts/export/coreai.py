"""Core AI: a zipped `.aimodel`, whose weights are decoded from palettes at run time.

Source: coreai-core 1.0.0b3 and coreai-torch 0.4.3; a palette is `coreai.lut_to_dense`.
"""

import asyncio
import mmap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import coreai_torch
import coreai_torch._compression.custom_layers  # which registers the operators
import numpy as np
import torch
from coreai.authoring import AIModelAsset
from coreai.runtime import NDArray as CoreArray
from coreai_torch import TorchConverter
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Graph, Node

from palettery import kernels
from palettery.app.artifacts.export.live_model import palettized_inputs
from palettery.app.artifacts.export.output_checks import check_outputs, random_inputs
from palettery.app.artifacts.packed_weights import SCALE
from palettery.app.artifacts.pytorch import to_tensor
from palettery.app.artifacts.reader import Artifact
from palettery.app.errors import InvalidArtifact
from palettery.kernels import Palette
from palettery.kernels.arrays import to_numpy


def convert(program: ExportedProgram, artifact: Artifact, dense: Collection[str], to: Path) -> None:
    """Write a model with palettized weights, except for the `dense` ones."""
    _pad_weights(program, artifact, dense)
    decomposed = program.run_decompositions(coreai_torch.get_decomp_table())
    converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
    converter.add_exported_program(_with_palettes(decomposed, artifact, dense))
    converter.to_coreai().save_asset(to)


def check(path: Path, program: ExportedProgram, artifact: Artifact, dense: Collection[str]) -> None:
    """Search the stored model for each palette, run it, and compare its outputs with torch.

    Raises:
        InvalidArtifact: a palette is missing, or an output differs.
    """
    with (path / "main.mlirb").open("rb") as file:
        stored = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for name in set(palettized_inputs(program, artifact, dense).values()):
            for array in _stored_arrays(artifact, name):
                is_constant = np.all(array == array.reshape(-1)[0])  # MLIR stores one value
                if not is_constant and stored.find(array.tobytes()) < 0:
                    raise InvalidArtifact(f"{name}: the Core AI model lacks its palette")
    inputs = random_inputs(program)
    check_outputs(program, inputs, asyncio.run(_run(path, inputs)), "Core AI")


def _stored_arrays(artifact: Artifact, name: str) -> Iterator[NDArray[Any]]:
    """Yield the constants of a weight as the model stores them."""
    for key, tensor in _constants(artifact, name):
        if key == "indices":
            yield kernels.pack(to_numpy(tensor), artifact.weights[name].n_bits)
        elif key in ("lut", "quantized"):
            yield to_numpy(tensor)


def _pad_weights(program: ExportedProgram, artifact: Artifact, dense: Collection[str]) -> None:
    """Give the program's weights the values that their padded palettes have."""
    first_names = artifact.first_names()
    for state, tensor in program.state_dict.items():
        name = first_names.get(state, "")
        if name in artifact.weights and name not in dense and artifact.has_unequal_groups(name):
            padded = kernels.reconstruct(_sparse_palette(artifact, name))
            tensor.data.copy_(to_tensor(padded))


def _sparse_palette(artifact: Artifact, name: str) -> Palette:
    """Return a palette whose groups store equal numbers of values, as `lut_to_dense` needs."""
    palette = artifact.palette(name)
    return kernels.pad_groups(palette) if artifact.has_unequal_groups(name) else palette


async def _run(path: Path, inputs: dict[str, torch.Tensor]) -> list[NDArray[np.float64]]:
    async with AIModelAsset.load(path).executable() as model:
        function = model.load_function("main")
        outputs: Any = await function(
            {name: CoreArray(_narrow(each).numpy()) for name, each in inputs.items()}
        )
        return [outputs[name].numpy().astype(np.float64) for name in function.desc.output_names]


def _narrow(tensor: torch.Tensor) -> torch.Tensor:
    """Convert int64, which Core AI lacks, to int32."""
    return tensor.int() if tensor.dtype == torch.int64 else tensor


def _with_palettes(
    program: ExportedProgram, artifact: Artifact, dense: Collection[str]
) -> ExportedProgram:
    """Return the program with a palette in place of each palettized weight."""
    palettized = palettized_inputs(program, artifact, dense)
    graph, state = program.graph_module.graph, dict(program.state_dict)
    placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    body = next(node for node in graph.nodes if node.op != "placeholder")
    specs: list[InputSpec] = []
    for spec in program.graph_signature.input_specs:
        name = palettized.get(spec.arg.name)
        if name is None:
            specs.append(spec)
            continue
        node = placeholders[spec.arg.name]
        arrays: dict[str, Node] = {}
        for key, tensor in _constants(artifact, name):
            with graph.inserting_before(node):
                arrays[key] = graph.placeholder(f"{node.name}_{key}")
            mode = node.meta["val"].fake_mode
            arrays[key].meta["val"] = mode.from_tensor(tensor)
            target = f"{spec.target}.{key}"
            state[target] = tensor
            specs.append(
                InputSpec(InputKind.BUFFER, TensorArgument(arrays[key].name), target, True)
            )
        with graph.inserting_before(body):
            node.replace_all_uses_with(_decode(graph, arrays, node.meta["val"]))
        graph.erase_node(node)
        state.pop(spec.target, None)
    signature = program.graph_signature
    signature.input_specs[:] = specs
    graph.lint()
    program.graph_module.recompile()
    return program._update(program.graph_module, signature, state_dict=state)


def _constants(artifact: Artifact, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield indices, LUT, mask and scale of a weight; its dtype holds a quantized LUT exactly.

    An 8-bit LUT of 8-bit indices is not needed: then these are the 8-bit weights and their scale.
    """
    quantized = artifact.quantized(name)
    if quantized is not None:
        yield from ((key, to_tensor(array)) for key, array in quantized.items())
        return
    lut, parts = artifact.lut(name), artifact.palettes[name]
    if "mask" in parts:
        palette = _sparse_palette(artifact, name)
        if palette.lut_scale is None:
            lut = palette.lut
        yield "mask", to_tensor(palette.mask)
        lut = lut.reshape(-1, *lut.shape[-2:])  # beside indices of rank 1
    else:
        palette = artifact.palette(name)
    yield "indices", to_tensor(palette.indices)
    yield "lut", to_tensor(lut)
    if SCALE in parts:
        yield "scale", to_tensor(artifact.array(parts[SCALE]))


def _decode(graph: Graph, arrays: dict[str, Node], weight: Any) -> Node:
    """Add nodes that compute a weight as our decoder does; return the last."""
    ops = torch.ops
    lookup, cast = ops.coreai.lut_to_dense.default, ops.aten._to_copy.default
    shift_scale = ops.coreai.constexpr_blockwise_shift_scale.default
    if "quantized" in arrays:
        return _call(graph, shift_scale, tuple(arrays.values()), weight)
    if "mask" in arrays:
        indices, lut = arrays["indices"], arrays["lut"]
        count = indices.meta["val"].shape[0] * lut.meta["val"].shape[-1]
        node = _call(graph, lookup, (indices, lut, 0), weight.new_empty(count))
        node = _call(graph, ops.coreai.sparse_to_dense.default, (node, arrays["mask"]), weight)
        if "scale" in arrays:
            wide = weight.float()
            node = _call(graph, shift_scale, (node, arrays["scale"]), wide)
            node = _call(graph, cast, (node,), weight, dtype=weight.dtype)
        return node
    node = _call(graph, lookup, (arrays["indices"], arrays["lut"], 0), weight)
    if "scale" in arrays:
        wide = weight.float()
        node = _call(graph, cast, (node,), wide, dtype=torch.float32)
        node = _call(graph, ops.aten.mul.Tensor, (node, arrays["scale"]), wide)
        node = _call(graph, cast, (node,), weight, dtype=weight.dtype)
    return node


def _call(graph: Graph, function: Any, args: tuple[Any, ...], result: Any, **more: Any) -> Node:
    node = graph.call_function(function, args, more)
    node.meta["val"] = result
    return node
