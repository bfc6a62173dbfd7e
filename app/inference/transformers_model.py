"""A Hugging Face folder as a model that can be run, by a class of transformers itself.

Computations are in float32, whatever the dtype of the weights is.
"""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch

from palettery.app.artifacts.export.live_model import StateDict, library_errors
from palettery.app.checkpoints.dtypes import DTYPES
from palettery.app.checkpoints.hf_config import BuildProblem, build_reason
from palettery.app.checkpoints.hf_worker import BuildError, model_classes, transformers
from palettery.app.checkpoints.quoting import quote_text
from palettery.app.errors import UnsupportedFormat
from palettery.app.inference.inputs import InputSpec, Signature, Tensors
from palettery.app.inference.model import LiveModel

CONTROLS = ("labels", "return_dict", "use_cache", "output_attentions", "output_hidden_states")
"""Parameters of `forward` that are not inputs."""


def open_transformers(config: str, tensors: StateDict) -> LiveModel:
    """Return the model of a config.json with these weights.

    Raises:
        UnsupportedFormat: transformers has no class of it, or the weights are not all there.
    """
    if transformers is None:
        raise UnsupportedFormat(f"the folder's model cannot be run: {build_reason('no_extra', '')}")
    state = _torch_tensors(tensors)
    try:
        module = _load(json.loads(config), state)
    except BuildError as error:
        reason = build_reason(
            cast("BuildProblem", error.response["problem"]), error.response["message"]
        )
        raise UnsupportedFormat(f"the folder's model cannot be run: {reason}") from error
    parameters = inspect.signature(module.forward).parameters

    def call(inputs: Tensors) -> Mapping[str, torch.Tensor]:
        output = module(**inputs)
        return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}

    vocabulary = getattr(module.config, "vocab_size", None)
    specs = {name: InputSpec(name) for name in parameters if name not in CONTROLS}
    for name in specs.keys() & {"input_ids", "decoder_input_ids"}:
        specs[name] = InputSpec(name, torch.int64, (None, None), vocabulary)
    return LiveModel(call, _weights(module, state, tensors), Signature(specs, optional=True))


def _load(config: dict[str, Any], state: Mapping[str, torch.Tensor]) -> Any:
    """Return the first class of the config whose weights are all in the checkpoint.

    Raises:
        BuildError: transformers has no class of it, or cannot build it.
        UnsupportedFormat: none has all weights.
    """
    missing: Sequence[Any] = ()
    for model_class, built in model_classes(transformers, config):
        built.use_cache = False
        with library_errors(_does_not_build):
            module, info = model_class.from_pretrained(
                None,
                config=built,
                state_dict=dict(state),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        missing = [
            *sorted(info["missing_keys"]),
            *(mismatch[0] for mismatch in info["mismatched_keys"]),
        ]
        if not missing:
            return module.eval().requires_grad_(False)
    raise UnsupportedFormat(
        f"the checkpoint lacks {quote_text(str(missing[0]))} of transformers' model of its "
        "config.json, so it cannot be run; send the config.json of this checkpoint"
    )


def _does_not_build(error: Exception) -> BuildError:
    return BuildError("does_not_build", f"{type(error).__name__}: {error}")


def _torch_tensors(tensors: StateDict) -> dict[str, torch.Tensor]:
    """Return tensors under every name; floating-point ones as float32."""
    state = {}
    for tensor in tensors.tensors:
        dtype = DTYPES[tensor.dtype].torch
        if dtype is None:
            raise UnsupportedFormat(
                f"{tensor.name} has the dtype {tensor.dtype}, with which torch cannot compute"
            )
        raw = torch.frombuffer(bytearray(tensor.read() or b"\0"), dtype=torch.uint8)
        size = torch.Size(tensor.shape)
        raw = raw if size.numel() else raw[:0]
        value = raw.view(getattr(torch, dtype)).reshape(size)
        state[tensor.name] = value.float() if value.is_floating_point() else value
    return state | {alias: state[name] for alias, name in tensors.tied.items()}


def _weights(
    module: Any, state: Mapping[str, torch.Tensor], tensors: StateDict
) -> dict[str, torch.Tensor]:
    """Return the model's parameters by the checkpoint's names.

    Names may differ by a prefix such as `bert.`; then values decide.
    """
    parameters = dict(module.named_parameters())
    weights = {}
    for tensor in tensors.tensors:
        value = state[tensor.name]
        for name in _candidates(tensor.name, parameters):
            parameter = parameters[name]
            if parameter.shape == value.shape and torch.equal(parameter, value):
                weights[tensor.name] = parameter
                break
    return weights


def _candidates(name: str, parameters: Mapping[str, torch.Tensor]) -> Iterator[str]:
    if name in parameters:
        yield name
    for other in parameters:
        if other.endswith(f".{name}") or name.endswith(f".{other}"):
            yield other
