"""Nodes that compute weights, run by onnxruntime: each weight has the artifact's bits."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.tape import Tape

from palettery.app.artifacts.export.onnx_palettes import WeightNodes
from palettery.app.artifacts.reader import open_artifact
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from tests.app.stored_job import StoredJob, config_of, draws, grouped
from tests.spanning import spanning

onnxruntime = pytest.importorskip("onnxruntime")
JOB_ID = "01890a5d-ac96-774b-bcce-000000000001"
SHAPES = {"linear": (8, 12), "conv": (8, 12, 3, 3), "odd": (4, 6, 5)}
GRANULARITIES = {
    "tensor": {"type": "per_tensor"},
    "rows": grouped(4),
    "columns": grouped(6, axis=1),
}
LUTS = {
    "plain": None,
    "int8": {"dtype": "int8"},
    "asymmetric": {"dtype": "uint8", "qscheme": "asymmetric"},
    "e4m3": {"dtype": "float8_e4m3fn"},
    "e5m2": {"dtype": "float8_e5m2"},
}
SPARSE = {name: (name, 1) for name in GRANULARITIES} | {
    "vectors": ("tensor", 2),
    "vectors_of_rows": ("rows", 2),
}
"""Granularity and cluster_dim of sparse weights, whose columns have no vectors."""
N_BITS = [1, 2, 3, 4, 6, 8]


@pytest.fixture
def store(tmp_path):
    return open_storage(tmp_path.as_uri())


def artifact_of(store, arrays, **spec):
    job = StoredJob(store, JOB_ID, arrays, config_of(**spec)).palettize()
    job.finish()
    return open_artifact(store, store.list(f"{job.prefix}/artifact"), Limits())


def decoded(artifact, name, disabled=()):
    """The weight as onnxruntime computes it, and the bytes of the arrays that are stored."""
    tape = Tape()
    weight = WeightNodes(tape, artifact, name).add()
    weight.name = name
    graph = ir.Graph(
        [], [weight], nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 19}
    )
    model = ir.to_proto(ir.Model(graph, ir_version=9)).SerializeToString()
    session = onnxruntime.InferenceSession(
        model, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )
    (result,) = session.run(None, {})
    return result, {each.name: each.const_value.nbytes for each in tape.initializers}


def assert_decoded(artifact, name, **how):
    result, sizes = decoded(artifact, name, **how)
    expected = artifact.dense(name)
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    assert result.tobytes() == expected.tobytes(), name
    stored = {
        f"{name}.{key}": part.tensor.size_bytes for key, part in artifact.palettes[name].items()
    }
    padding = 8 * len(sizes)
    assert sum(sizes.values()) <= sum(stored.values()) + padding
    split = {f"{name}.indices_low": 0, f"{name}.indices_high": 0}
    assert sizes.keys() <= stored.keys() | split.keys(), "names are those of the artifact"


@pytest.mark.parametrize(
    ("n_bits", "granularity", "cluster_dim", "lut", "scaled", "dtype"),
    spanning(N_BITS, list(GRANULARITIES), [1, 2], list(LUTS), [False, True], ["f4", "f2"]),
)
def test_weights_have_the_bits_of_the_artifact(
    store, n_bits, granularity, cluster_dim, lut, scaled, dtype
):
    arrays = {name: array.astype(dtype) for name, array in draws(**SHAPES).items()}
    spec = {"granularity": GRANULARITIES[granularity], "lut_qspec": LUTS[lut]}
    artifact = artifact_of(
        store,
        arrays,
        n_bits=n_bits,
        cluster_dim=cluster_dim,
        enable_per_channel_scale=scaled,
        **spec,
    )
    assert artifact.weights
    for name in artifact.weights:
        assert_decoded(artifact, name)


@pytest.mark.parametrize(
    ("n_bits", "layout", "lut", "scaled", "dtype"),
    spanning([1, 2, 3, 4], list(SPARSE), list(LUTS), [False, True], ["f4", "f2"]),
)
def test_sparse_weights_have_the_bits_of_the_artifact(store, n_bits, layout, lut, scaled, dtype):
    granularity, cluster_dim = SPARSE[layout]
    rng = np.random.default_rng(1)
    arrays = {
        name: (array * (rng.random(array.shape) < 0.4)).astype(dtype)
        for name, array in draws(**SHAPES).items()
    }
    spec = {"granularity": GRANULARITIES[granularity], "lut_qspec": LUTS[lut]}
    artifact = artifact_of(
        store,
        arrays,
        n_bits=n_bits,
        cluster_dim=cluster_dim,
        enable_per_channel_scale=scaled,
        sparsity_detection_threshold=0.5,
        **spec,
    )
    assert any(weight.stored for weight in artifact.weights.values())
    for name in artifact.weights:
        assert_decoded(artifact, name)


def test_a_weight_of_zeros(store):
    zeros = {"linear.weight": np.zeros((8, 12), "f2")}
    artifact = artifact_of(store, zeros, n_bits=2, sparsity_detection_threshold=0.5)
    assert artifact.weights["linear.weight"].stored == 0
    result, sizes = decoded(artifact, "linear.weight")
    assert result.tobytes() == zeros["linear.weight"].tobytes()
    assert not sizes


@pytest.mark.parametrize("n_bits", N_BITS)
def test_weights_are_the_same_when_they_are_computed_in_each_run(store, n_bits):
    artifact = artifact_of(store, draws(**SHAPES), n_bits=n_bits, granularity=grouped(4))
    for name in artifact.weights:
        assert_decoded(artifact, name, disabled=["ConstantFolding"])
