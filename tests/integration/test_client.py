"""The Python client with a real server, over connections that are lost and processes that die."""

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest
from safetensors.numpy import save_file

from palettery.app.client import AsyncClient, Client
from palettery.app.errors import NotFound
from tests.fault_proxy import Cut, FaultProxy, Pass, Slow
from tests.integration.service import PALETTERY, SLOW, wait_until


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


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    rng = np.random.default_rng(8)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    weights = {
        f"layers.{number}.weight": rng.normal(size=(1024, 1024)).astype(np.float32)
        for number in range(3)
    }
    save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def job(server, model_file):
    with Client(url_of(server)) as client:
        return client.wait(client.submit(model_file, preset="w8").id)


@pytest.mark.heavy
def test_the_secret_of_webhooks_changes_when_it_is_asked_to(client):
    old = client.webhook_secret()
    assert client.webhook_secret() == old
    new = client.rotate_webhook_secret()
    assert new.startswith("whsec_")
    assert client.webhook_secret() == new != old


@pytest.mark.scaled
def test_from_submit_to_download(client, job, tmp_path):
    assert job.state == "succeeded"
    assert client.ready()
    assert client.job(job.id) == job
    assert job in client.jobs()
    (out,) = client.download(job.id, tmp_path / "out")
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert list(client.report(job.id).artifact_sha256.values()) == [digest]
    with pytest.raises(NotFound):
        client.job("none")


@pytest.mark.usefixtures("job")
def test_jobs_are_fetched_page_by_page(client):
    result = client.jobs()
    assert next(result).id
    result.close()


def test_the_asynchronous_client(server, job):
    async def look():
        async with AsyncClient(url_of(server)) as client:
            report, current = await asyncio.gather(client.report(job.id), client.job(job.id))
            return report, current, [each.id async for each in client.jobs()]

    report, current, ids = asyncio.run(look())
    assert len(report.tensors) == 3
    assert current == job
    assert job.id in ids


def test_a_download_over_connections_that_are_lost(proxy, job, tmp_path):
    proxy.behave(Cut(after_bytes=500_000))
    with Client(proxy.endpoint) as client:
        (out,) = client.download(job.id, tmp_path / "out")
    assert proxy.faults > 3
    assert out.stat().st_size > 3 * 500_000


@pytest.mark.heavy
def test_a_download_that_is_killed_goes_on(proxy, job, tmp_path):
    out, size_bytes = tmp_path / "out", job.size_after_bytes
    words = [PALETTERY, "download", job.id, "-o", out, "--server", proxy.endpoint]

    def partial_bytes():
        with contextlib.suppress(StopIteration):
            return next(tmp_path.glob(".out.*.part")).stat().st_size
        return 0

    proxy.behave(Slow(bytes_per_s=1 << 20))
    download = subprocess.Popen(words)
    wait_until(lambda: partial_bytes() > size_bytes // 4, "a quarter has come")
    os.kill(download.pid, signal.SIGKILL)
    download.wait()
    assert not out.exists()
    proxy.behave(Pass())
    # More than the rest would be cut off.
    proxy.behave(Cut(after_bytes=size_bytes - partial_bytes() + 50_000))
    assert subprocess.run(words, check=False).returncode == 0
    assert proxy.faults == 0
    with Client(proxy.endpoint) as client:
        assert client.download(job.id, out) == (out,)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.heavy
def test_events_over_connections_that_are_lost(proxy, job):
    with Client(proxy.endpoint) as client:
        whole = [event for event in client.events(job.id) if event.kind != "progress"]
        proxy.behave(Cut(after_bytes=2_000))
        parts = [event for event in client.events(job.id) if event.kind != "progress"]
    assert proxy.faults > 0
    assert parts == whole
    assert [event.number for event in whole] == list(range(1, len(whole) + 1))
    assert whole[-1].data.state == "succeeded"


@pytest.mark.heavy
def test_waiting_goes_on_when_the_server_was_killed(own, tmp_path, many_slow_tensors, patient):
    path = tmp_path / "large.safetensors"
    path.write_bytes(many_slow_tensors)
    with patient(url_of(own)) as client, ThreadPoolExecutor() as threads:
        job = client.submit(path, config=SLOW)
        waiting = threads.submit(client.wait, job.id)
        own.some_parts(job.id)
        own.kill_all()
        assert not waiting.done()
        own.start()
        assert waiting.result().state == "succeeded"
