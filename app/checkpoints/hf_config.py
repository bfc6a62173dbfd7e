"""Modules as a Hugging Face config.json tells of them, where transformers is installed.

The config is handed to `hf_worker` in a sandbox; the model it builds is used only when it has every
weight of the checkpoint, under the same name and in the same shape.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from palettery.app.checkpoints.hf_match import (
    BuiltModel,
    ModelMatch,
    add_tied_aliases,
    best_match,
    is_weight,
    matched_modules,
)
from palettery.app.checkpoints.json_scanner import quote_text
from palettery.app.checkpoints.safetensors import format_shape
from palettery.app.errors import PaletteryError, SandboxMissing
from palettery.app.sandbox import Bounds, run, working_folder
from palettery.app.settings import Limits
from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import Module, StoredTensor

BuildProblem = Literal[
    "no_extra", "unknown_type", "remote_code", "too_many_modules", "does_not_build"
]

_REASONS: Mapping[BuildProblem, str] = {
    "no_extra": "reading it needs transformers, which this installation lacks; "
    "install palettery[hf] for exact types",
    "unknown_type": "its model type {said} is none that the installed transformers has",
    "remote_code": "its model type {said} needs Python code from outside transformers, "
    "which is never run",
    "too_many_modules": "it describes a far larger model than the checkpoint holds; "
    "send the config.json of this checkpoint",
    "does_not_build": "transformers builds no model from it ({said})",
}
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
"""No network, one thread."""
MEMORY_BYTES = 4 << 30
"""Models on the meta device have no weights."""
_OUTPUT_BYTES = 64 << 20
_SPARE_MODULES, _MODULES_PER_TENSOR = 10_000, 20


class BuildResult(Schema):
    """What the worker answers: models, the likeliest first, or why there are none."""

    models: tuple[BuiltModel, ...] = ()
    problem: BuildProblem | None = None
    said: str = ""


@dataclass(frozen=True)
class ConfigModules:
    """What a config.json tells of a checkpoint."""

    modules: tuple[Module, ...]
    """Under the checkpoint's names, parents before children."""
    tensors: tuple[StoredTensor, ...]
    """The checkpoint's, with the names that the model ties to theirs as aliases."""


class UnusableConfigError(Exception):
    """The config is of no use; the message tells the user why, and what happens instead."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the model's config.json was not used: {reason}; "
            "module types are inferred from names and shapes"
        )


def quantization_warnings(text: str) -> tuple[str, ...]:
    """A warning where a config.json says that the weights were quantized already."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    how = said.get("quantization_config") if isinstance(said, dict) else None
    if not isinstance(how, dict):
        return ()
    return (
        "the model's config.json says that its weights are quantized already "
        f"({quote_text(str(how.get('quant_method', 'by no named method')))}): such tensors are kept as "
        "they are; to palettize them, send the model as it was before",
    )


def modules_from_config(
    text: str, tensors: Sequence[StoredTensor], limits: Limits
) -> ConfigModules:
    """Exact modules of a checkpoint, from the config.json beside it.

    Raises:
        ConfigUnusable: with a sentence for the plan.
    """
    if not any(is_weight(tensor) for tensor in tensors):
        raise UnusableConfigError("the checkpoint holds no weight matrix to compare with it")
    answer = _build_models(text, _SPARE_MODULES + _MODULES_PER_TENSOR * len(tensors), limits)
    if answer.problem is not None:
        raise UnusableConfigError(_REASONS[answer.problem].format(said=quote_text(answer.said)))
    fit = best_match(answer.models, tensors)
    if fit.missing:
        raise UnusableConfigError(_describe_mismatch(fit))
    modules = matched_modules(fit, tensors)
    return ConfigModules(modules, add_tied_aliases(fit, modules, tensors))


def _describe_mismatch(fit: ModelMatch) -> str:
    example = fit.missing[0]
    shape = fit.parameters.get(example.name)
    known = "which it has not" if shape is None else f"which it has in shape {format_shape(shape)}"
    missing = f"{quote_text(example.name)} of shape {format_shape(example.shape)}"
    return (
        f"transformers' {fit.model.name} has {fit.found:,} of the checkpoint's {fit.weights:,} "
        f"weights; not, for example, {missing}, {known} "
        "(some models' weights are renamed or fused when transformers loads them)"
    )


def _build_models(text: str, modules_most: int, limits: Limits) -> BuildResult:
    """Have transformers build the models, in a sandbox.

    Raises:
        ConfigUnusable: there is no answer.
    """
    request = json.dumps({"config": text, "modules_most": modules_most}).encode()
    timeout_s = limits.hf_timeout_s
    bounds = Bounds(
        memory_bytes=MEMORY_BYTES,
        cpu_s=math.ceil(timeout_s),
        wall_s=timeout_s,
        file_bytes=_OUTPUT_BYTES,
        answer_bytes=_OUTPUT_BYTES,
        wall_setting="PALETTERY_LIMIT_HF_TIMEOUT_S",
    )
    try:
        with working_folder() as folder:
            answer = run(
                "palettery.app.checkpoints.hf_worker",
                request,
                folder,
                bounds,
                what="building the model",
                required=limits.sandbox.required,
                variables=ENVIRONMENT,
            )
        return BuildResult.model_validate_json(answer)
    except SandboxMissing as error:
        raise UnusableConfigError("the server lacks the sandbox that transformers takes") from error
    except PaletteryError as error:
        raise UnusableConfigError(error.detail) from error
    except ValidationError as error:
        raise UnusableConfigError("transformers' answer cannot be read") from error
