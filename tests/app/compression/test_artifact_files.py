"""From plan to verified artifact, with splits, shards and damage."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from palettery.app.artifacts.reader import open_artifact
from palettery.app.compression import layout
from palettery.app.compression.job_folder import artifact_path
from palettery.app.compression.parts import read_parts
from palettery.app.errors import Cancelled, InvalidArtifact, ObjectMissing
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from tests.app.stored_job import StoredJob, config_of, grouped

JOB_ID = "01890a5d-ac96-774b-bcce-000000000001"


class Work(StoredJob):
    """A model on its way through plan, tasks, parts and artifact."""

    def __init__(self, folder, arrays, config, task_bytes=1 << 20):
        super().__init__(
            open_storage(folder.as_uri()), JOB_ID, arrays, config, task_bytes=task_bytes
        )
        self.folder = folder / self.prefix

    def finished(self):
        self.finish()
        return self.report()

    def opened(self, report):
        names = [name for name in report.artifact_sha256 if name.endswith(".safetensors")]
        paths = [artifact_path(self.prefix, name) for name in names]
        return open_artifact(self.store, paths, Limits())


def weights(**shapes):
    rng = np.random.default_rng(5)
    return {f"{name}.weight": rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


GROUPED = grouped(4)


@pytest.mark.parametrize(
    "spec",
    [
        {"n_bits": 3, "granularity": GROUPED},
        {"n_bits": 4, "granularity": GROUPED, "enable_per_channel_scale": True},
        {"n_bits": 6, "granularity": GROUPED, "lut_qspec": {"dtype": "uint8"}},
        {"n_bits": 2, "granularity": GROUPED, "cluster_dim": 2},
        {"n_bits": 1, "granularity": grouped(4, axis=1)},
        {"n_bits": 8, "granularity": {"type": "per_tensor"}},
    ],
)
def test_a_split_tensor_is_the_tensor_whole(tmp_path, spec):
    arrays = weights(a=(96, 20), b=(64, 4, 3, 3))
    artifacts = []
    for name, task_bytes in (("whole", 1 << 20), ("split", 1 << 9)):
        (tmp_path / name).mkdir()
        work = Work(tmp_path / name, arrays, config_of(**spec), task_bytes).palettize()
        artifacts.append((work, work.opened(work.finished())))
    (whole, one), (split, other) = artifacts
    if spec["granularity"] == GROUPED:
        assert len(split.tasks()) > len(whole.tasks())
    for name in arrays:
        np.testing.assert_array_equal(one.dense(name), other.dense(name))
    assert whole.artifact() == split.artifact()


def test_a_large_artifact_is_sharded_with_an_index(monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "SHARD_BYTES", 2500)
    arrays = weights(a=(64, 64), b=(64, 64), c=(64, 64))
    arrays["c.bias"] = np.ones(64, np.float32)
    work = Work(tmp_path, arrays, config_of(n_bits=4)).palettize()
    report = work.finished()
    folder = work.folder / "artifact"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    stored = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors = load_file(shard)
        assert {index["weight_map"][name] for name in tensors} == {shard.name}
        stored |= tensors
    assert set(stored) == set(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in stored.values())
    assert len(report.artifact_sha256) == 4
    np.testing.assert_array_equal(stored["c.bias"], arrays["c.bias"])
    artifact = work.opened(report)
    for tensor in report.tensors:
        if tensor.spec:
            error = artifact.dense(tensor.name) - arrays[tensor.name].astype(np.float64)
            assert (error**2).sum() == pytest.approx(tensor.sse, rel=1e-6)


def test_a_part_that_changed_after_it_was_written_is_noticed(tmp_path):
    work = Work(tmp_path, weights(a=(64, 64)), config_of(n_bits=4)).palettize()
    part = tmp_path / work.tasks()[0].part_path
    (result,) = read_parts(work.store, work.tasks())["a.weight"]
    data = bytearray(part.read_bytes())
    data[result.tensors["indices"].offset + 100] ^= 0xFF
    part.write_bytes(bytes(data))
    with pytest.raises(InvalidArtifact, match=r"a\.weight"):
        work.finished()
    assert not (work.folder / "report.json").exists()


def test_a_missing_part_is_said_to_be_missing(tmp_path):
    work = Work(tmp_path, weights(a=(64, 64)), config_of(n_bits=4)).palettize()
    (tmp_path / work.tasks()[0].part_path).unlink()
    with pytest.raises(ObjectMissing, match="parts"):
        work.finished()


def test_a_task_stops_at_the_cancel_marker(tmp_path):
    work = Work(tmp_path, weights(a=(64, 64)), config_of(n_bits=4))
    work.store.write(work.stop, b"")
    with pytest.raises(Cancelled):
        work.palettize()
    assert not (tmp_path / work.tasks()[0].part_path).exists()


def test_one_bad_slice_keeps_the_whole_tensor(tmp_path):
    arrays = weights(a=(96, 20), b=(8, 8))
    arrays["a.weight"][90, 3] = np.inf
    work = Work(tmp_path, arrays, config_of(n_bits=4, granularity=GROUPED), 1 << 9).palettize()
    report = work.finished()
    results = {tensor.name: tensor for tensor in report.tensors}
    assert results["a.weight"].action == "kept"
    assert results["b.weight"].action == "palettized"
    stored = load_file(work.folder / "artifact" / "model.safetensors")
    assert stored["a.weight"].tobytes() == arrays["a.weight"].tobytes()


def test_a_tensor_of_values_that_a_palette_holds_is_exact(tmp_path):
    arrays = {"a.weight": np.tile(np.float32([1, 2, 3, 4]), (8, 4))}
    work = Work(tmp_path, arrays, config_of(n_bits=2)).palettize()
    (outcome,) = work.finished().tensors
    assert (outcome.sse, outcome.max_error, outcome.snr_db) == (0, 0, None)
