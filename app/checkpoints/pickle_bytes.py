"""The bytes of a pickle, read in order."""

from palettery.app.checkpoints.torch_records import MalformedPickleError


class TruncatedPickleError(MalformedPickleError):
    """The bytes end before the pickle does."""

    def __init__(self) -> None:
        super().__init__("it ends too early")


class PickleBytes:
    """Bytes with a position."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0
        """Offset of the next byte."""

    def take(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            TruncatedPickleError: there are fewer.
        """
        start, end = self.position, self.position + size
        if end > len(self._data):
            raise TruncatedPickleError
        self.position = end
        return self._data[start:end]

    def take_unsigned(self, size: int) -> int:
        """Return the next unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def take_line(self) -> str:
        """Return the text up to the next line feed."""
        end = self._data.find(b"\n", self.position)
        if end < 0:
            raise TruncatedPickleError
        return self.take(end + 1 - self.position)[:-1].decode()
