"""From uploaded files to a Checkpoint: the only place that knows there are formats."""

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
from palettery.app.checkpoints.json_scanner import quote_text
from palettery.app.checkpoints.module_types import infer_modules
from palettery.app.checkpoints.ops import derive_ops
from palettery.app.checkpoints.pt2 import read_pt2
from palettery.app.checkpoints.pytorch_legacy import read_pytorch_legacy
from palettery.app.checkpoints.pytorch_zip import detect_archive, read_pytorch_zip
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
"""Goes up when the same files give another checkpoint than before."""

Reader = Callable[[Storage, StoredFile, int, Limits, Warn], Sequence[StoredTensor]]
"""What finds the tensors of one shard, whose number is given."""
TENSOR_KINDS = ("safetensors", "zip", "legacy")
"""Kinds of files that hold tensors; all but the first are of torch.save."""


def bytes_to_parse(storage: Storage, files: Sequence[StoredFile]) -> int:
    """At most how much `read_checkpoint` parses of files."""
    return sum(max_parsed_bytes(_head(storage, file), file.size_bytes) for file in files)


def read_checkpoint(storage: Storage, files: Sequence[StoredFile], limits: Limits) -> Checkpoint:
    """What the files of one upload hold, from their headers alone.

    Raises:
        InvalidModel: a file is damaged, lies, or the files do not fit together.
        UnsupportedFormat: a kind of file that is not accepted, with the way out.
        TooLarge: over a limit.
    """
    kinds: dict[int, FileFormat] = {}
    indexes: list[ShardIndex] = []
    configs: list[str] = []
    for number, file in enumerate(files):
        kind = detect_format(_head(storage, file), file.name)
        if kind != "json":
            kinds[number] = kind
        elif isinstance(said := _read_json(storage, file, limits), str):
            configs.append(said)
        else:
            indexes.append(said)
    if not kinds:
        raise InvalidModel(f"no file in the upload holds tensors; send {ACCEPTED_FORMATS}")
    selection = select_files(files, [*kinds], indexes)
    chosen = {number: kinds[number] for number in selection.files}
    archives = [files[number] for number, kind in chosen.items() if kind == "zip"]
    if archives and _is_exported(storage, archives, limits):
        return _read_exported(storage, files, limits)
    _check_mixed(files, chosen)
    left_out: list[str] = []
    tensors = _merge(storage, files, chosen, limits, left_out.append)
    check_index(selection, files, tensors)
    named, modules, warnings = _modules(configs, tensors, limits)
    _check_values(tensors)
    return Checkpoint(
        format=_FORMATS[max(chosen.values(), key=TENSOR_KINDS.index)],
        files=tuple(files),
        tensors=tuple(named),
        modules=modules,
        ops=derive_ops(modules, (name for tensor in named for name in _names(tensor))),
        warnings=(*selection.warnings, *left_out, *warnings),
    )


def _check_mixed(files: Sequence[StoredFile], chosen: Mapping[int, FileFormat]) -> None:
    """Refuse safetensors among checkpoints of torch.save: they are two models."""
    one = next((number for number, kind in chosen.items() if kind == "safetensors"), None)
    other = next((number for number, kind in chosen.items() if kind != "safetensors"), None)
    if one is not None and other is not None:
        what = "zip archives" if chosen[other] == "zip" else "legacy checkpoints"
        raise InvalidModel(
            f"the upload mixes safetensors ({files[one].name}) and {what} ({files[other].name}); "
            "send one model, in one format"
        )


def _head(storage: Storage, file: StoredFile) -> bytes:
    return bytes(storage.read(file.path, 0, min(HEAD_BYTES, file.size_bytes)))


def _modules(
    configs: Sequence[str], tensors: Sequence[StoredTensor], limits: Limits
) -> tuple[Sequence[StoredTensor], tuple[Module, ...], tuple[str, ...]]:
    """The tensors under all their names, their modules, and warnings."""
    warnings = [warning for text in configs for warning in quantization_warnings(text)]
    if len(configs) > 1:
        warnings.append(
            f"the upload holds {len(configs)} configs of models, so none was used and module types "
            "are inferred from names and shapes; send the one of this checkpoint"
        )
    elif configs:
        try:
            told = modules_from_config(configs[0], tensors, limits)
        except UnusableConfigError as error:
            warnings.append(str(error))
        else:
            return told.tensors, told.modules, tuple(warnings)
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
        detect_archive(read_members(storage, file.path, limits, name=file.name), file.name) == "pt2"
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
    storage: Storage, file: StoredFile, number: int, limits: Limits, _warn: Warn
) -> Sequence[StoredTensor]:
    header = read_header(storage, file.path, limits, name=file.name, file=number)
    if METADATA_KEY in header.metadata:
        raise InvalidModel(
            f"{file.name} is palettized already: it is an artifact of Palettery; send the model it "
            "was made of, or `palettery decompress` it first"
        )
    return header.tensors


def _read_zip(
    storage: Storage, file: StoredFile, number: int, limits: Limits, warn: Warn
) -> Sequence[StoredTensor]:
    return read_pytorch_zip(storage, file.path, limits, name=file.name, file=number, warn=warn)


def _read_legacy(
    storage: Storage, file: StoredFile, number: int, limits: Limits, warn: Warn
) -> Sequence[StoredTensor]:
    return read_pytorch_legacy(storage, file.path, limits, name=file.name, file=number, warn=warn)


_READERS: Mapping[FileFormat, Reader] = {
    "safetensors": _read_safetensors,
    "zip": _read_zip,
    "legacy": _read_legacy,
}
_FORMATS: Mapping[FileFormat, ModelFormat] = {
    "safetensors": "safetensors",
    "zip": "pytorch_zip",
    "legacy": "pytorch_legacy",
}


def _names(tensor: StoredTensor) -> tuple[str, ...]:
    return (tensor.name, *tensor.aliases)


def _by_each_name(tensor: StoredTensor) -> tuple[StoredTensor, ...]:
    """A tensor once per name, for a module that only an alias tells of is a module all the same."""
    return tensor, *(tensor.model_copy(update={"name": alias}) for alias in tensor.aliases)


def _merge(
    storage: Storage,
    files: Sequence[StoredFile],
    chosen: Mapping[int, FileFormat],
    limits: Limits,
    warn: Warn,
) -> list[StoredTensor]:
    """The tensors of all shards, in the order of the shards and that within each."""
    found: list[StoredTensor] = []
    lies_in: dict[str, str] = {}
    for number, kind in chosen.items():
        file = files[number]
        for tensor in _READERS[kind](storage, file, number, limits, warn):
            found.append(tensor)
            for name in _names(tensor):
                if name in lies_in:
                    raise InvalidModel(
                        f"tensor {quote_text(name)} lies in both {lies_in[name]} and {file.name}; "
                        "send the shards of one model only"
                    )
                lies_in[name] = file.name
        if len(lies_in) > limits.tensors:
            raise TooLarge(
                f"the files hold over {limits.tensors:,} tensors; {limits.allowed('tensors')}"
            )
    if not found:
        raise InvalidModel("the model holds no tensors; save it again, with its weights")
    return found


def _check_values(tensors: Sequence[StoredTensor]) -> None:
    """Refuse a model that has mostly names, and whose weights are elsewhere."""
    empty = [tensor.name for tensor in tensors if not tensor.size_bytes]
    if 2 * len(empty) > len(tensors):
        raise InvalidModel(
            f"{len(empty):,} of the model's {len(tensors):,} tensors have no elements, such as "
            f"{quote_text(empty[0])}: DeepSpeed's ZeRO-3 saves such placeholders; gather the weights "
            "with the zero_to_fp32.py that lies in the checkpoint's folder, and send what it writes"
        )


def _read_json(storage: Storage, file: StoredFile, limits: Limits) -> ShardIndex | str:
    """An index of shards, or the text of a Hugging Face config.json.

    Raises:
        UnsupportedFormat: JSON of any other kind.
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
    way_out = f"leave it out and send {ACCEPTED_FORMATS}"
    if not file.name.lower().endswith(".json"):
        way_out = "a download probably met an error; fetch the model file itself"
    raise UnsupportedFormat(
        f"{file.name} is JSON that begins with {quote_beginning(text)}, but neither an index of shards "
        f"(it has no weight_map) nor a model's config.json (it has no model_type); {way_out}"
    )


def is_model_config(text: str, limits: Limits) -> bool:
    """Whether a JSON document is the config.json of a model of transformers."""
    if len(text) > limits.config_bytes:
        return False
    try:
        said = json.loads(text)
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):  # a number of many digits, or nested too deep for us
        return '"model_type"' in text
    return isinstance(said, dict) and ("model_type" in said or "architectures" in said)
