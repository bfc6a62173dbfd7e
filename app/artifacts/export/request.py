"""Request of an export."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

from palettery.app.artifacts.reader import Artifact
from palettery.app.artifacts.writer import Chunks, write_hashed
from palettery.app.settings import Sandbox
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import StoredFile


@dataclass(frozen=True)
class ExportSource:
    """The `.pt2` from which an artifact was made."""

    storage: Storage
    file: StoredFile


@dataclass(frozen=True)
class ExportRequest:
    """An artifact to export, and the file to write."""

    artifact: Artifact
    store: Storage
    """Store of the export."""
    path: str
    """Path of the export in the store."""
    dense: Collection[str] = ()
    """Weights that the format cannot express, written dense."""
    source: ExportSource | None = None
    """Uploaded model; required for runnable formats."""
    config: str | None = None
    """Text of the model's config.json; required for folders of transformers."""
    sandbox: Sandbox = field(default_factory=Sandbox)
    """Limits of the sandbox in which runnable models are converted."""
    folder: str | None = None
    """Folder for the digests of the export's blocks."""

    def sources(self) -> Iterator[Literal["graph", "config"]]:
        """Yield what there is beside the artifact."""
        if self.source is not None:
            yield "graph"
        if self.config is not None:
            yield "config"

    def write(self, chunks: Chunks) -> str:
        """Write the export's file; return its SHA-256."""
        return write_hashed(self.store, self.path, chunks, self.artifact.check, self.folder)
