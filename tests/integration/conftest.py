"""Real services on real ports, embedded and scaled; the same tests hold for both."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from palettery.app.client import Client, retries
from tests.integration.cluster import scaled
from tests.integration.embedded import Embedded, serving
from tests.integration.service import DEADLINE_S, Service

ADMIN_KEY = "0123456789abcdef" * 2
SERVICES = ["embedded", pytest.param("scaled", marks=pytest.mark.heavy)]


@pytest.fixture
def serve() -> Callable[..., AbstractContextManager[Embedded]]:
    """Start a server of the test's own, all in one process."""
    return serving


@pytest.fixture(scope="session")
def embedded(tmp_path_factory) -> Iterator[Embedded]:
    with serving(tmp_path_factory.mktemp("service") / "team?1 #%2F é") as running:
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
    return starter(request, tmp_path_factory)


def starter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AbstractContextManager[Service]]:
    """A function of the environment that starts a service of the kind that `request` asks for."""

    def start(**environment: str) -> AbstractContextManager[Service]:
        folder = tmp_path_factory.mktemp("own")
        if request.param == "embedded":
            return serving(folder / "data", **environment)
        postgres, store = map(request.getfixturevalue, ("postgres", "object_store_server"))
        bucket = replace(store, url=f"{store.url}/{folder.name}")
        return scaled(folder / "cluster", postgres, bucket, **environment)

    return start


def http_of(service: Service, secret: str) -> httpx.Client:
    """How the holder of a key talks to a service."""
    headers = {"Authorization": f"Bearer {secret}"}
    return httpx.Client(base_url=service.http.base_url, timeout=120, headers=headers)


@dataclass
class Holder:
    """Somebody with a key, and the service as it is seen with it."""

    key: dict[str, Any]
    http: httpx.Client
    seen: Service


@pytest.fixture(scope="session", params=SERVICES)
def keyed(request, tmp_path_factory) -> Iterator[Service]:
    """A service with an admin key, of each kind, that tests share: each has owners of its own."""
    with starter(request, tmp_path_factory)(PALETTERY_ADMIN_KEY=ADMIN_KEY) as running:
        yield running


@pytest.fixture(scope="module")
def admin(keyed) -> Iterator[httpx.Client]:
    with http_of(keyed, ADMIN_KEY) as http:
        yield http


@pytest.fixture(scope="module")
def holder(keyed, admin) -> Iterator[Callable[..., Holder]]:
    """Make a key; gives its holder."""
    with ExitStack() as clients:

        def made(owner: str, **chosen: object) -> Holder:
            answer = admin.post("/v1/keys", json={"owner": owner, "name": "test"} | chosen)
            assert answer.status_code == 201, answer.text
            http = clients.enter_context(http_of(keyed, answer.json()["secret"]))
            return Holder(answer.json()["key"], http, replace(keyed, http=http))

        yield made


@pytest.fixture
def patient(monkeypatch) -> Callable[[str], Client]:
    """A client of a server that may take as long as a busy machine needs to start anew."""
    monkeypatch.setattr(retries, "MAX_WAIT_S", DEADLINE_S)
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
