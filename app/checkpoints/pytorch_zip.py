"""PyTorch's zip checkpoints: state dicts of `torch.save`, read without torch and without loading.

Source: `torch/serialization.py` of torch 2.13; such an archive holds `data.pkl`, which tells of the
tensors, and one stored member `data/<key>` per storage.
"""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from palettery.app.checkpoints.json_scanner import quote_text
from palettery.app.checkpoints.restricted_pickle import read_pickle
from palettery.app.checkpoints.state_dict import FileRange, PickledCheckpoint, Warn, read_state_dict
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
from palettery.schemas.checkpoint import StoredTensor

ArchiveKind: TypeAlias = Literal["state_dict", "pt2", "torchscript"]

BYTEORDER_BYTES = 16
"""Most bytes of the member that tells the byte order."""
_DATA = "data/"


def detect_archive(members: Mapping[str, ZipMember], name: str = "the archive") -> ArchiveKind:
    """What kind of archive PyTorch wrote, from its members as `read_members` names them.

    Raises:
        UnsupportedFormat: a torch.export program of an old version, or no archive of PyTorch.
    """
    inner = {key.partition("/")[2] or key for key in members}
    if "serialized_exported_program.json" in inner:
        raise UnsupportedFormat(
            f"{name} is a torch.export program in the format of an old PyTorch, with pickled "
            "weights; load it there and export the model again with torch.export.save of torch 2.13"
        )
    if "models/model.json" in inner and "archive_format" in inner:
        return "pt2"
    if "constants.pkl" in inner or any(key.startswith("code/") for key in inner):
        return "torchscript"
    if "data.pkl" in inner:
        return "state_dict"
    raise UnsupportedFormat(
        f"{name} is a zip archive that PyTorch did not write: it holds neither data.pkl nor "
        f"models/model.json, but {quote_text(next(iter(members), 'nothing'))}; send a checkpoint"
    )


def read_pytorch_zip(
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
        InvalidModel, UnsupportedFormat, TooLarge: see `read_members` and `read_state_dict`.
    """
    archive = read_members(storage, path, limits, name=name)
    kind = detect_archive(archive, name)
    if kind == "torchscript":
        raise UnsupportedFormat(f"{name} is a TorchScript module, which is code; {SAVE_STATE_DICT}")
    if kind == "pt2":
        raise InvalidModel(
            f"{name} is a torch.export program, a whole model and no shard; send it alone"
        )
    members = strip_root_folder(archive, name)
    if "data.pkl" not in members:
        raise InvalidModel(f"{name}: its data.pkl does not lie where it must; {SAVE_STATE_DICT}")
    _check_byteorder(storage, path, members, name)
    pickle = read_member(storage, path, members["data.pkl"], limits, name=name)
    pickled = PickledCheckpoint(
        name=name,
        top=read_pickle(pickle, limits, name=name),
        pickle_bytes=len(pickle),
        storages={
            key.removeprefix(_DATA): FileRange(member.offset, member.size_bytes)
            for key, member in members.items()
            if key.startswith(_DATA)
        },
        file_bytes=storage.size_bytes(path),
    )
    return read_state_dict(pickled, limits, file, warn)


def _check_byteorder(
    storage: Storage, path: str, members: Mapping[str, ZipMember], name: str
) -> None:
    member = members.get("byteorder")
    if member is None:  # torch < 2.1, which knew little-endian machines only
        return
    if member.size_bytes > BYTEORDER_BYTES:
        raise InvalidModel(
            f"{name}: its byteorder has {member.size_bytes:,} bytes, and must be 'little'; fetch "
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
            f"{name}: its byteorder is {order!r}, and must be 'little'; fetch the file again"
        )
