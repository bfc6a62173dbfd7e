"""Local files and folders as stored files of one model."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from palettery.app.checkpoints.reader import is_model_config
from palettery.app.checkpoints.zip_directory import JOIN_SHARDS
from palettery.app.errors import BadInput
from palettery.app.settings import read_settings
from palettery.app.storage.input_files import check_readable
from palettery.app.storage.open import open_storage
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.checkpoint import StoredFile


def stored_files(paths: Sequence[Path], *, digests: bool) -> StoredFiles:
    """Return the files of one folder as stored files; a folder stands for its model files.

    A link keeps its own name and folder; its target is read.

    Raises:
        BadInput: a file cannot be read, or the files are in several folders.
    """
    files = [file for path in paths for file in expand_path(path)]
    folders = {_device_and_inode(file.parent): file.parent.absolute() for file in files}
    if len(folders) != 1:
        raise BadInput(
            f"the files of one model must lie in one folder; these lie in {len(folders)}: "
            f"{', '.join(map(str, folders.values()))}; make a folder of links to them"
        )
    stored = [
        StoredFile(
            name=file.name,
            path=file.name,
            size_bytes=file.stat().st_size,
            sha256=_sha256(file) if digests else None,
        )
        for file in files
    ]
    (folder,) = folders.values()
    return StoredFiles(open_storage(folder.as_uri()), stored)


def expand_path(path: Path) -> list[Path]:
    """Return the file itself, or the model files of a folder.

    Model files are the safetensors, or else the `pytorch_model.bin` files that transformers wrote
    before safetensors, with their index and the model's config.json.

    Raises:
        BadInput: there are none, or one cannot be read.
    """
    files = [path]
    if _is_folder(path):
        files = _glob(path, "*.safetensors", "*.safetensors.index.json") or _glob(
            path, "pytorch_model*.bin", "pytorch_model*.bin.index.json"
        )
        if not files:
            raise BadInput(_describe_missing_model(path))
        files += [file for file in _glob(path, "config.json") if _is_model_config(file)]
    for file in files:
        check_readable(file)
    return files


def _glob(folder: Path, *patterns: str) -> list[Path]:
    """Return the files that match a pattern, without hidden ones such as `._x` of macOS."""
    files = (file for pattern in patterns for file in folder.glob(pattern))
    return sorted(file for file in files if not file.name.startswith("."))


def _is_model_config(config: Path) -> bool:
    """Return whether a file named config.json is that of a model: other programs write some too."""
    limits = read_settings().limits
    try:
        is_small = config.stat().st_size <= limits.config_bytes
        return is_small and is_model_config(config.read_text("utf-8-sig"), limits)
    except (OSError, UnicodeDecodeError):
        return False


def _describe_missing_model(folder: Path) -> str:
    """Return the message for a folder without a model, with advice."""
    if _glob(folder, "*.distcp"):
        return f"{folder} is a checkpoint of torch.distributed.checkpoint (.distcp); {JOIN_SHARDS}"
    return (
        f"{folder} holds neither .safetensors files nor pytorch_model.bin; name the files of its "
        "checkpoint"
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # such as a name that is too long, which `check_readable` reports
        return False


def _device_and_inode(folder: Path) -> tuple[int, int]:
    """Return numbers that are equal for two paths of one folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _sha256(path: Path) -> str:
    status = path.stat()
    return _cached_sha256(path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _cached_sha256(path: Path, *_: int) -> str:
    """Return the digest of a file, hashed once as long as inode, size and mtime stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
