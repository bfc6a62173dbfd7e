"""Calibrations in a store, killed in the middle of a batch or of a copy of their sums."""

import multiprocessing
import signal

import pytest
import torch
from safetensors.torch import save
from torch import nn

from palettery.app.calibration.store_folder import (
    RESULT_FILES,
    STATE_FILES,
    calibration_path,
    saved_batches,
)
from palettery.app.calibrations.preparation import CalibrationSpec, prepare
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.calibration import CalibrationOptions
from palettery.schemas.checkpoint import StoredFile
from tests.app.calibration.killable import calibrate
from tests.forged import export

pytestmark = pytest.mark.heavy
KILLS, BATCHES = 10, 200


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 8)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.app.calibration.killable"])
    return context


@pytest.fixture
def store(tmp_path):
    """A store with a calibration that is to be disturbed, and one that is not."""
    torch.manual_seed(0)
    store = open_storage((tmp_path / "store").as_uri())
    batch = torch.export.Dim("batch")
    files = {
        "net.pt2": export(Net().eval(), torch.randn(3, 16), dynamic_shapes=({0: batch},)),
        "inputs.safetensors": save({"x": torch.randn(BATCHES, 16)}),
    }
    model, inputs = (
        StoredFile(name=name, path=name, size_bytes=len(data)) for name, data in files.items()
    )
    for name, data in files.items():
        store.write(name, data)
    spec = CalibrationSpec((model,), (inputs,), CalibrationOptions(batch=1))
    for prefix in ("disturbed", "undisturbed"):
        prepare(spec, store.url, Limits(), prefix)
    return store


def test_killed_ten_times_it_ends_with_the_result_of_an_undisturbed_one(store, processes):
    """Kills come at each of the files of a state, with and without a new state before."""

    def exit_code(prefix, *writes):
        process = processes.Process(target=calibrate, args=(store.url, prefix, *writes))
        process.start()
        process.join()
        return process.exitcode

    saved = []
    for number in range(KILLS):
        assert exit_code("disturbed", number % (2 * len(STATE_FILES))) == -signal.SIGKILL
        saved.append(saved_batches(store, "disturbed"))
    assert sorted(saved) == saved
    assert len(set(saved)) > KILLS // 3
    for prefix in ("disturbed", "undisturbed"):
        assert exit_code(prefix) == 0
    for name in RESULT_FILES:
        results = [store.read(calibration_path(p, name)) for p in ("disturbed", "undisturbed")]
        assert bytes(results[0]) == bytes(results[1]), name
