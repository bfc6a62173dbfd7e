"""Config keys that matched nothing, each with a reason and suggestions."""

from collections.abc import Iterator, Mapping

from palettery.app.checkpoints.op_types import OP_TYPES
from palettery.app.planning.module_rules import ModuleRules
from palettery.app.planning.paths import format_path
from palettery.app.planning.suggestions import (
    DottedNames,
    similar_names,
    similar_op_types,
    similar_types,
)
from palettery.app.planning.tensor_rules import ALL, TensorRules
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.config import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    OpKMeansPalettizerConfig,
    PalettizationSpec,
)
from palettery.schemas.plan import UnmatchedKey

_DEFAULT_NAMES = {"weight", "in_proj_weight"}
_NO_OP_NAME = (
    "it matches no op that these rules reach; op names end in a functional name: fc.linear"
)


def find_unmatched(
    config: KMeansPalettizerConfig,
    checkpoint: Checkpoint,
    module_rules: ModuleRules,
    tensor_rules: TensorRules,
) -> tuple[UnmatchedKey, ...]:
    """Return every config key that applies to no module and no tensor.

    Keys of defaults, which the user did not write, are left out.
    """
    return tuple(_UnmatchedKeys(config, checkpoint, module_rules, tensor_rules).run())


class _UnmatchedKeys:
    def __init__(
        self,
        config: KMeansPalettizerConfig,
        checkpoint: Checkpoint,
        module_rules: ModuleRules,
        tensor_rules: TensorRules,
    ) -> None:
        self._config = config
        self._applied_paths = {rule.path for rule in module_rules.by_module.values()}
        self._matched_paths, self._used_paths = module_rules.matched_paths, tensor_rules.used_paths
        self._winning_paths = {rule.path for rule in tensor_rules.by_tensor.values()}
        self._types = {module.type for module in checkpoint.modules if module.type}
        self._modules = DottedNames(
            name for module in checkpoint.modules for name in (module.name, *module.aliases)
        )
        self._ops = DottedNames(op.name for op in checkpoint.ops if op.type in OP_TYPES)
        self._op_types = {op.type for op in checkpoint.ops if op.type in OP_TYPES}
        self._local_names = {
            name.rpartition(".")[2]
            for tensor in checkpoint.tensors
            for name in (tensor.name, *tensor.aliases)
        }

    def run(self) -> Iterator[UnmatchedKey]:
        if "global_config" in self._applied_paths:
            yield from self._check_module_config("global_config", self._config.global_config)
        for key, module_config in self._config.module_type_configs.items():
            path = format_path("module_type_configs", key)
            if path in self._applied_paths:
                yield from self._check_module_config(path, module_config)
            elif path in self._matched_paths:
                yield _shadowed_key(path)
            else:
                suggestions = similar_types(key, self._types)
                yield _unmatched_key(path, "no module of the model has this type", suggestions)
        for key, module_config in self._config.module_name_configs.items():
            path = format_path("module_name_configs", key)
            if path in self._applied_paths:
                yield from self._check_module_config(path, module_config)
            elif path in self._matched_paths:
                yield _shadowed_key(path)
            else:
                suggestions = self._modules.similar(key)
                yield _unmatched_key(path, "it matches the whole name of no module", suggestions)

    def _check_module_config(
        self, path: str, config: ModuleKMeansPalettizerConfig | None
    ) -> Iterator[UnmatchedKey]:
        if config is None:
            return
        yield from self._check_op_config(path, config)
        for key, entry in config.op_type_config.items():
            inner = f"{path}.{format_path('op_type_config', key)}"
            if inner in self._used_paths:
                yield from self._check_op_config(inner, entry)
            elif key in OP_TYPES:
                suggestions = similar_op_types(key, self._op_types)
                yield _unmatched_key(
                    inner, "no op of this type is left to these rules", suggestions
                )
            else:
                suggestions = similar_op_types(key, OP_TYPES)
                yield _unmatched_key(
                    inner, "there is no such op type among the registered ones", suggestions
                )
        for key, entry in config.op_name_config.items():
            inner = f"{path}.{format_path('op_name_config', key)}"
            if inner in self._used_paths:
                yield from self._check_op_config(inner, entry)
            else:
                yield _unmatched_key(inner, _NO_OP_NAME, self._ops.similar(key))
        yield from self._unused_specs(path, "module_state_spec", config.module_state_spec)

    def _check_op_config(
        self, path: str, config: ModuleKMeansPalettizerConfig | OpKMeansPalettizerConfig | None
    ) -> Iterator[UnmatchedKey]:
        if config is not None and "op_state_spec" in config.model_fields_set:
            yield from self._unused_specs(path, "op_state_spec", config.op_state_spec)

    def _unused_specs(
        self, path: str, field: str, specs: Mapping[str, PalettizationSpec | None] | None
    ) -> Iterator[UnmatchedKey]:
        paths = {key: f"{path}.{format_path(field, key)}" for key in specs or ()}
        unused = [key for key, inner in paths.items() if inner not in self._winning_paths]
        if paths.keys() == _DEFAULT_NAMES and len(unused) == 1:
            return  # presets write both names of what is one thing to the user
        for key in unused:
            if key == ALL or key in self._local_names:
                reason = "what it names is decided by other rules, or read by no registered op"
                yield _unmatched_key(paths[key], reason)
            else:
                suggestions = similar_names(key, self._local_names)
                yield _unmatched_key(paths[key], "no tensor has this local name", suggestions)


def _shadowed_key(path: str) -> UnmatchedKey:
    return _unmatched_key(path, "a more specific or a later key applies to all that it matches")


def _unmatched_key(path: str, reason: str, suggestions: tuple[str, ...] = ()) -> UnmatchedKey:
    return UnmatchedKey(path=path, reason=reason, suggestions=suggestions)
