"""Heartbeats of controllers, on every supported database."""

from datetime import UTC, datetime, timedelta

import pytest

from palettery.app.execution.controllers import HEARTBEAT_TIMEOUT, ControllerRepository
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def at(database):
    """Controllers as they are seen so long after `NOW`."""
    return lambda later: ControllerRepository(database, now=lambda: NOW + later)


def test_nobody_is_there(at):
    assert at(0 * SECOND).workers() == 0


def test_most_workers_that_any_sees(at):
    for name, workers in (("one", 2), ("two", 5), ("three", 0)):
        at(0 * SECOND).heartbeat(name, workers, "1.0")
    assert at(SECOND).workers() == 5


def test_last_word_counts(at):
    at(0 * SECOND).heartbeat("one", 5, "1.0")
    at(SECOND).heartbeat("one", 1, "1.1")
    assert at(2 * SECOND).workers() == 1


def test_silent_ones_are_taken_for_gone(at):
    at(0 * SECOND).heartbeat("one", 5, "1.0")
    at(10 * SECOND).heartbeat("two", 2, "1.0")
    assert at(HEARTBEAT_TIMEOUT - SECOND).workers() == 5
    assert at(HEARTBEAT_TIMEOUT + SECOND).workers() == 2
    assert at(HEARTBEAT_TIMEOUT + 11 * SECOND).workers() == 0
    at(HEARTBEAT_TIMEOUT + 11 * SECOND).heartbeat("one", 5, "1.0")
    assert at(HEARTBEAT_TIMEOUT + 12 * SECOND).workers() == 5


def test_living_ones_are_named(at):
    at(0 * SECOND).heartbeat("two", 5, "1.0")
    at(SECOND).heartbeat("one", 2, "1.1")
    first, second = at(HEARTBEAT_TIMEOUT - SECOND).alive()
    assert (first.executor_id, first.version, first.workers) == ("one", "1.1", 2)
    assert (first.seen_at, second.executor_id) == (NOW + SECOND, "two")
    assert at(HEARTBEAT_TIMEOUT).alive() == [first]


def test_names_as_long_as_settings_allow(at):
    at(0 * SECOND).heartbeat("x" * 64, 1, "1.0")
    assert at(0 * SECOND).workers() == 1
