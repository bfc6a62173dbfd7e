"""Sandboxed worker that builds the models of a config.json, without weights.

`hf_config` calls it and defines its request and response. Only code of the installed transformers
runs.
"""

import importlib
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

MESSAGE_CHARACTERS = 200
"""Maximum length of an error message of transformers."""
IGNORED_KEY_PARTS = (
    "auto_map",
    "custom_pipelines",
    "trust_remote_code",
    "name_or_path",
    "implementation",
    "pretrained_backbone",
    "quantization_config",
    "dtype",
)
"""Keys that contain one of these are ignored: they name code, files or kernels, or only dtypes."""


def _import_or_none(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


torch, transformers = _import_or_none("torch"), _import_or_none("transformers")
"""Imported before the memory limit takes effect."""


class BuildError(Exception):
    """No model can be built; `problem` is one of `hf_config.BuildProblem`."""

    def __init__(self, problem: str, message: str = "") -> None:
        super().__init__(problem)
        short = " ".join(message.split())[:MESSAGE_CHARACTERS]
        self.response = {"problem": problem, "message": short}


def answer(request: bytes) -> bytes:
    """Entry point in the sandbox: return the models of a request, or why there are none."""
    try:
        response = _build(**json.loads(request))
    except BuildError as error:
        response = error.response
    except OSError:  # its message would name files of this machine
        response = BuildError("does_not_build", "it asks for files or for the network").response
    except Exception as error:  # noqa: BLE001 - the request ends here
        response = BuildError("does_not_build", f"{type(error).__name__}: {error}").response
    return json.dumps(response).encode()


def _build(config: str, max_modules: int) -> dict[str, Any]:
    if torch is None or transformers is None:
        raise BuildError("no_extra")
    _limit_modules(torch, max_modules)
    parsed = json.loads(config)
    if not isinstance(parsed, dict):
        raise BuildError("does_not_build", "it is not a JSON object")
    return {"models": list(_models(torch, transformers, parsed))}


def _limit_modules(torch: Any, max_modules: int) -> None:
    """Stop the construction of a model far larger than the checkpoint: it is another model."""
    modules = 0

    def count(*_: object) -> None:
        nonlocal modules
        modules += 1
        if modules > max_modules:
            raise BuildError("too_many_modules")

    torch.nn.modules.module.register_module_module_registration_hook(count)


def _models(torch: Any, transformers: Any, config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the models that the config may describe, the likeliest first."""
    for model_class, built in model_classes(transformers, config):
        with torch.device("meta"):
            model = model_class._from_config(built, attn_implementation="eager")
        yield _describe(model)


def model_classes(transformers: Any, config: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the classes that the config may describe, the likeliest first, each with a config.

    All are transformers' is_builtin.

    Raises:
        BuildError: there are none.
    """
    remote = "auto_map" in config
    config = _without_ignored_keys(config)
    named_classes = [
        class_
        for name in _architectures(config)
        if (class_ := _class(transformers, name)) is not None
    ]
    config_class = _config_class(transformers, config, named_classes, remote=remote)
    classes = [class_ for class_ in named_classes if class_.config_class is config_class]
    for mapping in (transformers.MODEL_FOR_PRETRAINING_MAPPING, transformers.MODEL_MAPPING):
        mapped = mapping.get(config_class, None)
        classes += mapped if isinstance(mapped, tuple | list) else [mapped] if mapped else []
    if not classes:
        raise BuildError("unknown_type", _model_type(config))
    for model_class in dict.fromkeys(classes):
        yield model_class, config_class.from_dict(config)


def _without_ignored_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_ignored_keys(item)
            for key, item in value.items()
            if not any(word in key for word in IGNORED_KEY_PARTS)
        }
    return [_without_ignored_keys(item) for item in value] if isinstance(value, list) else value


def _architectures(config: dict[str, Any]) -> list[str]:
    listed = config.get("architectures")
    names = listed[:4] if isinstance(listed, list) else []
    return [name for name in names if isinstance(name, str) and name.isidentifier()]


def _class(transformers: Any, name: str) -> Any:
    """Return a model class of transformers itself, or None."""
    class_: Any = getattr(transformers, name, None)
    is_model = isinstance(class_, type) and issubclass(class_, transformers.PreTrainedModel)
    is_builtin = is_model and class_.__module__.startswith("transformers.models.")
    return class_ if is_builtin and class_.config_class is not None else None


def _config_class(
    transformers: Any, config: dict[str, Any], named_classes: list[Any], *, remote: bool
) -> Any:
    model_type = config.get("model_type")
    if model_type is None and named_classes:
        return named_classes[0].config_class
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise BuildError("remote_code" if remote else "unknown_type", _model_type(config))
    return transformers.CONFIG_MAPPING[model_type]


def _model_type(config: dict[str, Any]) -> str:
    """Return the model type of a config, for a message."""
    return str(config.get("model_type") or config.get("architectures"))


def _describe(model: Any) -> dict[str, Any]:
    """Return a built model in the form of `hf_comparison.BuiltModel`."""
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
