"""What only a bucket does."""

import pytest

from palettery.app.errors import StorageFailed
from palettery.app.storage import bucket
from palettery.app.storage.open import open_storage

pytestmark = pytest.mark.heavy

BODY = bytes(range(256)) * 4096 * 26


def test_an_object_too_large_to_copy_at_once_is_copied_in_parts(server, monkeypatch):
    monkeypatch.setattr(bucket, "MAX_COPY_BYTES", len(BODY) - 1)
    store = open_storage(server.url)
    monkeypatch.delattr(bucket.obstore, "copy")
    store.write("a", BODY)
    store.copy("a", "b")
    assert store.read("b") == BODY


def test_a_listing_of_many_pages_is_whole(server):
    store = open_storage(server.url)
    paths = [f"n/{number:04}" for number in range(1_050)]
    for path in paths:
        store.write(path, b"")
    assert sorted(store.list("n")) == paths
    store.delete_folder("n")
    assert store.list("") == []


def test_wrong_credentials_say_what_to_check_and_nothing_secret(server, monkeypatch):
    open_storage(server.url).write("a", b"1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    store = open_storage(server.url)
    for ask in (store.read, store.size_bytes, lambda path: store.write(path, b"2"), store.delete):
        with pytest.raises(StorageFailed, match="AWS_SECRET_ACCESS_KEY") as caught:
            ask("a")
        for secret in ("not-the-secret", server.environment["AWS_ACCESS_KEY_ID"], "127.0.0.1"):
            assert secret not in str(caught.value)
    assert "AWS_SECRET_ACCESS_KEY" in store.health_problem()


@pytest.mark.usefixtures("server")
def test_a_bucket_that_is_not_there_is_named():
    store = open_storage("s3://no-such-bucket/prefix")
    for ask in (store.read, store.list, lambda path: store.write(path, b"")):
        with pytest.raises(StorageFailed, match="no bucket 'no-such-bucket'"):
            ask("a")
    assert "no bucket 'no-such-bucket'" in store.health_problem()


def test_an_endpoint_without_tls_must_be_allowed(server, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StorageFailed, match="AWS_ALLOW_HTTP"):
        open_storage(server.url).read("a")
