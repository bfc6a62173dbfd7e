"""Limits on open event streams."""

from contextlib import ExitStack

import pytest

from palettery.app.errors import TooManyStreams
from palettery.app.events.stream_limits import StreamLimits
from palettery.app.settings import Clients


def test_slots_of_an_owner_and_of_all_owners():
    limits = StreamLimits(Clients(owner_streams=2, connections=6))
    with ExitStack() as stack:
        stack.enter_context(limits.slot("a"))
        stack.enter_context(limits.slot("b"))
        with limits.slot("a"), pytest.raises(TooManyStreams, match="owner has 2"), limits.slot("a"):
            pass
        stack.enter_context(limits.slot("b"))
        with pytest.raises(TooManyStreams, match="3 event streams are open"), limits.slot("a"):
            pass
    with limits.slot("a"), limits.slot("a"), limits.slot("b"):
        assert limits._open == {"a": 2, "b": 1}
    assert not limits._open
