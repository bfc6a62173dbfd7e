"""From uploaded files to a Checkpoint: the only place that knows there are formats."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

from app.checkpoints.hf_config import ConfigUnusable, modules_from_config
from app.checkpoints.json_scan import JsonScanner, shown
from app.checkpoints.kinds import ACCEPTED, HEAD_BYTES, Kind, parsed_bytes, tell_kind
from app.checkpoints.module_types import infer_modules
from app.checkpoints.ops import derive_ops
from app.checkpoints.pt2 import read_pt2
from app.checkpoints.pytorch_zip import read_pytorch_zip, tell_archive
from app.checkpoints.safetensors import read_header
from app.checkpoints.zip_members import read_members
from app.errors import InvalidModel, TooLarge, UnsupportedFormat
from app.settings import Limits
from app.storage import Storage
from schemas.artifact import METADATA_KEY
from schemas.checkpoint import Checkpoint, Module, StoredFile, StoredTensor

READER_VERSION = 2
"""Goes up when the same files give another checkpoint than before."""

Reader = Callable[[Storage, StoredFile, int, Limits], Sequence[StoredTensor]]
"""What finds the tensors of one shard, whose number is given."""
WeightMap = Mapping[str, str]
"""Tensor name -> the shard that the index says holds it."""


def bytes_to_parse(storage: Storage, files: Sequence[StoredFile]) -> int:
    """At most how much `read_checkpoint` parses of files."""
    return sum(parsed_bytes(_head(storage, file), file.size_bytes) for file in files)


def read_checkpoint(storage: Storage, files: Sequence[StoredFile], limits: Limits) -> Checkpoint:
    """What the files of one upload hold, from their headers alone.

    Raises:
        InvalidModel: a file is damaged, lies, or the files do not fit together.
        UnsupportedFormat: a kind of file that is not accepted, with the way out.
        TooLarge: over a limit.
    """
    shards: dict[Kind, list[int]] = {"safetensors": [], "zip": []}
    indexes: list[WeightMap] = []
    configs: list[str] = []
    for number, file in enumerate(files):
        kind = tell_kind(_head(storage, file), file.name)
        if kind != "json":
            shards[kind].append(number)
        elif isinstance(said := _read_json(storage, file, limits), str):
            configs.append(said)
        else:
            indexes.append(said)
    if shards["safetensors"] and shards["zip"]:
        one, other = (files[numbers[0]].name for numbers in shards.values())
        raise InvalidModel(
            f"the upload mixes safetensors ({one}) and zip archives ({other}); send one model, in "
            "one format"
        )
    if not any(shards.values()):
        raise InvalidModel(f"no file in the upload holds tensors; send {ACCEPTED}")
    if shards["zip"] and _is_exported(storage, [files[number] for number in shards["zip"]], limits):
        return _read_exported(storage, files, limits)
    read = _read_zip if shards["zip"] else _read_safetensors
    tensors = _merge(storage, files, shards["zip"] or shards["safetensors"], limits, read)
    _check_indexes(indexes, files, tensors)
    named, modules, warnings = _modules(configs, tensors, limits)
    return Checkpoint(
        format="pytorch_zip" if shards["zip"] else "safetensors",
        files=tuple(files),
        tensors=tuple(named),
        modules=modules,
        ops=derive_ops(modules, (name for tensor in named for name in _names(tensor))),
        warnings=warnings,
    )


def _head(storage: Storage, file: StoredFile) -> bytes:
    return bytes(storage.read(file.path, 0, min(HEAD_BYTES, file.size_bytes)))


def _modules(
    configs: Sequence[str], tensors: Sequence[StoredTensor], limits: Limits
) -> tuple[Sequence[StoredTensor], tuple[Module, ...], tuple[str, ...]]:
    """The tensors under all their names, their modules, and warnings."""
    warnings: list[str] = []
    if len(configs) > 1:
        warnings.append(
            f"the upload holds {len(configs)} configs of models, so none was used and module types "
            "are inferred from names and shapes; send the one of this checkpoint"
        )
    elif configs:
        try:
            told = modules_from_config(configs[0], tensors, limits)
        except ConfigUnusable as error:
            warnings.append(str(error))
        else:
            return told.tensors, told.modules, ()
    else:
        warnings.append(
            "module types are inferred from names and shapes; send the model's config.json beside "
            "its weights, or a .pt2 of torch.export, for exact ones"
        )
    named = [one for tensor in tensors for one in _by_each_name(tensor)]
    return tensors, infer_modules(named, limits), tuple(warnings)


def _is_exported(storage: Storage, archives: Sequence[StoredFile], limits: Limits) -> bool:
    """Whether one of the zip archives is a torch.export program."""
    return any(
        tell_archive(read_members(storage, file.path, limits, name=file.name), file.name) == "pt2"
        for file in archives
    )


def _read_exported(storage: Storage, files: Sequence[StoredFile], limits: Limits) -> Checkpoint:
    if len(files) > 1:
        raise InvalidModel(
            f"the upload holds a torch.export program among {len(files)} files, but such a program "
            "is a whole model; send the .pt2 alone"
        )
    return read_pt2(storage, files[0], limits)


def _read_safetensors(
    storage: Storage, file: StoredFile, number: int, limits: Limits
) -> Sequence[StoredTensor]:
    header = read_header(storage, file.path, limits, name=file.name, file=number)
    if METADATA_KEY in header.metadata:
        raise InvalidModel(
            f"{file.name} is palettized already: it is an artifact of Palettery; send the model it "
            "was made of, or `palettery decompress` it first"
        )
    return header.tensors


def _read_zip(
    storage: Storage, file: StoredFile, number: int, limits: Limits
) -> Sequence[StoredTensor]:
    return read_pytorch_zip(storage, file.path, limits, name=file.name, file=number)


def _names(tensor: StoredTensor) -> tuple[str, ...]:
    return (tensor.name, *tensor.aliases)


def _by_each_name(tensor: StoredTensor) -> tuple[StoredTensor, ...]:
    """A tensor once per name, for a module that only an alias tells of is a module all the same."""
    return tensor, *(tensor.model_copy(update={"name": alias}) for alias in tensor.aliases)


def _merge(
    storage: Storage,
    files: Sequence[StoredFile],
    shards: Sequence[int],
    limits: Limits,
    read: Reader,
) -> list[StoredTensor]:
    """The tensors of all shards, in the order of the shards and that within each."""
    found: list[StoredTensor] = []
    lies_in: dict[str, str] = {}
    for number in shards:
        file = files[number]
        for tensor in read(storage, file, number, limits):
            found.append(tensor)
            for name in _names(tensor):
                if name in lies_in:
                    raise InvalidModel(
                        f"tensor {shown(name)} lies in both {lies_in[name]} and {file.name}; "
                        "send the shards of one model only"
                    )
                lies_in[name] = file.name
        if len(lies_in) > limits.tensors:
            raise TooLarge(f"the shards hold over {limits.tensors:,} tensors, the most allowed")
    if not found:
        raise InvalidModel("the model holds no tensors; save it again, with its weights")
    return found


def _read_json(storage: Storage, file: StoredFile, limits: Limits) -> WeightMap | str:
    """The weight map of an index, or the text of a Hugging Face config.json.

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
        return text
    raise UnsupportedFormat(
        f"{file.name} is JSON, but neither an index of shards (it has no weight_map) nor a "
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
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):  # a number of many digits, or nested too deep for us
        return '"model_type"' in text
    return isinstance(said, dict) and ("model_type" in said or "architectures" in said)


def _check_indexes(
    indexes: Sequence[WeightMap], files: Sequence[StoredFile], tensors: Sequence[StoredTensor]
) -> None:
    """That every shard an index names was sent, and holds the tensors it should.

    An index's file names are compared with those of the upload and used for nothing else.
    """
    if len(indexes) > 1:
        raise InvalidModel("the upload holds more than one index; send the one of these shards")
    lies_in = {
        name: PurePosixPath(files[tensor.file].name).name
        for tensor in tensors
        for name in _names(tensor)
    }
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
