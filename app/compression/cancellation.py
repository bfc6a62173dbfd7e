"""Cancellation of running work."""

import time

from palettery.app.errors import Cancelled
from palettery.app.storage.base import Storage

CHECK_INTERVAL_S = 0.25
"""Minimum time between two reads of the store."""


class CancellationCheck:
    """Check of running work, called regularly; raises once the job's cancel marker is in the store.

    Calls are cheap: the store is read a few times a second at most.
    """

    def __init__(self, store: Storage, path: str | None) -> None:
        self._store, self._path = store, path
        self._next_check_s = 0.0

    def __call__(self) -> None:
        """Check for the marker, at most once per interval.

        Raises:
            Cancelled: the job was cancelled, or timed out.
        """
        if time.monotonic() >= self._next_check_s:
            self.check_now()

    def check_now(self) -> None:
        """Check for the marker at once.

        Raises:
            Cancelled: the job was cancelled, or timed out.
        """
        if self._path is not None and self._store.exists(self._path):
            raise Cancelled("the job was stopped while it ran")
        self._next_check_s = time.monotonic() + CHECK_INTERVAL_S
