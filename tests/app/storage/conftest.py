"""Stores of both kinds."""

import pytest

from palettery.app.storage.open import open_storage


@pytest.fixture
def folder(tmp_path):
    return open_storage((tmp_path / "store").as_uri())


@pytest.fixture
def server(object_store, monkeypatch):
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    return object_store


@pytest.fixture(params=["folder", "server"])
def store(request):
    where = request.getfixturevalue(request.param)
    return open_storage(where.url)
