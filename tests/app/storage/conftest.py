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


@pytest.fixture(params=["folder", pytest.param("server", marks=pytest.mark.heavy)])
def store(request):
    where = request.getfixturevalue(request.param)
    return open_storage(where.url)


@pytest.fixture
def unfinished(request, store):
    """Files of the store that are being written: a function."""
    if hasattr(store, "root"):
        return lambda: [path.name for path in store.root.rglob("*.aside")]
    return request.getfixturevalue("object_store").unfinished_uploads
