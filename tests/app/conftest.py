import asyncio
import contextlib
import importlib
import os
import stat
import sys
import time
from collections import OrderedDict
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import save_file

from palettery.app.cli import main as cli
from palettery.app.database.engine import open_database
from palettery.app.execution.engine import Engine
from palettery.app.jobs.repository import JobRepository
from tests.databases import MIGRATED

NOBODY = 65_534


@pytest.fixture(scope="session")
def arrays():
    """A small model: an embedding, two linears (one float16), a convolution, biases, a counter."""
    rng = np.random.default_rng(0)
    return {
        "embeddings.weight": rng.normal(size=(50, 16)).astype(np.float32),
        "encoder.0.weight": rng.normal(0, 0.02, size=(64, 32)).astype(np.float32),
        "encoder.0.bias": rng.normal(size=64).astype(np.float32),
        "encoder.1.weight": rng.normal(0, 0.02, size=(32, 64)).astype(np.float16),
        "stem.weight": rng.normal(size=(32, 3, 3, 3)).astype(np.float32),
        "steps": np.array(3, np.int64),
    }


@pytest.fixture
def model(arrays, tmp_path):
    """The small model as a safetensors file."""
    path = tmp_path / "model.safetensors"
    save_file(arrays, path)
    return path


@pytest.fixture
def palettery(capsys, monkeypatch):
    """Run the command in this process; gives (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["palettery", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def configs_in_this_process(monkeypatch):
    """Build the models of config.json here, where torch and transformers are imported already.

    The sandbox has tests of its own, and some tests of hf_config build models in it.
    """
    from torch.nn.modules import module

    from palettery.app.checkpoints import hf_config, hf_worker

    def run(_module, request, *_, variables, **__):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(module, "_global_module_registration_hooks", OrderedDict())
            return hf_worker.answer(request)

    monkeypatch.setattr(hf_config, "run", run)


@pytest.fixture
def models_in_this_process(monkeypatch):
    """Run models here; some tests of evaluations and calibrations run them in the sandbox."""
    from palettery.app.inference import run_model

    def run(module, request, folder, *_, **__):
        with contextlib.chdir(folder):
            return importlib.import_module(module).answer(request)

    monkeypatch.setattr(run_model, "run", run)


def pytest_generate_tests(metafunc):
    """Run a test on the kinds of database that its mark names."""
    mark = metafunc.definition.get_closest_marker("databases")
    if mark is not None and "database_url" in metafunc.fixturenames:
        metafunc.parametrize("database_url", mark.args, indirect=True)


@pytest.fixture
def database_url(request, databases):
    """URL of a new database, SQLite by default: empty, or migrated if another fixture needs it."""
    fixture = next((name for name in MIGRATED if name in request.fixturenames), None)
    with databases(getattr(request, "param", "sqlite")).fresh(fixture) as url:
        yield url


@pytest.fixture
def database(database_url):
    """A database at the newest revision."""
    made = open_database(database_url)
    yield made
    made.close()


@pytest.fixture
def unprivileged():
    """A context in which this process may do no more than any user; the folder is that user's."""

    @contextmanager
    def without_privileges(folder):
        if os.geteuid() != 0:
            yield
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        for parent in folder.parents:
            if not parent.stat().st_mode & stat.S_IXOTH:
                parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)

    return without_privileges


@pytest.fixture
def whole_database(database_url):
    """A database with the tables of the engine beside ours."""
    made = open_database(database_url)
    yield made
    made.close()


@pytest.fixture
def engine(whole_database):
    made = Engine(whole_database)
    yield made
    made.close()


@pytest.fixture
def jobs(whole_database):
    """Rows of jobs, in the engine's database."""
    return JobRepository(whole_database)


@pytest.fixture
def records(database):
    """Rows of jobs, in a database of ours alone."""
    return JobRepository(database)


@pytest.fixture
def until():
    """Wait in a coroutine until something holds."""

    async def wait(holds, what, timeout_s=30):
        deadline = time.monotonic() + timeout_s
        while not await asyncio.to_thread(holds):
            assert time.monotonic() < deadline, f"in vain: {what}"
            await asyncio.sleep(0.02)

    return wait
