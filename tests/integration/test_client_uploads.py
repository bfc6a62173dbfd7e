"""Uploads by the Python client and the command, while connections and processes die."""

import os
import random
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from urllib.parse import urlsplit

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import save_file

from palettery.app.client import Client
from palettery.app.errors import BadInput, InvalidUpload
from tests.fault_proxy import Cut, FaultProxy, Pass, Slow
from tests.integration.service import PALETTERY, wait_until

PART_BYTES = 8 << 20
KILLS, PARTS = 3, 20


def weights_file(path, seed, mebibytes):
    """A model with weights that no other seed gives, so that its upload has all to send."""
    rng = np.random.default_rng(seed)
    weights = {
        f"layers.{n}.weight": rng.random((1024, 1024), dtype=np.float32)
        for n in range(mebibytes // 4)
    }
    save_file(weights, path)
    return path


def url_of(server):
    return str(server.http.base_url)


@pytest.fixture
def client(server):
    with Client(url_of(server)) as opened:
        yield opened


@pytest.fixture
def proxy(server):
    with FaultProxy.before(urlsplit(url_of(server)).port) as running:
        yield running


def stored(server, model):
    """SHA-256 of each file of a model, of the bytes that lie in the store."""
    digests = {file.sha256 for file in model.files}
    result = set()
    for path in server.kept_uploads():
        hashed = sha256(server.store.read(path)).hexdigest()
        if hashed in digests:
            result.add(hashed)
    return result


def test_upload_then_submit_by_its_id(client, tmp_path):
    results = []
    path = weights_file(tmp_path / "m.safetensors", 1, 20)
    model = client.upload(
        path, part_size_bytes=PART_BYTES, advance=lambda *so_far: results.append(so_far)
    )
    size_bytes = path.stat().st_size
    assert model.size_bytes == size_bytes
    assert [file.sha256 for file in model.files] == [sha256(path.read_bytes()).hexdigest()]
    assert results[-1] == ("sending", size_bytes, size_bytes)
    assert ("reading", size_bytes, size_bytes) in results
    assert client.model(model.id) == model
    assert model.id in [each.id for each in client.models()]


def parts_taken_in(http):
    """How many parts a server has taken in itself."""
    (family,) = [
        result
        for result in text_string_to_metric_families(http.get("/metrics").text)
        if result.name == "palettery_http_request_seconds"
    ]
    return sum(
        sample.value
        for sample in family.samples
        if sample.name.endswith("_count") and "/parts/" in sample.labels["route"]
    )


@pytest.mark.heavy
def test_upload_past_the_server_to_its_store(cluster, tmp_path):
    path, before = weights_file(tmp_path / "m.safetensors", 21, 20), parts_taken_in(cluster.http)
    with Client(url_of(cluster)) as client:
        model = client.upload(path, part_size_bytes=PART_BYTES, direct=True)
        assert stored(cluster, model) == {sha256(path.read_bytes()).hexdigest()}
        client.delete_model(model.id)
    assert parts_taken_in(cluster.http) == before


def test_a_store_that_signs_nothing_is_not_reached_directly(embedded, tmp_path):
    path = weights_file(tmp_path / "m.safetensors", 22, 4)
    with (
        Client(url_of(embedded)) as client,
        pytest.raises(BadInput, match="has no presigned URLs; leave presign out"),
    ):
        client.upload(path, direct=True)


def test_the_same_files_are_sent_once_and_again_when_they_were_removed(client, tmp_path):
    path = weights_file(tmp_path / "m.safetensors", 2, 12)

    def sent():
        results = []
        model = client.upload(path, advance=lambda *so_far: results.append(so_far))
        return model.id, next(done for stage, done, _ in results if stage == "sending")

    size_bytes = path.stat().st_size
    id_, before = sent()
    assert before == 0
    assert sent() == (id_, size_bytes)
    for _ in range(2):
        client.delete_model(id_)
        assert sent()[0] == id_


def test_several_files(client, tmp_path):
    paths = [
        weights_file(tmp_path / f"model-0000{n}-of-00002.safetensors", 2 + n, 4) for n in (1, 2)
    ]
    renamed = []
    for n, path in enumerate(paths):
        rng = np.random.default_rng(n)
        save_file({f"shard{n}.weight": rng.random((64, 64), dtype=np.float32)}, path)
        renamed.append(path)
    model = client.upload(renamed)
    assert {file.name for file in model.files} == {path.name for path in paths}


def test_what_cannot_be_uploaded(client, tmp_path):
    with pytest.raises(BadInput, match="nowhere"):
        client.upload(tmp_path / "nowhere")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(BadInput) as caught:
        client.upload(tmp_path / "empty")
    assert "/files/0/size_bytes" in {field.pointer for field in caught.value.errors}
    (tmp_path / "text").write_bytes(b"no model")
    with pytest.raises(BadInput):
        client.upload(tmp_path / "text")


def test_a_file_that_changes_while_it_is_sent(client, tmp_path):
    path = weights_file(tmp_path / "m.safetensors", 5, 20)

    def change(stage, *_):
        if stage == "sending":
            with path.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"!")

    with pytest.raises(InvalidUpload, match="SHA-256"):
        client.upload(path, part_size_bytes=PART_BYTES, advance=change)
    assert client.upload(path).files[0].sha256 == sha256(path.read_bytes()).hexdigest()


@pytest.mark.scaled
@pytest.mark.heavy
def test_an_upload_over_connections_that_are_lost(server, proxy, tmp_path):
    path = weights_file(tmp_path / "m.safetensors", 6, 40)
    # Some connections get a part through, some do not.
    proxy.behave(Cut(after_bytes=PART_BYTES * 3 // 2))
    with Client(proxy.endpoint) as client:
        model = client.upload(path, part_size_bytes=PART_BYTES)
    assert proxy.faults > 0
    assert stored(server, model) == {file.sha256 for file in model.files}


def received(server):
    """How many parts have come in of the only upload that is open; None if none is."""
    uploads = server.http.get("/v1/uploads").raise_for_status().json()["items"]
    ids = [upload["id"] for upload in uploads if upload["state"] == "open"]
    if not ids:
        return None
    parts = server.http.get(f"/v1/uploads/{ids[0]}").raise_for_status().json()["parts"]
    return sum(part["is_received"] for part in parts)


@pytest.mark.heavy
def test_an_upload_killed_again_and_again_ends_with_an_intact_model(own, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = weights_file(tmp_path / "big.safetensors", 7, PARTS * PART_BYTES >> 20)
    chosen = random.Random(7)  # noqa: S311 - when to kill
    with FaultProxy.before(urlsplit(url_of(own)).port) as proxy:
        words = [PALETTERY, "upload", path, "--part-mib", "8", "--server", proxy.endpoint]
        proxy.behave(Slow(bytes_per_s=PART_BYTES))
        seen = 0
        for _ in range(KILLS):
            upload = subprocess.Popen(words, stdout=subprocess.PIPE)
            target = seen + chosen.randrange(0, 5)
            wait_until(lambda at=target: (received(own) or -1) >= at, f"{target} parts came in")
            os.kill(upload.pid, signal.SIGKILL)
            upload.communicate()
            assert upload.returncode == -signal.SIGKILL, "it was through before it was killed"
            now = received(own)
            assert now >= seen
            seen = now
        assert 0 < seen < PARTS
        proxy.behave(Pass())
        done = subprocess.run(words, check=True, capture_output=True, text=True)
    with Client(url_of(own)) as client:
        model = client.model(done.stdout.strip())
    digest = sha256(path.read_bytes()).hexdigest()
    assert [file.sha256 for file in model.files] == [digest]
    assert stored(own, model) == {digest}
    assert own.leftovers() == []


@pytest.mark.heavy
def test_an_upload_goes_on_when_the_server_was_killed(serve, tmp_path, patient):
    path = weights_file(tmp_path / "big.safetensors", 8, 128)
    with (
        serve(tmp_path / "data") as server,
        FaultProxy.before(urlsplit(url_of(server)).port) as proxy,
        patient(proxy.endpoint) as client,
        ThreadPoolExecutor() as threads,
    ):
        proxy.behave(Slow(bytes_per_s=PART_BYTES))
        sending = threads.submit(client.upload, path, part_size_bytes=PART_BYTES)
        wait_until(lambda: (received(server) or 0) >= 2, "two parts came in")
        server.kill_all()
        assert not sending.done()
        server.start()
        assert received(server) >= 2
        proxy.behave(Pass())
        model = sending.result()
        assert stored(server, model) == {sha256(path.read_bytes()).hexdigest()}
