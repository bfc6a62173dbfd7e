"""Stop work that nobody waits for any more."""

import time

from palettery.app.errors import Cancelled
from palettery.app.storage.base import Storage

LOOK_EVERY_S = 0.25
"""Between two looks at the store."""


class StopCheck:
    """Called now and then by work in progress; raises once the job's marker lies in the store.

    Cheap to call: the store is asked a few times a second at most.
    """

    def __init__(self, store: Storage, path: str | None) -> None:
        self._store, self._path = store, path
        self._next = 0.0

    def __call__(self) -> None:
        """Look, if it is time to.

        Raises:
            Cancelled: the job was cancelled, or its time is up.
        """
        if time.monotonic() >= self._next:
            self.now()

    def now(self) -> None:
        """Look at once.

        Raises:
            Cancelled: as above.
        """
        if self._path is not None and self._store.exists(self._path):
            raise Cancelled("the job was stopped while it ran")
        self._next = time.monotonic() + LOOK_EVERY_S
