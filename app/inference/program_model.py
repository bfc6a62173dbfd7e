"""A `.pt2` as a model that can be run: its validated graph, with uploaded or decoded weights."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils import _pytree as pytree

from palettery.app.artifacts.export.live_model import StateDict, load_program
from palettery.app.artifacts.export.operator_checks import CheckedOperators
from palettery.app.artifacts.export.request import ExportSource
from palettery.app.checkpoints.pt2_runnable import Runnable
from palettery.app.inference.inputs import InputSpec, Signature, Tensors
from palettery.app.inference.model import LiveModel

EMBEDDING = torch.ops.aten.embedding.default


def open_program(
    runnable: Runnable, tensors: StateDict, source: ExportSource, folder: Path
) -> LiveModel:
    """Return a model of a validated graph; the folder is for temporary files."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        program = load_program(runnable, tensors, source, Path(temporary))
    module = program.module()
    state = module.state_dict(keep_vars=True)
    mutated = {state[name] for name in program.graph_signature.buffers_to_mutate.values()}
    initial_values = [(buffer, buffer.clone()) for buffer in mutated]

    def call(inputs: Tensors) -> Mapping[str, torch.Tensor]:
        for buffer, value in initial_values:  # so that no run depends on an earlier one
            buffer.detach_().copy_(value)
        flat = [inputs[str(name)] for name in program.graph_signature.user_inputs]
        args, kwargs = pytree.tree_unflatten(flat, program.call_spec.in_spec)
        with CheckedOperators():
            output = module(*args, **kwargs)
        return {
            pytree.keystr(path): leaf
            for path, leaf in pytree.tree_flatten_with_path(output)[0]
            if isinstance(leaf, torch.Tensor)
        }

    weights = {
        tensor.name: state[tensor.name] for tensor in tensors.tensors if tensor.name in state
    }
    floating = {name: weight for name, weight in weights.items() if weight.is_floating_point()}
    for weight in floating.values():
        weight.requires_grad_(False)
    return LiveModel(call, floating, _signature(program))


def _signature(program: ExportedProgram) -> Signature:
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = {}
    for input_ in map(str, program.graph_signature.user_inputs):
        value = nodes[input_].meta.get("val")
        spec = InputSpec(input_)
        if isinstance(value, torch.Tensor):
            sizes = tuple(size if isinstance(size, int) else None for size in value.shape)
            spec = InputSpec(input_, value.dtype, sizes, _vocabulary(program, input_))
        specs[input_] = spec
    return Signature(specs)


def _vocabulary(program: ExportedProgram, input_: str) -> int | None:
    """Return the rows of the smallest embedding that an input is an index of."""
    return min(_embedding_rows(program, input_), default=None)


def _embedding_rows(program: ExportedProgram, input_: str) -> Iterator[int]:
    for node in program.graph.nodes:
        if node.target is EMBEDDING:
            table, indices = node.args[:2]
            if isinstance(table, Node) and isinstance(indices, Node) and indices.name == input_:
                yield int(table.meta["val"].shape[0])
