"""Read a model, and keep what is in it.

Arguments and results of these functions are pickled: the processes of `document_pool` run them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.models.stored_contents import (
    contents_path,
    read_index,
    write_contents,
    write_index,
)
from palettery.app.planning.module_rules import ModuleTree
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.open import shared_storage
from palettery.schemas.checkpoint import Checkpoint, ModelFormat, StoredFile, StoredTensor
from palettery.schemas.models import ModelContents, ModelTensor


@dataclass(frozen=True)
class IndexedModel:
    """What a model's row says of what is in it."""

    name: str
    """Of the first file that holds tensors."""
    format: ModelFormat
    tensors: int


def read_model(
    store_url: str, model_id: str, files: Sequence[StoredFile], limits: Limits
) -> IndexedModel:
    """Read the files of a model, in the order of their names, and store what is in them.

    Raises:
        InvalidModel, UnsupportedFormat, TooLarge: see `read_checkpoint`.
    """
    checkpoint = _read(shared_storage(store_url), model_id, files, limits)
    first = checkpoint.files[checkpoint.tensors[0].file]
    return IndexedModel(first.name, checkpoint.format, len(checkpoint.tensors))


def make_contents(
    store_url: str, model_id: str, files: Sequence[StoredFile], limits: Limits
) -> None:
    """Store what the API shows of a model that an older version has read, unless it is there."""
    store = shared_storage(store_url)
    if store.exists(contents_path(model_id)):
        return
    known = read_index(store, model_id, files)
    if known is None:
        _read(store, model_id, files, limits)
    else:
        write_contents(store, model_id, _contents(known))


def model_checkpoint(
    store: Storage, model_id: str, files: Sequence[StoredFile], limits: Limits
) -> Checkpoint:
    """What is in a model, as it was read before, with its files where they lie now."""
    known = read_index(store, model_id, files)
    return known or _read(store, model_id, files, limits)


def _read(store: Storage, model_id: str, files: Sequence[StoredFile], limits: Limits) -> Checkpoint:
    checkpoint = read_checkpoint(store, files, limits)
    write_index(store, model_id, checkpoint)
    write_contents(store, model_id, _contents(checkpoint))
    return checkpoint


def _contents(checkpoint: Checkpoint) -> ModelContents:
    tree = ModuleTree(checkpoint.modules)
    return ModelContents(
        warnings=checkpoint.warnings,
        modules=checkpoint.modules,
        tensors=tuple(_shown(tensor, checkpoint, tree) for tensor in checkpoint.tensors),
    )


def _shown(tensor: StoredTensor, checkpoint: Checkpoint, tree: ModuleTree) -> ModelTensor:
    owner = tree.owner(tensor.name)
    return ModelTensor(
        name=tensor.name,
        aliases=tensor.aliases,
        dtype=tensor.dtype,
        shape=tensor.shape,
        size_bytes=tensor.size_bytes,
        file=checkpoint.files[tensor.file].name,
        module=owner.name,
        module_type=owner.type,
        type_source=owner.type_source,
    )
