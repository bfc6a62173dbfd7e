"""Palettizing without a server runs the tasks of the workers, on files that stay the user's."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from palettery.app.cli import local_job, offline
from palettery.app.errors import InvalidArtifact
from palettery.app.storage.open import open_storage
from tests.app.stored_job import StoredJob, config_of, draws, grouped

JOB_ID = "01890a5d-ac96-774b-bcce-000000000001"
CONFIG = config_of(n_bits=4, granularity=grouped(4), enable_per_channel_scale=True)


def compress(folder, arrays, **options):
    (folder / "in").mkdir()
    model = folder / "in" / "m.safetensors"
    save_file(arrays, model)
    out = folder / "out.safetensors"
    return offline.compress([model], CONFIG, out, lambda *_: None, **options), out


@pytest.mark.parametrize("weighted", [False, True])
def test_artifact_and_report_are_those_of_a_worker(tmp_path, weighted):
    arrays = draws(5, a=(96, 20), b=(64, 4, 3, 3)) | {"b.bias": np.ones(64, np.float32)}
    sensitivities = {"a.weight": abs(draws(6, a=(96, 20))["a.weight"])} if weighted else None
    paths = []
    if sensitivities:
        paths = [tmp_path / "s.safetensors"]
        save_file(sensitivities, *paths)
    store = open_storage((tmp_path / "store").as_uri())
    job = StoredJob(store, JOB_ID, arrays, CONFIG, sensitivities=sensitivities)
    published = job.palettize().finish()
    ours, out = compress(tmp_path, arrays, sensitivities=paths)
    assert job.artifact() == {"model.safetensors": out.read_bytes()}
    assert published.size_bytes == out.stat().st_size

    def timeless(report):
        return [tensor.model_copy(update={"seconds": 0}) for tensor in report.tensors]

    theirs = job.report()
    assert timeless(ours) == timeless(theirs)
    assert ours.model_copy(update={"tensors": ()}) == theirs.model_copy(update={"tensors": ()})


def test_model_that_changes_meanwhile_stays_where_it_is(monkeypatch, tmp_path):
    arrays, changed = draws(1, a=(32, 32)), draws(2, a=(32, 32))
    model, run = tmp_path / "in" / "m.safetensors", local_job.run_tasks

    def change_and_run(*work):
        run(*work)
        save_file(changed, model)

    monkeypatch.setattr(local_job, "run_tasks", change_and_run)
    with pytest.raises(InvalidArtifact, match=r"a\.weight"):
        compress(tmp_path, arrays)
    assert model.exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "m.safetensors"]
