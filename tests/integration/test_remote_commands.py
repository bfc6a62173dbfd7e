"""Commands that talk to a server."""

import json
import sys

import pytest

from palettery.app.cli import main as cli

INVALID = "global_confg: null"


@pytest.fixture
def palettery(embedded, monkeypatch, capsys):
    """Run a command in this process; gives (exit code, stdout, stderr)."""
    monkeypatch.setenv("PALETTERY_SERVER", str(embedded.http.base_url))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["palettery", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out.strip(), shown.err.strip()

    return run


@pytest.fixture
def model_file(tmp_path, model):
    path = tmp_path / "model.safetensors"
    path.write_bytes(model)
    return path


def test_a_job_from_upload_to_its_log(palettery, model_file, tmp_path):
    code, model_id, stderr = palettery("upload", model_file)
    assert (code, stderr) == (0, "")
    assert model_id in palettery("models")[1]
    code, job_id, stderr = palettery("submit", model_id, "--preset", "w4")
    assert (code, stderr) == (0, "")
    code, out, stderr = palettery("wait", job_id)
    assert (code, out, stderr) == (0, "", "succeeded")
    events = [json.loads(line) for line in palettery("events", job_id)[1].splitlines()]
    states = [event["state"]["state"] for event in events if "state" in event]
    assert states == ["queued", "running", "succeeded"]
    later = palettery("events", job_id, "--after", events[-1]["number"])
    assert later == (0, "", "")
    lines = palettery("log", job_id)[1].splitlines()
    assert len(lines) == len([event for event in events if "log" in event])
    assert palettery("download", job_id, "-o", tmp_path / "out")[0] == 0
    assert palettery("delete", job_id)[0] == 0
    assert palettery("wait", job_id)[0] == 2


def test_labels_are_shown_and_a_model_is_deleted(palettery, model_file):
    code, model_id, stderr = palettery("upload", model_file, "--label", "the [bold]model[/]")
    assert (code, stderr) == (0, "")
    code, job_id, stderr = palettery("submit", model_id, "--preset", "w8", "--label", "the job")
    assert (code, stderr) == (0, "")
    (model_line,) = [line for line in palettery("models")[1].splitlines() if model_id in line]
    assert model_line.rstrip().endswith("the [bold]model[/]")
    (job_line,) = [line for line in palettery("jobs")[1].splitlines() if job_id in line]
    assert " the job " in job_line
    listed = {each["id"]: each for each in json.loads(palettery("jobs", "--json")[1])}
    assert listed[job_id]["label"] == "the job"
    code, _, stderr = palettery("submit", model_id, "--preset", "w8", "--label", "two\nlines")
    assert code == 2
    assert "1 to 100 printable characters" in stderr
    assert palettery("delete-model", model_id) == (0, "", "")
    assert model_id not in palettery("models")[1]
    code, _, stderr = palettery("delete-model", model_id)
    assert code == 2
    assert f"there is no model '{model_id}'" in stderr
    assert palettery("wait", job_id)[0] == 0  # it keeps what it needs


def test_wait_fails_when_the_job_does(palettery, model_file):
    _, job_id, _ = palettery("submit", model_file, "--preset", "w4")
    palettery("cancel", job_id)
    code, _, stderr = palettery("wait", job_id)
    assert (code, stderr.splitlines()[-1]) in {(1, "cancelled"), (0, "succeeded")}


def test_configs(palettery, tmp_path):
    config, broken = tmp_path / "c.yaml", tmp_path / "broken.yaml"
    config.write_text("global_config: {op_state_spec: {weight: {n_bits: 6}}}")
    broken.write_text(INVALID)
    assert palettery("config", "put", "commands", config) == (0, "commands@1", "")
    assert palettery("config", "put", "commands", config) == (0, "commands@1", "")
    assert "commands@1" in palettery("config", "list")[1]
    code, text, _ = palettery("config", "get", "commands")
    assert (code, "n_bits: 6" in text) == (0, True)
    older = palettery("config", "get", "commands", "--coreai-opt", "0.2")[1]
    assert (set(text.split()) - set(older.split())) == {
        "pat_schedule:",
        "training_strategy_spec:",
        "default",
    }
    assert palettery("config", "validate", config)[0] == 0
    code, text, stderr = palettery("config", "validate", broken)
    assert (code, text) == (2, "")
    assert "did you mean 'global_config'?" in stderr
    code, _, stderr = palettery("config", "put", "commands", broken)
    assert (code, "/global_confg" in stderr) == (2, True)
    assert palettery("config", "get", "commands@7")[0] == 2
    sparse = "global_config: {op_state_spec: {weight: {sparsity_detection_threshold: 0.5}}}"
    config.write_text(sparse)
    palettery("config", "put", "commands", config)
    code, text, told = palettery("config", "get", "commands", "--coreai-opt", "0.3")
    assert (code, text) == (2, "")
    assert "sparsity_detection_threshold 0.5 cannot be said in coreai-opt 0.3" in told


def test_the_config_of_a_job_is_one_for_another(palettery, model_file, tmp_path):
    first = palettery("submit", model_file, "--preset", "w6")[1]
    code, text, stderr = palettery("config", "of", first)
    assert (code, stderr, "n_bits: 6" in text) == (0, "", True)
    config = tmp_path / "of.yaml"
    config.write_text(text)
    second = palettery("submit", model_file, "--config", config)[1]
    assert palettery("config", "of", second) == (0, text, "")


def test_what_is_not_there(palettery):
    for words in (
        ["config", "of", "none"],
        ["wait", "none"],
        ["events", "none"],
        ["log", "none"],
        ["cancel", "none"],
    ):
        code, out, stderr = palettery(*words)
        assert (code, out) == (2, "")
        assert stderr.startswith("palettery: ")
        assert stderr.count("\n") == 0


def test_a_target_instead_of_a_config(palettery, model_file, embedded):
    code, job_id, stderr = palettery("submit", model_file, "--target", "0.3x")
    assert code == 0, stderr
    job = embedded.succeeded(job_id)
    assert job["size_after_bytes"] <= 0.3 * job["size_before_bytes"]
    code, _, stderr = palettery("submit", model_file, "--target", "1MB", "--target", "2MB")
    assert code == 2
    assert "2 targets were given: 1MB, 2MB; give one" in stderr
