"""The service as who runs it sees it: its log, its numbers, how it is, clients that hold on."""

import json
import socket

import pytest
from prometheus_client.parser import text_string_to_metric_families

KEY = "plt_" + "k" * 43


def numbers(server) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What the page says, read by Prometheus' own parser."""
    page = server.http.get("/metrics").raise_for_status()
    assert page.headers["Content-Type"].startswith("text/plain")
    families = text_string_to_metric_families(page.text)
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


def test_text_log_and_its_level(serve, tmp_path):
    with serve(tmp_path / "data", PALETTERY_LOG_FORMAT="text") as server:
        server.http.get("/v1/jobs", headers={"X-Request-ID": "mine"})
        server.wait_until(lambda: "mine" in server.program.log.read_text(), "the line is written")
        assert "INFO app.middleware: GET /v1/jobs 200 [request_id=mine]" in (
            server.program.log.read_text()
        )


def test_slow_body_leaves_nothing_behind(serve, tmp_path):
    """A form whose file stops coming in: 408, and the half of it that came is gone."""
    patience = {"PALETTERY_CLIENTS_STALL_TIMEOUT_S": "1", "PALETTERY_CLIENTS_STALL_BYTES": "10000"}
    with serve(tmp_path / "data", **patience) as server:
        port = server.http.base_url.port
        form = b'--x\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n'
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(
                b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + form + b"y" * (4 << 20)
            )
            said = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in said
        server.wait_until(lambda: not server.leftovers(), "nothing is left")
        route = {"method": "POST", "route": "/v1/jobs", "status": "408"}
        assert value(numbers(server), "http_request_seconds_count", **route) == 1
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
