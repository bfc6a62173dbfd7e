"""Reserved disk space for the embedded database, which needs it for deletions and recovery.

SQLite needs space to delete rows and to recover from a crash. On a full disk it could do neither,
and no space would ever become free.
"""

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from palettery.app.settings import Settings
from palettery.app.storage.folder import MIN_FREE_BYTES

RESERVE_BYTES = 2 * MIN_FREE_BYTES
"""Size of the reserve; stores leave half of it free once it is released."""
PLENTY_BYTES = 4 * RESERVE_BYTES
"""Free space from which on the reserve is created."""

log = logging.getLogger(__name__)


class DiskReserve:
    """A placeholder file, deleted when the disk is full; unused with an external database."""

    def __init__(self, settings: Settings) -> None:
        self._path: Path | None = None
        if settings.database_url is None:
            self._path = settings.data_dir / "reserve"

    def release(self) -> None:
        """Delete the reserve if the disk is full."""
        if self._path is not None and self._free_bytes(self._path) < MIN_FREE_BYTES:
            with suppress(FileNotFoundError):
                self._path.unlink()
                log.warning("the disk of %s is full; releasing the reserve", self._path.parent)

    def create(self) -> None:
        """Create the reserve if it is missing and the disk has plenty of free space."""
        path = self._path
        if path is None or path.exists() or self._free_bytes(path) < PLENTY_BYTES:
            return
        try:
            with path.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError as error:
            path.unlink(missing_ok=True)
            log.warning("cannot create the reserve %s: %s", path, error.strerror)

    def _free_bytes(self, path: Path) -> int:
        try:
            return shutil.disk_usage(path.parent).free
        except FileNotFoundError:  # before the first start
            return PLENTY_BYTES
