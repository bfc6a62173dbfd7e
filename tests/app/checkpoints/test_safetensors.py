"""Forged headers, and valid headers that look unusual."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from palettery.app.checkpoints.safetensors import NAME_CHARACTERS, read_header
from palettery.app.errors import BadInput, InvalidModel, TooLarge
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage


@pytest.fixture
def header_of(tmp_path):
    def read(content, **limits):
        (tmp_path / "file").write_bytes(content)
        return read_header(open_storage(tmp_path.as_uri()), "file", Limits(**limits))

    return read


def test_ranges_are_those_of_the_safetensors_library(tmp_path):
    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones((3, 1, 2), ml_dtypes.bfloat16),
        "flag": np.array([True]),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float16),
        "../../x": np.zeros(1, np.uint8),
        "名前": np.zeros(1, np.int8),
    }
    save_file(arrays, tmp_path / "file", metadata={"format": "pt", "note": 'a "{b}" \\ c'})
    header = read_header(open_storage(tmp_path.as_uri()), "file", Limits())
    assert header.metadata == {"format": "pt", "note": 'a "{b}" \\ c'}
    content = (tmp_path / "file").read_bytes()
    tensors = {one.name: one for one in header.tensors}
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        stored = tensors[name]
        assert content[stored.offset : stored.offset + stored.size_bytes] == array.tobytes()
        assert stored.shape == array.shape


@pytest.mark.parametrize(("dtype", "size"), [("F4", 2), ("F6_E2M3", 3), ("F6_E3M2", 3)])
def test_sub_byte_tensors_are_read(header_of, safetensors_bytes, tensor, dtype, size):
    header = {"x": tensor(0, size, dtype, [4])}
    assert header_of(safetensors_bytes(header, bytes(size))).tensors[0].size_bytes == size


def test_padding_behind_the_header_counts_as_header(header_of, safetensors_bytes, tensor):
    text = json.dumps({"x": tensor()}).encode() + b"   "
    assert header_of(safetensors_bytes(text, bytes(8))).tensors[0].offset == 8 + len(text)


def test_the_widest_name_that_is_allowed(header_of, safetensors_bytes, tensor):
    name = "n" * NAME_CHARACTERS
    assert header_of(safetensors_bytes({name: tensor()}, bytes(8))).tensors[0].name == name


LIES = {
    "overlap": ({"a": (0, 8), "b": (4, 12)}, 12, "overlaps"),
    "same range twice": ({"a": (0, 8), "b": (0, 8)}, 8, "overlaps"),
    "hole": ({"a": (0, 8), "b": (12, 20)}, 20, "hole"),
    "hole at the start": ({"a": (4, 12)}, 12, "hole"),
    "behind the end": ({"a": (0, 8), "b": (8, 16)}, 12, "truncated"),
    "trailing bytes": ({"a": (0, 8)}, 9, "belong to no tensor"),
}


@pytest.mark.parametrize("lie", LIES)
def test_ranges_must_tile_the_data(header_of, safetensors_bytes, tensor, lie):
    ranges, size, message = LIES[lie]
    header = {name: tensor(begin, end) for name, (begin, end) in ranges.items()}
    with pytest.raises(InvalidModel, match=message):
        header_of(safetensors_bytes(header, bytes(size)))


ENTRIES = {
    "unknown dtype": ({"dtype": "F7"}, "dtype 'F7'"),
    "dtype that is no text": ({"dtype": 32}, "dtype '32'"),
    "size unlike the shape": ({"shape": [3]}, "takes 12 bytes.*span 8"),
    "bits that fill no byte": ({"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}, "1.5 bytes"),
    "shape that overflows 64 bits": ({"shape": [2**32, 2**32, 4]}, "more than"),
    "shape of absurd numbers": ({"shape": [10**400]}, "whole numbers from 0 to"),
    "absurd numbers that multiply to none": ({"shape": [0, 1 << 63]}, "whole numbers from 0 to"),
    "negative length": ({"shape": [-2]}, "whole numbers"),
    "fractional length": ({"shape": [2.0]}, "whole numbers"),
    "length true": ({"shape": [True]}, "whole numbers"),
    "shape that is no list": ({"shape": 2}, "whole numbers"),
    "absurd rank": ({"shape": [1] * 65}, "65 axes"),
    "negative offset": ({"data_offsets": [-8, 0]}, "data_offsets"),
    "backward offsets": ({"data_offsets": [8, 0]}, "data_offsets"),
    "three offsets": ({"data_offsets": [0, 4, 8]}, "data_offsets"),
    "null": ({"shape": None}, "whole numbers"),
}


@pytest.mark.parametrize("fault", ENTRIES)
def test_an_entry_must_be_sound(header_of, safetensors_bytes, tensor, fault):
    changes, message = ENTRIES[fault]
    with pytest.raises(InvalidModel, match=message):
        header_of(safetensors_bytes({"x": tensor() | changes}, bytes(8)))


ENTRY = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
TEXTS = {
    "a tensor twice": b'{"x":%b,"x":%b}' % (ENTRY, ENTRY),
    "a field twice": b'{"x":{"dtype":"U8","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "metadata twice": b'{"__metadata__":{"a":"b"},"__metadata__":{},"x":%b}' % ENTRY,
    "a list": b"[1,2]",
    "deep nesting": b'{"x":' + b'{"a":' * 100_000,
    "deep lists": b'{"x":{"shape":' + b"[" * 100_000,
    "deep lists that end": b'{"x":{"shape":' + b"[" * 6000 + b"]" * 6000 + b"}}",
    "no value": b'{"x"}',
    "no end": b'{"x":%b' % ENTRY,
    "a comma too many": b'{"x":%b,}' % ENTRY,
    "text behind": b'{"x":%b}{}' % ENTRY,
    "an entry that is a number": b'{"x":8}',
    "metadata that is a number": b'{"__metadata__":{"a":1},"x":%b}' % ENTRY,
    "metadata that is a list": b'{"__metadata__":[],"x":%b}' % ENTRY,
    "not a number": b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}',
    "too long a number": b'{"x":{"dtype":"F32","shape":[%b],"data_offsets":[0,8]}}' % (b"9" * 9999),
    "a broken string": b'{"x\n":%b}' % ENTRY,
    "no UTF-8": b'{"\xff":%b}' % ENTRY,
    "an escaped control character": b'{"a\\u0000b":%b}' % ENTRY,
    "half a surrogate pair": b'{"a\\ud800":%b}' % ENTRY,
    "a name of 10,000 characters": b'{"%b":%b}' % (b"n" * 10_000, ENTRY),
    "no name": b'{"":%b}' % ENTRY,
    "nothing": b"",
}


@pytest.mark.parametrize("fault", TEXTS)
def test_a_header_must_be_sound(header_of, safetensors_bytes, fault):
    with pytest.raises(InvalidModel) as caught:
        header_of(safetensors_bytes(TEXTS[fault], bytes(8)))
    assert len(caught.value.detail) < 500
    assert caught.value.detail.isprintable()


def test_truncation_at_every_byte_is_reported(header_of, safetensors_bytes, tensor):
    whole = safetensors_bytes({"x": tensor()}, bytes(8))
    for size in range(len(whole)):
        with pytest.raises(InvalidModel):
            header_of(whole[:size])
    assert header_of(whole).tensors


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, (64 << 20) + 1])
def test_a_header_over_the_limit_is_not_read(header_of, length):
    with pytest.raises(TooLarge, match=f"{length:,}"):
        header_of(length.to_bytes(8, "little") + b"{}")


def test_more_tensors_than_allowed_are_refused(header_of, safetensors_bytes, tensor):
    header = {f"t{n}": tensor(8 * n, 8 * n + 8) for n in range(3)}
    with pytest.raises(TooLarge, match="more than 2 tensors"):
        header_of(safetensors_bytes(header, bytes(24)), tensors=2)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
def test_damage_is_reported_or_harmless(header_of, safetensors_bytes, tensor, flips):
    header = {"__metadata__": {"k": "v"}, "a": tensor(0, 8), "b": tensor(8, 9, "U8", [1])}
    content = bytearray(safetensors_bytes(header, bytes(9)))
    for at, byte in flips:
        content[at % len(content)] = byte
    try:
        header = header_of(bytes(content))
    except BadInput:
        return
    assert all(one.offset + one.size_bytes <= len(content) for one in header.tensors)
