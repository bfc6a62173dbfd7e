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


def opened(store, arrays, document):
    entries = sort_entries(array_entry(name, array) for name, array in arrays.items())
    metadata = {} if document is None else {"palettery": json.dumps(document)}
    store.write("a.safetensors", stream(entries, metadata))
    return open_artifact(store, ["a.safetensors"], Limits())


def test_decoding_by_hand(store):
    arrays, document = sound()
    dense = opened(store, arrays, document).dense("w")
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


def group_that_does_not_divide(_, document):
    document["weights"]["w"]["group_size"] = 3


def axis_beyond_rank(_, document):
    document["weights"]["w"] |= {"shape": [24], "axis": 1}


def vectors_that_do_not_divide(_, document):
    document["weights"]["w"]["cluster_dim"] = 3


def absurd_shape(_, document):
    document["weights"]["w"]["shape"] = [1 << 40, 1 << 40]


def unknown_dtype(_, document):
    document["weights"]["w"]["dtype"] = "F7"


def integer_weight(_, document):
    document["weights"]["w"]["dtype"] = "I32"


def quantized_without_scale(arrays, _):
    arrays["w.lut"] = arrays["w.lut"].astype(np.int8)


def future_version(_, document):
    document["format_version"] = 2


def unknown_field(_, document):
    document["surprise"] = True


def mask_is_missing(_, said):
    said["weights"]["w"]["stored"] = 24


def short_mask(arrays, said):
    said["weights"]["w"]["stored"] = 24
    arrays["w.mask"] = np.full(2, 255, np.uint8)


def incomplete_stored_vectors(arrays, said):
    said["weights"]["w"] |= {"stored": 23, "cluster_dim": 2}
    arrays["w.mask"] = np.full(3, 255, np.uint8)


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
        (mask_is_missing, "w.mask"),
        (short_mask, "w.mask"),
        (incomplete_stored_vectors, "w: .* vectors of 2"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(store, damage, named):
    arrays, document = sound()
    damage(arrays, document)
    with pytest.raises(InvalidArtifact, match=named):
        opened(store, arrays, document)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"format_version": {}}'])
def test_damaged_metadata(store, text):
    entries = [array_entry("x", np.zeros(2, np.uint8))]
    store.write("a.safetensors", stream(entries, {"palettery": text}))
    with pytest.raises(InvalidArtifact, match=r"a\.safetensors"):
        open_artifact(store, ["a.safetensors"], Limits())


def test_a_safetensors_file_that_is_no_artifact(store):
    with pytest.raises(InvalidArtifact, match="not a Palettery artifact"):
        opened(store, {"x": np.zeros(2, np.uint8)}, None)


@pytest.mark.parametrize("stored", [23, 21])
def test_a_mask_that_stores_another_number_of_weights_is_refused(store, stored):
    arrays, said = sound()
    said["weights"]["w"]["stored"] = stored
    arrays["w.mask"] = np.packbits(np.arange(24) < 22, bitorder="little")
    arrays["w.indices"] = np.zeros((2 * stored + 7) // 8, np.uint8)
    artifact = opened(store, arrays, said)
    for read in (artifact.dense, artifact.palette):
        with pytest.raises(InvalidArtifact, match=f"stores 22 weights, but .* asks for {stored}"):
            read("w")


def test_decoding_a_sparse_weight_by_hand(store):
    arrays, said = sound()
    said["weights"]["w"]["stored"] = 4
    arrays["w.mask"] = np.packbits(np.isin(np.arange(24), [1, 5, 11, 12]), bitorder="little")
    arrays["w.indices"] = np.array([0b11100100], np.uint8)
    expected = np.zeros(24, np.float32)
    expected[[1, 5, 11, 12]] = 0, 1, 2, 7
    np.testing.assert_array_equal(opened(store, arrays, said).dense("w").reshape(-1), expected)
