"""Modules as a Hugging Face config.json tells of them, where transformers is installed.

The config is handed to `app.checkpoints.hf_worker`, a process with limits; what it builds is used
only when it has every weight of the checkpoint, under the same name and in the same shape.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from app.checkpoints.hf_match import BuiltModel, Fit, best_fit, is_weight, modules_of, with_ties
from app.checkpoints.json_scan import shown
from app.checkpoints.safetensors import shown_shape
from app.confined import environment
from app.settings import Limits
from schemas.base import Schema
from schemas.checkpoint import Module, StoredTensor

Problem = Literal["no_extra", "unknown_type", "remote_code", "too_many_modules", "does_not_build"]

_SAID: Mapping[Problem, str] = {
    "no_extra": "reading it needs transformers, which this installation lacks; "
    "install palettery[hf] for exact types",
    "unknown_type": "its model type {said} is none that the installed transformers has",
    "remote_code": "its model type {said} needs Python code from outside transformers, "
    "which is never run",
    "too_many_modules": "it describes a far larger model than the checkpoint holds; "
    "send the config.json of this checkpoint",
    "does_not_build": "transformers builds no model from it ({said})",
}
ALONE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
"""No network, one thread."""
_OUTPUT_BYTES = 64 << 20
_SPARE_MODULES, _MODULES_PER_TENSOR = 10_000, 20


class Answer(Schema):
    """What the worker answers: models, the likeliest first, or why there are none."""

    models: tuple[BuiltModel, ...] = ()
    problem: Problem | None = None
    said: str = ""


@dataclass(frozen=True)
class ConfigModules:
    """What a config.json tells of a checkpoint."""

    modules: tuple[Module, ...]
    """Under the checkpoint's names, parents before children."""
    tensors: tuple[StoredTensor, ...]
    """The checkpoint's, with the names that the model ties to theirs as aliases."""


class ConfigUnusable(Exception):
    """The config is of no use; the message tells the user why, and what happens instead."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the model's config.json was not used: {reason}; "
            "module types are inferred from names and shapes"
        )


def modules_from_config(
    text: str, tensors: Sequence[StoredTensor], limits: Limits
) -> ConfigModules:
    """Exact modules of a checkpoint, from the config.json beside it.

    Raises:
        ConfigUnusable: with a sentence for the plan.
    """
    if not any(is_weight(tensor) for tensor in tensors):
        raise ConfigUnusable("the checkpoint holds no weight matrix to compare with it")
    answer = _ask(text, _SPARE_MODULES + _MODULES_PER_TENSOR * len(tensors), limits.hf_timeout_s)
    if answer.problem is not None:
        raise ConfigUnusable(_SAID[answer.problem].format(said=shown(answer.said)))
    fit = best_fit(answer.models, tensors)
    if fit.missing:
        raise ConfigUnusable(_unfit(fit))
    modules = modules_of(fit, tensors)
    return ConfigModules(modules, with_ties(fit, modules, tensors))


def _unfit(fit: Fit) -> str:
    example = fit.missing[0]
    shape = fit.parameters.get(example.name)
    known = "which it has not" if shape is None else f"which it has in shape {shown_shape(shape)}"
    missing = f"{shown(example.name)} of shape {shown_shape(example.shape)}"
    return (
        f"transformers' {fit.model.name} has {fit.found:,} of the checkpoint's {fit.weights:,} "
        f"weights; not, for example, {missing}, {known} "
        "(some models' weights are renamed or fused when transformers loads them)"
    )


def _ask(text: str, modules_most: int, timeout_s: float) -> Answer:
    """Start the worker, wait for its answer, and leave nothing behind.

    Raises:
        ConfigUnusable: it gave none.
    """
    request = {
        "config": text,
        "modules_most": modules_most,
        "cpu_s": math.ceil(timeout_s),
        "output_bytes": _OUTPUT_BYTES,
    }
    with tempfile.TemporaryDirectory(prefix="palettery-hf-") as folder:
        here, answered = Path(folder, "empty"), Path(folder, "answer")
        here.mkdir()
        with answered.open("wb") as out:
            _run(json.dumps(request).encode(), out.fileno(), here, timeout_s)
        with answered.open("rb") as written:
            answer = written.read(_OUTPUT_BYTES)
    try:
        return Answer.model_validate_json(answer)
    except ValidationError as error:
        raise ConfigUnusable("building the model went over the limits of memory or time") from error


def _run(request: bytes, out: int, here: Path, timeout_s: float) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "app.checkpoints.hf_worker"],
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=subprocess.DEVNULL,
        cwd=here,
        env=environment(here, **ALONE),
        start_new_session=True,
    )
    with worker:
        try:
            worker.communicate(request, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ConfigUnusable(
                f"building the model took over the {timeout_s:g} s allowed "
                "(PALETTERY_LIMIT_HF_TIMEOUT_S)"
            ) from error
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
