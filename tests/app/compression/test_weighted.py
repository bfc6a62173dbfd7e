"""Sensitivities from file to palette: the kernel gets them, slice by slice, and nothing else."""

import hashlib

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load, save_file

from palettery import kernels
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.compression.job_folder import read_report, stop_path, write_job
from palettery.app.compression.perform_task import perform
from palettery.app.errors import InvalidSensitivities
from palettery.app.planning.job_plan import plan_job
from palettery.app.planning.tasks import cut_tasks
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.config import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
)
from palettery.schemas.tasks import FinishTask, JobRequest

GROUPED = PerGroupedChannelGranularity(group_size=4, axis=0)
RNG = np.random.default_rng(11)
WEIGHTS = {
    "a.weight": RNG.normal(size=(96, 20)).astype(np.float32),
    "b.weight": RNG.normal(size=(64, 32)).astype(np.float32),
}
SENSITIVITIES = {name: RNG.gamma(0.3, size=array.shape) for name, array in WEIGHTS.items()}


def in_folder(folder, name, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / name)
    data = (folder / name).read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    file = StoredFile(name=name, path=name, size_bytes=len(data), sha256=sha256)
    return StoredFiles(open_storage(folder.as_uri()), [file])


class Work:
    """A model and its sensitivities, each in a folder of its own, on their way to an artifact."""

    def __init__(self, folder, spec, sensitivities, task_bytes=1 << 20):
        module = ModuleKMeansPalettizerConfig(
            op_state_spec={"weight": spec}, enable_fast_kmeans_mode=False
        )
        self.config = KMeansPalettizerConfig(global_config=module)
        self.model = in_folder(folder / "model", "m", WEIGHTS)
        beside = in_folder(folder / "beside", "s", sensitivities) if sensitivities else None
        self.intake = plan_job(self.config, self.model, beside, Limits(), strict=True)
        self.store = open_storage((folder / "out").as_uri())
        self.beside_url = beside.storage.url if beside else None
        self.tasks = self.cut(self.intake.sensitivities, task_bytes)

    def cut(self, sensitivities, task_bytes):
        return cut_tasks(
            self.intake.plan,
            self.intake.checkpoint,
            source_url=self.model.storage.url,
            store_url=self.store.url,
            parts_prefix="job/parts",
            task_bytes=task_bytes,
            sensitivities=sensitivities,
            sensitivities_url=self.beside_url,
        )

    def report(self):
        request = JobRequest(
            config=self.config, checkpoint=self.intake.checkpoint, plan=self.intake.plan
        )
        write_job(self.store, "job", request, self.tasks)
        for task in self.tasks:
            perform(task)
        perform(
            FinishTask(
                store_url=self.store.url,
                prefix="job",
                cancel_path=stop_path("job", 0),
                source_url=self.model.storage.url,
            )
        )
        return read_report(self.store, "job")

    def artifact(self):
        return bytes(self.store.read("job/artifact/model.safetensors"))

    def part(self, name):
        """The arrays stored for a weight."""
        return {
            key.removeprefix(f"{name}."): array
            for key, array in load(self.artifact()).items()
            if key.startswith(f"{name}.")
        }


def expected(name, spec, sensitivity):
    group_size = spec.granularity.group_size if spec.granularity == GROUPED else None
    settings = kernels.PaletteSettings(
        n_bits=spec.n_bits,
        group_size=group_size,
        cluster_dim=spec.cluster_dim,
        rounding_precision=None,
    )
    return kernels.palettize(WEIGHTS[name], settings, sensitivity)


SPECS = [
    PalettizationSpec(n_bits=4, granularity=PerTensorGranularity()),
    PalettizationSpec(n_bits=3, granularity=GROUPED),
    PalettizationSpec(n_bits=2, granularity=GROUPED, cluster_dim=2),
]


@pytest.mark.parametrize("spec", SPECS, ids=["tensor", "grouped", "vectors"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_weights_are_clustered_as_the_kernel_does_with_them(tmp_path, spec, dtype):
    given = {name: array.astype(dtype) for name, array in SENSITIVITIES.items()}
    work = Work(tmp_path, spec, given)
    results = {tensor.name: tensor for tensor in work.report().tensors}
    for name in WEIGHTS:
        palette = expected(name, spec, given[name])
        part = work.part(name)
        assert part["lut"].tobytes() == palette.lut.tobytes()
        assert part["indices"].tobytes() == kernels.pack(palette.indices, spec.n_bits).tobytes()
        assert results[name].sse == palette.metrics.sse
        assert results[name].weighted


def test_weighted_error_is_the_lesser_one(tmp_path):
    spec = SPECS[0]
    weighted, plain = Work(tmp_path / "w", spec, SENSITIVITIES), Work(tmp_path / "p", spec, None)
    weighted.report()
    plain.report()

    def error(work, name):
        part = work.part(name)
        flat = part["lut"].reshape(-1)
        count = WEIGHTS[name].size
        index = kernels.unpack(part["indices"], spec.n_bits, (count,))
        wrong = flat[index].astype(np.float64) - WEIGHTS[name].reshape(-1)
        return float((SENSITIVITIES[name].reshape(-1) * wrong**2).sum())

    for name in WEIGHTS:
        assert error(weighted, name) < error(plain, name)


@pytest.mark.parametrize("spec", SPECS, ids=["tensor", "grouped", "vectors"])
def test_a_split_tensor_is_the_tensor_whole(tmp_path, spec):
    whole = Work(tmp_path / "whole", spec, SENSITIVITIES)
    split = Work(tmp_path / "split", spec, SENSITIVITIES, 1 << 9)
    whole.report()
    split.report()
    if spec.granularity == GROUPED:
        assert len(split.tasks) > len(whole.tasks)
    assert whole.artifact() == split.artifact()


def test_strided_sensitivities_keep_their_tensor_whole(tmp_path):
    spec = SPECS[1]
    straight = Work(tmp_path / "straight", spec, SENSITIVITIES)
    straight.report()
    turned = {name: np.ascontiguousarray(array.T) for name, array in SENSITIVITIES.items()}
    work = Work(tmp_path / "turned", spec, SENSITIVITIES)
    upload = in_folder(tmp_path / "turned" / "beside", "s", turned)
    stored = read_checkpoint(upload.storage, upload.files, Limits())
    tensors = [
        tensor.model_copy(update={"shape": tensor.shape[::-1], "strides": (1, tensor.shape[1])})
        for tensor in stored.tensors
    ]
    work.tasks = work.cut(stored.model_copy(update={"tensors": tuple(tensors)}), 1 << 9)
    assert {piece.shape for task in work.tasks for piece in task.slices} == {(96, 20), (64, 32)}
    work.report()
    assert work.artifact() == straight.artifact()


def test_a_tensor_without_sensitivities_counts_its_weights_alike(tmp_path):
    spec = SPECS[1]
    some = Work(tmp_path, spec, {"a.weight": SENSITIVITIES["a.weight"]})
    results = {tensor.name: tensor.weighted for tensor in some.report().tensors}
    assert results == {"a.weight": True, "b.weight": False}
    assert some.part("b.weight")["lut"].tobytes() == expected("b.weight", spec, None).lut.tobytes()


def test_artifact_tells_which_sensitivities_it_was_made_with(tmp_path):
    with_some, without = (
        Work(tmp_path / name, SPECS[1], given)
        for name, given in (("w", SENSITIVITIES), ("p", None))
    )
    with_some.report()
    without.report()
    sha256 = hashlib.sha256((tmp_path / "w" / "beside" / "s").read_bytes()).hexdigest()
    digest = f'\\"sensitivities_sha256\\":{{\\"s\\":\\"{sha256}\\"}}'.encode()
    assert digest in with_some.artifact()
    assert b"sensitivities" not in without.artifact()


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_value_that_is_no_sensitivity_ends_the_work(tmp_path, value):
    bad = {name: array.copy() for name, array in SENSITIVITIES.items()}
    bad["b.weight"][5, 7] = value
    with pytest.raises(InvalidSensitivities, match=r"^b\.weight: .*not negative.*leave them out"):
        Work(tmp_path, SPECS[1], bad).report()
    assert not (tmp_path / "out" / "job" / "artifact").exists()
