"""The stages of a job's end, each in a worker of its own, against all of them in one."""

import shutil

import pytest

from palettery.app.compression import layout
from palettery.app.compression.job_folder import report_path
from palettery.app.compression.parts import read_parts
from palettery.app.compression.perform_task import perform
from palettery.app.errors import InvalidArtifact
from palettery.app.storage.open import open_storage
from palettery.schemas.tasks import GatherTask, PublishTask, VerifyTask, WriteTask
from tests.app.stored_job import StoredJob, config_of, draws, grouped

JOB_ID = "01890a5d-ac96-774b-bcce-000000000001"
SPECS = {
    "quantized LUTs": {
        "n_bits": 6,
        "granularity": grouped(4),
        "lut_qspec": {"dtype": "uint8"},
    },
    "scale": {"n_bits": 4, "granularity": grouped(4), "enable_per_channel_scale": True},
    "vectors": {"n_bits": 2, "granularity": grouped(4), "cluster_dim": 2},
    "tensor": {"n_bits": 8, "granularity": {"type": "per_tensor"}},
}


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Files and batches so small that a small model has several."""
    monkeypatch.setattr(layout, "SHARD_BYTES", 1000)
    monkeypatch.setattr(layout, "BATCH_BYTES", 5000)


@pytest.fixture
def make(tmp_path):
    """A palettized job of this spec, in a store of its own."""

    def made(spec="scale", name="store"):
        arrays = draws(5, a=(96, 20), b=(64, 4, 3, 3)) | {"b.bias": draws(x=(64,))["x.weight"]}
        store = open_storage((tmp_path / name).as_uri())
        return StoredJob(store, JOB_ID, arrays, config_of(**SPECS[spec]), task_bytes=1 << 9)

    return made


def elsewhere(job, name):
    """The same job in another store; not computed anew, for that takes another time."""
    root = job.store.root.with_name(name)
    shutil.copytree(job.store.root, root)
    there = object.__new__(StoredJob)
    there.__dict__ = job.__dict__ | {"store": open_storage(root.as_uri())}
    return there


def staged(job):
    """Finish stage by stage; what is published, and the layout."""
    laid = perform(job.task(GatherTask))
    digests = {name: perform(job.task(WriteTask, shard=name)) for name in laid.shards}
    for names in laid.batches:
        assert perform(job.task(VerifyTask, names=names)) is None
    assert not job.store.exists(report_path(job.prefix))
    return perform(job.task(PublishTask, digests=digests)), laid


def stored(published, job):
    """What was published, but for all that the job stores, which is as many bytes as it says."""
    results = [item for item in job.store.list_objects(job.prefix) if "/parts/" not in item.path]
    assert published.stored_bytes == sum(item.size_bytes for item in results)
    return published.model_copy(update={"stored_bytes": 0})


@pytest.mark.parametrize("spec", SPECS)
def test_stage_by_stage_and_in_one_are_the_same(make, spec):
    job = make(spec).palettize()
    in_one = elsewhere(job, "one")
    published, laid = staged(job)
    assert len(laid.shards) > 1
    assert len(laid.batches) > 1
    assert [name for names in laid.batches for name in names] == [
        tensor.name for tensor in job.request.plan.tensors
    ]
    assert stored(in_one.finish(), in_one) == stored(published, job)
    assert job.artifact() == in_one.artifact()
    assert job.report() == in_one.report()
    assert set(job.artifact()) == {*laid.shards, layout.INDEX} == set(job.report().artifact_sha256)
    assert published.size_bytes == sum(map(len, job.artifact().values()))


@pytest.mark.parametrize("spec", SPECS)
def test_results_lie_where_they_are_said_to(make, spec):
    job = make(spec).palettize()
    arrays = [
        (name, number, key)
        for name, slices in read_parts(job.store, job.tasks()).items()
        for number, part in enumerate(slices)
        for key in part.tensors
    ]
    last = {(name, key): number for name, number, key in arrays}  # slices are all alike
    assert any(last.values()) == (spec != "tensor")
    for (name, key), number in last.items():
        part = read_parts(job.store, job.tasks())[name][number]
        damaged, tensor = bytearray(job.store.read(part.path)), part.tensors[key]
        damaged[tensor.offset + tensor.size_bytes - 1] ^= 1
        job.store.write(part.path, bytes(damaged))
        with pytest.raises(InvalidArtifact, match=rf"{name}.* retry the job"):
            staged(job)
        assert not job.store.exists(part.path)
        job.palettize()
    staged(job)
