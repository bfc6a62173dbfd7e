"""Statistics of tensors on their way from the kernel to a job's file, and added up from there."""

import numpy as np
import pytest
from safetensors.numpy import load

from palettery.app.compression import statistics as module
from palettery.app.compression.job_folder import report_documents, statistics_path
from palettery.app.compression.statistics import find_statistics, read_all
from palettery.app.storage.open import open_storage
from palettery.schemas.report import Report
from tests.app.stored_job import StoredJob, config_of, draws, grouped

JOB_ID = "01890a5d-ac96-774b-bcce-000000000001"
PLAIN, ROWS = config_of(n_bits=4), config_of(n_bits=2, granularity=grouped(8))


@pytest.fixture
def make(tmp_path):
    def made(config, arrays, **options):
        store = open_storage((tmp_path / str(len(list(tmp_path.iterdir())))).as_uri())
        job = StoredJob(store, JOB_ID, arrays, config, **options).palettize()
        job.finish()
        return job

    return made


def of(job, name="a.weight"):
    return find_statistics(job.store, statistics_path(job.prefix), name)


def histogram(result, values):
    edges = np.arange(len(result.weights) + 1) + result.first_cell
    return tuple(np.histogram(values, edges * 2.0**result.cell_exponent)[0].tolist())


def test_numbers_of_a_tensor(make):
    arrays = draws(a=(16, 24))
    job = make(PLAIN, arrays)
    result, (artifact,) = of(job), map(load, job.artifact().values())
    assert result.sampled == sum(result.weights) == sum(result.reconstructed) == 16 * 24
    assert result.weights == histogram(result, arrays["a.weight"])
    assert result.weights[0] + result.reconstructed[0] > 0, "no empty cells at the ends"
    assert result.palette == pytest.approx(artifact["a.weight.lut"].reshape(-1).tolist(), rel=1e-5)
    assert sum(result.occupancy) == 16 * 24
    assert len(result.occupancy) == 16
    assert result.unused == 0
    report = Report.model_validate_json(b"".join(report_documents(job.store, job.prefix)["report"]))
    assert result.group_mse == (pytest.approx(report.tensors[0].sse / (16 * 24), rel=1e-5),)
    assert result.groups_each == 1


def test_errors_of_groups_are_in_their_order(make):
    weight = draws(a=(16, 24))["a.weight"] * np.repeat([1, 100], 8)[:, None].astype("f4")
    result = of(make(ROWS, {"a.weight": weight}))
    assert len(result.group_mse) == 2
    assert result.group_mse[1] > 100 * result.group_mse[0]


def test_entries_that_nothing_points_at_are_counted(make):
    weight = np.repeat([[-1.0, 0.5, 2.0]], 8, axis=0).astype("f4")
    result = of(make(PLAIN, {"a.weight": weight}))
    assert result.unused == 13
    assert sum(result.occupancy) == 24


@pytest.mark.parametrize(
    "spec",
    [
        {"n_bits": 4, "granularity": grouped(4), "enable_per_channel_scale": True},
        {"n_bits": 8, "granularity": grouped(8)},
    ],
    ids=["scaled", "many"],
)
def test_palettes_that_say_little_are_left_out(make, spec):
    assert of(make(config_of(**spec), draws(a=(16, 24)))).palette is None


def test_quantized_palettes_are_told_as_they_are_used(make):
    job = make(config_of(n_bits=2, lut_qspec={"dtype": "int8"}), draws(a=(16, 24)))
    (artifact,) = map(load, job.artifact().values())
    lut, scale, zero = (
        artifact[f"a.weight.{key}"] for key in ("lut", "lut_scale", "lut_zero_point")
    )
    dense = (lut.astype("f4") - zero.astype("f4")) * scale
    assert of(job).palette == pytest.approx(dense.reshape(-1).tolist(), rel=1e-5)


def test_slices_add_up_to_their_tensor(make):
    arrays = draws(a=(64, 24), b=(8, 8))
    whole, sliced = make(ROWS, arrays), make(ROWS, arrays, task_bytes=2000)
    assert len(sliced.tasks()) == 4
    assert of(sliced) == of(whole)
    assert of(sliced, "b.weight") == of(whole, "b.weight")


def test_many_groups_are_told_by_the_run(make, monkeypatch):
    monkeypatch.setattr(module, "MAX_GROUPS", 3)
    arrays = draws(a=(64, 24))
    whole, sliced = make(ROWS, arrays), make(ROWS, arrays, task_bytes=2000)
    assert (of(whole).groups_each, len(of(whole).group_mse)) == (3, 3)
    assert of(sliced).group_mse == pytest.approx(of(whole).group_mse, rel=1e-4)


def test_tensors_that_were_kept_have_none(make):
    arrays = draws(a=(16, 24), b=(16, 24)) | {"c.bias": np.zeros(4, "f4")}
    arrays["b.weight"][3, 3] = np.nan
    job = make(PLAIN, arrays)
    assert of(job) is not None
    assert of(job, "b.weight") is None
    assert of(job, "c.bias") is None


def test_names_are_looked_for_whole_and_as_they_are(make):
    arrays = draws(**{'a"b': (16, 24), "größe<": (16, 24), "a": (8, 8)})
    job = make(PLAIN, arrays)
    for name in arrays:
        assert of(job, name).name == name
    assert of(job, "a.weigh") is None
    assert of(job, "") is None


def test_file_is_read_in_pieces(make, monkeypatch):
    arrays = draws(**{f"layer{number}": (8, 8) for number in range(20)})
    job = make(PLAIN, arrays)
    whole = list(read_all(job.store, statistics_path(job.prefix)))
    monkeypatch.setattr(module, "PIECE_BYTES", 37)
    assert list(read_all(job.store, statistics_path(job.prefix))) == whole
    assert {result.name for result in whole} == arrays.keys()
