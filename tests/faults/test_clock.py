"""The machine's clock jumps."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import TASKS
from tests.faults.invariants import check_result, swept, watched
from tests.integration.embedded import serving
from tests.integration.service import measured

pytestmark = pytest.mark.heavy

HOUR_S = 3600


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory):
    """The library that lets a test set a program's clock."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("setting a program's clock takes Linux and a C compiler")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library


@pytest.fixture(scope="module")
def clock(preloaded, tmp_path_factory):
    """Sets the clock of services: a function of seconds; and the environment that they need."""
    place = tmp_path_factory.mktemp("clock") / "clock"
    place.write_bytes(bytes(8))

    def shift(seconds):
        with place.open("r+b") as file:
            file.write(struct.pack("=q", seconds))

    shift.environment = {"LD_PRELOAD": str(preloaded), "TESTS_CLOCK_FILE": str(place)}
    return shift


@pytest.fixture(scope="module")
def clocked(clock, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clocked") / "data"
    with serving(folder, 1, **TASKS, **clock.environment) as service, swept(service):
        yield service


@pytest.mark.parametrize("seconds", [-HOUR_S, HOUR_S], ids=["back", "ahead"])
def test_clock_that_jumps_changes_nothing(clocked, clock, slow, little, seconds):
    """An hour back or ahead while a job runs: it succeeds, with nothing done twice.

    A job that is accepted after the jump runs, too.
    """
    service = clocked
    with watched(service) as watch:
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        before = measured(service, job_id)
        clock(seconds)
        again = watch.submit(little.body, config=little.config)
        made = service.job(again)["created_at"], service.job(job_id)["created_at"]
        assert (made[0] < made[1]) == (seconds < 0), "the clock has jumped"
        check_result(service, job_id, slow.sha256, before)
        check_result(service, again, little.sha256)
