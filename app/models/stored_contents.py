"""What is in a model, as it was read from its files: kept, so that they are read once."""

from collections.abc import Sequence

from palettery.app.checkpoints.reader import READER_VERSION, bytes_to_parse
from palettery.app.errors import ObjectMissing
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import Checkpoint, StoredFile
from palettery.schemas.models import ModelContents

MODELS = "models"
"""Folder of what is in each model."""
CONTENTS_VERSION = 1
"""Goes up when the API shows something else of the same checkpoint than before."""


def index_path(model_id: str) -> str:
    """Where the checkpoint of a model lies, as this version reads it."""
    return f"{index_folder(model_id)}/checkpoint-{READER_VERSION}.json"


def contents_path(model_id: str) -> str:
    """Where that lies which the API shows of it, as this version does."""
    return f"{index_folder(model_id)}/contents-{READER_VERSION}.{CONTENTS_VERSION}.json"


def index_folder(model_id: str) -> str:
    """Where everything lies that is kept of a model beside its files."""
    return f"{MODELS}/{model_id}"


def write_index(store: Storage, model_id: str, checkpoint: Checkpoint) -> None:
    """Keep a model's checkpoint; owners of the same files share it."""
    store.write(index_path(model_id), checkpoint.model_dump_json().encode())


def write_contents(store: Storage, model_id: str, contents: ModelContents) -> None:
    """Keep what the API shows of a model, so that it is only handed out when asked for."""
    store.write(contents_path(model_id), contents.model_dump_json().encode())


def read_index(store: Storage, model_id: str, files: Sequence[StoredFile]) -> Checkpoint | None:
    """A model's checkpoint with its files where they lie now; None if this version has none."""
    try:
        data = store.read(index_path(model_id))
    except ObjectMissing:
        return None
    return Checkpoint.model_validate_json(bytes(data)).model_copy(update={"files": tuple(files)})


def index_bytes(store: Storage, model_id: str, files: Sequence[StoredFile]) -> int:
    """About what is parsed for a model's checkpoint: the one that is kept, or else its files."""
    try:
        return store.size_bytes(index_path(model_id))
    except ObjectMissing:
        return bytes_to_parse(store, files)
