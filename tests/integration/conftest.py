"""Real services on real ports, embedded and, for tests that are marked so, scaled as well."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from palettery.app.client import Client, retries
from palettery.schemas.jobs import ENDED_STATES
from tests.integration.cluster import scaled
from tests.integration.embedded import Embedded, serving
from tests.integration.service import DEADLINE_S, Service

ADMIN_KEY = "0123456789abcdef" * 2
OF_A_KIND = {"server", "one_at_a_time", "service_of", "keyed"}
"""Fixtures that give a service of the kind that they are parametrized with."""
OWN = {
    "PALETTERY_RUNNING_JOBS": "1",
    "PALETTERY_SWEEP_EVERY_S": "0.5",
    "PALETTERY_TASK_BYTES": str(1 << 20),
    "PALETTERY_WEBHOOK_PRIVATE": "1",
    "PALETTERY_WEBHOOK_RETRY_S": "0.2",
}
SHARED = {"embedded", "mortal", "cluster", *OF_A_KIND} - {"service_of"}
"""Fixtures that start a service which the tests of a process share."""
ONE_AT_A_TIME = {
    "PALETTERY_RUNNING_JOBS": "1",
    "PALETTERY_SWEEP_EVERY_S": "1",
    "PALETTERY_TASK_BYTES": str(1 << 20),
    "PALETTERY_REUSE_RESULTS": "false",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test an embedded service; those whose mark says so, a scaled one as well."""
    kinds = ["embedded"]
    if metafunc.definition.get_closest_marker("scaled"):
        kinds.append(pytest.param("scaled", marks=pytest.mark.heavy))
    chosen = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    for name in sorted(OF_A_KIND.intersection(metafunc.fixturenames)):
        if not any(name in names for names in chosen):
            metafunc.parametrize(name, kinds, indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have tests of one service follow one another: a process of pytest starts it for them all."""
    ours = [at for at, item in enumerate(items) if Path(__file__).parent in item.path.parents]
    in_order = sorted((items[at] for at in ours), key=services_of)
    for at, item in zip(ours, in_order, strict=True):
        items[at] = item


def services_of(item: pytest.Item) -> list[str]:
    """Return the services that a test shares with others, each with its kind."""
    names = SHARED.intersection(getattr(item, "fixturenames", ()))
    kinds = item.callspec.params if hasattr(item, "callspec") else {}
    return sorted(f"{name} {kinds.get(name, '')}" for name in names)


@pytest.fixture
def serve() -> Callable[..., AbstractContextManager[Embedded]]:
    """Start a server of the test's own, all in one process."""
    return serving


@pytest.fixture(scope="session")
def embedded(tmp_path_factory) -> Iterator[Embedded]:
    with serving(tmp_path_factory.mktemp("service") / "team?1 #%2F é", workers=2) as running:
        yield running


@pytest.fixture(scope="session")
def mortal(tmp_path_factory) -> Iterator[Embedded]:
    with serving(tmp_path_factory.mktemp("own") / "data", **OWN) as running:
        yield running


@pytest.fixture
def own(mortal) -> Iterator[Embedded]:
    """A server that a test may kill and stop: at work, one job at a time, and empty."""
    mortal.start()
    yield mortal
    mortal.start()
    empty(mortal)


def empty(service: Service) -> None:
    """Delete all that a service has of its users."""
    for job in service.http.get("/v1/jobs", params={"limit": 1000}).json()["items"]:
        if job["state"] not in ENDED_STATES:
            service.http.post(f"/v1/jobs/{job['id']}/cancel")
        service.ended(job["id"])
        service.http.delete(f"/v1/jobs/{job['id']}").raise_for_status()
    for each in service.http.get("/v1/calibrations", params={"limit": 1000}).json()["items"]:
        here = each["links"]["self"]
        service.http.post(f"{here}/cancel")
        service.http.delete(here).raise_for_status()
    for kind in ("uploads", "models"):
        for each in service.http.get(f"/v1/{kind}", params={"limit": 1000}).json()["items"]:
            service.http.delete(f"/v1/{kind}/{each['id']}")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory, postgres, object_store_server) -> Iterator[Service]:
    bucket = replace(object_store_server, url=f"{object_store_server.url}/cluster")
    with scaled(tmp_path_factory.mktemp("cluster"), postgres, bucket) as running:
        yield running


@pytest.fixture(scope="session")
def server(request) -> Service:
    """A service that tests share; of each kind."""
    return request.getfixturevalue({"embedded": "embedded", "scaled": "cluster"}[request.param])


@pytest.fixture(scope="session")
def one_at_a_time(request, tmp_path_factory) -> Iterator[Service]:
    """A service that tests share: one job at a time, one MiB a task, and nothing is reused."""
    with starter(request, tmp_path_factory)(**ONE_AT_A_TIME) as running:
        yield running


@pytest.fixture(scope="module")
def service_of(request, tmp_path_factory) -> Callable[..., AbstractContextManager[Service]]:
    """Start a new service, of each kind: a function of its environment."""
    return starter(request, tmp_path_factory)


def starter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AbstractContextManager[Service]]:
    """A function of the environment that starts a service of the kind that `request` asks for."""

    def start(workers: int = 1, **environment: str) -> AbstractContextManager[Service]:
        folder = tmp_path_factory.mktemp("own")
        if request.param == "embedded":
            return serving(folder / "data", workers, **environment)
        postgres, store = map(request.getfixturevalue, ("postgres", "object_store_server"))
        bucket = replace(store, url=f"{store.url}/{folder.name}")
        return scaled(folder / "cluster", postgres, bucket, workers=workers, **environment)

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


@pytest.fixture(scope="session")
def keyed(request, tmp_path_factory) -> Iterator[Service]:
    """A service with an admin key, of each kind, that tests share: each has owners of its own.

    It listens on every address, which takes keys.
    """
    environment = {"PALETTERY_ADMIN_KEY": ADMIN_KEY, "PALETTERY_HOST": "0.0.0.0"}  # noqa: S104
    with starter(request, tmp_path_factory)(**environment) as running:
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


@pytest.fixture(scope="session")
def slow_model() -> bytes:
    """A model that is worked on until the job is cancelled, by the config `SLOW`."""
    rng = np.random.default_rng(7)
    return save({f"{name}.weight": rng.normal(size=(1024, 1024)).astype("f4") for name in "abcd"})


@pytest.fixture(scope="session")
def many_slow_tensors() -> bytes:
    """A small model of tensors that take half a second each with the config `SLOW`."""
    rng = np.random.default_rng(7)
    return save({f"{n}.weight": rng.normal(size=(384, 384)).astype("f4") for n in range(12)})
