"""Strict reader of the header of safetensors files.

Source: https://huggingface.co/docs/safetensors#format. Readers differ on two rules, and this one is
strict about both: byte ranges neither overlap nor leave holes.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from palettery.app.checkpoints.dtypes import DTYPE_BITS
from palettery.app.checkpoints.json_scanner import JsonScanner
from palettery.app.checkpoints.quoting import format_shape, quote_text
from palettery.app.errors import InvalidModel, TooLarge
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import StoredTensor

MAX_RANK = 64
"""Maximum number of axes; numpy and torch allow no more."""
NAME_CHARACTERS = 1_000
"""Maximum length of a tensor's name."""
_TENSOR_KEYS = frozenset(("dtype", "shape", "data_offsets"))
_COUNT_LIMIT = 1 << 63
"""Exclusive bound of lengths and offsets."""
LENGTH_BYTES = 8
"""Size of the header's length, at the start of the file."""


@dataclass(frozen=True)
class Header:
    """Tensors and metadata of a safetensors file."""

    tensors: tuple[StoredTensor, ...]
    """Tensors in the order of their bytes."""
    metadata: Mapping[str, str]


def read_header(
    storage: Storage,
    path: str,
    limits: Limits,
    *,
    name: str | None = None,
    file: int = 0,
    name_characters: int = NAME_CHARACTERS,
) -> Header:
    """Return the header of a safetensors file, checked for consistency with the file's size.

    `name` names the file in messages; `file` is its number in the upload. Names of tensors have at
    most `name_characters`.

    Raises:
        InvalidModel: truncated, inconsistent, or not as the format requires.
        TooLarge: the header, or the number of tensors, exceeds its limit.
    """
    what = name or path
    size = storage.size_bytes(path)
    text, data_start = _read_text(storage, path, size, what, limits)
    scanner = JsonScanner(text, f"the header of {what}", limits)
    metadata: Mapping[str, str] = {}
    tensors: list[StoredTensor] = []
    for key in scanner.object_keys():
        if key == "__metadata__":
            metadata = _metadata(scanner.read_value(), what)
            continue
        if len(tensors) == limits.tensors:
            raise TooLarge(
                f"{what} holds more than {limits.tensors:,} tensors; {limits.allowed('tensors')}"
            )
        check_name(key, what, name_characters)
        tensors.append(_tensor(key, scanner.read_value(), what, data_start, file))
    scanner.expect_end()
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size_bytes))
    _check_ranges(tensors, data_start, size, what)
    return Header(tuple(tensors), metadata)


def check_name(name: str, what: str, name_characters: int = NAME_CHARACTERS) -> str:
    """Return a tensor's name after a check of its length and characters.

    Raises:
        InvalidModel: empty, too long, or with control characters.
    """
    if not name:
        raise InvalidModel(f"{what} holds a tensor without a name; give it one and save again")
    if len(name) > name_characters:
        raise InvalidModel(
            f"{what} holds a tensor with a name of {len(name):,} characters ({quote_text(name)}); "
            f"{name_characters:,} are allowed"
        )
    if name.isascii() and name.isprintable():
        return name
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise InvalidModel(
            f"{what} holds a tensor with control characters in its name, {quote_text(name)}; "
            "rename it and save again"
        )
    return name


def _read_text(
    storage: Storage, path: str, size: int, what: str, limits: Limits
) -> tuple[str, int]:
    """Return the header's JSON, and the offset of its end."""
    if size < LENGTH_BYTES:
        raise InvalidModel(
            f"{what} has {size} bytes, but a safetensors file begins with the length of its header "
            f"in {LENGTH_BYTES} bytes; fetch the file again"
        )
    length = int.from_bytes(storage.read(path, 0, LENGTH_BYTES), "little")
    if length > limits.header_bytes:
        raise TooLarge(
            f"{what} announces a header of {length:,} bytes; {limits.allowed('header_bytes')}"
        )
    if LENGTH_BYTES + length > size:
        raise InvalidModel(
            f"{what} is truncated: its header alone takes {LENGTH_BYTES + length:,} bytes, "
            f"the file has {size:,}; fetch it again"
        )
    try:
        text = str(storage.read(path, LENGTH_BYTES, length), "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidModel(
            f"the header of {what} is not UTF-8 text ({error.reason} at byte {error.start}); "
            "it is not a valid safetensors file: write it again"
        ) from error
    return text, LENGTH_BYTES + length


def _metadata(entry: object, what: str) -> Mapping[str, str]:
    """Return the strings of `__metadata__`, which may be null."""
    if entry is None:
        return {}
    if not isinstance(entry, dict) or not all(type(value) is str for value in entry.values()):
        raise InvalidModel(
            f"the header of {what} holds a '__metadata__' that is not an object of strings; write "
            "the file again"
        )
    return entry


def _tensor(name: str, entry: object, what: str, data_start: int, file: int) -> StoredTensor:
    """Return the tensor of an entry; unknown keys are ignored."""

    def entry_error(problem: str) -> InvalidModel:
        return InvalidModel(f"{what}: tensor {quote_text(name)} {problem}; write the file again")

    if not isinstance(entry, dict):
        raise entry_error("is not described by an object")
    if not entry.keys() >= _TENSOR_KEYS:
        raise entry_error(
            f"is described by {_join_keys(entry)}, but must be by {', '.join(sorted(_TENSOR_KEYS))}"
        )
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise entry_error(f"has dtype {quote_text(str(dtype))}; known are {', '.join(DTYPE_BITS)}")
    shape, offsets = _parse_counts(entry["shape"]), _parse_counts(entry["data_offsets"])
    if shape is None:
        raise entry_error("has a shape that is not a list of whole numbers from 0 to 2**63")
    if len(shape) > MAX_RANK:
        raise entry_error(f"has {len(shape)} axes; {MAX_RANK} are allowed")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise entry_error("has data_offsets that are not [begin, end] with 0 <= begin <= end")
    size, bits = offsets[1] - offsets[0], math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * size:
        raise entry_error(
            f"of shape {format_shape(shape)} and dtype {dtype} takes {_format_bytes(bits)} bytes, "
            f"but its data_offsets span {_format_bytes(8 * size)}"
        )
    return StoredTensor(
        name=name,
        dtype=dtype,
        shape=shape,
        file=file,
        offset=data_start + offsets[0],
        size_bytes=size,
    )


def _check_ranges(tensors: Sequence[StoredTensor], data_start: int, size: int, what: str) -> None:
    """Check that the tensors' bytes fill the file from the header to its end, without overlap."""
    end, previous = data_start, "the header"
    for tensor in tensors:
        if tensor.offset != end:
            fault = "overlaps" if tensor.offset < end else "leaves a hole after"
            raise InvalidModel(
                f"{what}: the byte range of tensor {quote_text(tensor.name)} {fault} {previous}; "
                "byte ranges must follow one another: write the file again"
            )
        end, previous = end + tensor.size_bytes, f"that of {quote_text(tensor.name)}"
    if end > size:
        raise InvalidModel(
            f"{what} is truncated: its tensors end at byte {end:,}, the file has {size:,}; "
            "fetch it again"
        )
    if end < size:
        raise InvalidModel(
            f"{what} holds {size - end:,} bytes after its last tensor, which belong to no tensor; "
            "write the file again"
        )


def _parse_counts(value: object) -> tuple[int, ...] | None:
    """Return a JSON list of integers from 0 to 2**63 as a tuple; None for anything else."""
    if not isinstance(value, list):
        return None
    if not all(type(item) is int and 0 <= item < _COUNT_LIMIT for item in value):
        return None
    return tuple(value)


def _format_bytes(bits: int) -> str:
    return f"{bits / 8:,.12g}" if bits < 1 << 60 else "more than 2**57"


def _join_keys(keys: Mapping[str, object]) -> str:
    return ", ".join(quote_text(key) for key in list(keys)[:5]) or "nothing"
