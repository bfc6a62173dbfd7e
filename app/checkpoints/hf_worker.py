"""Builds the models that a config.json describes, without weights, in a sandbox.

`answer` takes a request and returns an answer as `hf_config` defines both; it runs no code but that
of the installed transformers.
"""

import importlib
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

MESSAGE_CHARACTERS = 200
"""Characters kept of what transformers says about a config."""
IGNORED_KEYS = (
    "auto_map",
    "custom_pipelines",
    "trust_remote_code",
    "name_or_path",
    "implementation",
    "pretrained_backbone",
    "quantization_config",
    "dtype",
)
"""Keys with these in them name code, files or kernels, or change only what values look like."""


def _import_or_none(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


torch, transformers = _import_or_none("torch"), _import_or_none("transformers")
"""Imported before memory is limited."""


class BuildError(Exception):
    """The config yields no model; `problem` is one of `hf_config.Problem`."""

    def __init__(self, problem: str, said: str = "") -> None:
        super().__init__(problem)
        self.answer = {"problem": problem, "said": " ".join(said.split())[:MESSAGE_CHARACTERS]}


def answer(request: bytes) -> bytes:
    """The models of a request, or why there are none."""
    try:
        found = _build(**json.loads(request))
    except BuildError as refused:
        found = refused.answer
    except OSError:  # its message would name files of this machine
        found = BuildError("does_not_build", "it asks for files or for the network").answer
    except Exception as error:  # noqa: BLE001 - the request ends here
        found = BuildError("does_not_build", f"{type(error).__name__}: {error}").answer
    return json.dumps(found).encode()


def _build(config: str, modules_most: int) -> dict[str, Any]:
    if torch is None or transformers is None:
        raise BuildError("no_extra")
    _count_modules(torch, modules_most)
    described = json.loads(config)
    if not isinstance(described, dict):
        raise BuildError("does_not_build", "it is not a JSON object")
    return {"models": list(_models(torch, transformers, described))}


def _count_modules(torch: Any, most: int) -> None:
    """Stop a model that grows far beyond the checkpoint: it cannot be the one in it."""
    made = 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise BuildError("too_many_modules")

    torch.nn.modules.module.register_module_module_registration_hook(count)


def _models(torch: Any, transformers: Any, config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The models the config may stand for, the likeliest first."""
    remote = "auto_map" in config
    config = _without_ignored_keys(config)
    named = [
        found
        for name in _architectures(config)
        if (found := _class(transformers, name)) is not None
    ]
    config_class = _config_class(transformers, config, named, remote=remote)
    wanted = [found for found in named if found.config_class is config_class]
    for mapping in (transformers.MODEL_FOR_PRETRAINING_MAPPING, transformers.MODEL_MAPPING):
        found = mapping.get(config_class, None)
        wanted += found if isinstance(found, tuple | list) else [found] if found else []
    if not wanted:
        raise BuildError("unknown_type", _model_type(config))
    for model_class in dict.fromkeys(wanted):
        built = config_class.from_dict(config)
        with torch.device("meta"):
            model = model_class._from_config(built, attn_implementation="eager")
        yield _describe(model)


def _without_ignored_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_ignored_keys(held)
            for key, held in value.items()
            if not any(word in key for word in IGNORED_KEYS)
        }
    return [_without_ignored_keys(held) for held in value] if isinstance(value, list) else value


def _architectures(config: dict[str, Any]) -> list[str]:
    listed = config.get("architectures")
    names = listed[:4] if isinstance(listed, list) else []
    return [name for name in names if isinstance(name, str) and name.isidentifier()]


def _class(transformers: Any, name: str) -> Any:
    """A model class of transformers itself; None for any other thing of that name, or none."""
    found: Any = getattr(transformers, name, None)
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    own = is_model and found.__module__.startswith("transformers.models.")
    return found if own and found.config_class is not None else None


def _config_class(
    transformers: Any, config: dict[str, Any], named: list[Any], *, remote: bool
) -> Any:
    model_type = config.get("model_type")
    if model_type is None and named:
        return named[0].config_class
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise BuildError("remote_code" if remote else "unknown_type", _model_type(config))
    return transformers.CONFIG_MAPPING[model_type]


def _model_type(config: dict[str, Any]) -> str:
    """What the config says it is for, as a message names it."""
    return str(config.get("model_type") or config.get("architectures"))


def _describe(model: Any) -> dict[str, Any]:
    """The tree of a built model, as `hf_config.BuiltModel` reads it."""
    names: dict[int, list[str]] = defaultdict(list)
    modules = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names[id(module)].append(name)
        modules[id(module)] = module
    return {
        "name": type(model).__name__,
        "prefix": model.base_model_prefix,
        "modules": [
            {"name": first, "aliases": others, "type": _qualified_name(modules[key])}
            for key, (first, *others) in names.items()
        ],
        "parameters": {
            name: list(parameter.shape)
            for name, parameter in model.named_parameters(remove_duplicate=False)
        },
        "tied": dict(getattr(model, "all_tied_weights_keys", None) or {}),
    }


def _qualified_name(module: object) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
