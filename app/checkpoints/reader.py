"""Reader of uploaded files of any supported format; the only module that chooses by format."""

import json
from collections.abc import Callable, Mapping, Sequence

from palettery.app.checkpoints.file_formats import (
    ACCEPTED_FORMATS,
    HEAD_BYTES,
    FileFormat,
    detect_format,
    max_parsed_bytes,
    quote_beginning,
)
from palettery.app.checkpoints.hf_config import (
    UnusableConfigError,
    modules_from_config,
    quantization_warnings,
)
from palettery.app.checkpoints.module_types import infer_modules
from palettery.app.checkpoints.op_types import derive_ops
from palettery.app.checkpoints.pt2 import read_pt2
from palettery.app.checkpoints.pytorch_legacy import read_pytorch_legacy
from palettery.app.checkpoints.pytorch_zip import detect_archive, read_pytorch_zip
from palettery.app.checkpoints.quoting import quote_text
from palettery.app.checkpoints.safetensors import read_header
from palettery.app.checkpoints.shards import ShardIndex, check_index, read_index, select_files
from palettery.app.checkpoints.state_dict import Warn
from palettery.app.checkpoints.zip_members import read_members
from palettery.app.errors import InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.schemas.artifact import METADATA_KEY
from palettery.schemas.checkpoint import Checkpoint, ModelFormat, Module, StoredFile, StoredTensor

READER_VERSION = 3
"""Increased when the same files yield a different checkpoint than before."""

Reader = Callable[[Storage, StoredFile, int, Limits, Warn], Sequence[StoredTensor]]
"""Function that returns the tensors of one shard; it takes the number of the file."""
_TENSOR_FORMATS = ("safetensors", "zip", "legacy")
"""Formats of files with tensors; that of a mixed checkpoint is the last that occurs."""


def bytes_to_parse(storage: Storage, files: Sequence[StoredFile]) -> int:
    """Return an upper bound on the bytes that `read_checkpoint` parses."""
    return sum(max_parsed_bytes(_read_head(storage, file), file.size_bytes) for file in files)


def read_checkpoint(storage: Storage, files: Sequence[StoredFile], limits: Limits) -> Checkpoint:
    """Return the checkpoint in the files of one upload; only headers are read.

    Raises:
        InvalidModel: a file is damaged or inconsistent, or the files do not belong together.
        UnsupportedFormat: a format that is not accepted, with advice.
        TooLarge: over a limit.
    """
    formats: dict[int, FileFormat] = {}
    indexes: list[ShardIndex] = []
    configs: list[str] = []
    for number, file in enumerate(files):
        format_ = detect_format(_read_head(storage, file), file.name)
        if format_ != "json":
            formats[number] = format_
        elif isinstance(document := _read_json(storage, file, limits), str):
            configs.append(document)
        else:
            indexes.append(document)
    if not formats:
        raise InvalidModel(f"no file in the upload holds tensors; send {ACCEPTED_FORMATS}")
    selection = select_files(files, [*formats], indexes)
    shards = {number: formats[number] for number in selection.files}
    archives = [files[number] for number, format_ in shards.items() if format_ == "zip"]
    if archives and _has_exported_program(storage, archives, limits):
        return _read_exported_program(storage, files, limits)
    _check_single_format(files, shards)
    reader_warnings: list[str] = []
    merged = _merge_shards(storage, files, shards, limits, reader_warnings.append)
    check_index(selection, files, merged)
    tensors, modules, warnings = _resolve_modules(configs, merged, limits)
    _check_nonempty(merged)
    return Checkpoint(
        format=_MODEL_FORMATS[max(shards.values(), key=_TENSOR_FORMATS.index)],
        files=tuple(files),
        tensors=tuple(tensors),
        modules=modules,
        ops=derive_ops(modules, (name for tensor in tensors for name in _names(tensor))),
        warnings=(*selection.warnings, *reader_warnings, *warnings),
    )


def _check_single_format(files: Sequence[StoredFile], shards: Mapping[int, FileFormat]) -> None:
    """Check that safetensors are not mixed with checkpoints of torch.save: those are two models."""
    dense = next((number for number, format_ in shards.items() if format_ == "safetensors"), None)
    pickled = next((number for number, format_ in shards.items() if format_ != "safetensors"), None)
    if dense is not None and pickled is not None:
        what = "zip archives" if shards[pickled] == "zip" else "legacy checkpoints"
        raise InvalidModel(
            f"the upload mixes safetensors ({files[dense].name}) and {what} "
            f"({files[pickled].name}); send one model, in one format"
        )


def _read_head(storage: Storage, file: StoredFile) -> bytes:
    return bytes(storage.read(file.path, 0, min(HEAD_BYTES, file.size_bytes)))


def _resolve_modules(
    configs: Sequence[str], tensors: Sequence[StoredTensor], limits: Limits
) -> tuple[Sequence[StoredTensor], tuple[Module, ...], tuple[str, ...]]:
    """Return the tensors with all their aliases, the modules, and warnings."""
    warnings = [warning for text in configs for warning in quantization_warnings(text)]
    if len(configs) > 1:
        warnings.append(
            f"the upload holds {len(configs)} configs of models, so none was used and module types "
            "are inferred from names and shapes; send the one of this checkpoint"
        )
    elif configs:
        try:
            exact = modules_from_config(configs[0], tensors, limits)
        except UnusableConfigError as error:
            warnings.append(str(error))
        else:
            return exact.tensors, exact.modules, tuple(warnings)
    else:
        warnings.append(
            "module types are inferred from names and shapes; send the model's config.json beside "
            "its weights, or a .pt2 of torch.export, for exact ones"
        )
    one_per_name = [copy for tensor in tensors for copy in _copy_per_name(tensor)]
    return tensors, infer_modules(one_per_name, limits), tuple(warnings)


def _has_exported_program(storage: Storage, archives: Sequence[StoredFile], limits: Limits) -> bool:
    """Return whether one of the zip archives is a torch.export program."""
    return any(
        detect_archive(read_members(storage, file.path, limits, name=file.name), file.name) == "pt2"
        for file in archives
    )


def _read_exported_program(
    storage: Storage, files: Sequence[StoredFile], limits: Limits
) -> Checkpoint:
    if len(files) > 1:
        raise InvalidModel(
            f"the upload holds a torch.export program among {len(files)} files, but such a program "
            "is a whole model; send the .pt2 alone"
        )
    return read_pt2(storage, files[0], limits)


def _read_safetensors(
    storage: Storage, file: StoredFile, number: int, limits: Limits, _warn: Warn
) -> Sequence[StoredTensor]:
    header = read_header(storage, file.path, limits, name=file.name, file=number)
    if METADATA_KEY in header.metadata:
        raise InvalidModel(
            f"{file.name} is already palettized: it is an artifact of Palettery; send the original "
            "model, or `palettery decompress` it first"
        )
    return header.tensors


_READERS: Mapping[FileFormat, Reader] = {
    "safetensors": _read_safetensors,
    "zip": read_pytorch_zip,
    "legacy": read_pytorch_legacy,
}
_MODEL_FORMATS: Mapping[FileFormat, ModelFormat] = {
    "safetensors": "safetensors",
    "zip": "pytorch_zip",
    "legacy": "pytorch_legacy",
}


def _names(tensor: StoredTensor) -> tuple[str, ...]:
    return (tensor.name, *tensor.aliases)


def _copy_per_name(tensor: StoredTensor) -> tuple[StoredTensor, ...]:
    """Return a copy of a tensor for each of its names: an alias may be in a module of its own."""
    return tensor, *(tensor.model_copy(update={"name": alias}) for alias in tensor.aliases)


def _merge_shards(
    storage: Storage,
    files: Sequence[StoredFile],
    shards: Mapping[int, FileFormat],
    limits: Limits,
    warn: Warn,
) -> list[StoredTensor]:
    """Return the tensors of all shards, in the order of the shards."""
    tensors: list[StoredTensor] = []
    file_of: dict[str, str] = {}
    for number, format_ in shards.items():
        file = files[number]
        for tensor in _READERS[format_](storage, file, number, limits, warn):
            tensors.append(tensor)
            for name in _names(tensor):
                if name in file_of:
                    raise InvalidModel(
                        f"tensor {quote_text(name)} lies in both {file_of[name]} and {file.name}; "
                        "send the shards of one model only"
                    )
                file_of[name] = file.name
        if len(file_of) > limits.tensors:
            raise TooLarge(
                f"the files hold over {limits.tensors:,} tensors; {limits.allowed('tensors')}"
            )
    if not tensors:
        raise InvalidModel("the model holds no tensors; save it again, with its weights")
    return tensors


def _check_nonempty(tensors: Sequence[StoredTensor]) -> None:
    """Check that most tensors have elements; placeholders are no weights."""
    empty = [tensor.name for tensor in tensors if not tensor.size_bytes]
    if 2 * len(empty) > len(tensors):
        raise InvalidModel(
            f"{len(empty):,} of the model's {len(tensors):,} tensors have no elements, such as "
            f"{quote_text(empty[0])}: DeepSpeed's ZeRO-3 saves such placeholders; gather the "
            "weights with zero_to_fp32.py of the checkpoint's folder, and send its output"
        )


def _read_json(storage: Storage, file: StoredFile, limits: Limits) -> ShardIndex | str:
    """Return an index of shards, or the text of a Hugging Face config.json.

    Raises:
        UnsupportedFormat: any other JSON.
    """
    if file.size_bytes > limits.header_bytes:
        raise TooLarge(
            f"{file.name} is JSON of {file.size_bytes:,} bytes; {limits.allowed('header_bytes')}"
        )
    try:
        text = str(storage.read(file.path), "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidModel(f"{file.name} is neither a model nor UTF-8 text") from error
    index = read_index(text, file.name, limits) if '"weight_map"' in text else None
    if index is not None:
        return index
    if is_model_config(text, limits):
        return text
    advice = f"leave it out and send {ACCEPTED_FORMATS}"
    if not file.name.lower().endswith(".json"):
        advice = "a download probably met an error; fetch the model file itself"
    raise UnsupportedFormat(
        f"{file.name} is JSON that begins with {quote_beginning(text)}, but neither an index of "
        f"shards (it has no weight_map) nor a model's config.json (it has no model_type); {advice}"
    )


def read_model_config(storage: Storage, files: Sequence[StoredFile]) -> str | None:
    """Return the text of the config.json among the files of a checkpoint, or None."""
    for file in files:
        if file.size_bytes <= Limits().config_bytes and file.name.endswith(".json"):
            text = str(storage.read(file.path), "utf-8-sig", errors="replace")
            if is_model_config(text, Limits()):
                return text
    return None


def is_model_config(text: str, limits: Limits) -> bool:
    """Return whether a JSON document is the config.json of a transformers model."""
    if len(text) > limits.config_bytes:
        return False
    try:
        config = json.loads(text)
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):  # a number of many digits, or nested too deep
        return '"model_type"' in text
    return isinstance(config, dict) and ("model_type" in config or "architectures" in config)
