"""Sandboxed process that runs a model before and after palettization, for `evaluate`."""

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from palettery.app.artifacts.export.live_model import (
    StateDict,
    artifact_state_dict,
    call,
    is_out_of_memory,
    load_program,
    uploaded_state_dict,
)
from palettery.app.artifacts.export.sandbox_files import open_sandbox_files
from palettery.app.checkpoints.pt2 import read_pt2
from palettery.app.checkpoints.pt2_runnable import read_runnable
from palettery.app.errors import BadInput, InvalidArtifact
from palettery.app.evaluation.evaluate import INPUTS, EvaluationRequest
from palettery.kernels.metrics import errors
from palettery.schemas.evaluation import ComparedOutput


def answer(request: bytes) -> bytes:
    """Compare each output of a model with the output that an artifact's weights give."""
    evaluation, folder = EvaluationRequest.model_validate_json(request), Path.cwd()
    artifact, source = open_sandbox_files(evaluation.files, folder)
    storage, file = source.storage, source.file
    uploaded = read_pt2(storage, file, evaluation.limits)
    before, after = uploaded_state_dict(uploaded, storage), artifact_state_dict(artifact)
    _check_same(before, after)
    runnable = read_runnable(storage, file, evaluation.limits)
    results = []
    for tensors in (before, after):
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            program = load_program(runnable, tensors, source, Path(temporary))
        inputs = _load_inputs(program, evaluation.inputs_name)
        results.append(_run(program, inputs, evaluation.inputs_name))
    outputs = [
        compare(pytree.keystr(path), ours, theirs)
        for (path, ours), (_, theirs) in zip(*map(_leaves, results), strict=True)
        if isinstance(ours, torch.Tensor)
    ]
    # pydantic's JSON would have null for infinite numbers.
    return json.dumps([output.model_dump() for output in outputs]).encode()


def compare(name: str, before: torch.Tensor, after: torch.Tensor) -> ComparedOutput:
    """Compare two outputs."""
    old, new = (each.detach().double().reshape(-1) for each in (before, after))
    error, length = errors(old, new), float(old.norm() * new.norm())
    return ComparedOutput(
        name=name,
        shape=tuple(before.shape),
        snr_db=error.snr_db if math.isfinite(error.snr_db) else None,
        cosine=float(old @ new) / length if length else 1.0,
        max_error=error.max_error,
    )


def _leaves(output: object) -> list[tuple[pytree.KeyPath, object]]:
    return pytree.tree_flatten_with_path(output)[0]


def _run(program: ExportedProgram, inputs: Mapping[str, torch.Tensor], file: str) -> object:
    try:
        return call(program, inputs)
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        message = str(error).strip().rpartition("\n")[2] or type(error).__name__
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        raise BadInput(f"the model cannot run on {file} ({shapes}): {message}") from error


def _load_inputs(program: ExportedProgram, file: str) -> Mapping[str, torch.Tensor]:
    names = program.graph_signature.user_inputs
    inputs = load_file(INPUTS)
    missing = [name for name in names if name not in inputs]
    if missing or len(inputs) > len(names):
        raise BadInput(
            f"the model's inputs are {', '.join(map(str, names))}; {file} has "
            f"{', '.join(inputs) or 'none'}: name its tensors like the inputs"
        )
    return inputs


def _check_same(before: StateDict, after: StateDict) -> None:
    for name, shape in before.shapes().items():
        if after.shapes().get(name) != shape:
            raise InvalidArtifact(
                f"the artifact has no {name} of shape {list(shape)}; is it of another model?"
            )
