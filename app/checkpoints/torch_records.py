"""Inert records for what the pickle of a PyTorch state dict describes; none runs any code.

Records that a checkpoint has many of are not frozen, which would double the time to create them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from palettery.app.checkpoints.dtypes import DTYPES

SAVE_STATE_DICT = (
    "load it where you trust it, and save model.state_dict() instead, with torch.save or as "
    "safetensors"
)

_ITEM_BYTES: Mapping[str | None, int] = {
    None: 1,
    **{dtype.torch: dtype.bits // 8 for dtype in DTYPES.values() if dtype.torch},
    **dict.fromkeys(("qint8", "quint8", "quint4x2", "quint2x4"), 1),
    "qint32": 4,
    "complex128": 16,
}
"""torch name of a storage's dtype -> bytes of an element; None is an untyped storage."""


class MalformedPickleError(Exception):
    """A pickle is damaged: no pickler writes it."""


class UnsupportedPickleError(Exception):
    """A pickle contains what only code can create; `advice` tells the user what to do."""

    def __init__(self, what: str, advice: str = SAVE_STATE_DICT) -> None:
        super().__init__(what, advice)
        self.what, self.advice = what, advice


@dataclass(frozen=True, slots=True)
class TorchDtype:
    """A `torch.dtype`, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageType:
    """A storage class of torch."""

    dtype: str | None
    """None for an untyped storage."""


@dataclass(slots=True)
class StorageRef:
    """A reference to a storage of the checkpoint, or to a part of it."""

    dtype: str | None
    """None for an untyped storage."""
    key: str
    location: str
    """The device it was saved from."""
    numel: int
    """Number of elements from the beginning of the storage to the end of this part; bytes if
    untyped."""
    start: int = 0
    """Number of elements before this part."""

    def size_bytes(self) -> int:
        """Return the size from the beginning of the storage to the end of this part."""
        return self.numel * _ITEM_BYTES[self.dtype]


@dataclass(slots=True)
class TensorRef:
    """A view of a storage; offset and strides count elements."""

    storage: StorageRef
    dtype: str
    """Its name in torch."""
    offset: int
    """Offset from the beginning of the storage."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A tensor whose values are not the plain contents of a storage."""

    what: str
    """Description, with an article."""
    advice: str


@dataclass(frozen=True, slots=True)
class TensorClass:
    """A class of tensors."""


@dataclass(frozen=True, slots=True, eq=False)
class NonTextKey:
    """A dict's key that is no string; it hashes by identity, so no input can cause collisions."""

    key: object

    def __str__(self) -> str:
        if isinstance(self.key, int | float | None):
            return str(self.key)
        return f"a {type(self.key).__name__}"


@dataclass(frozen=True, slots=True)
class Builder:
    """The replacement of a function or class that the pickle of a state dict calls.

    Its time is proportional to the lengths of its arguments, not to the size of their contents.
    """

    build: Callable[[tuple[object, ...]], object]


def parse_count(value: object) -> int:
    """Return a whole number from 0 to 2**63 unchanged.

    Raises:
        MalformedPickleError: anything else, booleans included.
    """
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise MalformedPickleError("a value that must be a whole number from 0 to 2**63")
    return value


def parse_storage(persistent_id: object) -> tuple[StorageRef, StorageRef]:
    """Return the whole storage that a persistent id refers to, and the part that it selects."""
    # Plain comparisons: class patterns take twice as long, and a pickle has a million of these.
    if isinstance(persistent_id, tuple) and len(persistent_id) in (5, 6):
        name, kind, key, location, numel, *views = persistent_id
        if name == "storage" and type(kind) is StorageType and type(key) is type(location) is str:
            whole = StorageRef(kind.dtype, key, location, parse_count(numel))
            view = views[0] if views else None
            return whole, whole if view is None else _select_part(whole, view)
    raise MalformedPickleError("an invalid reference to a storage")


def _select_part(whole: StorageRef, view: object) -> StorageRef:
    match view:
        case (str(), start, numel) if (
            end := parse_count(start) + parse_count(numel)
        ) <= whole.numel:
            return StorageRef(whole.dtype, whole.key, whole.location, end, parse_count(start))
    raise MalformedPickleError("a reference to a part that exceeds its storage")
