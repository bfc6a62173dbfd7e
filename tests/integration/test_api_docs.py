"""What docs/api.md and docs/clients.md show runs as written, against a real server."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file

pytestmark = pytest.mark.heavy

DOCS = Path(__file__).parents[2] / "docs"
TYPESCRIPT = Path(__file__).parents[1] / "typescript"
LOCAL = "http://127.0.0.1:8400"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.M)


@pytest.fixture
def folder(tmp_path, weights) -> Path:
    """Where a reader of the pages works: with a model in it."""
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path


def run(folder, server, *words) -> str:
    done = subprocess.run(
        words,
        cwd=folder,
        env=os.environ | {"PALETTERY_SERVER": str(server.http.base_url)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def at(server, text: str) -> str:
    """The text with its server's address."""
    assert LOCAL in text
    return text.replace(LOCAL, str(server.http.base_url).rstrip("/"))


def test_curl(embedded, folder):
    script = at(embedded, "".join(blocks("api.md", "sh")))
    (folder / "script.sh").write_text(f"set -euo pipefail\n{script}")
    out = run(folder, embedded, "bash", "script.sh")
    assert "event: state" in out
    assert '"state":"succeeded"' in out
    assert "n_bits" in out  # the error of the config that is wrong
    assert [path.suffix for path in (folder / "out").iterdir()] == [".safetensors"]
    assert (folder / "dense.safetensors").stat().st_size > 1000


def test_python(embedded, folder):
    script = at(embedded, "".join(blocks("api.md", "python")))
    (folder / "script.py").write_text(script)
    run(folder, embedded, sys.executable, "-W", "error", "script.py")
    assert (folder / "packed.safetensors").stat().st_size > 1000
    assert (folder / "dense.safetensors").stat().st_size > 1000


def test_typescript(embedded, folder):
    for file in ("package.json", "package-lock.json", "tsconfig.json"):
        shutil.copy(TYPESCRIPT / file, folder)
    (example,) = blocks("clients.md", "ts")
    (folder / "example.ts").write_text(example)
    run(folder, embedded, "npm", "ci", "--no-audit", "--no-fund")
    install, build = [block for block in blocks("clients.md", "sh") if "npx" in block]
    generate = at(embedded, install).partition("\n")[2]  # of what the lock file names
    run(folder, embedded, "bash", "-ec", generate)
    run(folder, embedded, "npx", "tsc", "--noEmit")
    (folder / "tsconfig.json").unlink()
    out = run(folder, embedded, "bash", "-ec", build)
    assert out.startswith("succeeded")
    assert (folder / "packed.safetensors").stat().st_size > 1000
