"""Files of this machine, as a store has them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from app.errors import BadInput
from app.planning.intake import Upload
from app.storage import open_storage
from schemas.checkpoint import StoredFile


def stored_files(paths: Sequence[Path], *, digests: bool) -> Upload:
    """Files of one folder, as a store sees them; a folder stands for the model files in it."""
    files = [found for path in paths for found in expanded(path)]
    folders = {file.resolve().parent for file in files}
    if len(folders) != 1:
        raise BadInput(f"the files of one model lie in one folder; these lie in {len(folders)}")
    stored = [
        StoredFile(
            name=file.name,
            path=file.name,
            size_bytes=file.stat().st_size,
            sha256=_sha256(file) if digests else None,
        )
        for file in files
    ]
    return Upload(open_storage(folders.pop().as_uri()), stored)


def expanded(path: Path) -> list[Path]:
    """The files that a path stands for: itself, or the model files of a folder.

    Raises:
        BadInput: there are none.
    """
    if path.is_dir():
        named = [*path.glob("*.safetensors"), *path.glob("*.safetensors.index.json")]
        found = sorted(file for file in named if not file.name.startswith("."))  # `._x` of macOS
        if not found:
            raise BadInput(f"no .safetensors file lies in {path}")
        return found
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    return [path]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
