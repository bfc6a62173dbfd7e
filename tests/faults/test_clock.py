"""The machine's clock jumps."""

from pathlib import Path

import pytest

from tests.faults.invariants import check_result, watched
from tests.integration.service import measured

pytestmark = pytest.mark.heavy

HOUR_S = 3600


@pytest.fixture
def clock(tmp_path):
    """Sets the clock of services: a function of seconds; and the environment that they need."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if found is None:
        pytest.skip("libfaketime is not installed: apt-get install faketime")
    place = tmp_path / "clock"

    def shift(seconds):
        aside = tmp_path / "clock.new"
        aside.write_text(f"{seconds:+d}s\n")
        aside.replace(place)

    shift(0)
    shift.environment = {
        "LD_PRELOAD": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(place),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    return shift


@pytest.mark.parametrize("seconds", [-HOUR_S, HOUR_S], ids=["back", "ahead"])
def test_clock_that_jumps_changes_nothing(start, clock, slow, seconds):
    """An hour back or ahead while a job runs: it succeeds, with nothing done twice.

    A job that is accepted after the jump runs, too.
    """
    with start("embedded", **clock.environment) as service, watched(service) as watch:
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        before = measured(service, job_id)
        clock(seconds)
        again = watch.submit(slow.body, config=slow.config, reuse="false")
        made = service.job(again)["created_at"], service.job(job_id)["created_at"]
        assert (made[0] < made[1]) == (seconds < 0), "the clock has jumped"
        check_result(service, job_id, slow.sha256, before)
        check_result(service, again, slow.sha256)
