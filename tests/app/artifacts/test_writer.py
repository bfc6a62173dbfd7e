import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from palettery.app.artifacts.writer import (
    ALIGNMENT_BYTES,
    TensorEntry,
    array_entry,
    header,
    sort_entries,
    stream,
)


def write(path, arrays, metadata=None):
    entries = sort_entries(array_entry(name, array) for name, array in arrays.items())
    path.write_bytes(b"".join(bytes(chunk) for chunk in stream(entries, metadata or {})))


def test_plain_safetensors_reads_what_we_write(tmp_path):
    arrays = {
        "bytes": np.arange(5, dtype=np.uint8),
        "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
        "empty": np.zeros((0, 3), np.float16),
        "scalar": np.array(7, np.int64),
    }
    write(tmp_path / "x.safetensors", arrays, {"who": "äöü"})
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == {"who": "äöü"}


def test_every_tensor_is_aligned_to_its_width(tmp_path):
    arrays = {
        "a": np.arange(3, dtype=np.uint8),
        "b": np.arange(3, dtype=np.float64),
        "c": np.arange(3, dtype=np.float16),
        "d": np.arange(3, dtype=ml_dtypes.bfloat16),
    }
    write(tmp_path / "x", arrays)
    data = (tmp_path / "x").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert (8 + length) % ALIGNMENT_BYTES == 0
    for name, document in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            assert document["data_offsets"][0] % arrays[name].itemsize == 0


def test_order_of_entries_does_not_change_the_bytes():
    entries = [array_entry(name, np.zeros(3, np.float32)) for name in "cab"]
    assert header(sort_entries(entries), {}) == header(sort_entries(reversed(entries)), {})


def test_noncontiguous_arrays_are_written_row_major():
    turned = np.arange(6, dtype=np.int16).reshape(2, 3).T
    (chunk,) = array_entry("x", turned).chunks()
    assert bytes(chunk) == turned.copy().tobytes()


def test_chunks_are_fetched_only_when_streamed():
    def fail():
        raise AssertionError("fetched too early")

    entry = TensorEntry("x", "U8", (3,), 3, fail)
    pieces = stream([entry], {})
    assert next(pieces)
    with pytest.raises(AssertionError, match="too early"):
        next(pieces)
