import pytest

from tests.receiver import receiving


@pytest.fixture
def receiver():
    with receiving() as running:
        yield running
