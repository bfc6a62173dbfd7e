"""Artifacts in files of this machine."""

from collections.abc import Sequence
from pathlib import Path

from palettery.app.artifacts.reader import Artifact, open_artifact
from palettery.app.checkpoints.local_files import stored_files
from palettery.app.errors import InvalidArtifact
from palettery.app.settings import read_settings


def open_files(paths: Sequence[Path]) -> Artifact:
    """The artifact in these files: one, all shards, or the folder of those.

    Raises:
        InvalidArtifact: see `open_artifact`.
        BadInput: there are no such files, or they lie apart.
    """
    stored = stored_files(paths, digests=False)
    shards = [file.path for file in stored.files if not file.name.endswith(".json")]
    if not shards:
        raise InvalidArtifact("an index alone is not an artifact; give its .safetensors files too")
    return open_artifact(stored.storage, shards, read_settings().limits)
