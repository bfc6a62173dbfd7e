"""Dispatch of tasks by kind, and the error if a worker runs out of memory."""

import hashlib
import resource

import pytest

from palettery.app.compression.perform_task import describe, perform
from palettery.app.errors import OutOfMemory
from palettery.app.storage.open import open_storage
from palettery.schemas.tasks import (
    CompressionTask,
    DigestTask,
    FinishTask,
    GatherTask,
    PublishTask,
    VerifyTask,
    WriteTask,
)
from tests.app.stored_job import StoredJob, config_of, draws

JOB_ID = "01890a5d-ac96-774b-bcce-000000000001"
FAR_TOO_MUCH = 1 << 40


@pytest.fixture
def store(tmp_path):
    return open_storage((tmp_path / "store").as_uri())


def test_digests_are_those_of_the_bytes_and_of_the_sensitivities_behind_them(store):
    arrays, beside = draws(1, a=(8, 6), b=(4, 4)), {"a.weight": abs(draws(2, a=(8, 6))["a.weight"])}
    job = StoredJob(store, JOB_ID, arrays, config_of(n_bits=2), sensitivities=beside)
    slices = tuple(item for task in job.tasks() for item in task.slices)
    digests = dict(
        zip(
            (item.name for item in slices),
            perform(job.task(DigestTask, slices=slices)),
            strict=True,
        )
    )
    read = {"a.weight": arrays["a.weight"].tobytes() + beside["a.weight"].tobytes()}
    read["b.weight"] = arrays["b.weight"].tobytes()
    assert digests == {name: hashlib.sha256(data).hexdigest() for name, data in read.items()}


def test_part_that_is_there_is_not_made_again(store):
    job = StoredJob(store, JOB_ID, draws(a=(8, 8)), config_of(n_bits=2))
    (task,) = job.tasks()
    perform(task)
    made = bytes(store.read(task.part_path))  # with the seconds that it took, never the same twice
    perform(task)
    assert bytes(store.read(task.part_path)) == made


@pytest.fixture
def little_memory():
    """However much memory the machine would promise, this process gets half of `FAR_TOO_MUCH`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (FAR_TOO_MUCH // 2, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.usefixtures("little_memory")
def test_memory_that_is_not_there_is_told_with_the_tensor(store):
    job = StoredJob(store, JOB_ID, draws(a=(8, 8)), config_of(n_bits=2, cluster_dim=2))
    (task,) = job.tasks()
    (item,) = task.slices
    with (store.root / item.path).open("r+b") as file:
        file.truncate(item.offset + FAR_TOO_MUCH)  # a hole: it takes no space
    huge = item.model_copy(update={"size_bytes": FAR_TOO_MUCH, "shape": (FAR_TOO_MUCH // 32, 8)})
    with pytest.raises(
        OutOfMemory, match=r"^palettizing a\.weight took more memory than"
    ) as excinfo:
        perform(task.model_copy(update={"slices": (huge,)}))
    assert isinstance(excinfo.value.__cause__, MemoryError)
    assert "PALETTERY_TASK_BYTES" in excinfo.value.detail
    assert not store.exists(task.part_path)


def test_what_a_task_does_is_told(store):
    job = StoredJob(store, JOB_ID, draws(a=(8, 8), b=(4, 4), c=(4, 4)), config_of(n_bits=2))
    (task,) = job.tasks()
    first, second, third = task.slices
    again = first.model_copy(update={"first_row": 4})

    def description(*slices):
        return describe(task.model_copy(update={"slices": slices}))

    assert isinstance(task, CompressionTask)
    assert description(first) == description(first, again) == f"palettizing {first.name}"
    assert description(first, again, second, third) == f"palettizing {first.name} and 2 more"
    assert describe(job.task(WriteTask, shard="m-1")) == "writing m-1"
    assert describe(job.task(VerifyTask, names=("x", "y"))) == "verifying x and its neighbours"
    assert describe(job.task(DigestTask, slices=())) == "digesting tensors"
    for kind, more in ((GatherTask, {}), (PublishTask, {"digests": {}}), (FinishTask, {})):
        assert describe(job.task(kind, **more)) == "putting the artifact together"
