"""What is to be exported, and where to."""

from collections.abc import Collection
from dataclasses import dataclass, field

from palettery.app.artifacts.reader import Artifact
from palettery.app.artifacts.writer import Chunks, write_hashed
from palettery.app.settings import Sandbox
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import StoredFile


@dataclass(frozen=True)
class ExportSource:
    """The `.pt2` that an artifact was made of."""

    storage: Storage
    file: StoredFile


@dataclass(frozen=True)
class Export:
    """An artifact on its way into another form."""

    artifact: Artifact
    store: Storage
    """That it is written to."""
    path: str
    """Of its file there."""
    dense: Collection[str] = ()
    """Weights that are dense in it."""
    source: ExportSource | None = None
    """Needed by forms of models that run."""
    sandbox: Sandbox = field(default_factory=Sandbox)
    """In which they are made."""
    folder: str | None = None
    """That takes the digests of its blocks."""

    def put(self, chunks: Chunks) -> str:
        """Write its file; the hex digest of that."""
        return write_hashed(self.store, self.path, chunks, self.artifact.check, self.folder)
