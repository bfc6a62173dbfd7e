"""Checkpoints of PyTorch before version 1.6: a sequence of pickles, then raw storages.

The pickles are a magic number, the version, system information, the saved object, and the keys of
the storages in order. Each storage is its number of elements and its bytes, always little-endian;
so the offset of each storage follows from the saved object.

Source: `_legacy_save` and `_legacy_load` in `torch/serialization.py`, and `THPStorage_writeFileRaw`
in `torch/csrc/serialization.cpp`, of torch 2.13.
"""

from collections.abc import Mapping

from palettery.app.checkpoints.pickle_bytes import TruncatedPickleError
from palettery.app.checkpoints.pickle_machine import PickleMachine
from palettery.app.checkpoints.quoting import quote_text
from palettery.app.checkpoints.ranged_reads import FileRange, read_ranges
from palettery.app.checkpoints.restricted_pickle import damaged_pickle, run_machine
from palettery.app.checkpoints.state_dict import PickledCheckpoint, Warn, read_state_dict
from palettery.app.checkpoints.torch_records import StorageRef
from palettery.app.errors import InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import StoredFile, StoredTensor

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
MAGIC_OPCODE = b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
"""The pickled magic number, the same in every binary protocol."""
FIRST_BYTES = 1 << 20
"""Size of the first read in search of the pickles' end; each further read doubles it."""
_COUNT_BYTES = 8
"""Size of the number of elements, which precedes each storage."""
_SAVE_AGAIN = "fetch or save the file again"


def read_pytorch_legacy(
    storage: Storage, file: StoredFile, number: int, limits: Limits, warn: Warn
) -> tuple[StoredTensor, ...]:
    """Return the tensors of a state dict; `number` is that of the file in the upload.

    Raises:
        InvalidModel, UnsupportedFormat, TooLarge: see `read_pickle` and `read_state_dict`.
    """
    name, file_bytes = file.name, storage.size_bytes(file.path)
    machine, root, keys = _read_pickles(storage, file.path, file_bytes, limits, name)
    ranges = _locate_storages(keys, machine.storages, machine.source.position, file_bytes, name)
    _check_counts(storage, file.path, ranges, machine.storages, name)
    pickled = PickledCheckpoint(name, root, machine.source.position, ranges, file_bytes)
    return read_state_dict(pickled, limits, number, warn)


def _read_pickles(
    storage: Storage, path: str, file_bytes: int, limits: Limits, name: str
) -> tuple[PickleMachine, object, object]:
    """Return the machine that read the pickles, the saved object, and the keys of the storages."""
    size = FIRST_BYTES
    while True:
        size = min(size, file_bytes, limits.header_bytes)
        machine = PickleMachine(bytes(storage.read(path, 0, size)), limits)
        try:
            magic, version, _ = (run_machine(machine, name) for _ in range(3))
            if magic != MAGIC or version != VERSION:
                raise UnsupportedFormat(
                    f"{name} begins as a legacy PyTorch checkpoint, but not of version {VERSION}, "
                    f"the only one that exists; {_SAVE_AGAIN}"
                )
            root, keys = run_machine(machine, name), run_machine(machine, name)
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
            return machine, root, keys


def _locate_storages(
    keys: object, storages: Mapping[str, StorageRef], start: int, file_bytes: int, name: str
) -> dict[str, FileRange]:
    """Return the byte range of each storage: they follow one another to the end of the file."""
    if not isinstance(keys, list):
        raise damaged_pickle(name, "its storages have no list of keys")
    ranges: dict[str, FileRange] = {}
    offset = start
    for key in keys:
        if not isinstance(key, str) or key not in storages or key in ranges:
            raise InvalidModel(
                f"{name}: its list of storages names {quote_text(str(key)[:100])} twice, or no "
                f"tensor lies in it; {_SAVE_AGAIN}"
            )
        size_bytes = storages[key].size_bytes()
        ranges[key] = FileRange(offset + _COUNT_BYTES, size_bytes)
        offset += _COUNT_BYTES + size_bytes
    if offset != file_bytes:
        problem = "is truncated" if offset > file_bytes else "has bytes after its end"
        raise InvalidModel(
            f"{name} {problem}: its storages end at byte {offset:,}, the file has {file_bytes:,}; "
            f"{_SAVE_AGAIN}"
        )
    return ranges


def _check_counts(
    storage: Storage,
    path: str,
    ranges: Mapping[str, FileRange],
    storages: Mapping[str, StorageRef],
    name: str,
) -> None:
    """Check that each storage begins with its number of elements."""
    counts = [FileRange(range_.offset - _COUNT_BYTES, _COUNT_BYTES) for range_ in ranges.values()]
    for key, data in zip(ranges, read_ranges(storage, path, counts), strict=True):
        count = int.from_bytes(data, "little")
        if count != storages[key].numel:
            raise InvalidModel(
                f"{name}: its storage {quote_text(key)} has {count:,} elements, and must have "
                f"{storages[key].numel:,}; {_SAVE_AGAIN}"
            )
