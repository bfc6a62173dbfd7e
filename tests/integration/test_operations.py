"""The service as who runs it sees it: its log, its numbers, how it is, clients that hold on."""

import json
import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

KEY = "plt_" + "k" * 43


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


def value(found, name: str, **labels: str) -> float:
    return found.get((f"palettery_{name}", frozenset(labels.items())), 0.0)


def test_requests_are_counted_by_endpoint(server):
    route = {"method": "GET", "route": "/v1/jobs/{job_id}", "status": "404"}
    before = value(numbers(server), "http_request_seconds_count", **route)
    for name in ("a", "b", "c"):
        assert server.http.get(f"/v1/jobs/{name}").status_code == 404
    after = value(numbers(server), "http_request_seconds_count", **route)
    assert after == before + 3


def log_lines(program) -> list[dict[str, object]]:
    return [json.loads(line) for line in program.log.read_text().splitlines()[1:]]


@pytest.mark.heavy
def test_log_is_json_and_tells_who_asked(serve, tmp_path):
    with serve(tmp_path / "data", PALETTERY_ADMIN_KEY=KEY) as server:
        admin = {"Authorization": f"Bearer {KEY}"}
        made = server.http.post(
            "/v1/keys", json={"owner": "ann", "name": "x", "scopes": ["read"]}, headers=admin
        ).json()
        headers = {"Authorization": f"Bearer {made['secret']}", "X-Request-ID": "mine"}
        answered = server.http.get("/v1/jobs?cursor=&limit=7", headers=headers)
        assert answered.headers["X-Request-ID"] == "mine"
        server.wait_until(lambda: "mine" in server.program.log.read_text(), "the line is written")
        line = next(line for line in log_lines(server.program) if line.get("request_id") == "mine")
        assert (line["owner"], line["key"]) == ("ann", made["key"]["prefix"])
        assert (line["route"], line["status"]) == ("/v1/jobs", answered.status_code)
        told = server.program.log.read_text()
        assert made["secret"] not in told
        assert KEY not in told


@pytest.mark.heavy
def test_text_log_and_its_level(serve, tmp_path):
    with serve(tmp_path / "data", PALETTERY_LOG_FORMAT="text") as server:
        server.http.get("/v1/jobs", headers={"X-Request-ID": "mine"})
        server.wait_until(lambda: "mine" in server.program.log.read_text(), "the line is written")
        assert "INFO app.middleware: GET /v1/jobs 200 [request_id=mine]" in (
            server.program.log.read_text()
        )


@pytest.mark.heavy
def test_slow_body_leaves_nothing_behind(serve, tmp_path):
    """A form whose file stops coming in: 408, and the half of it that came is gone."""
    patience = {"PALETTERY_CLIENTS_STALL_TIMEOUT_S": "1", "PALETTERY_CLIENTS_STALL_BYTES": "10000"}
    with serve(tmp_path / "data", **patience) as server:
        port = server.http.base_url.port
        form = b'--x\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n'
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(
                b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + form + b"y" * (4 << 20)
            )
            said = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in said
        server.wait_until(lambda: not server.leftovers(), "nothing is left")
        route = {"method": "POST", "route": "/v1/jobs", "status": "408"}
        server.wait_until(  # it is noted when the endpoint has ended, which its client does not see
            lambda: value(numbers(server), "http_request_seconds_count", **route) == 1,
            "the request is noted",
        )
        assert value(numbers(server), "http_closed_connections_total", reason="body") == 1


@pytest.mark.heavy
def test_thousands_of_idle_connections_stop_nobody(serve, tmp_path, model):
    with serve(tmp_path / "data", PALETTERY_CLIENTS_CONNECTIONS="500") as server:
        port, idle = server.http.base_url.port, []
        try:
            for number in range(3_000):
                idle.append(socket.create_connection(("127.0.0.1", port)))
                if number % 3 == 0:
                    idle[-1].sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nA: ")
            assert server.succeeded(server.submit(model))
        finally:
            for connection in idle:
                connection.close()


def test_numbers_move_with_a_job(service_of, model):
    """A job, the same again, and one that is cancelled; each role tells its share."""
    with service_of() as service:
        service.succeeded(service.submit(model))
        service.succeeded(service.submit(model))
        service.succeeded(service.submit(model, preset="w6", reuse="false"))
        ended = numbers_of_controller(service)
        assert value(ended, "job_seconds_count", outcome="succeeded") == 3
        assert value(ended, "job_seconds_sum", outcome="succeeded") > 0
        assert value(ended, "weights_total") == 2 * 2 * 64 * 96
        assert value(ended, "palettized_bytes_total") == 2 * (64 * 96 * 4 + 64 * 96 * 2)
        assert value(ended, "tensors_total", source="computed") == 4
        assert value(ended, "tensors_total", source="reused") == 2
        assert value(numbers(service), "jobs", state="succeeded") == 3
        assert value(ended, "workers", state="idle") + value(ended, "workers", state="busy") == 2

        def tasks() -> float:
            return value(numbers_of_controller(service), "task_seconds_count", kind="FinishTask")

        service.wait_until(lambda: tasks() == 2, "the workers tell of their tasks")


def numbers_of_controller(service) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    if "controller" not in service.programs:
        return numbers(service)
    words = service.programs["controller"].words
    page = httpx.get(f"http://127.0.0.1:{words[words.index('--port') + 1]}/metrics")
    return read(page.raise_for_status().text)
