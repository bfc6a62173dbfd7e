"""The client runs where no server is installed: it needs nothing of what that needs."""

import subprocess
import sys

import pytest

HEAVY = "{'torch', 'numpy', 'numba', 'fastapi', 'sqlalchemy', 'dbos', 'dask', 'distributed'}"
SERVERLESS = [
    "import palettery.app.client",
    "from palettery import AsyncClient, Client, KMeansPalettizerConfig, PalettizationSpec",
    "from palettery.schemas import config, jobs, plan, report",
    "from palettery.app.cli import remote_commands, config_commands, tables",
    "import sys\nsys.argv = ['palettery', 'jobs', '--server', 'http://127.0.0.1:9']\n"
    "from palettery.app.cli.main import main\ntry:\n    main()\nexcept SystemExit as ended:\n"
    "    assert ended.code == 1",
]


@pytest.mark.parametrize("program", SERVERLESS)
def test_neither_torch_nor_the_server_is_imported(program):
    check = f"\nimport sys\nheavy = {HEAVY} & sys.modules.keys()\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", program + check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
