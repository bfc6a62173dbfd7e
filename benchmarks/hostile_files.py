"""Small model files that are expensive to read; the service must refuse them all."""

import io
import json
import zipfile

TENSOR_BYTES = 24


def shared_list(size_bytes: int = 2_100_000) -> bytes:
    """Return a checkpoint with one long list under very many keys."""
    items = size_bytes // 4
    keys = (size_bytes - 2 * items) // 14
    first = _text("0") + b"]q\x00(" + b"K\x01" * items + b"e"
    others = b"".join(_text(f"{number:07x}") + b"h\x00" for number in range(1, keys))
    return _checkpoint(first + others)


def repeated_call(size_bytes: int = 58_000) -> bytes:
    """Return a checkpoint that builds a dict from the same arguments repeatedly."""
    pairs = size_bytes // 10
    arguments = b"".join(b"M" + n.to_bytes(2, "little") + b"N\x86" for n in range(pairs))
    calls = b"h\x01h\x03R" * (size_bytes // 10)
    function = b"ccollections\nOrderedDict\nq\x010"
    return _checkpoint(
        _text("x") + b"](" + function + b"](" + arguments + b"e\x85q\x030" + calls + b"e"
    )


def repeated_keys(keys: int = 40_000) -> bytes:
    """Return a `torch.export` program whose JSON has many keys, the last of them twice."""
    members = ",".join(f'"k{number}":0' for number in [*range(keys), keys - 1])
    document = b"{" + members.encode() + b"}"
    names = ("models/model.json", "data/weights/model_weights_config.json")
    return _archive(
        {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
        | dict.fromkeys(names, document)
    )


def wide_header(size_bytes: int = 60 << 20) -> bytes:
    """Return a safetensors file whose header has the most tensors allowed, with long names."""
    header: dict[str, object] = {}
    each = len(json.dumps({f"{0:0300d}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}))
    for number in range(min(size_bytes // each, 249_000)):
        header[f"{number:0300d}"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def _text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def _checkpoint(items: bytes) -> bytes:
    """Return a file of torch.save: a dict of one tensor and these pickled items."""
    storage = b"((" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu")
    tensor = storage + b"K\x06tQK\x00K\x06\x85K\x01\x85\x89}tR"
    pickled = b"\x80\x02}(" + _text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + tensor
    return _archive(
        {"data.pkl": pickled + items + b"u.", "byteorder": b"little", "data/0": bytes(TENSOR_BYTES)}
    )


def _archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"m/{name}", content)
    return buffer.getvalue()
