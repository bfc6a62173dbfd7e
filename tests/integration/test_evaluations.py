"""Evaluations of jobs: asked for with the job, or afterwards, on real servers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from palettery.app.client import Client
from palettery.app.errors import SandboxTimeout
from palettery.schemas.evaluation import Evaluation
from tests.forged import export

MINILM = Path(__file__).parents[2] / ".cache/minilm"
CONFIG = {"global_config": {"op_state_spec": {"weight": {"n_bits": 2}}}}
SAMPLES = 64


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 8)

    def forward(self, x):
        return {"logits": self.second(torch.relu(self.first(x)))}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model of 2-sample batches, and inputs with labels."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    net = Classifier().eval()
    (folder / "net.pt2").write_bytes(export(net, torch.randn(2, 16)))
    x = torch.randn(SAMPLES, 16)
    labels = net(x)["logits"].argmax(-1)
    save_file({"x": x, "labels": labels}, folder / "inputs.safetensors")
    return folder / "net.pt2", folder / "inputs.safetensors"


@pytest.fixture
def client(server):
    with Client(str(server.http.base_url)) as opened:
        yield opened


@pytest.fixture
def command(server):
    """Run `palettery` as a user of the server."""

    def run(*words):
        program = Path(sys.executable).with_name("palettery")
        environment = os.environ | {"PALETTERY_SERVER": str(server.http.base_url)}
        words = [str(word) for word in words]
        return subprocess.run(
            [program, *words], env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.heavy
def test_a_job_is_evaluated_and_misses_a_quality(client, files, tmp_path):
    model, inputs = files
    goals = {"cosine": 0.5, "percentile": 5, "accuracy": 0.3}
    job = client.submit(model, config=CONFIG, evaluate={"inputs_id": inputs, "at_least": goals})
    job = client.wait(job.id)
    assert job.state == "succeeded", job.error
    assert (job.evaluation.is_reached, job.evaluation.samples) == (True, SAMPLES)
    evaluation = client.report(job.id).evaluation
    (output,) = evaluation.outputs
    assert evaluation.goals == ("cosine.p5=0.5", "accuracy=0.3")
    assert evaluation.missed == evaluation.unreached == ()
    assert 0.5 < output.sample_cosine.p5 < 1
    assert (output.logits.accuracy_before, output.logits.accuracy_after < 1) == (1, True)
    assert job.evaluation.cosine == output.sample_cosine
    messages = [line.message for line in client.log(job.id)]
    assert "running the model on the inputs of the evaluation" in messages
    assert "running the palettized model on the inputs of the evaluation" in messages
    assert any("64 samples: cosine" in each for each in messages)

    goals = {"cosine": 0.9999}
    worse = client.submit(model, config=CONFIG, evaluate={"inputs_id": inputs, "at_least": goals})
    worse = client.wait(worse.id)
    assert (worse.state, worse.error.code) == ("failed", "quality_not_reached")
    assert "cosine=0.9999 was required, and output \"['logits']\" has 0." in worse.error.detail
    messages = [line.message for line in client.log(worse.id)]
    assert any("its outputs are reused" in each for each in messages)
    (missed,) = client.report(worse.id).evaluation.missed
    assert missed.reached == output.sample_cosine.mean
    client.download(worse.id, tmp_path / "packed")
    assert (tmp_path / "packed").stat().st_size == worse.size_after_bytes

    again = client.wait(client.retry(worse.id).id)
    assert (again.state, again.attempt, again.error.detail) == ("failed", 1, worse.error.detail)
    (listed,) = client.evaluations(worse.id)
    assert (listed.state, listed.result.missed) == ("succeeded", (missed,))

    later = client.evaluate(worse.id, inputs, at_least={"snr_db": 90})
    assert later.state == "succeeded", later.error
    assert later.result.outputs == listed.result.outputs
    assert [each.goal for each in later.result.missed] == ["snr_db=90"]
    assert client.job(worse.id).error == again.error
    assert [each.id for each in client.evaluations(worse.id)] == [later.id, listed.id]


class Bag(nn.Module):
    """Takes any number of indices, whose mean goes through a layer."""

    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(50, 16), nn.Linear(16, 8)

    def forward(self, ids):
        return self.layer(torch.tanh(self.embedding(ids))).mean(1)


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """A model of any length, and a file of inputs of each of two lengths."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ragged")
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shapes = ({0: batch, 1: length},)
    net = export(Bag().eval(), torch.randint(0, 50, (3, 5)), dynamic_shapes=shapes)
    (folder / "net.pt2").write_bytes(net)
    for name, shape in {"short": (7, 4), "long": (5, 9)}.items():
        save_file({"ids": torch.randint(0, 50, shape)}, folder / f"{name}.safetensors")
    return folder / "net.pt2", [folder / "short.safetensors", folder / "long.safetensors"]


@pytest.mark.scaled
@pytest.mark.heavy
def test_inputs_of_several_lengths_lie_in_several_files(server, command, ragged, tmp_path):
    model, inputs = ragged
    flags = [word for path in inputs for word in ("--inputs", path)]
    done = command("calibrations", "submit", model, *flags, "--wait")
    assert done.returncode == 0, done.stderr
    calibration_id = done.stdout.strip()
    words = [word for path in inputs for word in ("--evaluate", path)]
    words += ["--evaluate", "cosine=0.5", "--calibration", calibration_id, "--wait"]
    done = command("submit", model, "--preset", "w4", *words)
    assert done.returncode == 0, done.stderr
    job_id, per_sample = done.stdout.split()[0], ("--per-sample", "--json")

    def folder_bytes():
        return sum(each.size_bytes for each in server.store.list_objects(f"jobs/{job_id}"))

    with Client(str(server.http.base_url)) as client:
        assert client.calibration(calibration_id).result.samples == 12
        client.download_calibration(calibration_id, tmp_path / "calibration")
        client.download(job_id, tmp_path / "packed.safetensors")
        (evaluation,) = client.evaluations(job_id)
        part_of_job = evaluation.result.with_samples(
            client.evaluation_samples(job_id, evaluation.id)
        )
        (warning,) = part_of_job.warnings
        assert warning.startswith("12 of these samples are samples of the calibration")
        assert evaluation.inputs_id == tuple(client.upload(path).id for path in inputs)
        before = folder_bytes(), client.me().used.stored_bytes
        remote = command("evaluate-job", job_id, *flags, *per_sample)
        more = folder_bytes() - before[0]
        assert client.me().used.stored_bytes - before[1] == more > 0
    local = command(
        "evaluate",
        model,
        tmp_path / "packed.safetensors",
        *flags,
        *per_sample,
        "--calibration",
        tmp_path / "calibration",
    )
    remote, local = (Evaluation.model_validate_json(each.stdout) for each in (remote, local))
    assert remote == local == part_of_job.model_copy(update={"goals": ()})
    assert len(local.outputs[0].samples) == 12


@pytest.mark.heavy
def test_samples_of_the_calibration_are_pointed_out(client, files):
    model, inputs = files
    calibration = client.calibrate(model, inputs)
    evaluate = {"inputs_id": inputs}
    job = client.submit(model, config=CONFIG, calibration_id=calibration.id, evaluate=evaluate)
    job = client.wait(job.id)
    assert job.state == "succeeded", job.error
    (warning,) = client.report(job.id).evaluation.warnings
    assert warning.startswith("64 of these samples are samples of the calibration")


@pytest.mark.heavy
def test_an_evaluation_that_is_killed_resumes_with_the_same_result(own, files, patient, tmp_path):
    model, inputs = files
    with patient(str(own.http.base_url)) as client:
        job = client.submit(model, config=CONFIG, evaluate={"inputs_id": inputs})
        step = "running the palettized model on"
        own.wait_until(
            lambda: any(line.message.startswith(step) for line in client.log(job.id)),
            f"the log says {step}",
        )
        own.kill_all()
        own.start()
        ended = client.wait(job.id)
        assert ended.state == "succeeded", ended.error
        resumed = client.report(job.id).evaluation

        queued = client.evaluate(job.id, inputs, wait=False)
        own.wait_until(
            lambda: client.evaluation(job.id, queued.id).state == "running", "the evaluation runs"
        )
        own.kill_all()
        own.start()
        own.wait_until(
            lambda: client.evaluation(job.id, queued.id).ended_at is not None, "it has ended"
        )
        assert client.evaluation(job.id, queued.id).result == resumed

        other = tmp_path / "same-samples.safetensors"  # whose outputs are not stored yet
        other.write_bytes(inputs.read_bytes())
        undisturbed = client.evaluate(job.id, other)
        assert undisturbed.result == resumed


@pytest.mark.heavy
def test_a_limit_of_time_is_named_and_what_missed_it_may_be_retried(own, files):
    model, inputs = files
    own.stop()
    own.start(PALETTERY_SANDBOX_TIMEOUT_S="0.5")
    limit = r"exceeded the limit of 0\.5 s \(PALETTERY_SANDBOX_TIMEOUT_S\)"
    with Client(str(own.http.base_url)) as client:
        try:
            job = client.submit(model, config=CONFIG, evaluate={"inputs_id": inputs})
            job = client.wait(job.id)
            assert (job.state, job.error.code) == ("failed", "sandbox_timeout")
            assert re.search(limit, job.error.detail)
            assert not job.has_artifact
            (evaluation,) = client.evaluations(job.id)
            assert (evaluation.state, evaluation.error) == ("failed", job.error)
            with pytest.raises(SandboxTimeout, match=limit):
                client.calibrate(model, inputs)
        finally:
            own.stop()
        own.start()
        (failed,) = client.calibrations()
        client.retry_calibration(failed.id)
        assert client.wait_for_calibration(failed.id).state == "succeeded"


@pytest.mark.heavy
def test_a_hugging_face_folder_by_the_command_line(server, command, tmp_path):
    inputs, packed = tmp_path / "inputs.safetensors", tmp_path / "packed.safetensors"
    tokens, lengths = torch.randint(1000, 30_000, (48, 24)), torch.randint(4, 24, (48, 1))
    mask = (torch.arange(24) < lengths).long()
    save_file({"input_ids": tokens * mask, "attention_mask": mask}, inputs)
    words = ("--preset", "w4", "--evaluate", inputs, "--evaluate", "cosine=0.999", "--wait")
    model = (MINILM / "model.safetensors", MINILM / "config.json")
    done = command("submit", *model, *words)
    assert done.returncode == 1, done.stderr
    assert "cosine=0.999 was required" in " ".join(done.stderr.split())
    job_id = done.stdout.split()[0]
    assert command("download", job_id, "-o", packed).returncode == 0
    goals = ("--at-least", "cosine.p5=0.5", "--json")
    server_says = command("evaluate-job", job_id, "--inputs", inputs, *goals)
    assert server_says.returncode == 0, server_says.stderr
    offline = command("evaluate", MINILM, packed, "--inputs", inputs, *goals)
    with Client(str(server.http.base_url)) as client:
        assert len(client.evaluations(job_id)) == 2
    server_says, offline = (
        Evaluation.model_validate_json(each.stdout) for each in (server_says, offline)
    )
    for before, after in zip(offline.outputs, server_says.outputs, strict=True):
        assert before.name == after.name
        assert before.sample_cosine.min == pytest.approx(after.sample_cosine.min, abs=1e-5)
