"""Calibrations of programs and inputs that mean harm: each fails alone, and the service goes on."""

import contextlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from palettery.app.client import Client
from palettery.app.errors import BadInput, OutOfMemory
from tests.forged import export
from tests.integration.service import workers

pytestmark = pytest.mark.heavy


class Honest(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(50, 16), nn.Linear(16, 8)

    def forward(self, ids):
        return self.layer(self.embedding(ids)).mean(1)


class Bomb(Honest):
    """Asks for a tebibyte at once."""

    def forward(self, ids):
        return super().forward(ids).repeat(1 << 34, 1).mean(0)


class Endless(Honest):
    """Takes hours on any machine."""

    def forward(self, ids):
        square = super().forward(ids).repeat(2048, 512)
        for _ in range(100):
            square = torch.tanh(square @ square)
        return square.mean()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A program of each kind, sound inputs, and inputs that no vocabulary has."""
    folder = tmp_path_factory.mktemp("hostile")
    torch.manual_seed(0)
    ids = torch.randint(0, 50, (2, 5))
    for kind in (Honest, Bomb, Endless):
        (folder / f"{kind.__name__}.pt2").write_bytes(export(kind().eval(), ids))
    save_file({"ids": torch.randint(0, 50, (4, 5))}, folder / "inputs.safetensors")
    save_file({"ids": torch.tensor([[0, 1, 2, 3, 50]] * 2)}, folder / "beyond.safetensors")
    return folder


def sandboxes(service):
    """Processes in which the workers of a service run a model."""
    at_work, found = workers(service), []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may be gone by now
            parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if int(parent) in at_work and b"sandbox.child" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_each_fails_alone(own, files):
    """Until the endless one is cancelled, it has the only place of the only worker."""
    sound, at_work = files / "inputs.safetensors", workers(own)
    with Client(str(own.http.base_url)) as client:
        endless = client.submit_calibration(files / "Endless.pt2", sound)
        own.wait_until(lambda: sandboxes(own), "the endless program runs")
        job = client.submit(files / "Honest.pt2", preset="w4")
        client.cancel_calibration(endless.id)
        assert client.wait_for_calibration(endless.id).state == "cancelled"
        own.wait_until(lambda: not sandboxes(own), "its process is gone")
        with pytest.raises(OutOfMemory, match=r"of memory; .* PALETTERY_SANDBOX_MEMORY_BYTES"):
            client.calibrate(files / "Bomb.pt2", sound)
        with pytest.raises(BadInput, match="has the index 50; the model's embedding has 50 rows"):
            client.calibrate(files / "Honest.pt2", files / "beyond.safetensors")
        honest = client.calibrate(files / "Honest.pt2", sound)
        assert (honest.state, honest.result.tensors) == ("succeeded", 2)
        assert client.wait(job.id).state == "succeeded"
        states = {each.id: each.state for each in client.calibrations()}
        assert [*states.values()] == ["succeeded", "failed", "failed", "cancelled"]
    assert workers(own) == at_work
    assert own.http.get("/readyz").is_success
