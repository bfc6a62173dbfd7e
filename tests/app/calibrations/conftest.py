"""The API in this process; no calibration runs."""

import hashlib
from base64 import b64encode

import pytest

from tests.app.in_process import api


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("api") / "data"


@pytest.fixture(scope="module")
def http(folder):
    with api(folder) as client:
        yield client


@pytest.fixture(scope="module")
def send(http):
    """Upload a file; gives the answer."""

    def send(data, name):
        sha256 = hashlib.sha256(data)
        file = {"name": name, "size_bytes": len(data), "sha256": sha256.hexdigest()}
        made = http.post("/v1/uploads", json={"files": [file]}).raise_for_status().json()
        digest = {"Content-Digest": f"sha-256=:{b64encode(sha256.digest()).decode()}:"}
        for part in made["parts"]:
            http.put(part["url"], content=data, headers=digest).raise_for_status()
        return http.post(f"/v1/uploads/{made['id']}/complete")

    return send


@pytest.fixture(scope="module")
def upload(send):
    """Upload a file; gives its id."""
    return lambda data, name: send(data, name).raise_for_status().json()["id"]
