"""Minimum transfer rate of a connection."""


class TransferRate:
    """Bytes moved per window of time, against a minimum.

    As soon as the minimum of a window has moved, a new window begins.
    """

    def __init__(self, window_s: float, least_bytes: int) -> None:
        self._window_s, self._least_bytes = window_s, least_bytes
        self._since, self._before, self._moved = 0.0, 0, 0

    def restart(self, now: float) -> None:
        """Begin a new window."""
        self._since, self._before = now, self._moved

    def move(self, size_bytes: int) -> None:
        """Count moved bytes."""
        self._moved += size_bytes

    def set_backlog(self, size_bytes: int) -> None:
        """Count the decrease of a backlog as moved bytes; an increase does not count."""
        if -size_bytes < self._moved:
            self._before -= self._moved + size_bytes
        self._moved = -size_bytes

    def is_slow(self, now: float) -> bool:
        """Return whether a whole window passed in which fewer than the minimum moved."""
        if self._moved - self._before >= self._least_bytes:
            self.restart(now)
        return now - self._since >= self._window_s
