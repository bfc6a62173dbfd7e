"""Parsing of models: files are parsed once, and the results are stored as the index and contents.

The processes of `document_pool` run these functions, so arguments and results are pickled.
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
    """Results of parsing that are stored in a model's row."""

    name: str
    """Name of the first file that has tensors."""
    format: ModelFormat
    tensors: int


def index_model(
    store_url: str, model_id: str, files: Sequence[StoredFile], limits: Limits
) -> IndexedModel:
    """Parse the files of a model, in the order of their names, and store the results.

    Raises:
        InvalidModel, UnsupportedFormat, TooLarge: see `read_checkpoint`.
    """
    checkpoint = _parse_and_store(shared_storage(store_url), model_id, files, limits)
    first = checkpoint.files[checkpoint.tensors[0].file]
    return IndexedModel(first.name, checkpoint.format, len(checkpoint.tensors))


def write_missing_contents(
    store_url: str, model_id: str, files: Sequence[StoredFile], limits: Limits
) -> None:
    """Store the contents of a model if they are missing, such as after an upgrade."""
    store = shared_storage(store_url)
    if store.exists(contents_path(model_id)):
        return
    index = read_index(store, model_id, files)
    if index is None:
        _parse_and_store(store, model_id, files, limits)
    else:
        write_contents(store, model_id, _build_contents(index))


def load_checkpoint(
    store: Storage, model_id: str, files: Sequence[StoredFile], limits: Limits
) -> Checkpoint:
    """Return the stored checkpoint of a model with these files; parse them if there is none."""
    return read_index(store, model_id, files) or _parse_and_store(store, model_id, files, limits)


def _parse_and_store(
    store: Storage, model_id: str, files: Sequence[StoredFile], limits: Limits
) -> Checkpoint:
    checkpoint = read_checkpoint(store, files, limits)
    write_index(store, model_id, checkpoint)
    write_contents(store, model_id, _build_contents(checkpoint))
    return checkpoint


def _build_contents(checkpoint: Checkpoint) -> ModelContents:
    tree = ModuleTree(checkpoint.modules)
    return ModelContents(
        warnings=checkpoint.warnings,
        modules=checkpoint.modules,
        tensors=tuple(_build_tensor(tensor, checkpoint, tree) for tensor in checkpoint.tensors),
    )


def _build_tensor(tensor: StoredTensor, checkpoint: Checkpoint, tree: ModuleTree) -> ModelTensor:
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
