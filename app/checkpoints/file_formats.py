"""Detection of file formats by content, never by name."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from palettery.app.checkpoints.pytorch_legacy import MAGIC, MAGIC_OPCODE
from palettery.app.errors import InvalidModel, UnsupportedFormat

HEAD_BYTES = 512
"""Size of the part of a file that is examined."""

FileFormat = Literal["safetensors", "zip", "legacy", "json"]

ACCEPTED_FORMATS = (
    "safetensors files or checkpoints of torch.save(model.state_dict(), …) (one, or shards "
    "with or without their index.json), or one .pt2 of torch.export.save"
)
_RESAVE = (
    "load it where you trust it and save its weights with "
    "`safetensors.torch.save_file(model.state_dict(), 'model.safetensors')`"
)


_COMPRESSED = {
    b"\x1f\x8b": "gzip-compressed",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ\0": "xz-compressed",
    b"\x28\xb5\x2f\xfd": "Zstandard-compressed",
    b"\x04\x22\x4d\x18": "LZ4-compressed",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
}
"""First bytes of a file -> the compression or archive format."""
_TEXT_PICKLE = re.compile(rb"\([dlt]p\d+\n|c[\w.]+\n[\w.]+\n(p\d+\n|\()")
"""Beginning of a pickle of protocol 0: an empty container, or a name to import."""
_QUOTED_CHARACTERS = 60
"""Maximum length of a quoted text in a message."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class UnsupportedFileType:
    """A known file format that is not accepted, with advice for the user."""

    matches: Callable[[bytes], bool]
    """Function that takes the first `HEAD_BYTES` bytes of a file."""
    what: str
    advice: str


def _begins(*starts: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(starts)


def _is_legacy(head: bytes) -> bool:
    """Return whether a file is a checkpoint of PyTorch before 1.6: its pickled magic number."""
    return _is_pickle(head) and MAGIC_OPCODE in head[:64]


def _is_pickle(head: bytes) -> bool:
    """Return whether a file begins as a pickle of protocol 2 to 5, or of protocol 0 (text)."""
    is_binary = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return is_binary or _TEXT_PICKLE.match(head) is not None


def _is_onnx(head: bytes) -> bool:
    """Return whether a file begins as a protobuf: a small ir_version, then a text or message."""
    return head[:1] == b"\x08" and head[1:2] <= b"\x20" and head[2:3] in (b"\x12", b"\x1a", b"\x3a")


_UNSUPPORTED = (
    UnsupportedFileType(
        _is_pickle,
        "a Python pickle, but not a checkpoint of torch.save",
        f"loading one runs code, so it is never opened here; {_RESAVE}",
    ),
    UnsupportedFileType(
        _begins(b"L%dL\n." % MAGIC),
        "a legacy PyTorch checkpoint with a text pickle (protocol 0 or 1)",
        f"only protocol 2 and later are supported; {_RESAVE}",
    ),
    UnsupportedFileType(
        lambda head: head[257:262] == b"ustar",
        "a tar archive (of PyTorch before 0.2, or of a toolkit's own)",
        f"weights are read in place; if it is a checkpoint, {_RESAVE}; else send what is inside",
    ),
    UnsupportedFileType(
        _begins(b"\x00\x05\x16\x07"),
        "a metadata file of macOS (its name begins with ._)",
        "leave it out, and send the file of the same name without ._",
    ),
    *(
        UnsupportedFileType(
            _begins(start),
            what,
            "weights are read in place, by byte range; unpack it and send what is inside",
        )
        for start, what in _COMPRESSED.items()
    ),
    UnsupportedFileType(
        _begins(b"GGUF"),
        "a GGUF file, whose weights are quantized already",
        "send the model's original safetensors",
    ),
    UnsupportedFileType(
        _begins(b"lmgg", b"fmgg", b"tjgg", b"algg"),
        "a GGML file of an old llama.cpp, whose weights are quantized already",
        "send the model's original safetensors",
    ),
    UnsupportedFileType(
        lambda head: head[4:8] == b"TFL3",
        "a TensorFlow Lite model",
        "send the safetensors it was made from",
    ),
    UnsupportedFileType(_begins(b"\x89HDF\r\n\x1a\n"), "an HDF5 file (Keras?)", "send safetensors"),
    UnsupportedFileType(
        _begins(b"\x93NUMPY"), "a numpy array", "save its tensors by name as safetensors"
    ),
    UnsupportedFileType(
        _begins(b"version https://git-lfs"),
        "a Git LFS pointer, not the file it points to",
        "run `git lfs pull`, then send the file itself",
    ),
    UnsupportedFileType(
        lambda head: head.lstrip()[:1] == b"<",
        "a web page or XML",
        "a download probably met a login or an error page; fetch the model file itself",
    ),
    UnsupportedFileType(
        _is_onnx,
        "an ONNX model, whose exporters fold and rename weights",
        "send the safetensors it was made from",
    ),
)


def detect_format(head: bytes, name: str) -> FileFormat:
    """Return the format of a file from its first `HEAD_BYTES` bytes; `name` is for messages only.

    Raises:
        UnsupportedFormat: a known format that is not accepted, with advice.
        InvalidModel: empty, or of no known format.
    """
    if not head:
        raise InvalidModel(f"{name} is empty; send {ACCEPTED_FORMATS}")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if _is_legacy(head):
        return "legacy"
    # The first 8 bytes of safetensors are the header's length, which has zeros; text has none.
    if head.removeprefix(_BOM).lstrip()[:1] in (b"{", b"[") and 0 not in head[:8]:
        return "json"
    if head[8:9] == b"{":
        return "safetensors"
    for file_type in _UNSUPPORTED:
        if file_type.matches(head):
            raise UnsupportedFormat(f"{name} is {file_type.what}; {file_type.advice}")
    raise InvalidModel(f"{name} {_describe_unknown(head)}")


def quote_beginning(text: str) -> str:
    """Return the beginning of a text in quotes, for a message."""
    return repr(text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}...")


def _describe_unknown(head: bytes) -> str:
    """Return why a file with this beginning is no model, and what to do."""
    if len(head) >= 8 and not head.strip(b"\0"):
        return (
            f"begins with {len(head)} zero bytes, probably because of an incomplete download or a "
            "damaged disk; fetch it again"
        )
    header = head[8:]
    if header.startswith((_BOM, b" ", b"\t", b"\r", b"\n")) and b"{" in header[:16]:
        return (
            f"is like safetensors, but its header begins with the bytes {header[:3].hex(' ')} "
            "instead of '{'; write the file again"
        )
    if text := _leading_text(head):
        return (
            f"is text that begins with {quote_beginning(text)}; a download probably met an error; "
            "fetch the model file itself"
        )
    return (
        f"begins with the bytes {head[:8].hex(' ')}, which match no known model format; "
        f"send {ACCEPTED_FORMATS}"
    )


def _leading_text(head: bytes) -> str:
    """Return the text that a file begins with, on one line; empty if it is binary.

    The head may end within a character.
    """
    text = head.decode(errors="ignore")
    is_text = len(text.encode()) > len(head) - 4 and len(text) > 1
    line = " ".join(text.split())
    return line if is_text and line.isprintable() else ""


def max_parsed_bytes(head: bytes, size_bytes: int) -> int:
    """Return an upper bound on the bytes parsed to find a file's tensors.

    `head` are the first `HEAD_BYTES` bytes of the file.
    """
    if head[8:9] == b"{":  # safetensors
        return min(size_bytes, int.from_bytes(head[:8], "little"))
    return size_bytes
