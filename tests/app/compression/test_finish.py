"""The stages of a job's end, each in a worker of its own, against all of them in one."""

import shutil
from functools import partial

import pytest

from app.compression import finish, layout
from app.compression.assemble import assemble, report_path
from app.compression.parts import read_parts
from app.compression.work import perform
from app.errors import Cancelled, InvalidArtifact
from app.results.keys import content_key, origin_key, recipe
from app.storage import open_storage
from schemas.report import Report
from schemas.tasks import FinishTask, GatherTask, PublishTask, VerifyTask, WriteTask
from tests.app.stored_job import StoredJob, config_of, draws, grouped

SHARD_BYTES = 1000
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
    monkeypatch.setattr(finish, "lay_out", partial(layout.lay_out, shard_bytes=SHARD_BYTES))
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


def report(job):
    return Report.model_validate_json(bytes(job.store.read(report_path(job.prefix))))


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
    found = [item for item in job.store.listed(job.prefix) if "/parts/" not in item.path]
    assert published.stored_bytes == sum(item.size_bytes for item in found)
    return published.model_copy(update={"stored_bytes": 0})


@pytest.mark.parametrize("spec", SPECS)
def test_stage_by_stage_in_one_and_offline_are_the_same(make, spec):
    job = make(spec).palettize()
    in_one, offline = elsewhere(job, "one"), elsewhere(job, "offline")
    published, laid = staged(job)
    assert len(laid.shards) > 1
    assert len(laid.batches) > 1
    assert [name for names in laid.batches for name in names] == [
        tensor.name for tensor in job.request.plan.tensors
    ]
    assert stored(in_one.finish(), in_one) == stored(published, job)
    request = offline.request
    told = assemble(
        request.plan,
        request.checkpoint,
        offline.tasks(),
        source=offline.store,
        store=offline.store,
        prefix=offline.prefix,
        config=request.config,
        shard_bytes=SHARD_BYTES,
    )
    assert job.artifact() == in_one.artifact() == offline.artifact()
    assert report(job) == report(in_one) == told
    assert set(job.artifact()) == {*laid.shards, layout.INDEX} == set(told.artifact_sha256)
    assert published.size_bytes == sum(map(len, job.artifact().values()))


@pytest.mark.parametrize("spec", SPECS)
def test_results_lie_where_they_are_said_to(make, spec):
    job = make(spec).palettize()
    parts = read_parts(job.store, job.tasks())
    items = {(item.name, item.first_row): item for task in job.tasks() for item in task.slices}
    published, _ = staged(job)
    found = {
        (one.stored.outcome.name, one.stored.outcome.first_row): one for one in published.results
    }
    assert found.keys() == items.keys()
    assert len({one.stored.path for one in published.results}) > 1
    if spec != "tensor":
        assert all(len(slices) > 1 for slices in parts.values())
    for slices in parts.values():
        for part in slices:
            place = part.outcome.name, part.outcome.first_row
            result = found[place]
            assert result.stored.outcome == part.outcome
            assert result.stored.tensors.keys() == part.tensors.keys()
            for key, tensor in part.tensors.items():
                moved = result.stored.tensors[key]
                assert (moved.dtype, moved.shape) == (tensor.dtype, tensor.shape)
                there = job.store.read(result.stored.path, moved.offset, moved.size_bytes)
                assert there == job.store.read(part.path, tensor.offset, tensor.size_bytes)
            named = recipe(items[place])
            assert result.recipe == named
            assert result.origin_key == origin_key(named, items[place])
            assert result.content_key == content_key(named, part.outcome.content_sha256)


def test_all_arrays_of_a_spec_are_among_them(make):
    kinds = {
        spec: {
            key
            for result in make(spec, spec).palettize().finish().results
            for key in result.stored.tensors
        }
        for spec in ("quantized LUTs", "scale")
    }
    assert kinds["quantized LUTs"] >= {"indices", "lut", "lut_scale", "lut_zero_point"}
    assert kinds["scale"] >= {"indices", "lut", "per_channel_scale"}


def test_slices_that_were_not_digested_are_no_results(tmp_path):
    store = open_storage((tmp_path / "store").as_uri())
    job = StoredJob(store, JOB_ID, draws(a=(8, 8)), config_of(n_bits=4), digests=False)
    assert job.palettize().finish().results == ()


def test_finish_palettizes_what_is_left_first(make):
    job = make()
    other = elsewhere(job, "other").palettize()
    done = perform(job.task(FinishTask, first=tuple(job.tasks())))
    assert done.size_bytes == other.finish().size_bytes
    assert job.artifact() == other.artifact()


def test_damage_between_write_and_verify_is_noticed(make):
    job = make().palettize()
    laid = perform(job.task(GatherTask))
    for name in laid.shards:
        perform(job.task(WriteTask, shard=name))
    path = f"{job.prefix}/artifact/{laid.shards[0]}"
    data = bytearray(job.store.read(path))
    data[-7] ^= 0xFF
    job.store.write(path, bytes(data))
    first, *others = (job.task(VerifyTask, names=names) for names in laid.batches)
    with pytest.raises(InvalidArtifact, match=r"a\.weight: the artifact as read back"):
        perform(first)
    for task in others:
        perform(task)


def test_every_stage_stops_at_the_marker(make):
    job = make().palettize()
    laid = perform(job.task(GatherTask))
    digests = {name: perform(job.task(WriteTask, shard=name)) for name in laid.shards}
    written = job.artifact()
    job.store.write(job.stop, b"")
    for stage in (
        job.task(WriteTask, shard=laid.shards[0]),
        job.task(VerifyTask, names=laid.batches[0]),
        job.task(PublishTask, digests=digests),
        job.task(FinishTask),
    ):
        with pytest.raises(Cancelled):
            perform(stage)
    assert job.artifact() == written
    assert not job.store.exists(report_path(job.prefix))


def test_file_that_was_written_when_the_marker_came_is_gone_again(make, monkeypatch):
    job = make().palettize()
    laid = perform(job.task(GatherTask))
    seen = []

    def write_then_cancel(store, path, *rest):
        digest = write_shard(store, path, *rest)
        seen.append(store.exists(path))
        store.write(job.stop, b"")
        return digest

    write_shard = finish.write_shard
    monkeypatch.setattr(finish, "write_shard", write_then_cancel)
    with pytest.raises(Cancelled):
        perform(job.task(WriteTask, shard=laid.shards[0]))
    assert seen == [True]
    assert job.artifact() == {}
