"""Runs a model before and after, in a sandbox; `palettery.app.evaluation.evaluate` asks for it."""

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from palettery.app.artifacts.export.inputs import open_inputs
from palettery.app.artifacts.export.live_model import (
    States,
    call,
    is_out_of_memory,
    load_program,
    states_of,
    uploaded_states,
)
from palettery.app.checkpoints.pt2 import read_pt2
from palettery.app.checkpoints.pt2_runnable import read_runnable
from palettery.app.errors import BadInput, InvalidArtifact
from palettery.app.evaluation.evaluate import INPUTS, EvaluationRequest
from palettery.kernels.metrics import errors
from palettery.schemas.evaluation import ComparedOutput


def answer(request: bytes) -> bytes:
    """Each output of a model, compared with what it is with an artifact's weights."""
    asked, folder = EvaluationRequest.model_validate_json(request), Path.cwd()
    artifact, source = open_inputs(asked.inputs, folder)
    storage, file = source.storage, source.file
    uploaded = read_pt2(storage, file, asked.limits)
    before, after = uploaded_states(uploaded, storage), states_of(artifact)
    _check_same(before, after)
    runnable = read_runnable(storage, file, asked.limits)
    found = []
    for states in (before, after):
        with tempfile.TemporaryDirectory(dir=folder) as between:
            program = load_program(runnable, states, source, Path(between))
        found.append(_run(program, _given(program, asked.tensors_name), asked.tensors_name))
    outputs = [
        compared(pytree.keystr(path), ours, theirs)
        for (path, ours), (_, theirs) in zip(*map(_leaves, found), strict=True)
        if isinstance(ours, torch.Tensor)
    ]
    # Not pydantic's JSON, which has null where a number is infinite.
    return json.dumps([output.model_dump() for output in outputs]).encode()


def compared(name: str, before: torch.Tensor, after: torch.Tensor) -> ComparedOutput:
    """How far two outputs are apart."""
    was, now = (each.detach().double().reshape(-1) for each in (before, after))
    apart, length = errors(was, now), float(was.norm() * now.norm())
    return ComparedOutput(
        name=name,
        shape=tuple(before.shape),
        snr_db=apart.snr_db if math.isfinite(apart.snr_db) else None,
        cosine=float(was @ now) / length if length else 1.0,
        max_error=apart.max_error,
    )


def _leaves(output: object) -> list[tuple[pytree.KeyPath, object]]:
    return pytree.tree_flatten_with_path(output)[0]


def _run(program: ExportedProgram, given: Mapping[str, torch.Tensor], inputs: str) -> object:
    try:
        return call(program, given)
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        said = str(error).strip().rpartition("\n")[2] or type(error).__name__
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in given.items())
        raise BadInput(f"the model cannot run on {inputs} ({shapes}): {said}") from error


def _given(program: ExportedProgram, inputs: str) -> Mapping[str, torch.Tensor]:
    wanted = program.graph_signature.user_inputs
    found = load_file(INPUTS)
    missing = [name for name in wanted if name not in found]
    if missing or len(found) > len(wanted):
        raise BadInput(
            f"the model's inputs are {', '.join(map(str, wanted))}; {inputs} has "
            f"{', '.join(found) or 'none'}: name its tensors so"
        )
    return found


def _check_same(before: States, after: States) -> None:
    for name, shape in before.shapes().items():
        if after.shapes().get(name) != shape:
            raise InvalidArtifact(
                f"the artifact has no {name} of shape {list(shape)}; is it of another model?"
            )
