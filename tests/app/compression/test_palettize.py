"""Huge tensors, read in blocks of rows, against the same tensors in memory."""

import hashlib

import ml_dtypes
import numpy as np
import pytest

from palettery.app.compression import palettize as module
from palettery.app.compression.parts import read_parts
from palettery.app.errors import InvalidSensitivities
from palettery.app.storage.open import open_storage
from palettery.kernels import streaming as by_rows
from palettery.kernels.scalar import cpu, large_groups
from palettery.schemas.statistics import SliceStatistics
from tests.app.stored_job import StoredJob, config_of, draws, grouped
from tests.spanning import spanning

JOB_ID = "01890a5d-ac96-774b-bcce-000000000001"
SHAPE = (301, 57)
SPECS = {
    "tensor": {"n_bits": 4, "granularity": {"type": "per_tensor"}},
    "columns": {"n_bits": 3, "granularity": grouped(19, axis=1)},
    "scale": {
        "n_bits": 6,
        "granularity": {"type": "per_tensor"},
        "enable_per_channel_scale": True,
        "lut_qspec": {"dtype": "int8"},
    },
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Limits of the kernels so low that a small tensor takes many blocks and passes."""
    monkeypatch.setattr(cpu, "MAX_SORTED_ELEMENTS", 4096)
    monkeypatch.setattr(cpu, "ROUND_ELEMENTS", 6000)
    monkeypatch.setattr(large_groups, "PIECE_ELEMENTS", 1500)
    monkeypatch.setattr(by_rows, "BLOCK_ELEMENTS", 3500)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A job of one such tensor; by its name, how the tensor is read."""

    def made(how, spec, arrays, sensitivities=None):
        monkeypatch.setattr(module, "HUGE_BYTES", 1 << 10 if how == "blocks" else 1 << 30)
        store = open_storage((tmp_path / how).as_uri())
        return StoredJob(
            store, JOB_ID, arrays, config_of(**SPECS[spec]), sensitivities=sensitivities
        ).palettize()

    return made


def outcome(job):
    """What became of the tensor, and its statistics if it has any."""
    ((part,),) = read_parts(job.store, job.tasks()).values()
    statistics = line = part.statistics
    if line is not None:
        text = job.store.read(line.path, line.offset, line.size_bytes)
        statistics = SliceStatistics.model_validate_json(bytes(text))
    return part.outcome.model_copy(update={"statistics_bytes": 0}), statistics


def assert_same(one, other):
    """But for the time that it took, and the order in which squares were added up."""
    (one, statistics), (other, expected) = one, other
    summed = {"sse": pytest.approx(other.sse, rel=1e-12), "signal": pytest.approx(other.signal)}
    document = one.model_dump() | {"seconds": other.seconds}
    assert document == other.model_dump() | summed
    assert statistics == expected


def reads(monkeypatch):
    """Counts the blocks that are read from now on."""
    counted = []
    read = module.SliceRows.read

    def counting(self, first, count):
        counted.append((first, count))
        return read(self, first, count)

    monkeypatch.setattr(module.SliceRows, "read", counting)
    return counted


@pytest.mark.parametrize(
    ("spec", "weighted", "dtype"),
    spanning(SPECS, [False, True], [np.float32, np.float16, ml_dtypes.bfloat16]),
)
def test_in_blocks_is_as_whole(make, monkeypatch, spec, weighted, dtype):
    arrays = {"a.weight": draws(3, a=SHAPE)["a.weight"].astype(dtype)}
    beside = {"a.weight": np.random.default_rng(4).gamma(0.3, size=SHAPE)} if weighted else None
    blocks = reads(monkeypatch)
    whole = make("whole", spec, arrays, beside)
    assert blocks == []
    in_blocks = make("blocks", spec, arrays, beside)
    assert len(blocks) > 2
    assert max(count for _, count in blocks) < SHAPE[0]
    assert_same(outcome(in_blocks), outcome(whole))
    hashed = hashlib.sha256(arrays["a.weight"].tobytes())
    hashed.update(beside["a.weight"].tobytes() if beside else b"")
    assert outcome(whole)[0].content_sha256 == hashed.hexdigest()
    for job in (whole, in_blocks):
        job.finish()
    assert in_blocks.artifact() == whole.artifact()


@pytest.mark.parametrize("how", ["whole", "blocks"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_kept_with_the_reason(make, how, value):
    arrays = draws(3, a=SHAPE)
    arrays["a.weight"][250, 31] = value
    job = make(how, "tensor", arrays)
    result, statistics = outcome(job)
    assert statistics is None
    assert result.action == "kept"
    assert "not finite" in result.reason
    assert result.weights == arrays["a.weight"].size
    assert job.finish().results == ()
    assert arrays["a.weight"].tobytes() in job.artifact()["model.safetensors"]


@pytest.mark.parametrize("how", ["whole", "blocks"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_bad_sensitivities_end_the_work(make, how, value):
    beside = {"a.weight": np.ones(SHAPE)}
    beside["a.weight"][250, 31] = value
    with pytest.raises(InvalidSensitivities, match=r"^a\.weight: .*leave them out"):
        make(how, "tensor", draws(3, a=SHAPE), beside)


def test_huge_tensor_with_a_long_name(make):
    name = f"{chr(0x1F5DC) * 993}.weight"  # 4 bytes each, and no name may be longer
    job = make("blocks", "tensor", {name: draws(3, a=SHAPE)["a.weight"]})
    assert outcome(job)[0].name == name
    job.finish()


def test_groups_of_rows_are_read_whole(tmp_path, monkeypatch):
    """They are cut along rows, so no slice of them is huge for long."""
    monkeypatch.setattr(module, "HUGE_BYTES", 1 << 10)
    blocks = reads(monkeypatch)
    spec = {"n_bits": 4, "granularity": grouped(7)}
    store = open_storage(tmp_path.as_uri())
    StoredJob(store, JOB_ID, draws(3, a=SHAPE), config_of(**spec)).palettize()
    assert blocks == []
