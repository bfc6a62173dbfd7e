"""Flags for the options of a job."""

import pytest
import typer
from typer.testing import CliRunner

from palettery.app.cli.job_flags import with_job_flags
from palettery.schemas.job_options import JobOptions
from palettery.schemas.targets import Choices, Target


@pytest.fixture
def run():
    app, received = typer.Typer(), []

    @app.command()
    @with_job_flags
    def submit(model: str, options: dict) -> None:
        received.append((model, options))

    def run(*words, catch=True):
        result = CliRunner().invoke(app, words)
        if not catch:
            return result.exception
        return (result.exit_code, received.pop() if received else result.output)

    return run


def test_no_flags_are_the_defaults(run):
    code, (model, options) = run("m")
    assert (code, model, JobOptions(**options)) == (0, "m", JobOptions())


def test_every_kind_of_flag(run):
    words = ["--preset", "w4", "--config-name", "a@1", "--strict", "--no-reuse", "--priority", "9"]
    words += ["--deadline", "60", "--webhook", "https://e.x/", "--keep-dense", "--label", "a job"]
    _, (_, options) = run("m", *words, "--export", "torchao", "--export", "dense")
    assert JobOptions(**options) == JobOptions(
        preset="w4",
        config_name="a@1",
        strict=True,
        reuse=False,
        priority=9,
        deadline_s=60,
        webhook_url="https://e.x/",
        keep_dense=True,
        label="a job",
        formats=("torchao", "dense"),
    )


def test_an_option_of_several_values(run):
    inputs = "a" * 64
    words = ("--evaluate", inputs, "--evaluate", "cosine=0.98", "--evaluate", "percentile=5")
    _, (_, options) = run("m", *words)
    quality = {"cosine": 0.98, "percentile": 5}
    assert options["evaluate"] == {"inputs_id": inputs, "at_least": quality}
    _, (_, options) = run("m", *words, "--evaluate", "more.safetensors")
    assert options["evaluate"]["inputs_id"] == [inputs, "more.safetensors"]
    code, _ = run("m", "--evaluate", "cosin=1")
    assert code == 1


def test_number_out_of_range(run):
    code, output = run("m", "--priority", "10")
    assert code == 2
    assert "less than or equal to 9" in output


def test_a_target_and_its_choices(run, tmp_path):
    (tmp_path / "c.yaml").write_text("n_bits: [4]")
    words = ["--target", "0.25x", "--choices", str(tmp_path / "c.yaml")]
    _, (_, options) = run("m", *words)
    assert JobOptions(**options) == JobOptions(
        target=Target(size_ratio=0.25), choices=Choices(n_bits=(4,))
    )


def test_two_targets_are_an_error(run):
    result = run("m", "--target", "1MB", "--target", "2MB", catch=False)
    assert str(result) == "2 targets were given: 1MB, 2MB; give one"
