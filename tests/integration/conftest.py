"""Real services on real ports, embedded and scaled; the same tests hold for both."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from app.client import Client, retries
from tests.integration.cluster import scaled
from tests.integration.embedded import Embedded, serving
from tests.integration.service import DEADLINE_S, Service

SERVICES = ["embedded", pytest.param("scaled", marks=pytest.mark.heavy)]


@pytest.fixture
def serve() -> Callable[..., AbstractContextManager[Embedded]]:
    """Start a server of the test's own, all in one process."""
    return serving


@pytest.fixture(scope="session")
def embedded(tmp_path_factory) -> Iterator[Embedded]:
    with serving(tmp_path_factory.mktemp("service") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def cluster(tmp_path_factory, postgres, object_store_server) -> Iterator[Service]:
    bucket = replace(object_store_server, url=f"{object_store_server.url}/cluster")
    with scaled(tmp_path_factory.mktemp("cluster"), postgres, bucket) as running:
        yield running


@pytest.fixture(scope="session", params=SERVICES)
def server(request) -> Service:
    """A service that tests share; of each kind."""
    return request.getfixturevalue({"embedded": "embedded", "scaled": "cluster"}[request.param])


@pytest.fixture(scope="module", params=SERVICES)
def service_of(request, tmp_path_factory) -> Callable[..., AbstractContextManager[Service]]:
    """Start a new service, of each kind: a function of its environment."""

    def start(**environment: str) -> AbstractContextManager[Service]:
        folder = tmp_path_factory.mktemp("own")
        if request.param == "embedded":
            return serving(folder / "data", **environment)
        postgres, store = map(request.getfixturevalue, ("postgres", "object_store_server"))
        bucket = replace(store, url=f"{store.url}/{folder.name}")
        return scaled(folder / "cluster", postgres, bucket, **environment)

    return start


@pytest.fixture
def patient(monkeypatch) -> Callable[[str], Client]:
    """A client of a server that may take as long as a busy machine needs to start anew."""
    monkeypatch.setattr(retries, "LONGEST_S", DEADLINE_S)
    return lambda url: Client(url, attempts=DEADLINE_S)


@pytest.fixture(scope="session")
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "encoder.0.weight": rng.normal(0, 0.02, (64, 96)).astype(np.float32),
        "encoder.0.bias": rng.normal(size=64).astype(np.float32),
        "encoder.1.weight": rng.normal(0, 0.02, (96, 64)).astype(np.float16),
    }


@pytest.fixture(scope="session")
def model(weights) -> bytes:
    """A small model as safetensors bytes."""
    return save(weights)


@pytest.fixture(scope="session")
def large_model() -> bytes:
    """A model of many tasks, for tests that interrupt a job."""
    rng = np.random.default_rng(6)
    return save(
        {
            f"layers.{number}.weight": rng.normal(size=(1024, 1024)).astype(np.float32)
            for number in range(24)
        }
    )
