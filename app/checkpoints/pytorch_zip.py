"""Zip checkpoints of `torch.save`, read without torch and without unpickling.

An archive contains `data.pkl`, which describes the tensors, and one uncompressed member
`data/<key>` per storage.

Source: `torch/serialization.py` of torch 2.13.
"""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from palettery.app.checkpoints.quoting import quote_text
from palettery.app.checkpoints.ranged_reads import FileRange
from palettery.app.checkpoints.restricted_pickle import read_pickle
from palettery.app.checkpoints.state_dict import PickledCheckpoint, Warn, read_state_dict
from palettery.app.checkpoints.torch_records import SAVE_STATE_DICT
from palettery.app.checkpoints.zip_members import (
    ZipMember,
    read_member,
    read_members,
    strip_root_folder,
)
from palettery.app.errors import InvalidModel, UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import StoredFile, StoredTensor

ArchiveKind: TypeAlias = Literal["state_dict", "pt2", "torchscript"]

BYTEORDER_BYTES = 16
"""Maximum size of the member with the byte order."""
_STORAGES = "data/"


def detect_archive(members: Mapping[str, ZipMember], name: str = "the archive") -> ArchiveKind:
    """Return the kind of a PyTorch archive, from the members that `read_members` returns.

    Raises:
        UnsupportedFormat: a torch.export program of an old version, or no archive of PyTorch.
    """
    relative_names = {key.partition("/")[2] or key for key in members}
    if "serialized_exported_program.json" in relative_names:
        raise UnsupportedFormat(
            f"{name} is a torch.export program in the format of an old PyTorch, with pickled "
            "weights; load it there and export the model again with torch.export.save of torch 2.13"
        )
    if "models/model.json" in relative_names and "archive_format" in relative_names:
        return "pt2"
    if "constants.pkl" in relative_names or any(key.startswith("code/") for key in relative_names):
        return "torchscript"
    if "data.pkl" in relative_names:
        return "state_dict"
    raise UnsupportedFormat(
        f"{name} is a zip archive, but not of PyTorch: it holds neither data.pkl nor "
        f"models/model.json, but {quote_text(next(iter(members), 'nothing'))}; send a checkpoint"
    )


def read_pytorch_zip(
    storage: Storage, file: StoredFile, number: int, limits: Limits, warn: Warn
) -> tuple[StoredTensor, ...]:
    """Return the tensors of a state dict; `number` is that of the file in the upload.

    Raises:
        InvalidModel, UnsupportedFormat, TooLarge: see `read_members`, `read_pickle` and
            `read_state_dict`.
    """
    path, name = file.path, file.name
    archive = read_members(storage, path, limits, name=name)
    kind = detect_archive(archive, name)
    if kind == "torchscript":
        raise UnsupportedFormat(f"{name} is a TorchScript module, which is code; {SAVE_STATE_DICT}")
    if kind == "pt2":
        raise InvalidModel(
            f"{name} is a torch.export program, which is a whole model and not a shard; send it "
            "alone"
        )
    members = strip_root_folder(archive, name)
    if "data.pkl" not in members:
        raise InvalidModel(f"{name}: its data.pkl lies in the wrong folder; {SAVE_STATE_DICT}")
    _check_byteorder(storage, path, members, name)
    pickle = read_member(storage, path, members["data.pkl"], limits, name=name)
    pickled = PickledCheckpoint(
        name=name,
        root=read_pickle(pickle, limits, name=name),
        pickle_bytes=len(pickle),
        storages={
            key.removeprefix(_STORAGES): FileRange(member.offset, member.size_bytes)
            for key, member in members.items()
            if key.startswith(_STORAGES)
        },
        file_bytes=storage.size_bytes(path),
    )
    return read_state_dict(pickled, limits, number, warn)


def _check_byteorder(
    storage: Storage, path: str, members: Mapping[str, ZipMember], name: str
) -> None:
    member = members.get("byteorder")
    if member is None:  # torch < 2.1, which supported only little-endian machines
        return
    if member.size_bytes > BYTEORDER_BYTES:
        raise InvalidModel(
            f"{name}: its byteorder has {member.size_bytes:,} bytes, but must be 'little'; fetch "
            "the file again"
        )
    order = bytes(storage.read(path, member.offset, member.size_bytes))
    if order == b"big":
        raise UnsupportedFormat(
            f"{name} was saved on a big-endian machine; load it on a little-endian one and save "
            "it again"
        )
    if order != b"little":
        raise InvalidModel(
            f"{name}: its byteorder is {order!r}, but must be 'little'; fetch the file again"
        )
