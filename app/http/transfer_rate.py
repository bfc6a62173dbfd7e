"""Whether bytes keep moving over a connection."""


class TransferRate:
    """Tells a line that is slow from one that stands still.

    So many bytes must move within each window; once they have, a new one begins.
    """

    def __init__(self, window_s: float, least_bytes: int) -> None:
        self._window_s, self._least_bytes = window_s, least_bytes
        self._since, self._before, self._moved = 0.0, 0, 0

    def restart(self, now: float) -> None:
        """Begin a window: nothing moves now that should, or enough has."""
        self._since, self._before = now, self._moved

    def move(self, size_bytes: int) -> None:
        """Bytes have moved."""
        self._moved += size_bytes

    def wait(self, size_bytes: int) -> None:
        """So many bytes wait; fewer than before have moved, and more take nothing back."""
        if -size_bytes < self._moved:
            self._before -= self._moved + size_bytes
        self._moved = -size_bytes

    def is_slow(self, now: float) -> bool:
        """Whether a window has passed in which too little moved."""
        if self._moved - self._before >= self._least_bytes:
            self.restart(now)
        return now - self._since >= self._window_s
