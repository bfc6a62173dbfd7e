"""Models: what was uploaded, read once, and can be compressed any number of times."""

import hashlib
import json
from collections.abc import Iterable, Sequence

from app.checkpoints.read import read_checkpoint
from app.errors import FileGone, NotFound
from app.models.index import index_folder, index_path, read_index, write_index
from app.models.records import ModelRecords, NewModel, Settle
from app.paging import sealed, unsealed
from app.planning.govern import ModuleTree
from app.settings import Limits
from app.storage import Storage
from app.uploads.records import FileRecords, KeptFile
from app.uploads.unused import remove_unused_files
from schemas.checkpoint import Checkpoint, StoredFile, StoredTensor
from schemas.models import Model, ModelPage, ModelSummary, ModelTensor


class Models:
    """Models of one service."""

    def __init__(
        self, limits: Limits, records: ModelRecords, files: FileRecords, store: Storage
    ) -> None:
        self._limits, self._records, self._files, self._store = limits, records, files, store

    def checkpoint(self, owner: str, model_id: str) -> Checkpoint:
        """What is in a model, with its files where they are kept now.

        Raises:
            NotFound: the owner has no such model.
        """
        files = self._records.files(owner, model_id)
        known = read_index(self._store, model_id, files)
        return known or self._indexed(model_id, files)

    def files(self, owner: str, model_id: str) -> Sequence[StoredFile]:
        """The files of a model where they are kept now, for a job; it is kept for longer then.

        Raises:
            NotFound: the owner has no such model.
        """
        self._records.touch(owner, model_id)
        return self._records.files(owner, model_id)

    def get(self, owner: str, model_id: str) -> Model:
        """One model with its module tree and its tensors.

        Raises:
            NotFound: the owner has no such model.
        """
        summary = self._records.get(owner, model_id)
        checkpoint = self.checkpoint(owner, model_id)
        tree = ModuleTree(checkpoint.modules)
        return Model(
            **dict(summary),
            warnings=checkpoint.warnings,
            modules=checkpoint.modules,
            tensors=tuple(_shown(tensor, checkpoint, tree) for tensor in checkpoint.tensors),
        )

    def page(self, owner: str, limit: int, cursor: str | None) -> ModelPage:
        """An owner's models, newest first."""
        before = None if cursor is None else unsealed(cursor)
        found = self._records.page(owner, limit + 1, before)
        items = tuple(found[:limit])
        following = sealed(items[-1].created_at, items[-1].id) if found[limit:] else None
        return ModelPage(items=items, next_cursor=following)

    def touch(self, owner: str, model_id: str) -> None:
        """Note that a model is used, so that it is kept for longer."""
        self._records.touch(owner, model_id)

    def add(
        self, owner: str, files: Sequence[StoredFile], kept: Sequence[KeptFile], settle: Settle
    ) -> ModelSummary:
        """Read files that belong together, and make them a model.

        Raises:
            InvalidModel, UnsupportedFormat, TooLarge: see `read_checkpoint`.
            FileGone: see `ModelRecords.add`.
            NotFound: `settle` says that it is not wanted any more.
        """
        in_order = sorted(files, key=lambda file: file.name)
        id_ = model_id((file.name, file.sha256 or "") for file in in_order)
        is_new = not self._store.exists(index_path(id_))
        checkpoint = self._indexed(id_, in_order)
        try:
            return self._records.add(owner, NewModel(id_, checkpoint), kept, settle)
        except (FileGone, NotFound):
            # One who had read it before us may add it yet; then it is the sweep's.
            if is_new and not self._records.known([id_]):
                self._store.delete(index_path(id_))
            raise

    def delete(self, owner: str, model_id: str) -> None:
        """Remove a model, and its files unless something else needs them.

        Raises:
            NotFound: the owner has no such model.
        """
        self._records.delete(owner, model_id)
        self.remove_unused([model_id])

    def remove_unused(self, ids: Sequence[str]) -> None:
        """Of models that an owner had: what nobody has any more."""
        known = self._records.known(ids)
        for gone in ids:
            if gone not in known:
                self._store.delete_folder(index_folder(gone))
        remove_unused_files(self._files, self._store)

    def _indexed(self, model_id: str, files: Sequence[StoredFile]) -> Checkpoint:
        checkpoint = read_checkpoint(self._store, files, self._limits)
        write_index(self._store, model_id, checkpoint)
        return checkpoint


def model_id(files: Iterable[tuple[str, str]]) -> str:
    """The id of the model with these files, each a name and a SHA-256 in hex.

    It is the SHA-256 of their list as JSON, in the order of the names, without spaces.
    """
    listed = json.dumps(sorted(files), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(listed.encode()).hexdigest()


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
