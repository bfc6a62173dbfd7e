"""The whole config: the rules for the modules of a model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, ClassVar, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from palettery.schemas.config.assignable import AssignableSchema
from palettery.schemas.config.module import ModuleKMeansPalettizerConfig
from palettery.schemas.config.other_methods import other_method_key, other_method_message
from palettery.schemas.config.parsing import load_text
from palettery.schemas.config.preset_types import ModelPresets
from palettery.schemas.config.versions import Version, dump_for

CONFIG_KEY = "kmeans_palettization_config"
"""Top-level key of the config in a file."""
ANCHORS_KEY = "palettization_spec"
"""Optional key beside it, for YAML anchors; its value is ignored."""

ModuleSelector = str | type
"""A regular expression for module names, or a module class."""


def _classes_to_names(value: object) -> object:
    """Return a mapping whose keys that are classes are replaced with the classes' names."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return value
    return {_type_name(key) if isinstance(key, type) else key: value[key] for key in value}


def _type_name(module_type: ModuleSelector) -> str:
    if isinstance(module_type, str):
        return module_type
    return f"{module_type.__module__}.{module_type.__qualname__}"


def _check_qualified_name(name: str) -> str:
    if "." not in name:
        raise ValueError(
            f"{name!r} is no fully qualified class name; "
            "write it like torch.nn.modules.linear.Linear"
        )
    return name


_Rules = dict[str, ModuleKMeansPalettizerConfig | None]
_ClassNames = BeforeValidator(_classes_to_names, json_schema_input_type=_Rules | None)


class KMeansPalettizerConfig(AssignableSchema):
    """Rules for palettizing a model: by module name, else by module type, else global.

    Among several matches of one level the last one in the config wins. As in coreai-opt, the
    builders change the config and return it.
    """

    presets: ClassVar[ModelPresets["KMeansPalettizerConfig"]]
    """`presets.w4()` and so on."""

    global_config: ModuleKMeansPalettizerConfig | None = Field(
        default_factory=ModuleKMeansPalettizerConfig
    )
    """Rule for every module. Left out: the defaults; null: off."""
    module_type_configs: Annotated[
        dict[
            Annotated[str, AfterValidator(_check_qualified_name)],
            ModuleKMeansPalettizerConfig | None,
        ],
        _ClassNames,
    ] = Field(default_factory=dict)
    """Fully qualified class name (`torch.nn.modules.linear.Linear`) -> its rule."""
    module_name_configs: Annotated[_Rules, _ClassNames] = Field(default_factory=dict)
    """Regular expression on the module's whole dotted name -> its rule."""

    @field_validator("global_config")
    @classmethod
    def _check_global(
        cls, value: ModuleKMeansPalettizerConfig | None
    ) -> ModuleKMeansPalettizerConfig | None:
        if value is not None and value.module_state_spec:
            raise ValueError(
                "global_config cannot have a module_state_spec, which belongs to one module; "
                "put it under module_name_configs or module_type_configs"
            )
        return value

    def set_global(self, config: ModuleKMeansPalettizerConfig | None) -> Self:
        """Replace the global rule; None switches it off."""
        self.global_config = config
        return self

    def set_module_type(
        self, module_type: ModuleSelector, config: ModuleKMeansPalettizerConfig | None
    ) -> Self:
        """Set the rule for a module class, or for its fully qualified name."""
        self.module_type_configs = {**self.module_type_configs, _type_name(module_type): config}
        return self

    def set_module_name(
        self, module_name: str, config: ModuleKMeansPalettizerConfig | None
    ) -> Self:
        """Set the rule for modules whose whole name matches a regular expression."""
        self.module_name_configs = {**self.module_name_configs, module_name: config}
        return self

    def only_for(self, *targets: ModuleSelector | Sequence[ModuleSelector]) -> Self:
        """Apply the global rule only to these module names and classes.

        Raises:
            ValueError: no targets were given, or there is no global rule.
        """
        flat = _flatten(targets)
        if not flat:
            raise ValueError("only_for needs at least one module name or class")
        if self.global_config is None:
            raise ValueError(
                "only_for needs a global_config that is not None; give it all targets in one call"
            )
        return self._set_rules(self.global_config, flat).set_global(None)

    def without(self, *targets: ModuleSelector | Sequence[ModuleSelector]) -> Self:
        """Exclude these module names and classes from palettization."""
        return self._set_rules(None, _flatten(targets))

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Return the config in the content of a file, under the key `kmeans_palettization_config`.

        Raises:
            ValueError: the key is missing, or there are keys other than it and that for anchors.
            ValidationError: the config is not valid.
        """
        if (other_key := other_method_key(data)) is not None:
            raise ValueError(other_method_message(other_key))
        others = set(data) - {CONFIG_KEY, ANCHORS_KEY}
        if CONFIG_KEY not in data or others:
            raise ValueError(
                f"expected the key {CONFIG_KEY!r}, and beside it at most {ANCHORS_KEY!r}; "
                f"got {list(data)}"
            )
        return cls.model_validate(data[CONFIG_KEY])

    @classmethod
    def from_yaml(cls, source: str | Path | IO[str] | IO[bytes]) -> Self:
        """Return the config in a YAML or JSON file, a path or an open file; see `from_dict`."""
        if isinstance(source, str | Path):
            return cls.from_json(Path(source).read_bytes())
        return cls.from_json(source.read())

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the config in the text of a file, JSON or YAML; see `from_dict`."""
        return cls.from_dict({str(key): value for key, value in load_text(text).items()})

    def to_dict(self, version: Version = "0.4") -> dict[str, object]:
        """Return the content of a config file for a version of coreai-opt, as JSON data.

        Raises:
            ConfigError: the config has settings that this version lacks.
        """
        return {CONFIG_KEY: dump_for(self, version, CONFIG_KEY)}

    def to_json(self, version: Version = "0.4") -> str:
        """Return the text of a config file as JSON; see `to_dict`."""
        return json.dumps(self.to_dict(version), indent=2)

    def to_yaml(self, version: Version = "0.4") -> str:
        """Return the text of a config file as YAML; see `to_dict`."""
        data = self.to_dict(version)
        return yaml.dump(data, Dumper=yaml.CSafeDumper, sort_keys=False, default_flow_style=False)

    def _set_rules(
        self, config: ModuleKMeansPalettizerConfig | None, targets: Sequence[ModuleSelector]
    ) -> Self:
        for target in targets:
            rule = config and config.model_copy(deep=True)
            if isinstance(target, str):
                self.set_module_name(target, rule)
            else:
                self.set_module_type(target, rule)
        return self


def _flatten(
    targets: tuple[ModuleSelector | Sequence[ModuleSelector], ...],
) -> Sequence[ModuleSelector]:
    """Return targets in one list; they may be passed one by one or in lists.

    Raises:
        TypeError: one is neither text nor a class.
    """
    flat: list[ModuleSelector] = []
    for target in targets:
        flat.extend([target] if isinstance(target, str | type) else target)
    for target in flat:
        if not isinstance(target, str | type):
            raise TypeError(f"a target must be a module name or a class; got {target!r}")
    return flat
