"""Sparse weights from file to artifact and back: masks, slices, blocks of rows, reports."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load, load_file

from palettery.app.artifacts import load as load_state
from palettery.app.artifacts import load_into, palette_arrays
from palettery.app.artifacts.export.formats import export_artifact
from palettery.app.artifacts.export.request import ExportRequest
from palettery.app.artifacts.reader import open_artifact
from palettery.app.compression import palettize
from palettery.app.compression.layout import join_bits
from palettery.app.errors import Inexpressible
from palettery.app.planning import tasks
from palettery.app.planning.exports import check_expressible, plan_exports
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.kernels import streaming
from palettery.kernels.scalar import cpu
from tests.app.stored_job import StoredJob, config_of, draws, grouped
from tests.spanning import spanning

JOB_IDS = [f"01890a5d-ac96-774b-bcce-00000000000{number}" for number in range(3)]
GRANULARITIES = {
    "tensor": {"type": "per_tensor"},
    "rows": grouped(4),
    "columns": grouped(5, axis=1),
}


@pytest.fixture
def store(tmp_path):
    return open_storage(tmp_path.as_uri())


def zeroed(seed=0, **shapes):
    """Weights, most of which are zero."""
    rng = np.random.default_rng(seed)
    return {
        name: array * (rng.random(array.shape) < 0.4) for name, array in draws(**shapes).items()
    }


def job_of(store, arrays, number=0, threshold=0.5, **spec):
    config = config_of(sparsity_detection_threshold=threshold, **spec)
    job = StoredJob(store, JOB_IDS[number], arrays, config).palettize()
    job.finish()
    return job


def artifact_of(store, job):
    return open_artifact(store, store.list(f"{job.prefix}/artifact"), Limits())


@pytest.mark.parametrize(
    ("granularity", "cluster_dim", "n_bits", "scaled"),
    [
        case
        for case in spanning(list(GRANULARITIES), [1, 2, 3], [1, 3, 4, 6], [False, True])
        if case.values[:2] not in (("columns", 2), ("columns", 3))
    ],
)
def test_every_reader_decodes_the_same(
    store, tmp_path, monkeypatch, granularity, cluster_dim, n_bits, scaled
):
    monkeypatch.setattr(palette_arrays, "BLOCK_BYTES", 1 << 10)
    arrays = zeroed(linear=(24, 35), conv=(8, 5, 3, 3))
    spec = {"granularity": GRANULARITIES[granularity], "enable_per_channel_scale": scaled}
    job = job_of(store, arrays, n_bits=n_bits, cluster_dim=cluster_dim, **spec)
    artifact, paths = (
        artifact_of(store, job),
        sorted((tmp_path / job.prefix / "artifact").iterdir()),
    )
    state, module = load_state(paths), torch.nn.Module()
    for name, array in arrays.items():
        module.add_module(name.split(".")[0], torch.nn.Module())
        own = torch.nn.Parameter(torch.zeros(array.shape))
        module.get_submodule(name.split(".")[0]).weight = own
    load_into(module, paths)
    for name, array in arrays.items():
        dense = artifact.dense(name)
        assert not dense[array == 0].any()
        assert torch.equal(state[name], torch.from_numpy(dense))
        assert torch.equal(module.get_submodule(name.split(".")[0]).weight, state[name])


@pytest.mark.parametrize(("n_bits", "cluster_dim"), [(1, 1), (3, 1), (4, 1), (2, 2)])
def test_slices_of_a_sparse_tensor_are_joined_bit_after_bit(
    store, monkeypatch, n_bits, cluster_dim
):
    arrays = zeroed(linear=(64, 35))
    arrays["linear.weight"][16:24] = draws(other=(8, 35))["other.weight"]  # a slice without zeros
    arrays["linear.weight"][32:40] = 0
    spec = {"n_bits": n_bits, "cluster_dim": cluster_dim, "granularity": grouped(4)}
    whole = job_of(store, arrays, **spec)
    monkeypatch.setattr(tasks, "SMALLEST_TASK_BYTES", 1 << 11)
    sliced = job_of(store, arrays, 1, **spec)
    assert len(sliced.tasks()) > 1
    assert sliced.artifact() == whole.artifact()
    report = sliced.report().tensors[0]
    assert report.zero_share == whole.report().tensors[0].zero_share


@pytest.mark.parametrize(("fullest", "is_sparse"), [(2, False), (3, True)])
def test_a_weight_that_fills_no_vector_stays_dense(store, monkeypatch, fullest, is_sparse):
    weight = np.zeros((48, 35), "f4")
    weight[::6, 0] = weight[::6, 9] = 0.5  # two in each group
    weight[36, 20] = fullest - 2
    spec = {"n_bits": 2, "cluster_dim": 3, "granularity": grouped(6)}
    whole = job_of(store, {"linear.weight": weight}, **spec)
    monkeypatch.setattr(tasks, "SMALLEST_TASK_BYTES", 1 << 10)
    sliced = job_of(store, {"linear.weight": weight}, 1, **spec)
    assert len(sliced.tasks()) > 1
    assert sliced.artifact() == whole.artifact()
    assert ("linear.weight.mask" in load(whole.artifact()["model.safetensors"])) == is_sparse
    if not is_sparse:
        np.testing.assert_array_equal(artifact_of(store, whole).dense("linear.weight"), weight)


def test_slices_of_a_tensor_below_the_threshold_have_no_mask(store, monkeypatch):
    arrays = draws(linear=(64, 35))
    arrays["linear.weight"][:8] = 0  # all of the first slice
    monkeypatch.setattr(tasks, "SMALLEST_TASK_BYTES", 1 << 11)
    job = job_of(store, arrays, granularity=grouped(4))
    assert "linear.weight.mask" not in load(job.artifact()["model.safetensors"])


@pytest.mark.parametrize("granularity", ["tensor", "columns"])
def test_a_tensor_read_in_blocks_gives_the_same_artifact(store, monkeypatch, granularity):
    arrays = zeroed(linear=(128, 35))
    monkeypatch.setattr(cpu, "MAX_SORTED_ELEMENTS", 800)
    whole = job_of(store, arrays, granularity=GRANULARITIES[granularity])
    monkeypatch.setattr(palettize, "HUGE_BYTES", 1 << 10)
    monkeypatch.setattr(streaming, "BLOCK_ELEMENTS", 700)
    assert job_of(store, arrays, 1, granularity=GRANULARITIES[granularity]).artifact() == (
        whole.artifact()
    )


def test_report_counts_the_mask_beside_what_coreai_opt_counts(store):
    weight = np.zeros((8, 20), "f4")
    weight[:, :5] = draws(linear=(8, 5))["linear.weight"]
    job = job_of(store, {"linear.weight": weight}, n_bits=2)
    tensor = job.report().tensors[0]
    assert (tensor.zero_share, tensor.mask_bytes) == (0.75, 20)
    assert tensor.bits_per_weight == (40 * 2 + 4 * 32 + 160) / 160
    assert tensor.coreai_opt_bits_per_weight == (160 * 2 + 4 * 32) / 160
    assert tensor.size_after_bytes == 10 + 16 + 20


@pytest.mark.parametrize(
    ("threshold", "share"),
    [(0.5, 0.5), (0.5, 0.7), (0.5, 1), (0.5, 0.1), (0, 0.1), (0, 0.9), (0.9, 0.2), (0.9, 0.95)],
)
def test_plan_bounds_the_size_and_says_so(store, threshold, share):
    weight = draws(linear=(16, 40))["linear.weight"]
    weight.reshape(-1)[: int(share * weight.size)] = 0
    job = job_of(store, {"linear.weight": weight}, threshold=threshold, granularity=grouped(4))
    plan, size = job.intake.plan, job.report().size_after_bytes
    assert plan.least_size_bytes <= size <= plan.predicted_size_bytes
    assert any("may be sparse, which only the data say" in each for each in plan.warnings)


def test_plan_without_a_threshold_is_exact(store):
    job = job_of(store, zeroed(linear=(8, 8)), threshold=None)
    assert job.intake.plan.least_size_bytes is None
    assert job.report().size_after_bytes == job.intake.plan.predicted_size_bytes


def test_a_weight_of_zeros_is_kept_as_a_constant(store):
    job = job_of(store, {"linear.weight": np.zeros((8, 16), "f4")})
    tensor = job.report().tensors[0]
    assert "all of its weights are zero" in tensor.notes[0]
    assert tensor.zero_share == 1
    assert not artifact_of(store, job).dense("linear.weight").any()


def test_vectors_of_groups_on_axis_1_are_kept_with_the_way_out(store):
    job = job_of(store, zeroed(linear=(8, 20)), cluster_dim=2, granularity=grouped(5, axis=1))
    tensor = job.report().tensors[0]
    assert tensor.action == "kept"
    assert tensor.reason == (
        "sparsity_detection_threshold with cluster_dim 2 takes no groups on axis 1: use axis 0, "
        "per_tensor, cluster_dim 1, or no threshold"
    )


def test_rows_that_vectors_do_not_divide_are_kept_only_if_dense(store):
    assert job_of(store, zeroed(linear=(7, 20)), cluster_dim=2).report().tensors[0].zero_share
    kept = job_of(store, draws(linear=(7, 20)), 1, cluster_dim=2).report().tensors[0]
    assert kept.reason == (
        "cluster_dim 2 does not divide the 7 rows of a group of a weight of shape [7, 20], and it "
        "is not sparse: use a cluster_dim that does"
    )


def test_bits_are_joined():
    rng = np.random.default_rng(0)
    streams = [rng.random(size) < 0.5 for size in (3, 8, 0, 21, 16, 1)]
    packed = [(np.packbits(bits, bitorder="little").tobytes(), bits.size) for bits in streams]
    expected = np.packbits(np.concatenate(streams), bitorder="little").tobytes()
    assert b"".join(join_bits(packed)) == expected


LACKS = [
    ("torchao", {}, "zeros outside of the palette (sparsity_detection_threshold)"),
    ("coreml", {"cluster_dim": 2}, "vectors of stored weights (cluster_dim 2 and"),
    ("coreai", {"granularity": grouped(5, axis=1)}, "the palettes of groups on axis 1"),
    ("coreai", {"granularity": grouped(4), "cluster_dim": 2}, "unequal numbers"),
]


@pytest.mark.parametrize(("to", "spec", "feature"), LACKS)
def test_plan_refuses_what_an_export_lacks(store, monkeypatch, to, spec, feature):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    plan = job_of(store, zeroed(linear=(8, 20)), n_bits=2, **spec).intake.plan
    planned = plan_exports(plan, [to], ["graph"])
    assert feature in planned.exports[0].inexpressible["linear.weight"]
    assert planned.exports[0].inexpressible["linear.weight"].endswith(" if it is sparse")
    with pytest.raises(Inexpressible):
        check_expressible(planned)


def test_dense_export_has_the_zeros(store, tmp_path):
    arrays = zeroed(linear=(8, 20))
    artifact = artifact_of(store, job_of(store, arrays))
    assert not export_artifact(
        ExportRequest(artifact, store, "dense"), "dense", keep_dense=False
    ).dense
    dense = load_file(tmp_path / "dense")["linear.weight"]
    np.testing.assert_array_equal(dense, artifact.dense("linear.weight"))


def test_metadata_counts_the_stored_weights(store, tmp_path):
    arrays = zeroed(linear=(8, 20))
    job = job_of(store, arrays)
    path = next((tmp_path / job.prefix / "artifact").iterdir())
    header = path.read_bytes()
    size = int.from_bytes(header[:8], "little")
    metadata = json.loads(json.loads(header[8 : 8 + size])["__metadata__"]["palettery"])
    stored = int(np.count_nonzero(arrays["linear.weight"]))
    assert metadata["weights"]["linear.weight"]["stored"] == stored
