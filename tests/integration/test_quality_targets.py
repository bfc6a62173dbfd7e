"""Targets of a quality on a real server: the search, its trail, what it misses, and kill -9."""

import subprocess

import numpy as np
import pytest
import torch
from safetensors.numpy import save, save_file

from palettery.app.client import Client
from palettery.schemas.targets import Target
from tests.forged import export
from tests.integration.service import PALETTERY

QUALITY = Target.model_validate("cosine.p5>=0.98").quality
FEW = {"n_bits": [2, 3, 4, 6, 8], "granularities": [{"type": "per_tensor"}]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model whose layers matter differently, and inputs."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("quality")
    layers = [torch.nn.Linear(48, 48) for _ in range(3)]
    net = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])
    batch = torch.export.Dim("batch")
    program = export(net.eval(), torch.randn(3, 48), dynamic_shapes=({0: batch},))
    (folder / "net.pt2").write_bytes(program)
    inputs = np.random.default_rng(1).normal(size=(64, 48)).astype("f4")
    save_file({"input": inputs}, folder / "x.safetensors")
    return folder / "net.pt2", folder / "x.safetensors"


@pytest.fixture
def client(server):
    with Client(str(server.http.base_url)) as opened:
        yield opened


def check_trail(report, job):
    """The artifact is the smallest that measured well, by the numbers that are in the report."""
    trail = report.allocation.measured
    sizes = [each.size_bytes for each in trail]
    assert len(sizes) == len(set(sizes)) <= 8
    for each in trail:
        assert each.is_reached == (each.reached["cosine.p5"] >= QUALITY.cosine)
        assert each.size_bytes <= each.limit_bytes
    chosen = min((each for each in trail if each.is_reached), key=lambda each: each.size_bytes)
    assert chosen.size_bytes == job.size_after_bytes == job.predicted_size_bytes
    (output,) = report.evaluation.outputs
    assert output.sample_cosine.p5 == chosen.reached["cosine.p5"]
    assert report.evaluation.missed == ()
    assert any(not each.is_reached for each in trail)


@pytest.mark.scaled
@pytest.mark.heavy
def test_the_smallest_artifact_of_a_quality(server, client, files, tmp_path):
    model, inputs = files
    target, evaluate = "cosine.p5>=0.98", {"inputs_id": inputs}
    job = client.wait(
        client.submit(model, target=target, choices=FEW, evaluate=evaluate, reuse=False).id
    )
    assert job.state == "succeeded", job.error
    assert job.target == Target(quality=QUALITY)
    assert job.evaluation.is_reached
    assert job.evaluation.at_least == QUALITY
    report = client.report(job.id)
    check_trail(report, job)
    assert client.job_config(job.id) == report.allocation.config
    messages = [line.message for line in client.log(job.id)]
    trials = [each for each in messages if each.startswith("trial ")]
    assert len(trials) == len(report.allocation.measured)
    (evaluation,) = client.evaluations(job.id)
    assert evaluation.result == report.evaluation
    (compared,) = client.evaluation_samples(job.id, evaluation.id).outputs
    statistics = report.evaluation.outputs[0].sample_cosine
    assert min(each.cosine for each in compared.samples) == statistics.min
    assert not any("trials" in path for path in server.store.list(f"jobs/{job.id}"))
    packed = tmp_path / "packed.safetensors"
    client.download(job.id, packed)
    again = client.wait(client.submit(model, config=report.allocation.config, reuse=False).id)
    client.download(again.id, tmp_path / "again.safetensors")
    assert packed.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    measured = client.evaluate(again.id, inputs)
    assert measured.result.outputs == report.evaluation.outputs


@pytest.mark.heavy
def test_a_quality_that_no_choice_has(server, client, files, tmp_path):
    model, inputs = files
    choices = tmp_path / "choices.yaml"
    choices.write_text("{n_bits: [1, 2], keep: false, granularities: [{type: per_tensor}]}")
    words = ["submit", model, "--target", "cosine>=0.9999", "--evaluate", inputs]
    words += ["--choices", choices, "--wait", "--server", str(server.http.base_url)]
    done = subprocess.run([PALETTERY, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    job = client.job(done.stdout.split()[0])
    assert (job.state, job.error.code) == ("failed", "quality_not_reached")
    assert "cosine=0.9999 was required" in job.error.detail
    assert "the best that was measured: allow more bits" in job.error.detail
    report = client.report(job.id)
    best = max(report.allocation.measured, key=lambda each: each.reached["cosine"])
    assert best.size_bytes == job.size_after_bytes
    assert all(each.limit_bytes <= best.limit_bytes for each in report.allocation.measured)
    client.download(job.id, tmp_path / "packed.safetensors")
    assert (tmp_path / "packed.safetensors").stat().st_size == best.size_bytes


@pytest.mark.heavy
def test_a_search_that_is_killed_goes_on_and_measures_nothing_twice(own, files, patient):
    model, inputs = files
    options = {"target": "cosine.p5>=0.98", "evaluate": {"inputs_id": inputs}, "choices": FEW}
    with patient(str(own.http.base_url)) as client:
        job = client.submit(model, **options)

        def trials():
            messages = [line.message for line in client.log(job.id)]
            return [each for each in messages if each.startswith("trial ")]

        for count in (1, 3):
            own.wait_until(
                lambda count=count: len(trials()) >= count, f"{count} sizes are measured"
            )
            own.kill_all()
            own.start()
        ended = client.wait(job.id)
        assert ended.state == "succeeded", ended.error
        report = client.report(job.id)
        check_trail(report, ended)
        assert len(trials()) == len(set(trials())) == len(report.allocation.measured)
        undisturbed = client.wait(client.submit(model, **options, reuse=False).id)
        assert client.report(undisturbed.id).allocation == report.allocation


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ("jobs", {"target": "cosine>=0.9"}, "a target of a quality is measured on inputs"),
        ("jobs", {"target": "cosine>=7"}, "at most 1"),
        ("jobs", {"target": "colour>=1"}, "unknown measure 'colour'"),
        ("jobs", {"target": {"quality": {}}}, "name at least one of cosine"),
        (
            "jobs",
            {"target": {"quality": {"cosine": 0.9}, "size_bytes": 9}},
            "got size_bytes and quality",
        ),
        (
            "jobs",
            {"target": "cosine>=0.9", "evaluate": {"at_least": {"top1": 1}}},
            "and `evaluate` has another as `at_least`",
        ),
        ("plans", {"target": "cosine>=0.9", "evaluate": {}}, "a plan cannot measure a quality"),
    ],
)
def test_qualities_that_are_refused_at_once(server, client, files, path, body, detail):
    model, inputs = files
    body = body | {"model_id": client.upload(model).id}
    if "evaluate" in body:
        body["evaluate"] = {"inputs_id": client.upload(inputs).id, **body["evaluate"]}
    answer = server.http.post(f"/v1/{path}", json=body)
    assert answer.status_code == 422, answer.text
    assert detail in answer.text


def test_weights_without_a_graph_have_no_quality(server, client, files):
    _, inputs = files
    data = {"target": "cosine>=0.9", "evaluate": f'{{"inputs_id": "{client.upload(inputs).id}"}}'}
    weights = {"model": ("m.safetensors", save({"a.weight": np.ones((8, 8), "f4")}))}
    answer = server.http.post("/v1/jobs", files=weights, data=data)
    assert answer.status_code == 415
    assert "holds weights without a graph, which cannot be run" in answer.json()["detail"]
