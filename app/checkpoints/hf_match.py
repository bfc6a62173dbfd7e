"""Whether a model that transformers built is the one in a checkpoint, and under which names."""

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
    """Other paths under which the same module is registered."""
    type: str
    """Fully qualified class name."""


class BuiltModel(Schema):
    """A model without weights, as the worker built it; names are the model's own."""

    name: str
    """Its class."""
    prefix: str
    """Where models with a head keep the base model; this one may be the base model itself."""
    modules: tuple[BuiltModule, ...]
    """Parents before children, the root first."""
    parameters: dict[str, tuple[NonNegativeInt, ...]]
    """Shapes by every name."""
    tied: dict[str, str]
    """Parameter -> the one that it is the same as."""


@dataclass(frozen=True)
class Renaming:
    """From a model's names to a checkpoint's: without a prefix, or with one more."""

    removed: str = ""
    added: str = ""

    def __call__(self, name: str) -> str:
        """The name in the checkpoint; what lies outside a removed prefix keeps its own."""
        if self.removed and name == self.removed:
            return ""
        name = name.removeprefix(f"{self.removed}.") if self.removed else name
        return f"{self.added}.{name}".removesuffix(".") if self.added else name


@dataclass(frozen=True)
class ModelMatch:
    """How well a model under a renaming fits a checkpoint."""

    model: BuiltModel
    renaming: Renaming
    parameters: Mapping[str, tuple[int, ...]]
    """The model's, under the checkpoint's names."""
    weights: int
    """Of the checkpoint."""
    missing: Sequence[StoredTensor]
    """Weights that the model lacks, or has in another shape."""

    @property
    def found(self) -> int:
        """How many weights the model has."""
        return self.weights - len(self.missing)


def best_match(models: Sequence[BuiltModel], tensors: Sequence[StoredTensor]) -> ModelMatch:
    """The model and renaming with the most of the checkpoint's weights; the first of equals."""
    weights = [tensor for tensor in tensors if is_weight(tensor)]
    lead = _common_prefix(tensors)
    fits = (
        _match(model, renaming, weights) for model in models for renaming in _renamings(model, lead)
    )
    return max(fits, key=lambda fit: fit.found)


def is_weight(tensor: StoredTensor) -> bool:
    """Whether a tensor looks like what a registered op or an embedding reads.

    The others may be missing from a model: position ids, causal masks, `LayerNorm.gamma`.
    """
    return len(tensor.shape) > 1 and tensor.name.rpartition(".")[2].endswith("weight")


def matched_modules(fit: ModelMatch, tensors: Sequence[StoredTensor]) -> tuple[Module, ...]:
    """The model's modules under the checkpoint's names, but for heads that are not in it."""
    stored = {name for tensor in tensors for name in _names(tensor)}
    absent = _absent_heads(fit, stored)
    found: dict[str, Module] = {}
    if fit.renaming.added:
        found[""] = Module(name="", type=None, type_source="hf_config")
    for built in fit.model.modules:
        if _top(built.name) not in absent:
            name, *aliases = dict.fromkeys(map(fit.renaming, (built.name, *built.aliases)))
            found.setdefault(
                name,
                Module(name=name, aliases=tuple(aliases), type=built.type, type_source="hf_config"),
            )
    return tuple(found.values())


def add_tied_aliases(
    fit: ModelMatch, modules: Iterable[Module], tensors: Sequence[StoredTensor]
) -> tuple[StoredTensor, ...]:
    """The tensors, with names the model ties to theirs and the checkpoint leaves out."""
    paths = {path for module in modules for path in (module.name, *module.aliases)}
    stored = {name: tensor.name for tensor in tensors for name in _names(tensor)}
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for name, source in fit.model.tied.items():
        groups[fit.renaming(source)] |= dict.fromkeys(map(fit.renaming, (source, name)))
    further: dict[str, tuple[str, ...]] = {}
    for group in groups.values():
        holder = next((stored[name] for name in group if name in stored), None)
        if holder is not None:
            left_out = (name for name in group if name not in stored)
            further[holder] = tuple(name for name in left_out if name.rpartition(".")[0] in paths)
    return tuple(
        tensor.model_copy(update={"aliases": (*tensor.aliases, *further[tensor.name])})
        if further.get(tensor.name)
        else tensor
        for tensor in tensors
    )


def _match(model: BuiltModel, renaming: Renaming, weights: Sequence[StoredTensor]) -> ModelMatch:
    parameters: dict[str, tuple[int, ...]] = {}
    for name, shape in model.parameters.items():
        parameters.setdefault(renaming(name), shape)
    missing = [
        tensor
        for tensor in weights
        if not any(parameters.get(name) == tensor.shape for name in _names(tensor))
    ]
    return ModelMatch(model, renaming, parameters, len(weights), missing)


def _renamings(model: BuiltModel, lead: str) -> list[Renaming]:
    """Every way that checkpoints differ from a model: saved from its base, or from around it."""
    if model.prefix in {_top(module.name) for module in model.modules if module.name}:
        return [Renaming(), Renaming(removed=model.prefix), Renaming(added=lead)]
    added = dict.fromkeys(filter(None, (model.prefix, lead)))
    return [Renaming(), *(Renaming(added=prefix) for prefix in added)]


def _common_prefix(tensors: Sequence[StoredTensor]) -> str:
    """The first part of the names, where all share it: `module`, `_orig_mod`."""
    leads = {tensor.name.partition(".")[0] for tensor in tensors}
    return leads.pop() if len(leads) == 1 else ""


def _absent_heads(fit: ModelMatch, stored: set[str]) -> set[str]:
    """Children of the root with nothing in the checkpoint, and more than tied parameters."""
    heads: dict[str, list[str]] = defaultdict(list)
    for name in fit.model.parameters:
        heads[_top(name)].append(name)
    tied = {
        name
        for name, source in fit.model.tied.items()
        if {fit.renaming(name), fit.renaming(source)} & stored
    }
    return {
        head
        for head, names in heads.items()
        if not any(fit.renaming(name) in stored for name in names) and not tied.issuperset(names)
    }


def _top(name: str) -> str:
    return name.partition(".")[0]


def _names(tensor: StoredTensor) -> tuple[str, ...]:
    return tensor.name, *tensor.aliases
