"""Services to break, of each kind, and a job that is slow enough to be met while it runs."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tests.fault_proxy import FaultProxy, Pass
from tests.faults.invariants import swept
from tests.integration.cluster import scaled
from tests.integration.embedded import serving
from tests.integration.service import PALETTERY, Service

TENSORS, SIDE = 8, 384
SLOW = {"n_bits": 8, "cluster_dim": 4}
TASKS = {"PALETTERY_TASK_BYTES": str(SIDE * SIDE * 4)}
"""One tensor each."""
WORKER_BYTES = 600 << 20
WORKERS = {"PALETTERY_WORKER_MEMORY_BYTES": str(WORKER_BYTES), "PALETTERY_LOG_LEVEL": "warning"}


@dataclass(frozen=True)
class Slow:
    """A job of many tasks that take about half a second each."""

    body: bytes
    config: str
    sha256: str
    """Of its artifact, from a run that nothing disturbed."""


@pytest.fixture(scope="session")
def config() -> str:
    spec = {"op_state_spec": {"weight": SLOW}, "enable_fast_kmeans_mode": False}
    return json.dumps({"kmeans_palettization_config": {"global_config": spec}})


def compressed(folder: Path, body: bytes, config: str) -> str:
    """Digest of the artifact that the command line makes."""
    (folder / "big.safetensors").write_bytes(body)
    (folder / "config.json").write_text(config)
    words = ["compress", "big.safetensors", "--config", "config.json", "-o", "artifact"]
    subprocess.run([PALETTERY, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return hashlib.sha256((folder / "artifact").read_bytes()).hexdigest()


def tensors(count: int, seed: int = 7) -> bytes:
    rng = np.random.default_rng(seed)
    return save(
        {
            f"layers.{number}.weight": rng.normal(size=(SIDE, SIDE)).astype(np.float32)
            for number in range(count)
        }
    )


@pytest.fixture(scope="session")
def slow(tmp_path_factory, config) -> Slow:
    body = tensors(TENSORS)
    return Slow(body, config, compressed(tmp_path_factory.mktemp("slow"), body, config))


@pytest.fixture(scope="session")
def little(tmp_path_factory, config) -> Slow:
    """A job that is done in one task, from its first tensor to its report."""
    body = tensors(3)
    return Slow(body, config, compressed(tmp_path_factory.mktemp("little"), body, config))


@pytest.fixture
def new(little, tmp_path) -> Slow:
    """Such a job, of a model that no other test has sent."""
    body = tensors(3, seed=int(hashlib.sha256(bytes(tmp_path)).hexdigest()[:8], 16))
    return Slow(body, little.config, compressed(tmp_path, body, little.config))


@pytest.fixture(scope="session")
def store_proxy(object_store_server) -> Iterator[FaultProxy]:
    """A proxy between the scaled service and its store."""
    with FaultProxy.before(int(object_store_server.endpoint.rsplit(":", 1)[1])) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def embedded(tmp_path_factory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("faults") / "data"
    with serving(folder, 2, **TASKS, **WORKERS) as service, swept(service):
        yield service


@pytest.fixture(scope="session")
def cluster(tmp_path_factory, postgres, object_store_server, store_proxy) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("faults")
    bucket = replace(object_store_server, url=f"{object_store_server.url}/{folder.name}")
    behind = replace(bucket, endpoint=store_proxy.endpoint)
    settings = TASKS | WORKERS
    with (
        scaled(folder / "cluster", postgres, bucket, reached_by=behind, **settings) as service,
        swept(service),
    ):
        yield service


@pytest.fixture
def service_of(request) -> Iterator[Callable[[str], Service]]:
    """A function of the kind: the service that tests share, all of it at work."""
    used = []

    def get(kind: str) -> Service:
        service = request.getfixturevalue({"embedded": "embedded", "scaled": "cluster"}[kind])
        service.start()
        used.append(kind)
        return service

    yield get
    if "scaled" in used:
        request.getfixturevalue("store_proxy").behave(Pass())
