"""A model with an artifact's weights, run by torch.

torch loads a `.pt2` that is written here from the part of the graph that `read_runnable` accepts,
and from weights as bytes. torch never reads the uploaded file itself.

Source: torch 2.13, `torch/export/pt2_archive/_package.py`.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.export.pt2_archive import PT2ArchiveWriter
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from palettery.app.artifacts.export.operator_checks import CheckedOperators
from palettery.app.artifacts.export.request import ExportSource
from palettery.app.artifacts.palette_arrays import LocatedTensor
from palettery.app.artifacts.reader import Artifact
from palettery.app.checkpoints.dense import dense_chunks
from palettery.app.checkpoints.dtypes import DTYPES
from palettery.app.checkpoints.pt2_runnable import Runnable
from palettery.app.errors import InvalidArtifact, PaletteryError
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import Checkpoint, StoredTensor

MODEL = "model"
"""Name of the one model in an archive."""


@dataclass(frozen=True)
class StateTensor:
    """A parameter or a buffer."""

    name: str
    dtype: str
    """Its safetensors dtype name."""
    shape: tuple[int, ...]
    read: Callable[[], bytes]
    """Return its bytes, row-major."""


@dataclass(frozen=True)
class StateDict:
    """All parameters and buffers of a model."""

    tensors: Sequence[StateTensor]
    tied: Mapping[str, str]
    """Every other name of a tensor -> its first name."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every name -> shape."""
        shapes = {tensor.name: tensor.shape for tensor in self.tensors}
        return shapes | {alias: shapes[name] for alias, name in self.tied.items()}


def artifact_state_dict(artifact: Artifact) -> StateDict:
    """Return an artifact's tensors, decoded."""
    palettized = [
        StateTensor(name, weight.dtype, weight.shape, partial(_decode_weight, artifact, name))
        for name, weight in artifact.weights.items()
    ]
    kept = [
        StateTensor(
            name, stored.tensor.dtype, stored.tensor.shape, partial(_read_kept, artifact, stored)
        )
        for name, stored in artifact.kept_tensors.items()
    ]
    return StateDict([*palettized, *kept], artifact.tied_names())


def uploaded_state_dict(checkpoint: Checkpoint, storage: Storage) -> StateDict:
    """Return the tensors of the uploaded model."""

    def read(tensor: StoredTensor) -> bytes:
        return b"".join(dense_chunks(storage, checkpoint.files[tensor.file].path, tensor))

    return StateDict(
        [
            StateTensor(tensor.name, tensor.dtype, tensor.shape, partial(read, tensor))
            for tensor in checkpoint.tensors
        ],
        {alias: tensor.name for tensor in checkpoint.tensors for alias in tensor.aliases},
    )


def load_program(
    runnable: Runnable, tensors: StateDict, source: ExportSource, folder: Path
) -> ExportedProgram:
    """Return the model of a `.pt2` with other weights; the folder is for temporary files."""
    archive = folder / f"{MODEL}.pt2"
    _write(archive, runnable, tensors, source)
    return torch.export.load(archive)


def call(program: ExportedProgram, inputs: Mapping[str, torch.Tensor]) -> Any:
    """Run a model on inputs, by name, and return its output.

    Arguments that the graph has as constants, such as numbers, keep their values.
    """
    specs = program.graph_signature.input_specs
    arguments = [spec.arg for spec in specs if spec.kind is InputKind.USER_INPUT]
    flat = [
        argument.value if isinstance(argument, ConstantArgument) else inputs[argument.name]
        for argument in arguments
    ]
    args, kwargs = pytree.tree_unflatten(flat, program.call_spec.in_spec)
    with torch.no_grad(), CheckedOperators():
        return program.module()(*args, **kwargs)


@contextmanager
def library_errors(translate: Callable[[Exception], Exception]) -> Iterator[None]:
    """Raise exceptions of torch and what builds on it as MemoryError, or as `translate` says.

    Raises:
        MemoryError: torch had too little memory.
    """
    try:
        yield
    except (PaletteryError, MemoryError):
        raise
    except Exception as error:
        if "DefaultCPUAllocator" in str(error):
            raise MemoryError from error
        raise translate(error) from error


def palettized_inputs(
    program: ExportedProgram, artifact: Artifact, dense: Collection[str]
) -> dict[str, str]:
    """Return graph input -> palettized weight, for the inputs that the outputs depend on.

    A weight without a stored value is a constant, and not among them.
    """
    first_names = artifact.first_names()
    signature = program.graph_signature
    states = signature.inputs_to_parameters | signature.inputs_to_buffers
    needed = {node.name for node in _needed(program.graph)}
    return {
        argument: name
        for argument, state in states.items()
        if (name := first_names.get(state, "")) in artifact.weights
        and name not in dense
        and artifact.weights[name].stored != 0
        and argument in needed
    }


def _needed(graph: Graph) -> set[Node]:
    """Return the nodes that the outputs depend on; converters omit the others."""
    needed: set[Node] = set()
    waiting = [node for node in graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return needed


def _write(to: Path, runnable: Runnable, tensors: StateDict, source: ExportSource) -> None:
    parameters = runnable.program.parameters()
    with PT2ArchiveWriter(str(to)) as archive:
        archive.write_string(f"models/{MODEL}.json", runnable.program.document())
        archive.write_bytes(f"data/sample_inputs/{MODEL}.pt", b"")
        archive.write_string("byteorder", "little")
        weights: dict[str, Any] = {}
        for number, tensor in enumerate(tensors.tensors):
            member, is_parameter = f"weight_{number}", tensor.name in parameters
            archive.write_bytes(f"data/weights/{member}", tensor.read())
            weights[tensor.name] = _payload(member, tensor.dtype, tensor.shape, is_parameter)
        for alias, name in tensors.tied.items():
            weights[alias] = weights[name] | {"is_param": alias in parameters}
        _write_config(archive, "weights", weights)
        constants = {}
        for number, constant in enumerate(runnable.constants):
            name = f"tensor_{number}"
            data = b"".join(dense_chunks(source.storage, source.file.path, constant))
            archive.write_bytes(f"data/constants/{name}", data)
            constants[constant.name] = _payload(name, constant.dtype, constant.shape, False)
        _write_config(archive, "constants", constants)


def _decode_weight(artifact: Artifact, name: str) -> bytes:
    return artifact.dense(name).tobytes()


def _read_kept(artifact: Artifact, stored: LocatedTensor) -> bytes:
    return bytes(artifact.data(stored))


def _payload(member: str, dtype: str, shape: tuple[int, ...], is_parameter: bool) -> dict[str, Any]:
    """Return the metadata of a row-major tensor in an archive."""
    number = DTYPES[dtype].number
    if number is None:
        raise InvalidArtifact(
            f"the artifact has a tensor of dtype {dtype}, which no .pt2 can hold; "
            "is it of another model?"
        )
    steps = np.cumprod((1, *shape[:0:-1]), dtype=np.int64)[::-1][: len(shape)]
    return {
        "path_name": member,
        "is_param": is_parameter,
        "use_pickle": False,
        "tensor_meta": {
            "dtype": number,
            "sizes": [{"as_int": length} for length in shape],
            "requires_grad": False,
            "device": {"type": "cpu", "index": None},
            "strides": [{"as_int": int(step)} for step in steps],
            "storage_offset": {"as_int": 0},
            "layout": 7,
        },
    }


def _write_config(archive: Any, of: str, payloads: Mapping[str, Any]) -> None:
    archive.write_string(f"data/{of}/{MODEL}_{of}_config.json", json.dumps({"config": payloads}))
