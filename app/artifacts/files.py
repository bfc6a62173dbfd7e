"""Artifacts in local files."""

from collections.abc import Sequence
from pathlib import Path

from palettery.app.artifacts.reader import Artifact, open_artifact
from palettery.app.checkpoints.local_files import stored_files
from palettery.app.errors import InvalidArtifact
from palettery.app.settings import read_settings


def open_files(paths: Sequence[Path]) -> Artifact:
    """Open an artifact: its file, all of its shards, or their folder.

    Raises:
        InvalidArtifact: see `open_artifact`.
        BadInput: a file cannot be read, or the files are in several folders.
    """
    stored = stored_files(paths, digests=False)
    shards = [file.path for file in stored.files if not file.name.endswith(".json")]
    if not shards:
        raise InvalidArtifact("an index alone is not an artifact; give its .safetensors files too")
    return open_artifact(stored.storage, shards, read_settings().limits)
