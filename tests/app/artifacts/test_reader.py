"""Artifacts that lie are refused by name."""

import json

import numpy as np
import pytest

from palettery.app.artifacts.reader import open_artifact
from palettery.app.artifacts.writer import array_entry, sort_entries, stream
from palettery.app.errors import InvalidArtifact
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage

WEIGHT = {"n_bits": 2, "axis": 0, "group_size": 2, "shape": [4, 6], "dtype": "F32"}


@pytest.fixture
def store(tmp_path):
    return open_storage(tmp_path.as_uri())


def sound():
    arrays = {
        "w.indices": np.full(6, 0b11100100, np.uint8),
        "w.lut": np.arange(8, dtype=np.float32).reshape(2, 1, 4, 1),
    }
    return arrays, {"format_version": 1, "weights": {"w": dict(WEIGHT)}} | digests()


def digests():
    return {"config_sha256": "0" * 64, "plan_sha256": "0" * 64}


def opened(store, arrays, said):
    entries = sort_entries(array_entry(name, array) for name, array in arrays.items())
    metadata = {} if said is None else {"palettery": json.dumps(said)}
    store.write("a.safetensors", stream(entries, metadata))
    return open_artifact(store, ["a.safetensors"], Limits())


def test_decoding_by_hand(store):
    arrays, said = sound()
    dense = opened(store, arrays, said).dense("w")
    expected = np.array([[0, 1, 2, 3, 0, 1], [2, 3, 0, 1, 2, 3]], np.float32)
    np.testing.assert_array_equal(dense, np.concatenate([expected, expected + 4]))


def drop_lut(arrays, _):
    del arrays["w.lut"]


def short_indices(arrays, _):
    arrays["w.indices"] = arrays["w.indices"][:-1]


def narrow_lut(arrays, _):
    arrays["w.lut"] = arrays["w.lut"][:, :, :3]


def other_lut_dtype(arrays, _):
    arrays["w.lut"] = arrays["w.lut"].astype(np.int32)


def indices_as_floats(arrays, _):
    arrays["w.indices"] = arrays["w.indices"].astype(np.float32)


def group_that_does_not_divide(_, said):
    said["weights"]["w"]["group_size"] = 3


def axis_beyond_rank(_, said):
    said["weights"]["w"] |= {"shape": [24], "axis": 1}


def vectors_that_do_not_divide(_, said):
    said["weights"]["w"]["cluster_dim"] = 3


def absurd_shape(_, said):
    said["weights"]["w"]["shape"] = [1 << 40, 1 << 40]


def unknown_dtype(_, said):
    said["weights"]["w"]["dtype"] = "F7"


def integer_weight(_, said):
    said["weights"]["w"]["dtype"] = "I32"


def quantized_without_scale(arrays, _):
    arrays["w.lut"] = arrays["w.lut"].astype(np.int8)


def future_version(_, said):
    said["format_version"] = 2


def unknown_field(_, said):
    said["surprise"] = True


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (drop_lut, "w.lut"),
        (short_indices, "w.indices"),
        (narrow_lut, "w.lut"),
        (other_lut_dtype, "w.lut"),
        (indices_as_floats, "w.indices"),
        (group_that_does_not_divide, "w: .* groups of 3"),
        (axis_beyond_rank, "w: .* axis 1"),
        (vectors_that_do_not_divide, "w: .* vectors of 3"),
        (absurd_shape, "w.indices"),
        (unknown_dtype, "dtype"),
        (integer_weight, "dtype"),
        (quantized_without_scale, "w.lut_scale"),
        (future_version, "version 2"),
        (unknown_field, "surprise"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(store, damage, named):
    arrays, said = sound()
    damage(arrays, said)
    with pytest.raises(InvalidArtifact, match=named):
        opened(store, arrays, said)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"format_version": {}}'])
def test_damaged_metadata(store, text):
    entries = [array_entry("x", np.zeros(2, np.uint8))]
    store.write("a.safetensors", stream(entries, {"palettery": text}))
    with pytest.raises(InvalidArtifact, match=r"a\.safetensors"):
        open_artifact(store, ["a.safetensors"], Limits())


def test_a_safetensors_file_that_is_no_artifact(store):
    with pytest.raises(InvalidArtifact, match="not a Palettery artifact"):
        opened(store, {"x": np.zeros(2, np.uint8)}, None)
