"""A disk changes bytes behind the service's back; nothing is made of them, and nobody gets them."""

import contextlib
import hashlib
import re
import zlib

import httpx
import numpy as np
import pytest
from safetensors.numpy import load, save

from palettery.app.client import Client

pytestmark = pytest.mark.heavy

MIB = 1 << 20


@pytest.fixture
def service(one_at_a_time):
    return one_at_a_time


@pytest.fixture
def arrays(request):
    """Weights that no other test has: some palettized, one kept."""
    rng = np.random.default_rng(zlib.crc32(request.node.name.encode()))
    return {
        "a.weight": rng.normal(size=(512, 512)).astype(np.float32),
        "b.weight": rng.normal(size=(512, 768)).astype(np.float32),
        "table": rng.normal(size=300_000).astype(np.float32),
    }


@pytest.fixture
def small(arrays):
    return {"a.weight": arrays["a.weight"][:64, :64].copy(), "table": arrays["table"][:99].copy()}


def flip(store, path, place):
    """Change one bit, as the disk does it: in place."""
    data = bytearray(store.read(path))
    data[place] ^= 4
    store.write(path, bytes(data))


def done(service, data):
    """The id of a job that has succeeded."""
    job_id = service.submit(data)
    service.succeeded(job_id)
    return job_id


def stored(service, data):
    """Where the file with these bytes lies."""
    return next(
        path for path in service.store.list("uploads") if bytes(service.store.read(path)) == data
    )


def place_of(data, array):
    """A byte in the middle of an array."""
    return data.index(array.tobytes()) + array.nbytes // 2


@pytest.mark.parametrize("what", ["a.weight", "b.weight", "table"])
def test_upload_that_is_damaged_fails_the_job_and_can_be_sent_again(service, arrays, what):
    data = save(arrays)
    sound = service.artifact(done(service, data))
    flip(service.store, stored(service, data), place_of(data, arrays[what]))
    job = service.ended(service.submit(data, name="mine.safetensors"))
    assert (job["state"], job["error"]["code"]) == ("failed", "upload_damaged"), job
    assert "mine.safetensors" in job["error"]["detail"]
    assert hashlib.sha256(data).hexdigest() in job["error"]["detail"]
    again = done(service, data)
    assert service.artifact(again) == sound


@pytest.mark.scaled
@pytest.mark.parametrize("what", ["a.weight", "table"])
def test_small_uploads_are_checked_too(service, small, what):
    data = save(small)
    done(service, data)
    flip(service.store, stored(service, data), place_of(data, small[what]))
    job = service.ended(service.submit(data))
    assert (job["state"], job["error"]["code"]) == ("failed", "upload_damaged"), job


@pytest.mark.parametrize("part_bytes", [8 * MIB, 64 * MIB], ids=["in parts", "in one part"])
def test_uploaded_models_are_checked_however_they_came_in(service, arrays, tmp_path, part_bytes):
    data = save(arrays | {"more": np.random.default_rng(part_bytes).normal(size=1_500_000)})
    (tmp_path / "m.safetensors").write_bytes(data)
    with Client(str(service.http.base_url)) as client:
        model = client.upload(tmp_path / "m.safetensors", part_size_bytes=part_bytes)
        path = stored(service, data)
        assert service.store.exists(f"digests/{hashlib.sha256(data).hexdigest()}")
        flip(service.store, path, place_of(data, arrays["b.weight"]))
        request = {"model_id": model.id, "preset": "w4"}
        job = service.ended(service.http.post("/v1/jobs", json=request).json()["id"])
        assert (job["state"], job["error"]["code"]) == ("failed", "upload_damaged"), job
        client.upload(tmp_path / "m.safetensors", part_size_bytes=part_bytes)
        service.succeeded(service.http.post("/v1/jobs", json=request).json()["id"])


@pytest.mark.scaled
def test_artifact_that_is_damaged_is_not_handed_out_whole(service, arrays):
    job_id = done(service, save(arrays))
    sound = service.artifact(job_id)
    (path,) = service.store.list(f"jobs/{job_id}/artifact")
    place = len(sound) - 100
    flip(service.store, path, place)
    with pytest.raises(httpx.RemoteProtocolError):
        service.artifact(job_id)
    here = f"/v1/jobs/{job_id}/artifact"
    first = service.http.get(here, headers={"Range": "bytes=0-999"})
    assert first.content == sound[:1000], "what is sound is handed out"
    with pytest.raises(httpx.RemoteProtocolError):
        service.http.get(here, headers={"Range": f"bytes={place}-{place}"})
    logs = "".join(each.log.read_text() for each in service.programs.values())
    assert re.search(rf"{path} .*is damaged", logs)
    assert "Traceback" not in logs, logs[logs.index("Traceback") :]
    flip(service.store, path, place)
    assert load(service.artifact(job_id)).keys() == load(sound).keys()


def test_small_artifact_that_is_damaged_is_not_handed_out(service, small):
    job_id = done(service, save(small))
    (path,) = service.store.list(f"jobs/{job_id}/artifact")
    flip(service.store, path, -1)
    with pytest.raises(httpx.RemoteProtocolError):
        service.artifact(job_id)


def test_nothing_of_digests_stays_when_uploads_and_jobs_go(service, arrays):
    data = save(arrays)
    job_id = done(service, data)
    sha256 = hashlib.sha256(data).hexdigest()
    assert service.store.exists(f"digests/{sha256}")
    assert service.store.list(f"jobs/{job_id}/digests")
    assert service.http.delete(f"/v1/jobs/{job_id}").is_success
    with contextlib.suppress(StopIteration):
        pytest.fail(stored(service, data))
    assert not service.store.exists(f"digests/{sha256}")
    assert service.store.list(f"jobs/{job_id}") == []
