"""A model with its artifact's weights, as torch runs it.

It is read from a `.pt2` that is written anew: of the upload's graph what `read_runnable` lets
through, of its weights what the artifact says. The upload itself never comes near torch.

Source: torch 2.13, `torch/export/pt2_archive/_package.py`.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveWriter
from torch.fx import Graph, Node

from app.artifacts.reader import Artifact
from app.checkpoints.pt2_runnable import Runnable
from app.checkpoints.pt2_weights import DTYPES
from app.compression.dense import dense_chunks
from app.storage import Storage

MODEL = "model"
"""Name of the one model in an archive."""
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}


def load_program(
    runnable: Runnable, artifact: Artifact, source: Storage, path: str, folder: Path
) -> ExportedProgram:
    """The model of a `.pt2` that lies in a store, with LUT[indices] for weights.

    The folder is for files in between.
    """
    archive = folder / f"{MODEL}.pt2"
    _write(archive, runnable, artifact, source, path)
    return torch.export.load(archive)


def looked_up(
    program: ExportedProgram, artifact: Artifact, dense: Collection[str]
) -> dict[str, str]:
    """Input of the graph that its outputs depend on -> the palettized weight that it stands for."""
    firsts = {name: name for name in artifact.weights} | artifact.tied()
    signature = program.graph_signature
    states = signature.inputs_to_parameters | signature.inputs_to_buffers
    needed = {node.name for node in _needed(program.graph)}
    return {
        argument: name
        for argument, state in states.items()
        if (name := firsts.get(state, "")) in artifact.weights
        and name not in dense
        and argument in needed
    }


def _needed(graph: Graph) -> set[Node]:
    """The nodes that the outputs depend on; converters leave the others out."""
    found: set[Node] = set()
    waiting = [node for node in graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _write(to: Path, runnable: Runnable, artifact: Artifact, source: Storage, path: str) -> None:
    parameters = runnable.program.parameters()
    with PT2ArchiveWriter(str(to)) as archive:
        archive.write_string(f"models/{MODEL}.json", runnable.program.document())
        archive.write_bytes(f"data/sample_inputs/{MODEL}.pt", b"")
        archive.write_string("byteorder", "little")
        states, names = {}, {}
        for number, (name, dtype, shape, read) in enumerate(_states(artifact)):
            names[name] = f"weight_{number}"
            archive.write_bytes(f"data/weights/{names[name]}", read().tobytes())
            states[name] = _payload(names[name], dtype, shape, name in parameters)
        for alias, name in artifact.tied().items():
            states[alias] = states[name] | {"is_param": alias in parameters}
        _write_config(archive, "weights", states)
        constants = {}
        for number, constant in enumerate(runnable.constants):
            name = f"tensor_{number}"
            data = b"".join(dense_chunks(source, path, constant))
            archive.write_bytes(f"data/constants/{name}", data)
            constants[constant.name] = _payload(name, constant.dtype, constant.shape, False)
        _write_config(archive, "constants", constants)


def _states(
    artifact: Artifact,
) -> Iterator[tuple[str, str, tuple[int, ...], Callable[[], NDArray[Any]]]]:
    """Name, dtype, shape and how to get at each tensor."""
    for name, weight in artifact.weights.items():
        yield name, weight.dtype, weight.shape, partial(artifact.dense, name)
    for name, kept in artifact.kept.items():
        yield name, kept.tensor.dtype, kept.tensor.shape, partial(artifact.array, kept)


def _payload(member: str, dtype: str, shape: tuple[int, ...], is_parameter: bool) -> dict[str, Any]:
    """What an archive says of a row-major tensor."""
    steps = np.cumprod((1, *shape[:0:-1]), dtype=np.int64)[::-1][: len(shape)]
    return {
        "path_name": member,
        "is_param": is_parameter,
        "use_pickle": False,
        "tensor_meta": {
            "dtype": NUMBERS[dtype],
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
