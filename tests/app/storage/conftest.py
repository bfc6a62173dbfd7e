"""Stores of both kinds, which tests of the contract run over."""

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
    location = request.getfixturevalue(request.param)
    return open_storage(location.url)


@pytest.fixture
def unfinished(store, request):
    """A function that lists what unfinished writes have left in the store."""
    if "server" in request.node.callspec.params.values():
        return request.getfixturevalue("server").unfinished_uploads
    return lambda: [path for path in store.root.rglob("*.aside") if path.is_file()]
