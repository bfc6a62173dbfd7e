"""What docs/clients.md shows must run as written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from palettery.app.client import Client

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
CONFIG = "global_config: {op_state_spec: {weight: {n_bits: 4}}}"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def here(tmp_path, model, embedded, monkeypatch):
    """A folder with what the examples take for granted, and their server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALETTERY_SERVER", str(embedded.http.base_url))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("model.safetensors").write_bytes(model)
    Path("config.yaml").write_text(CONFIG)
    return tmp_path


def test_python(here):
    url = os.environ["PALETTERY_SERVER"].rstrip("/")
    program = "\n".join(blocks("python")).replace("http://127.0.0.1:8400", url)
    shown = {}
    exec(program, shown)  # noqa: S102 - our own page
    assert (here / "packed.safetensors").is_file()
    assert shown["worst"].name in {tensor.name for tensor in shown["plan"].tensors}


def test_every_method_of_the_client_is_shown():
    public = {name for name in vars(Client) if not name.startswith("_")} - {"run", "start"}
    assert {name for name in public if not re.search(rf"\b{name}\b", PAGE)} == set()


@pytest.mark.heavy
def test_commands(here):
    (script,) = [block for block in blocks("sh") if "palettery " in block]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (here / "out.safetensors").is_file()
    assert "n_bits: 4" in done.stdout
