"""Stored results of parsing a model: the checkpoint, and the contents that the API returns."""

from collections.abc import Sequence

from palettery.app.checkpoints.reader import READER_VERSION, bytes_to_parse
from palettery.app.errors import ObjectMissing
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import Checkpoint, StoredFile
from palettery.schemas.models import ModelContents

MODELS = "models"
"""Folder of the results of all models."""
CONTENTS_VERSION = 1
"""Increased when the API returns other contents of the same checkpoint than before."""


def index_path(model_id: str) -> str:
    """Return the path of a model's checkpoint, for this version of the readers."""
    return f"{index_folder(model_id)}/checkpoint-{READER_VERSION}.json"


def contents_path(model_id: str) -> str:
    """Return the path of a model's contents, for this version of the API."""
    return f"{index_folder(model_id)}/contents-{READER_VERSION}.{CONTENTS_VERSION}.json"


def index_folder(model_id: str) -> str:
    """Return the folder of a model's index and contents."""
    return f"{MODELS}/{model_id}"


def write_index(store: Storage, model_id: str, checkpoint: Checkpoint) -> None:
    """Store a model's checkpoint; owners of the same files share it."""
    store.write(index_path(model_id), checkpoint.model_dump_json().encode())


def write_contents(store: Storage, model_id: str, contents: ModelContents) -> None:
    """Store a model's contents in the form in which the API returns them."""
    store.write(contents_path(model_id), contents.model_dump_json().encode())


def read_index(store: Storage, model_id: str, files: Sequence[StoredFile]) -> Checkpoint | None:
    """Return a model's stored checkpoint with these files; None if there is none."""
    try:
        data = store.read(index_path(model_id))
    except ObjectMissing:
        return None
    return Checkpoint.model_validate_json(bytes(data)).model_copy(update={"files": tuple(files)})


def index_bytes(store: Storage, model_id: str, files: Sequence[StoredFile]) -> int:
    """Return the approximate number of bytes to parse for a model's checkpoint, stored or not."""
    try:
        return store.size_bytes(index_path(model_id))
    except ObjectMissing:
        return bytes_to_parse(store, files)
