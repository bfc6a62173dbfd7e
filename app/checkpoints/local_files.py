"""Files of this machine, as a store has them."""

import hashlib
from collections.abc import Sequence
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
    """Files of one folder, as a store sees them; a folder stands for the model files in it.

    A link keeps its own name and folder, and is read where it leads.

    Raises:
        BadInput: a file cannot be read, or they lie in several folders.
    """
    files = [file for path in paths for file in expand_path(path)]
    folders = {_identity(file.parent): file.parent.absolute() for file in files}
    if len(folders) != 1:
        raise BadInput(
            f"the files of one model lie in one folder; these lie in {len(folders)}: "
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
    """The files that a path stands for: itself, or the model files of a folder.

    Those are its safetensors, or else the checkpoint that transformers wrote before safetensors;
    with their index, and the model's config.json.

    Raises:
        BadInput: there are none, or one cannot be read.
    """
    found = [path]
    if _is_folder(path):
        found = _model_files(path, "*.safetensors", "*.safetensors.index.json") or _model_files(
            path, "pytorch_model*.bin", "pytorch_model*.bin.index.json"
        )
        if not found:
            raise BadInput(_describe_missing_model(path))
        found += [file for file in _model_files(path, "config.json") if _is_of_model(file)]
    for file in found:
        check_readable(file)
    return found


def _model_files(folder: Path, *patterns: str) -> list[Path]:
    """The files of such names; those that begin with a dot, as `._x` of macOS, are left out."""
    found = (file for pattern in patterns for file in folder.glob(pattern))
    return sorted(file for file in found if not file.name.startswith("."))


def _is_of_model(config: Path) -> bool:
    """Whether a config.json tells of the modules of a model; other programs write some too."""
    limits = read_settings().limits
    try:
        is_small = config.stat().st_size <= limits.config_bytes
        return is_small and is_model_config(config.read_text("utf-8-sig"), limits)
    except (OSError, UnicodeDecodeError):
        return False


def _describe_missing_model(folder: Path) -> str:
    """Why a folder is no model, and what to do."""
    if _model_files(folder, "*.distcp"):
        return f"{folder} is of torch.distributed.checkpoint (.distcp); {JOIN_SHARDS}"
    return (
        f"no .safetensors file lies in {folder}, and no pytorch_model.bin; name the files of its "
        "checkpoint"
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # such as a name that is too long, which `check_readable` tells
        return False


def _identity(folder: Path) -> tuple[int, int]:
    """Equal for two names of one folder."""
    found = folder.stat()
    return found.st_dev, found.st_ino


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
