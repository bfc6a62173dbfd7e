"""The service as who runs it sees it: its log, its numbers, how it is, clients that hold on."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import obstore
import pytest
from obstore.store import S3Store
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import save

from tests.integration.cluster import own_database
from tests.integration.conftest import ADMIN_KEY
from tests.integration.embedded import serving
from tests.integration.service import DEADLINE_S, group, wait_until
from tests.object_store import ROLES
from tests.ports import free_port

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def numbers(server) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What the page says, read by Prometheus' own parser."""
    page = server.http.get("/metrics").raise_for_status()
    assert page.headers["Content-Type"].startswith("text/plain")
    return read(page.text)


def read(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(page)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(result, name: str, **labels: str) -> float:
    return result.get((f"palettery_{name}", frozenset(labels.items())), 0.0)


def test_requests_are_counted_by_endpoint(server):
    route = {"method": "GET", "route": "/v1/jobs/{job_id}", "status": "404"}
    before = value(numbers(server), "http_request_seconds_count", **route)
    for name in ("a", "b", "c"):
        assert server.http.get(f"/v1/jobs/{name}").status_code == 404
    after = value(numbers(server), "http_request_seconds_count", **route)
    assert after == before + 3


def log_lines(program) -> list[dict[str, object]]:
    """Lines that are written whole; others may be at work on the last one.

    Python's resource tracker outlives a killed server, and writes a warning of its own.
    """
    *output, _ = program.log.read_text().split("\n")
    others = ("palettery is ready at ", "  warnings.warn('resource_tracker")
    lines = (line for line in output if "resource_tracker.py" not in line)
    return [json.loads(line) for line in lines if not line.startswith(others)]


@pytest.mark.heavy
def test_log_is_json_and_tells_who_asked(keyed, holder):
    seen = holder("ann", scopes=["read"])
    program = keyed.programs.get("serve") or keyed.programs["api"]
    answered = seen.http.get("/v1/jobs?cursor=&limit=7", headers={"X-Request-ID": "mine"})
    assert answered.headers["X-Request-ID"] == "mine"
    (line,) = wait_until(
        lambda: [line for line in log_lines(program) if line.get("request_id") == "mine"],
        "the line is written",
    )
    assert (line["owner"], line["key"]) == ("ann", seen.key["prefix"])
    assert (line["route"], line["status"]) == ("/v1/jobs", answered.status_code)
    text = program.log.read_text()
    assert seen.http.headers["Authorization"].removeprefix("Bearer ") not in text
    assert ADMIN_KEY not in text


@pytest.mark.heavy
def test_log_tells_once_why_a_part_is_away_and_that_it_is_back(own):
    before = len(log_lines(own.program))
    store = own.data_dir / "store"
    moved = store.rename(own.data_dir / "elsewhere")
    for _ in range(3):
        away = own.http.get("/readyz")
        assert away.status_code == 503
        assert [field["pointer"] for field in away.json()["errors"]] == ["/store"]
    moved.rename(store)
    assert own.http.get("/readyz").is_success
    lines = [line for line in log_lines(own.program)[before:] if "store is" in line["message"]]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("WARNING", f"store is unavailable: there is no folder {store.resolve()}"),
        ("INFO", "store is back"),
    ]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A server whose settings are not the usual ones."""
    environment = {
        "PALETTERY_LOG_FORMAT": "text",
        "PALETTERY_CLIENTS_STALL_TIMEOUT_S": "1",
        "PALETTERY_CLIENTS_STALL_BYTES": "10000",
        "PALETTERY_CLIENTS_CONNECTIONS": "500",
    }
    with serving(tmp_path_factory.mktemp("tuned") / "data", 1, **environment) as running:
        yield running


@pytest.mark.heavy
def test_text_log_and_its_level(tuned):
    tuned.http.get("/v1/jobs", headers={"X-Request-ID": "mine"})
    tuned.wait_until(lambda: "mine" in tuned.program.log.read_text(), "the line is written")
    assert "INFO palettery.app.http.middleware: GET /v1/jobs 200 [request_id=mine]" in (
        tuned.program.log.read_text()
    )


@pytest.mark.heavy
def test_slow_body_leaves_nothing_behind(tuned):
    """A form whose file stops coming in: 408, and the half of it that came is gone."""
    form = b'--x\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n'
    address = ("127.0.0.1", tuned.http.base_url.port)
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + form + b"y" * (4 << 20)
        )
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer
    tuned.wait_until(lambda: not tuned.leftovers(), "nothing is left")
    route = {"method": "POST", "route": "/v1/jobs", "status": "408"}
    tuned.wait_until(  # it is noted when the endpoint has ended, which its client does not see
        lambda: value(numbers(tuned), "http_request_seconds_count", **route) == 1,
        "the request is noted",
    )
    assert value(numbers(tuned), "http_closed_connections_total", reason="body") == 1


@pytest.mark.heavy
def test_thousands_of_idle_connections_stop_nobody(tuned, model):
    port, idle = tuned.http.base_url.port, []
    try:
        for number in range(3_000):
            idle.append(socket.create_connection(("127.0.0.1", port)))
            if number % 3 == 0:
                idle[-1].sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nA: ")
        assert tuned.succeeded(tuned.submit(model))
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.scaled
@pytest.mark.heavy
def test_numbers_move_with_a_job(server):
    """A job, the same again, and one of which nothing is reused; each role tells its share."""
    rng = np.random.default_rng(41)
    weights = {name: rng.normal(size=(64, 96)).astype(np.float32) for name in ("a", "b")}
    body = save({f"{name}.weight": weight for name, weight in weights.items()})
    alive = {"state": ["queued", "running"]}
    server.wait_until(
        lambda: server.http.get("/v1/jobs", params=alive).json()["items"] == [],
        "jobs of other tests have ended",
    )
    before, jobs = numbers_of_controller(server), value(numbers(server), "jobs", state="succeeded")
    server.succeeded(server.submit(body))
    server.succeeded(server.submit(body))
    server.succeeded(server.submit(body, preset="w6", reuse="false"))
    ended = numbers_of_controller(server)

    def moved(name: str, **labels: str) -> float:
        return value(ended, name, **labels) - value(before, name, **labels)

    assert moved("job_seconds_count", outcome="succeeded") == 3
    assert moved("job_seconds_sum", outcome="succeeded") > 0
    assert moved("weights_total") == 2 * 2 * 64 * 96
    assert moved("palettized_bytes_total") == 2 * 2 * 64 * 96 * 4
    assert moved("tensors_total", source="computed") == 4
    assert moved("tensors_total", source="reused") == 2
    server.wait_until(  # counted every few seconds
        lambda: value(numbers(server), "jobs", state="succeeded") == jobs + 3, "they are counted"
    )
    assert value(ended, "workers", state="idle") + value(ended, "workers", state="busy") == 2
    done = value(before, "task_seconds_count", kind="FinishTask")

    def tasks() -> float:
        return value(numbers_of_controller(server), "task_seconds_count", kind="FinishTask") - done

    server.wait_until(lambda: tasks() == 2, "the workers tell of their tasks")


def numbers_of_controller(service) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    if "controller" not in service.programs:
        return numbers(service)
    words = service.programs["controller"].words
    page = httpx.get(f"http://127.0.0.1:{words[words.index('--port') + 1]}/metrics")
    return read(page.raise_for_status().text)


def shown(what: str, instead: dict[str, object]) -> str:
    """The block of docs/operations.md with a command in it, with other words for some patterns."""
    (block,) = [block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if what in block]
    for pattern, word in instead.items():
        block, count = re.subn(pattern, str(word), block)
        assert count, pattern
    return block


def run(script: str, folder: Path, **environment: str) -> int:
    """Have a shell run what the page shows; the process group of what it leaves running."""
    path = f"{Path(sys.executable).parent}:{environment.pop('PATH', os.environ['PATH'])}"
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path} | environment,
        start_new_session=True,
    )
    try:
        assert shell.wait(DEADLINE_S) == 0, script
    except BaseException:
        os.killpg(shell.pid, signal.SIGKILL)
        raise
    return shell.pid


def answers(url: str) -> bool:
    try:
        httpx.get(url)
    except httpx.TransportError:
        return False
    return True


@pytest.mark.heavy
def test_object_store_of_the_page_is_open_to_its_keys_alone(tmp_path):
    http, grpc = ([free_port() for _ in ROLES] for _ in range(2))
    flags = [
        f"-{role}.port={one} -{role}.port.grpc={other}"
        for role, one, other in zip(ROLES, http, grpc, strict=True)
    ]
    own = "-s3.port.iceberg=0 -s3.port.lance=0 -s3.localSocket=s3.sock -filer.localSocket=f.sock"
    script = shown(
        "weed server",
        {
            "createdb palettery": "",
            "/tmp/palettery-store": tmp_path / "store",  # noqa: S108 - the page's
            "weed server": f"weed server {own} {' '.join(flags)}",
            "127.0.0.1:9333": f"127.0.0.1:{http[0]}.{grpc[0]}",
            "8333": http[-1],
        },
    )
    left = run(script, tmp_path, HOME=str(tmp_path), TMPDIR=str(tmp_path), GOMEMLIMIT="512MiB")
    try:
        endpoint = f"http://127.0.0.1:{http[-1]}"
        wait_until(lambda: answers(endpoint), "S3 answers")
        assert httpx.get(f"{endpoint}/palettery").status_code == 403
        keys = dict(re.findall(r"AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY)=(\S+)", script))
        store = S3Store(
            "palettery",
            endpoint=endpoint,
            **{f"aws_{name.lower()}": key for name, key in keys.items()},
            client_options={"allow_http": True},
        )
        obstore.put(store, "a", b"bytes")
        assert obstore.get(store, "a").bytes() == b"bytes"
    finally:
        os.killpg(left, signal.SIGKILL)
        wait_until(lambda: not group(left), "the store is gone")


@pytest.mark.heavy
@pytest.mark.skipif(not shutil.which("sqlite3"), reason="sqlite3 is not installed")
@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed")
def test_backup_is_restored(serve, tmp_path, model):
    backup = {"/backup": tmp_path / "backup"}
    with serve(tmp_path / "data") as server:
        job = server.succeeded(server.submit(model))
        artifact = server.artifact(job["id"])
        run(shown("rsync", {"/var/lib/palettery": tmp_path / "data", **backup}), tmp_path)
        server.http.delete(f"/v1/jobs/{job['id']}").raise_for_status()
    restored = {"/var/lib/restored": tmp_path / "restored", "palettery serve .*": ""}
    run(shown("cp -a", backup | restored), tmp_path)
    with serve(tmp_path / "restored") as server:
        assert server.artifact(job["id"]) == artifact
        server.succeeded(server.submit(model, preset="w6"))


@pytest.mark.heavy
def test_dump_is_restored(serve, tmp_path, model, postgres):
    with own_database(postgres) as url:
        name, data = url.rpartition("/")[2], tmp_path / "data"
        with serve(data, PALETTERY_DATABASE_URL=url) as server:
            job = server.succeeded(server.submit(model))
            artifact = server.artifact(job["id"])
        again = f"{name}_restored"
        words = {"pg_dump palettery": f"pg_dump {name}", "restored": again}
        script = shown("pg_dump", words | {"//127.0.0.1": f"//palettery@127.0.0.1:{postgres.port}"})
        reached = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PGUSER": "palettery"}
        run(script, tmp_path, PATH=f"{postgres.programs}:{os.environ['PATH']}", **reached)
    with serve(data, PALETTERY_DATABASE_URL=url.replace(name, again)) as server:
        assert server.artifact(job["id"]) == artifact
        server.succeeded(server.submit(model, preset="w6"))
