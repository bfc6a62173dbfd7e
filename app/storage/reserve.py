"""Room on the disk of the embedded database that is kept for deletions and for a start.

SQLite writes before it deletes, and to recover from a crash. On a disk that is full it could do
neither, and nothing would ever make room.
"""

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from palettery.app.settings import Settings
from palettery.app.storage.folder import FLOOR_BYTES

RESERVE_BYTES = 2 * FLOOR_BYTES
"""Of which what is stored leaves half alone, once the reserve is given up."""
PLENTY_BYTES = 4 * RESERVE_BYTES
"""What must be free for a reserve to be made."""

log = logging.getLogger(__name__)


class Reserve:
    """A file that is there to be deleted; there is none where the database is not ours."""

    def __init__(self, settings: Settings) -> None:
        self._place: Path | None = None
        if settings.database_url is None:
            self._place = settings.data_dir / "reserve"

    def give_up(self) -> None:
        """Make room for the database, if there is little left."""
        if self._place is not None and self._free_bytes(self._place) < FLOOR_BYTES:
            with suppress(FileNotFoundError):
                self._place.unlink()
                log.warning("the disk of %s is full; its reserve is given up", self._place.parent)

    def make(self) -> None:
        """Make the reserve, if there is none and much room is left."""
        place = self._place
        if place is None or place.exists() or self._free_bytes(place) < PLENTY_BYTES:
            return
        try:
            with place.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError as error:
            place.unlink(missing_ok=True)
            log.warning("no reserve is kept at %s: %s", place, error.strerror)

    def _free_bytes(self, place: Path) -> int:
        try:
            return shutil.disk_usage(place.parent).free
        except FileNotFoundError:  # before the first start
            return PLENTY_BYTES
