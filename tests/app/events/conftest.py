"""Rows of jobs, and coroutines that end in time."""

import pytest

from palettery.app.jobs.repository import Records


@pytest.fixture
def records(database):
    return Records(database)
