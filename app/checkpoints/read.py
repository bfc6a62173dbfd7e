"""From uploaded files to a Checkpoint: the only place that knows there are formats."""

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from app.checkpoints.json_scan import JsonScanner, shown
from app.checkpoints.kinds import ACCEPTED, HEAD_BYTES, tell_kind
from app.checkpoints.module_types import infer_modules
from app.checkpoints.ops import derive_ops
from app.checkpoints.safetensors import read_header
from app.errors import InvalidModel, TooLarge, UnsupportedFormat
from app.settings import Limits
from app.storage import Storage
from schemas.checkpoint import Checkpoint, StoredFile, StoredTensor

WeightMap = Mapping[str, str]
"""Tensor name -> the shard that the index says holds it."""


def read_checkpoint(storage: Storage, files: Sequence[StoredFile], limits: Limits) -> Checkpoint:
    """What the files of one upload hold, from their headers alone.

    Raises:
        InvalidModel: a file is damaged, lies, or the files do not fit together.
        UnsupportedFormat: a kind of file that is not accepted, with the way out.
        TooLarge: over a limit.
    """
    shards: list[int] = []
    indexes: list[WeightMap] = []
    for number, file in enumerate(files):
        head = bytes(storage.read(file.path, 0, min(HEAD_BYTES, file.size_bytes)))
        if tell_kind(head, file.name) == "safetensors":
            shards.append(number)
        elif (index := _read_json(storage, file, limits)) is not None:
            indexes.append(index)
    if not shards:
        raise InvalidModel(f"no file in the upload holds tensors; send {ACCEPTED}")
    tensors = _merge(storage, files, shards, limits)
    _check_indexes(indexes, files, tensors)
    modules = infer_modules(tensors, limits)
    return Checkpoint(
        format="safetensors",
        files=tuple(files),
        tensors=tuple(tensors),
        modules=modules,
        ops=derive_ops(modules, (tensor.name for tensor in tensors)),
    )


def _merge(
    storage: Storage, files: Sequence[StoredFile], shards: Sequence[int], limits: Limits
) -> list[StoredTensor]:
    """The tensors of all shards, in the order of the shards and of the bytes within each."""
    found: dict[str, StoredTensor] = {}
    for number in shards:
        file = files[number]
        header = read_header(storage, file.path, limits, name=file.name, file=number)
        for tensor in header.tensors:
            if tensor.name in found:
                other = files[found[tensor.name].file].name
                raise InvalidModel(
                    f"tensor {shown(tensor.name)} lies in both {other} and {file.name}; "
                    "send the shards of one model only"
                )
            found[tensor.name] = tensor
        if len(found) > limits.tensors:
            raise TooLarge(f"the shards hold over {limits.tensors:,} tensors, the most allowed")
    if not found:
        raise InvalidModel("the model holds no tensors; save it again, with its weights")
    return list(found.values())


def _read_json(storage: Storage, file: StoredFile, limits: Limits) -> WeightMap | None:
    """The weight map of an index; None for a Hugging Face config.json.

    Raises:
        UnsupportedFormat: JSON of any other kind.
    """
    if file.size_bytes > limits.header_bytes:
        raise TooLarge(
            f"{file.name} is JSON of {file.size_bytes:,} bytes; {limits.header_bytes:,} are allowed"
        )
    try:
        text = str(storage.read(file.path), "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidModel(f"{file.name} is neither a model nor UTF-8 text") from error
    if '"weight_map"' in text:
        return _read_weight_map(text, file.name, limits)
    if _is_model_config(text, limits):
        return None
    raise UnsupportedFormat(
        f"{file.name} is JSON, but neither a safetensors index (it has no weight_map) nor a "
        f"model's config.json (it has no model_type); leave it out and send {ACCEPTED}"
    )


def _read_weight_map(text: str, name: str, limits: Limits) -> WeightMap:
    scanner = JsonScanner(text, name)
    weight_map: dict[str, str] = {}
    for key in scanner.members():
        if key != "weight_map":
            scanner.flat()
            continue
        for tensor in scanner.members():
            if len(weight_map) == limits.tensors:
                raise TooLarge(f"{name} names over {limits.tensors:,} tensors, the most allowed")
            weight_map[tensor] = scanner.string()
    scanner.end()
    return weight_map


def _is_model_config(text: str, limits: Limits) -> bool:
    if len(text) > limits.config_bytes:
        return False
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and ("model_type" in said or "architectures" in said)


def _check_indexes(
    indexes: Sequence[WeightMap], files: Sequence[StoredFile], tensors: Sequence[StoredTensor]
) -> None:
    """That every shard an index names was sent, and holds the tensors it should.

    An index's file names are compared with those of the upload and used for nothing else.
    """
    if len(indexes) > 1:
        raise InvalidModel("the upload holds more than one index; send the one of these shards")
    lies_in = {tensor.name: PurePosixPath(files[tensor.file].name).name for tensor in tensors}
    sent = {PurePosixPath(file.name).name for file in files}
    for name, shard in (pair for index in indexes for pair in index.items()):
        if shard not in sent:
            raise InvalidModel(
                f"the index names the shard {shown(shard)}, which the upload lacks; send it too"
            )
        if lies_in.get(name) != shard:
            raise InvalidModel(
                f"the index says that tensor {shown(name)} lies in {shard}, and it does not; "
                "send shards and index of the same model"
            )
