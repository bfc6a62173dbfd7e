"""Calibrations on real servers: from inputs to a job, and through kill -9."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from palettery.app.client import Client
from palettery.app.errors import BadInput
from tests.forged import export
from tests.integration.service import PALETTERY, workers

pytestmark = pytest.mark.heavy
PAGE = Path(__file__).parents[2] / "docs" / "quality.md"
FILES = ("sensitivities.safetensors", "second_moments.safetensors", "calibration.json")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A model, and inputs of it."""
    folder = tmp_path_factory.mktemp("given")
    torch.manual_seed(0)
    batch = torch.export.Dim("batch")
    program = export(Net().eval(), torch.randn(3, 16), dynamic_shapes=({0: batch},))
    (folder / "net.pt2").write_bytes(program)
    save_file({"x": torch.randn(300, 16)}, folder / "inputs.safetensors")
    return folder / "net.pt2", folder / "inputs.safetensors"


def offline(*words):
    subprocess.run([PALETTERY, *map(str, words)], check=True, capture_output=True)


@pytest.mark.scaled
def test_a_job_with_a_calibration_is_that_of_the_command(server, given, tmp_path):
    model, inputs = given
    with Client(str(server.http.base_url)) as client:
        calibration = client.calibrate(model, inputs)
        assert client.calibrate(model, inputs).id == calibration.id
        assert (calibration.result.samples, calibration.result.tensors) == (300, 2)
        client.download_calibration(calibration.id, tmp_path / "server")
        job = client.submit(model, preset="w4", calibration_id=calibration.id)
        assert client.wait(job.id).state == "succeeded"
        client.delete_calibration(calibration.id)
        client.download(job.id, tmp_path / "server.safetensors")
    offline("calibrate", model, "--inputs", inputs, "-o", tmp_path / "offline")
    words = ("--preset", "w4", "--calibration", tmp_path / "offline")
    offline("compress", model, "-o", tmp_path / "offline.safetensors", *words)
    for name in FILES:
        assert (tmp_path / "server" / name).read_bytes() == (
            tmp_path / "offline" / name
        ).read_bytes(), name
    mine, other = (tmp_path / f"{name}.safetensors" for name in ("server", "offline"))
    assert mine.read_bytes() == other.read_bytes()


def saved(service, calibration_id):
    """Batches of the last state that is in the store."""
    states = [path.split("/")[3] for path in service.parts(calibration_id) if "progress" in path]
    return max((int(state.removeprefix("state-")) for state in states), default=0)


def saved_more(service, calibration_id, than):
    """Batches of a state that is newer."""

    def newer():
        count = saved(service, calibration_id)
        return count if count > than else 0

    return service.wait_until(newer, f"a state of more than {than} batches is saved")


def test_killed_anywhere_it_ends_as_if_it_had_not_been(own, given, patient, tmp_path):
    """A worker is killed, then everything at once; what was saved is not done again."""
    model, inputs = given
    options = {"batch": 1, "draws": 60}
    with patient(str(own.http.base_url)) as client:
        made = client.submit_calibration(model, inputs, **options)
        batches = saved_more(own, made.id, 0)
        own.wait_until(
            lambda: 0 < client.calibration(made.id).progress.samples_done < 300, "progress is shown"
        )
        for pid in workers(own):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        batches = saved_more(own, made.id, batches)
        assert client.calibration(made.id).state == "running"
        own.kill_all()
        own.start()
        assert saved(own, made.id) >= batches
        done = client.wait_for_calibration(made.id)
        assert (done.state, done.attempt) == ("succeeded", 0)
        assert own.parts(made.id) == []
        client.download_calibration(made.id, tmp_path / "server")
    words = ("--batch", options["batch"], "--draws", options["draws"], "-o", tmp_path / "offline")
    offline("calibrate", model, "--inputs", inputs, *words)
    for name in FILES:
        here, there = tmp_path / "server" / name, tmp_path / "offline" / name
        assert here.read_bytes() == there.read_bytes(), name


def test_what_only_shows_when_the_model_runs_fails_the_calibration(own, given, tmp_path):
    model, inputs = given
    save_file({"x": torch.full((2, 16), torch.nan)}, tmp_path / "nan.safetensors")
    with Client(str(own.http.base_url)) as client:
        with pytest.raises(BadInput, match=r"x in nan\.safetensors has values that are not finite"):
            client.calibrate(model, tmp_path / "nan.safetensors")
        failed = next(client.calibrations())
        assert failed.error.instance == failed.links["self"]
        with pytest.raises(BadInput, match="the model has no floating-point output 'z'"):
            client.calibrate(model, inputs, outputs=["z"])
        for each in client.calibrations():
            client.delete_calibration(each.id)
        assert own.store.list(f"jobs/{failed.id}") == []


def test_commands_of_the_page(embedded, given, tmp_path):
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for file, name in zip(given, ("model.pt2", "calibrate.safetensors"), strict=True):
        shutil.copy(file, tmp_path / name)
    environment = {
        "PALETTERY_SERVER": str(embedded.http.base_url),
        "PATH": f"{Path(PALETTERY).parent}:{os.environ['PATH']}",
    }
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=os.environ | environment,
        check=True,
    )
    assert {path.name for path in (tmp_path / "calibration").iterdir()} == {*FILES}
    (newest, *_) = embedded.http.get("/v1/jobs").json()["items"]
    assert any(tensor["weighted"] for tensor in embedded.report(newest["id"])["tensors"])
