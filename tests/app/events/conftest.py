"""Rows of jobs, and coroutines that end in time."""

import pytest

from app.jobs.records import Records


@pytest.fixture
def records(database):
    return Records(database)
