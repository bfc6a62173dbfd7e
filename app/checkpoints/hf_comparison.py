"""Comparison of models that transformers built with the tensors of a checkpoint."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import NonNegativeInt

from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import Module, StoredTensor


class BuiltModule(Schema):
    """One module of a built model."""

    name: str
    aliases: tuple[str, ...]
    """Other paths of the same module."""
    type: str
    """Fully qualified class name."""


class BuiltModel(Schema):
    """A model without weights, as the worker built it, under the model's own names."""

    name: str
    """Its class."""
    prefix: str
    """Path of the base model in models with a head; this model may be the base model itself."""
    modules: tuple[BuiltModule, ...]
    """The root first, parents before children."""
    parameters: dict[str, tuple[NonNegativeInt, ...]]
    """Name -> shape; tied parameters occur under each of their names."""
    tied: dict[str, str]
    """Name of a tied parameter -> name of the parameter that it shares its values with."""


@dataclass(frozen=True)
class Renaming:
    """A mapping of a model's names to a checkpoint's, which removes or adds one prefix."""

    removed: str = ""
    added: str = ""

    def __call__(self, name: str) -> str:
        """Return the name in the checkpoint; a name without the removed prefix stays as it is."""
        if self.removed and name == self.removed:
            return ""
        name = name.removeprefix(f"{self.removed}.") if self.removed else name
        return f"{self.added}.{name}".removesuffix(".") if self.added else name


@dataclass(frozen=True)
class ModelMatch:
    """Comparison of a checkpoint with a model under a renaming."""

    model: BuiltModel
    renaming: Renaming
    parameters: Mapping[str, tuple[int, ...]]
    """Shapes of the model's parameters, under the checkpoint's names."""
    num_weights: int
    """Number of weights in the checkpoint."""
    missing: Sequence[StoredTensor]
    """Weights that the model lacks, or has in another shape."""

    @property
    def num_matches(self) -> int:
        """Number of the checkpoint's weights that the model has in the same shape."""
        return self.num_weights - len(self.missing)


def best_match(models: Sequence[BuiltModel], tensors: Sequence[StoredTensor]) -> ModelMatch:
    """Return the model and renaming that match most weights of the checkpoint; ties: the first."""
    weights = [tensor for tensor in tensors if is_weight(tensor)]
    common_prefix = _common_prefix(tensors)
    candidates = (
        _compare(model, renaming, weights)
        for model in models
        for renaming in _renamings(model, common_prefix)
    )
    return max(candidates, key=lambda match: match.num_matches)


def is_weight(tensor: StoredTensor) -> bool:
    """Return whether a tensor looks like the weight of a registered op or of an embedding.

    Others may be missing from a model: position ids, causal masks, `LayerNorm.gamma`.
    """
    return len(tensor.shape) > 1 and tensor.name.rpartition(".")[2].endswith("weight")


def matched_modules(match: ModelMatch, tensors: Sequence[StoredTensor]) -> tuple[Module, ...]:
    """Return the modules under the checkpoint's names, without heads that the checkpoint lacks."""
    absent = _absent_heads(match, {name for tensor in tensors for name in _all_names(tensor)})
    modules: dict[str, Module] = {}
    if match.renaming.added:
        modules[""] = Module(name="", type=None, type_source="hf_config")
    for built in match.model.modules:
        if _first_component(built.name) not in absent:
            name, *aliases = dict.fromkeys(map(match.renaming, (built.name, *built.aliases)))
            modules.setdefault(
                name,
                Module(name=name, aliases=tuple(aliases), type=built.type, type_source="hf_config"),
            )
    return tuple(modules.values())


def add_tied_aliases(
    match: ModelMatch, modules: Iterable[Module], tensors: Sequence[StoredTensor]
) -> tuple[StoredTensor, ...]:
    """Return the tensors, with tied names of the model that the checkpoint lacks as aliases."""
    module_paths = {path for module in modules for path in (module.name, *module.aliases)}
    canonical_names = {name: tensor.name for tensor in tensors for name in _all_names(tensor)}
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for name, source in match.model.tied.items():
        groups[match.renaming(source)] |= dict.fromkeys(map(match.renaming, (source, name)))
    tied_aliases: dict[str, tuple[str, ...]] = {}
    for group in groups.values():
        owner = next((canonical_names[name] for name in group if name in canonical_names), None)
        if owner is not None:
            absent_names = (name for name in group if name not in canonical_names)
            tied_aliases[owner] = tuple(
                name for name in absent_names if name.rpartition(".")[0] in module_paths
            )
    return tuple(
        tensor.model_copy(update={"aliases": (*tensor.aliases, *tied_aliases[tensor.name])})
        if tied_aliases.get(tensor.name)
        else tensor
        for tensor in tensors
    )


def _compare(model: BuiltModel, renaming: Renaming, weights: Sequence[StoredTensor]) -> ModelMatch:
    parameters: dict[str, tuple[int, ...]] = {}
    for name, shape in model.parameters.items():
        parameters.setdefault(renaming(name), shape)
    missing = [
        tensor
        for tensor in weights
        if not any(parameters.get(name) == tensor.shape for name in _all_names(tensor))
    ]
    return ModelMatch(model, renaming, parameters, len(weights), missing)


def _renamings(model: BuiltModel, common_prefix: str) -> list[Renaming]:
    """Return the renamings to try: a checkpoint may be of the base model, or of a wrapper."""
    if model.prefix in {_first_component(module.name) for module in model.modules if module.name}:
        return [Renaming(), Renaming(removed=model.prefix), Renaming(added=common_prefix)]
    added = dict.fromkeys(filter(None, (model.prefix, common_prefix)))
    return [Renaming(), *(Renaming(added=prefix) for prefix in added)]


def _common_prefix(tensors: Sequence[StoredTensor]) -> str:
    """Return the first part of the names if all share it, such as `module` or `_orig_mod`."""
    prefixes = {tensor.name.partition(".")[0] for tensor in tensors}
    return prefixes.pop() if len(prefixes) == 1 else ""


def _absent_heads(match: ModelMatch, tensor_names: set[str]) -> set[str]:
    """Return the root's children without any tensor, except those that consist of tied ones."""
    heads: dict[str, list[str]] = defaultdict(list)
    for name in match.model.parameters:
        heads[_first_component(name)].append(name)
    tied = {
        name
        for name, source in match.model.tied.items()
        if {match.renaming(name), match.renaming(source)} & tensor_names
    }
    return {
        head
        for head, names in heads.items()
        if tensor_names.isdisjoint(map(match.renaming, names)) and not tied.issuperset(names)
    }


def _first_component(name: str) -> str:
    return name.partition(".")[0]


def _all_names(tensor: StoredTensor) -> tuple[str, ...]:
    return tensor.name, *tensor.aliases
