"""A real browser before a real server: Debian's Chromium, headless."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from safetensors.numpy import save_file

from palettery.app.client import Client
from tests.examples import EXAMPLES
from tests.integration.conftest import empty
from tests.integration.embedded import Embedded, serving
from tests.integration.service import DEADLINE_S

DEADLINE_MS = 1_000 * DEADLINE_S
MINILM = Path(".cache/minilm/model.safetensors")
MODELS = ["small", *(["minilm"] if EXAMPLES else [])]
"""What is shown of a model; in a long run, also of MiniLM."""
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PLOTLY = "/assets/plotly.min.js"
"""When loaded it writes styles of maps, which the policy refuses; none is drawn."""


@dataclass
class Seen:
    """What a page complains of."""

    errors: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """What its policy forbade: the directive, and who was at it."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Stopped with its module: its event loop runs as long, and other tests need their own."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium is installed; `apt-get install chromium`")
    expect.set_options(timeout=DEADLINE_MS)
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program)


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Embedded]:
    with serving(tmp_path_factory.mktemp("browser") / "data", workers=2) as running:
        yield running


@pytest.fixture
def look(chromium) -> Iterator[Callable[..., Page]]:
    """Open a page of a service; whatever it complains of fails the test."""
    seen = Seen()
    with ExitStack() as contexts:

        def opened(service: Embedded | None, **options: object) -> Page:
            base = {} if service is None else {"base_url": str(service.http.base_url)}
            context = chromium.new_context(
                **{"viewport": WIDE, "reduced_motion": "reduce"} | base | options
            )
            contexts.callback(context.close)
            context.set_default_timeout(DEADLINE_MS)
            context.expose_function("tellRefused", lambda what: seen.refused.append(what))
            context.add_init_script(
                "document.addEventListener('securitypolicyviolation', (event) => tellRefused("
                "`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}`))"
            )
            page = context.new_page()
            page.on("pageerror", lambda error: seen.errors.append(f"{error}\n{error.stack}"))
            return page

        yield opened
    assert seen.errors == []
    assert [each for each in seen.refused if not each.endswith(PLOTLY)] == []


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A model of a few tensors with names as models have them."""
    rng = np.random.default_rng(7)
    sizes = {"embeddings.word": (512, 64), "encoder.0.query": (64, 64), "encoder.0.key": (64, 64)}
    sizes |= {f"encoder.{layer}.dense": (96, 64) for layer in range(3)}
    tensors = {f"{name}.weight": rng.normal(0, 0.02, size) for name, size in sizes.items()}
    tensors |= {f"encoder.{layer}.dense.bias": rng.normal(size=96) for layer in range(3)}
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_file({name: each.astype(np.float32) for name, each in tensors.items()}, path)
    return path


@pytest.fixture(scope="session", params=MODELS)
def model(request, small) -> Path:
    """A model's file: a small one, or MiniLM."""
    return small if request.param == "small" else MINILM.resolve()


@pytest.fixture(scope="session")
def jobs(server, model) -> dict[str, str]:
    """Preset -> a job of it that has succeeded, all of one uploaded model."""
    with closing(Client(str(server.http.base_url))) as client:
        uploaded = client.upload([model])
    requests = {
        preset: server.http.post("/v1/jobs", json={"model_id": uploaded.id, "preset": preset})
        for preset in ("w4", "w6", "w8")
    }
    return {
        preset: server.succeeded(answer.raise_for_status().json()["id"])["id"]
        for preset, answer in requests.items()
    }


@pytest.fixture(scope="session")
def mortal(tmp_path_factory) -> Iterator[Embedded]:
    with serving(tmp_path_factory.mktemp("mortal") / "data", 1) as running:
        yield running


@pytest.fixture
def own(mortal) -> Iterator[Embedded]:
    """A server that a test may kill: at work, and empty."""
    mortal.start()
    yield mortal
    mortal.start()
    empty(mortal)


@pytest.fixture(scope="session")
def slow(tmp_path_factory) -> Path:
    """A model that takes long with the config `SLOW`."""
    rng = np.random.default_rng(8)
    path = tmp_path_factory.mktemp("model") / "slow.safetensors"
    tensors = {f"layers.{number}.weight": rng.normal(size=(1024, 1024)) for number in range(16)}
    save_file({name: each.astype(np.float32) for name, each in tensors.items()}, path)
    return path


SLOW = (
    '{"global_config": {"enable_fast_kmeans_mode": false,'
    '"op_state_spec": {"weight": {"n_bits": 8, "cluster_dim": 4}}}}'
)
