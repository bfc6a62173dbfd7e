"""What every test shares: fixed examples, and a real Postgres for what claims to run on one."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from tests.databases import databases  # noqa: F401 - a fixture
from tests.object_store import (  # noqa: F401 - fixtures
    fault_proxy,
    faulty_object_store,
    object_store,
    object_store_server,
)
from tests.ports import free_port

# Small tensors on many torch threads spend their time waiting for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every run: a test that fails does so for a change, not by chance.
settings.register_profile("palettery", derandomize=True, deadline=None)
settings.load_profile("palettery")

HEAVY_FIXTURES = {"object_store_server", "chromium"}
"""Fixtures that start another program; tests that use one are heavy."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests heavy that need an object store or a browser."""
    for item in items:
        if HEAVY_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.heavy)


@dataclass(frozen=True)
class Postgres:
    """A Postgres of the tests' own."""

    programs: Path
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://palettery@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        self._run("initdb", "--auth=trust", "--username=palettery", "--no-sync", "-D", self._data)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self.folder}"
        log = self.folder / "log"
        self._run("pg_ctl", "start", "--wait", "-D", self._data, "-o", options, "-l", log)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--wait", "--mode=immediate", "-D", self._data)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: str | Path) -> None:
        """Postgres refuses to run as root, so root becomes its user."""
        user = "postgres" if os.geteuid() == 0 else None
        subprocess.run(
            [self.programs / program, *arguments],
            check=True,
            user=user,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    results = [
        Path(shutil.which("initdb") or ""),
        *Path("/usr/lib/postgresql").glob("*/bin/initdb"),
    ]
    programs = next((path.parent for path in results[::-1] if path.is_file()), None)
    if programs is None:
        pytest.skip("no Postgres is installed")
    with tempfile.TemporaryDirectory(prefix="palettery-postgres-") as folder:
        if os.geteuid() == 0:
            try:
                shutil.chown(folder, pwd.getpwnam("postgres").pw_uid)
            except KeyError:
                pytest.skip("Postgres does not run as root, and there is no user postgres")
        server = Postgres(programs, Path(folder), free_port())
        server.make()
        server.start()
        yield server
        server.stop()
