"""The whole config: the rules for the modules of a model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, ClassVar, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from palettery.schemas.base import Schema
from palettery.schemas.config.module import ModuleKMeansPalettizerConfig
from palettery.schemas.config.parsing import load_text
from palettery.schemas.config.preset_types import Presets

CONFIG_KEY = "kmeans_palettization_config"
"""Top-level key of the config in a file."""
ANCHORS_KEY = "palettization_spec"
"""Optional key beside it, for YAML anchors; its value is ignored."""

Target = str | type
"""A regular expression on module names, or a class."""


def _names_as_keys(value: object) -> object:
    """Return a mapping in which classes as keys are replaced with their names."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return value
    return {_type_name(key) if isinstance(key, type) else key: value[key] for key in value}


def _type_name(module_type: Target) -> str:
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
_Named = BeforeValidator(_names_as_keys, json_schema_input_type=_Rules | None)


class KMeansPalettizerConfig(Schema):
    """Rules for palettizing a model: by module name, else by module type, else global.

    Among several matches of one level the one defined later wins. The builders return a new config.
    """

    presets: ClassVar[Presets["KMeansPalettizerConfig"]]
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
        _Named,
    ] = Field(default_factory=dict)
    """Fully qualified class name (`torch.nn.modules.linear.Linear`) -> its rule."""
    module_name_configs: Annotated[_Rules, _Named] = Field(default_factory=dict)
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
        """A copy with another global rule; None switches it off."""
        return self._with(global_config=config)

    def set_module_type(
        self, module_type: Target, config: ModuleKMeansPalettizerConfig | None
    ) -> Self:
        """A copy with a rule for a class, given as such or by its fully qualified name."""
        rules = {**self.module_type_configs, _type_name(module_type): config}
        return self._with(module_type_configs=rules)

    def set_module_name(
        self, module_name: str, config: ModuleKMeansPalettizerConfig | None
    ) -> Self:
        """A copy with a rule for modules whose whole name matches a regular expression."""
        return self._with(module_name_configs={**self.module_name_configs, module_name: config})

    def only_for(self, *targets: Target | Sequence[Target]) -> Self:
        """A copy whose global rule holds for these module names and classes alone.

        Raises:
            ValueError: no targets were given, or there is no global rule.
        """
        chosen = _flatten(targets)
        if not chosen:
            raise ValueError("only_for needs at least one module name or class")
        if self.global_config is None:
            raise ValueError(
                "only_for needs a global_config that is not None; give it all targets in one call"
            )
        return self._overridden(self.global_config, chosen).set_global(None)

    def without(self, *targets: Target | Sequence[Target]) -> Self:
        """A copy that leaves these module names and classes alone."""
        return self._overridden(None, _flatten(targets))

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """The config of a file's content, which holds it under `kmeans_palettization_config`.

        Raises:
            ValueError: the key is missing, or there are others than the one for anchors.
            ValidationError: the config does not validate.
        """
        others = set(data) - {CONFIG_KEY, ANCHORS_KEY}
        if CONFIG_KEY not in data or others:
            raise ValueError(
                f"expected the key {CONFIG_KEY!r}, and beside it at most {ANCHORS_KEY!r}; "
                f"got {list(data)}"
            )
        return cls.model_validate(data[CONFIG_KEY])

    @classmethod
    def from_yaml(cls, source: str | Path | IO[str] | IO[bytes]) -> Self:
        """The config of a YAML or JSON file, given by its path or open; else as `from_dict`."""
        if isinstance(source, str | Path):
            return cls.from_json(Path(source).read_bytes())
        return cls.from_json(source.read())

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The config of a file's text, JSON or YAML; else as `from_dict`."""
        return cls.from_dict({str(key): value for key, value in load_text(text).items()})

    def to_dict(self) -> dict[str, object]:
        """The content of a file: JSON types only; coreai-opt's `from_dict` reads it too."""
        return {CONFIG_KEY: self.model_dump(mode="json")}

    def to_json(self) -> str:
        """The text of a file, as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_yaml(self) -> str:
        """The text of a file, as YAML."""
        return yaml.dump(
            self.to_dict(), Dumper=yaml.CSafeDumper, sort_keys=False, default_flow_style=False
        )

    def _overridden(
        self, config: ModuleKMeansPalettizerConfig | None, targets: Sequence[Target]
    ) -> Self:
        types = {_type_name(target): config for target in targets if isinstance(target, type)}
        names = {target: config for target in targets if isinstance(target, str)}
        return self._with(
            module_type_configs=self.module_type_configs | types,
            module_name_configs=self.module_name_configs | names,
        )

    def _with(self, **changes: object) -> Self:
        return self.model_validate({**dict(self), **changes})


def _flatten(targets: tuple[Target | Sequence[Target], ...]) -> Sequence[Target]:
    """Return targets that are passed one by one, or all in one list.

    Raises:
        TypeError: one is neither text nor a class.
    """
    chosen: list[Target] = []
    for target in targets:
        chosen.extend([target] if isinstance(target, str | type) else target)
    for target in chosen:
        if not isinstance(target, str | type):
            raise TypeError(f"a target must be a module name or a class; got {target!r}")
    return chosen
