"""Exact modules of a checkpoint, from its Hugging Face config.json; needs transformers.

`hf_worker` builds the model in a sandbox. The result is used only if the model has every weight of
the checkpoint, under the same name and in the same shape.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from palettery.app.checkpoints.hf_comparison import (
    BuiltModel,
    ModelMatch,
    add_tied_aliases,
    best_match,
    is_weight,
    matched_modules,
)
from palettery.app.checkpoints.quoting import format_shape, quote_text
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
    "unknown_type": "the installed transformers does not know its model type {message}",
    "remote_code": "its model type {message} needs Python code from outside transformers, "
    "which is never run",
    "too_many_modules": "it describes a far larger model than the checkpoint holds; "
    "send the config.json of this checkpoint",
    "does_not_build": "transformers builds no model from it ({message})",
}
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
"""Environment variables of the worker: no network, one thread."""
MEMORY_BYTES = 4 << 30
"""Memory limit of the worker; models on the meta device have no weights."""
_OUTPUT_BYTES = 64 << 20
_SPARE_MODULES, _MODULES_PER_TENSOR = 10_000, 20
"""Maximum number of modules of a built model: a constant, plus some for each tensor."""


class BuildResult(Schema):
    """Response of the worker: models, the likeliest first, or the reason that there are none."""

    models: tuple[BuiltModel, ...] = ()
    problem: BuildProblem | None = None
    message: str = ""


@dataclass(frozen=True)
class ConfigModules:
    """Modules and tensors of a checkpoint, according to its config.json."""

    modules: tuple[Module, ...]
    """Modules under the checkpoint's names, parents before children."""
    tensors: tuple[StoredTensor, ...]
    """The checkpoint's tensors; names that the model ties to them are aliases."""


class UnusableConfigError(Exception):
    """The config cannot be used; the message gives the reason and the fallback."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the model's config.json was not used: {reason}; "
            "module types are inferred from names and shapes"
        )


def quantization_warnings(text: str) -> tuple[str, ...]:
    """Return a warning if a config.json says that the weights are already quantized."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    quantization = config.get("quantization_config") if isinstance(config, dict) else None
    if not isinstance(quantization, dict):
        return ()
    method = quote_text(str(quantization.get("quant_method", "by no named method")))
    return (
        "the model's config.json says that its weights are quantized already "
        f"({method}): such tensors are kept as they are; to palettize them, send the model as it "
        "was before quantization",
    )


def modules_from_config(
    text: str, tensors: Sequence[StoredTensor], limits: Limits
) -> ConfigModules:
    """Return the exact modules of a checkpoint, from the config.json beside it.

    Raises:
        UnusableConfigError: it cannot be used; the message is a warning of the plan.
    """
    if not any(is_weight(tensor) for tensor in tensors):
        raise UnusableConfigError("the checkpoint holds no weight matrix to compare with it")
    result = _build_models(text, _SPARE_MODULES + _MODULES_PER_TENSOR * len(tensors), limits)
    if result.problem is not None:
        raise UnusableConfigError(build_reason(result.problem, result.message))
    match = best_match(result.models, tensors)
    if match.missing:
        raise UnusableConfigError(_describe_mismatch(match))
    modules = matched_modules(match, tensors)
    return ConfigModules(modules, add_tied_aliases(match, modules, tensors))


def build_reason(problem: BuildProblem, message: str) -> str:
    """Return why a config.json yields no model, as a clause."""
    return _REASONS[problem].format(message=quote_text(message))


def _describe_mismatch(match: ModelMatch) -> str:
    example = match.missing[0]
    shape = match.parameters.get(example.name)
    difference = (
        "which it lacks" if shape is None else f"which it has in shape {format_shape(shape)}"
    )
    missing = f"{quote_text(example.name)} of shape {format_shape(example.shape)}"
    return (
        f"transformers' {match.model.name} has {match.num_matches:,} of the checkpoint's "
        f"{match.num_weights:,} weights; not, for example, {missing}, {difference} "
        "(some models' weights are renamed or fused when transformers loads them)"
    )


def _build_models(text: str, max_modules: int, limits: Limits) -> BuildResult:
    """Build the models with transformers, in a sandbox.

    Raises:
        UnusableConfigError: the worker failed.
    """
    request = json.dumps({"config": text, "max_modules": max_modules}).encode()
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
            response = run(
                "palettery.app.checkpoints.hf_worker",
                request,
                folder,
                bounds,
                what="building the model",
                required=limits.sandbox.required,
                variables=ENVIRONMENT,
            )
        return BuildResult.model_validate_json(response)
    except SandboxMissing as error:
        raise UnusableConfigError("the server lacks the sandbox that transformers needs") from error
    except PaletteryError as error:
        raise UnusableConfigError(error.detail) from error
    except ValidationError as error:
        raise UnusableConfigError("transformers' answer cannot be read") from error
