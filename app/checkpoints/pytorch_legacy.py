"""PyTorch's checkpoints from before version 1.6: pickles in a row, then raw storages.

The pickles are a magic number, the version, the machine that wrote it, what was saved, and the keys
of the storages in order. Each storage is its count of elements and its bytes, little-endian
whatever machine wrote it; so where each lies follows from what was saved.

Source: `_legacy_save` and `_legacy_load` in `torch/serialization.py`, and `THPStorage_writeFileRaw`
in `torch/csrc/serialization.cpp`, of torch 2.13.
"""

from collections.abc import Mapping

from palettery.app.checkpoints.json_scanner import quote_text
from palettery.app.checkpoints.pickle_machine import PickleMachine, TruncatedPickleError
from palettery.app.checkpoints.ranged_reads import FileRange, read_ranges
from palettery.app.checkpoints.restricted_pickle import damaged_pickle, run
from palettery.app.checkpoints.state_dict import PickledCheckpoint, Warn, read_state_dict
from palettery.app.checkpoints.torch_records import StorageRef
from palettery.app.errors import InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import StoredTensor

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
MAGIC_OPCODE = b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
"""How every binary pickle protocol writes the magic number."""
FIRST_BYTES = 1 << 20
"""Read at first in search of the pickles' end, then twice as many, and so on."""
_COUNT_BYTES = 8
_AGAIN = "fetch or save the file again"


def read_pytorch_legacy(
    storage: Storage,
    path: str,
    limits: Limits,
    *,
    name: str,
    file: int,
    warn: Warn,
) -> tuple[StoredTensor, ...]:
    """The tensors of a state dict; see `read_state_dict`.

    `name` is what messages call the file; `file` is the number its tensors point to.

    Raises:
        InvalidModel: damaged, or telling of bytes that it does not hold.
        UnsupportedFormat: anything but a state dict, with the way out.
        TooLarge: over a limit.
    """
    file_bytes = storage.size_bytes(path)
    machine, top, keys = _read_pickles(storage, path, file_bytes, limits, name)
    places = _locate_storages(keys, machine.storages, machine.at, file_bytes, name)
    _check_counts(storage, path, places, machine.storages, name)
    pickled = PickledCheckpoint(name, top, machine.at, places, file_bytes)
    return read_state_dict(pickled, limits, file, warn)


def _read_pickles(
    storage: Storage, path: str, file_bytes: int, limits: Limits, name: str
) -> tuple[PickleMachine, object, object]:
    """The machine that read them, what was saved, and the keys of the storages."""
    size = FIRST_BYTES
    while True:
        size = min(size, file_bytes, limits.header_bytes)
        machine = PickleMachine(bytes(storage.read(path, 0, size)), limits)
        try:
            magic, version, _ = (run(machine, name) for _ in range(3))
            if magic != MAGIC or version != VERSION:
                raise UnsupportedFormat(
                    f"{name} begins as a legacy PyTorch checkpoint, and not of version {VERSION}, "
                    "the only one that there was; fetch or save the file again"
                )
            top, keys = run(machine, name), run(machine, name)
        except TruncatedPickleError as error:
            if size == file_bytes:
                raise damaged_pickle(name, str(error)) from error
            if size == limits.header_bytes:
                raise TooLarge(
                    f"{name}: its pickles take over {size:,} bytes; "
                    f"{limits.allowed('header_bytes')}"
                ) from error
            size *= 2
        else:
            return machine, top, keys


def _locate_storages(
    keys: object, storages: Mapping[str, StorageRef], start: int, file_bytes: int, name: str
) -> dict[str, FileRange]:
    """Where each storage lies: one behind the other, to the end of the file."""
    if not isinstance(keys, list):
        raise damaged_pickle(name, "its storages have no list of keys")
    places: dict[str, FileRange] = {}
    at = start
    for key in keys:
        if not isinstance(key, str) or key not in storages or key in places:
            raise InvalidModel(
                f"{name}: its list of storages names {quote_text(str(key)[:100])}, which no tensor lies "
                f"in, or which it named before; {_AGAIN}"
            )
        size_bytes = storages[key].size_bytes()
        places[key] = FileRange(at + _COUNT_BYTES, size_bytes)
        at += _COUNT_BYTES + size_bytes
    if at != file_bytes:
        fault = "is truncated" if at > file_bytes else "holds bytes behind its end"
        raise InvalidModel(
            f"{name} {fault}: its storages end at byte {at:,}, and the file has {file_bytes:,}; "
            f"{_AGAIN}"
        )
    return places


def _check_counts(
    storage: Storage,
    path: str,
    places: Mapping[str, FileRange],
    storages: Mapping[str, StorageRef],
    name: str,
) -> None:
    """That each storage begins with its count of elements."""
    counts = [FileRange(place.offset - _COUNT_BYTES, _COUNT_BYTES) for place in places.values()]
    for key, read in zip(places, read_ranges(storage, path, counts), strict=True):
        found = int.from_bytes(read, "little")
        if found != storages[key].numel:
            raise InvalidModel(
                f"{name}: its storage {quote_text(key)} has {found:,} elements, and must have "
                f"{storages[key].numel:,}; {_AGAIN}"
            )
