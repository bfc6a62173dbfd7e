"""Core AI: an `.aimodel`, zipped, whose weights are looked up in palettes where they are used.

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
from torch.utils import _pytree as pytree

from palettery.app.artifacts.export.live_model import call, looked_up
from palettery.app.artifacts.pytorch import SCALE, tensor_of
from palettery.app.artifacts.reader import Artifact
from palettery.app.errors import InvalidArtifact

TOLERANCE, EPSILONS = 1e-4, 16
"""Between what Core AI and torch compute, of the largest value; or so many times its precision."""


def convert(program: ExportedProgram, artifact: Artifact, dense: Collection[str], to: Path) -> None:
    """Write a model with its weights looked up, but for the `dense`."""
    decomposed = program.run_decompositions(coreai_torch.get_decomp_table())
    converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
    converter.add_exported_program(_looked_up(decomposed, artifact, dense))
    converter.to_coreai().save_asset(to)


def check(path: Path, program: ExportedProgram, artifact: Artifact, dense: Collection[str]) -> None:
    """Look for each palette in a model as it is stored; run the model, and compare what it gives.

    Raises:
        InvalidArtifact: a palette is not there, or the model computes something else.
    """
    with (path / "main.mlirb").open("rb") as file:
        stored = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for name in set(looked_up(program, artifact, dense).values()):
            for array in (artifact.array(artifact.palettes[name]["indices"]), artifact.lut(name)):
                is_told_once = np.all(array == array.reshape(-1)[0])  # as MLIR has constants
                if not is_told_once and stored.find(array.tobytes()) < 0:
                    raise InvalidArtifact(f"{name}: the Core AI model has not its palette")
    given = _inputs(program)
    expected = pytree.tree_leaves(call(program, given))
    found = asyncio.run(_run(path, given))
    for number, (theirs, ours) in enumerate(
        zip(found, map(torch.as_tensor, expected), strict=True)
    ):
        precision = torch.finfo(ours.dtype).eps if ours.is_floating_point() else 0.0
        wanted = ours.detach().double().numpy()
        limit = max(TOLERANCE, EPSILONS * precision) * max(1.0, np.abs(wanted).max(initial=0.0))
        if np.abs(theirs.reshape(wanted.shape) - wanted).max(initial=0.0) > limit:
            raise InvalidArtifact(f"output {number} of the Core AI model is another than torch's")


def _inputs(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Something for the model to compute on; whole numbers are small, so that they are in range."""
    numbers = torch.Generator().manual_seed(0)
    found = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
            like = node.meta["val"]
            shape = [_length(length, program) for length in like.shape]
            if like.dtype.is_floating_point:
                found[node.name] = torch.randn(shape, generator=numbers).to(like.dtype)
            else:
                found[node.name] = torch.randint(0, 2, shape, generator=numbers).to(like.dtype)
    return found


def _length(length: Any, program: ExportedProgram) -> int:
    """Of an axis; of one that is left open, a short one that may be."""
    if isinstance(length, int):
        return length
    least = {
        symbol: max(2, int(bounds.lower)) for symbol, bounds in program.range_constraints.items()
    }
    return int(length.node.expr.subs(least))


async def _run(path: Path, given: dict[str, torch.Tensor]) -> list[NDArray[np.float64]]:
    async with AIModelAsset.load(path).executable() as model:
        function = model.load_function("main")
        answer: Any = await function(
            {name: CoreArray(_narrow(each).numpy()) for name, each in given.items()}
        )
        return [answer[name].numpy().astype(np.float64) for name in function.desc.output_names]


def _narrow(tensor: torch.Tensor) -> torch.Tensor:
    """Core AI has no whole numbers of eight bytes."""
    return tensor.int() if tensor.dtype == torch.int64 else tensor


def _looked_up(
    program: ExportedProgram, artifact: Artifact, dense: Collection[str]
) -> ExportedProgram:
    """The program with a palette in place of each palettized weight that it is given."""
    palettized = looked_up(program, artifact, dense)
    graph, state = program.graph_module.graph, dict(program.state_dict)
    given = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    body = next(node for node in graph.nodes if node.op != "placeholder")
    specs: list[InputSpec] = []
    for spec in program.graph_signature.input_specs:
        name = palettized.get(spec.arg.name)
        if name is None:
            specs.append(spec)
            continue
        node = given[spec.arg.name]
        held: dict[str, Node] = {}
        for key, tensor in _stored(artifact, name):
            with graph.inserting_before(node):
                held[key] = graph.placeholder(f"{node.name}_{key}")
            mode = node.meta["val"].fake_mode
            held[key].meta["val"] = mode.from_tensor(tensor)
            target = f"{spec.target}.{key}"
            state[target] = tensor
            specs.append(InputSpec(InputKind.BUFFER, TensorArgument(held[key].name), target, True))
        with graph.inserting_before(body):
            node.replace_all_uses_with(_look_up(graph, held, node.meta["val"]))
        graph.erase_node(node)
        state.pop(spec.target, None)
    signature = program.graph_signature
    signature.input_specs[:] = specs
    graph.lint()
    program.graph_module.recompile()
    return program._update(program.graph_module, signature, state_dict=state)


def _stored(artifact: Artifact, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Indices and palettes of a weight; a palette that was quantized is as exact in its dtype."""
    yield "indices", tensor_of(artifact.palette(name).indices)
    yield "lut", tensor_of(artifact.lut(name))
    parts = artifact.palettes[name]
    if SCALE in parts:
        yield "scale", tensor_of(artifact.array(parts[SCALE]))


def _look_up(graph: Graph, held: dict[str, Node], weight: Any) -> Node:
    """Nodes that compute a weight as our decoder does."""
    ops = torch.ops
    found = _call(graph, ops.coreai.lut_to_dense.default, (held["indices"], held["lut"], 0), weight)
    if "scale" in held:
        wide = weight.float()
        found = _call(graph, ops.aten._to_copy.default, (found,), wide, dtype=torch.float32)
        found = _call(graph, ops.aten.mul.Tensor, (found, held["scale"]), wide)
        found = _call(graph, ops.aten._to_copy.default, (found,), weight, dtype=weight.dtype)
    return found


def _call(graph: Graph, function: Any, args: tuple[Any, ...], gives: Any, **more: Any) -> Node:
    node = graph.call_function(function, args, more)
    node.meta["val"] = gives
    return node
