"""Below a path, behind a proxy: as docs/operations.md has it, for nginx and for Caddy."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect
from safetensors.numpy import save_file

from palettery.app.client import Client
from tests.integration.embedded import serving
from tests.integration.service import DEADLINE_S, wait_until
from tests.ports import free_port

pytestmark = pytest.mark.heavy
PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
NGINX = """
daemon off;
{user}
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/1;
    uwsgi_temp_path {folder}/2;
    scgi_temp_path {folder}/3;
    server {{
        listen 127.0.0.1:{port};
        {example}
    }}
}}
"""


def example(language: str) -> str:
    """What the page shows, of one kind."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return text


def nginx(folder: Path, port: int, server: str) -> list[str]:
    shown = example("nginx").replace("127.0.0.1:8400", server)
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(user=user, folder=folder, port=port, example=shown))
    return ["nginx", "-p", str(folder), "-c", str(config), "-e", "stderr"]


def caddy(folder: Path, port: int, server: str) -> list[str]:
    shown = example("caddy").replace("127.0.0.1:8400", server)
    config = folder / "Caddyfile"
    address = f"http://127.0.0.1:{port}"
    config.write_text("{\n admin off\n}\n" + shown.replace("models.example.org", address))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]


@contextmanager
def proxied(kind: str, folder: Path, server: str) -> Iterator[str]:
    """The address of a server behind a proxy, below a path."""
    if shutil.which(kind) is None:
        pytest.skip(f"no {kind} is installed")
    port = free_port()
    words = {"nginx": nginx, "caddy": caddy}[kind](folder, port, server)
    home = os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        proxy = subprocess.Popen(words, env=home, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/pal"

    def answers() -> bool:
        assert proxy.poll() is None, (folder / "log").read_text()
        try:
            return httpx.get(f"{address}/livez").is_success
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, f"{kind} is ready")
        yield address
    finally:
        proxy.terminate()
        proxy.wait(timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("proxied") / "data"
    with serving(data_dir, PALETTERY_ROOT_PATH="/pal/") as running:
        yield running


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def address(request, server, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with proxied(request.param, folder, server.http.base_url.netloc.decode()) as text:
        yield text


@pytest.fixture
def large(tmp_path) -> Path:
    """A model larger than proxies accept by default."""
    rng = np.random.default_rng(13)
    path = tmp_path / "large.safetensors"
    tensors = {f"{n}.weight": rng.normal(size=(512, 1024)).astype(np.float32) for n in range(2)}
    save_file(tensors, path)
    return path


def test_the_client_does_all_it_does(address, large, tmp_path):
    with Client(address) as client:
        model = client.upload(large)
        job = client.submit(model, preset="w8", reuse=False)
        kinds = [event.kind for event in client.events(job.id)]
        assert kinds.count("state") == 3
        assert client.job(job.id).state == "succeeded"
        (artifact,) = client.download(job.id, tmp_path / "packed.safetensors")
        assert artifact.stat().st_size > 1_000_000
        assert client.job(job.id).links["self"] == f"/v1/jobs/{job.id}"


def test_addresses_lead_back_through_the_proxy(address, small):
    files = {"model": ("small.safetensors", small.read_bytes())}
    with httpx.Client() as http:
        made = http.post(f"{address}/v1/jobs", files=files, data={"preset": "w4"})
        where = urljoin(str(made.url), made.headers["Location"])
        assert http.get(where).json()["id"] == made.json()["id"]
        assert http.get(address, headers={"Accept": "text/html"}).status_code in (301, 302)
        docs = http.get(f"{address}/", follow_redirects=True)
        assert str(docs.url) == f"{address}/docs"
        (listed,) = http.get(f"{address}/openapi.json").json()["servers"]
        assert urljoin(address, listed["url"]) == address
        assert http.get(f"{address}/v1/nothing").json()["instance"] == "/pal/v1/nothing"


def test_events_come_through_at_once(address, server, small):
    """A stream that never ends would not come through a proxy that waits for its end."""
    with httpx.Client(timeout=DEADLINE_S) as http, http.stream("GET", f"{address}/v1/events") as on:
        lines = on.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: open"
        job_id = server.submit(small.read_bytes(), "small.safetensors")
        assert next(line for line in lines if job_id in line).startswith("data:")


def test_the_page_works(address, look, small):
    page = look(None)
    page.goto(f"{address}/")
    page.get_by_role("link", name="New job").first.click()
    page.get_by_label("Drop model files here").set_input_files(small)
    page.get_by_role("button", name="Submit the job").click()
    expect(page.get_by_role("heading", name="Result")).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    with page.expect_download() as arrived:
        page.get_by_role("link", name="model.safetensors").click()
    assert arrived.value.path().stat().st_size > 1_000
    page.get_by_role("navigation").get_by_role("link", name="Jobs").click()
    row = page.get_by_role("listitem").filter(has_text="small.safetensors").first
    expect(row.get_by_text("succeeded", exact=True)).to_be_visible()


@pytest.mark.parametrize(("name", "shows"), [("docs", ".opblock"), ("redoc", "[data-section-id]")])
def test_the_reference_works(address, look, name, shows):
    page = look(None)
    page.goto(f"{address}/{name}")
    expect(page.locator(shows).nth(20)).to_be_attached()
    assert page.get_by_text("/v1/jobs/{job_id}/report.csv").count() > 0
