"""Minimum transfer rate of a connection."""


class TransferRate:
    """Bytes moved per time window, compared with a minimum.

    A new window begins as soon as the minimum of the current one has moved.
    """

    def __init__(self, window_s: float, min_bytes: int) -> None:
        self._window_s, self._min_bytes = window_s, min_bytes
        self._window_start, self._moved_before, self._moved = 0.0, 0, 0

    def restart(self, now: float) -> None:
        """Begin a new window."""
        self._window_start, self._moved_before = now, self._moved

    def move(self, size_bytes: int) -> None:
        """Count moved bytes."""
        self._moved += size_bytes

    def set_backlog(self, size_bytes: int) -> None:
        """Count the decrease of a backlog as moved bytes; an increase does not count."""
        if -size_bytes < self._moved:
            self._moved_before -= self._moved + size_bytes
        self._moved = -size_bytes

    def is_slow(self, now: float) -> bool:
        """Return whether fewer bytes than the minimum moved during a whole window."""
        if self._moved - self._moved_before >= self._min_bytes:
            self.restart(now)
        return now - self._window_start >= self._window_s
