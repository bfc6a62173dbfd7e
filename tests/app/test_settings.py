"""Invalid settings are reported in one line that names them, by every command."""

import re
from pathlib import Path

import pytest

from palettery.app.errors import BadInput
from palettery.app.settings import Settings, read_settings, unknown_settings

DOCS = Path(__file__).parents[2] / "docs"

BAD = {
    "PALETTERY_PORT": "no port",
    "PALETTERY_TASK_BYTES": "-1",
    "PALETTERY_RETAIN_DAYS": "0",
    "PALETTERY_REUSE_RESULTS": "perhaps",
    "PALETTERY_LIMIT_UPLOAD_BYTES": "many",
    "PALETTERY_SANDBOX_MEMORY_BYTES": "0",
    "PALETTERY_SANDBOX_REQUIRED": "maybe",
}


@pytest.mark.parametrize("command", ["serve", "migrate", "plan"])
@pytest.mark.parametrize("name", BAD)
def test_bad_setting_is_one_line(palettery, monkeypatch, model, name, command):
    monkeypatch.setenv(name, BAD[name])
    words = [model, "--preset", "w4"] if command == "plan" else []
    code, out, stderr = palettery(command, *words)
    assert (code, out) == (2, "")
    assert stderr.startswith(f"palettery: the settings are not valid: {name}: ")
    assert stderr.count("\n") == 1


def test_all_that_are_bad_are_named(monkeypatch):
    monkeypatch.setenv("PALETTERY_PORT", "0")
    monkeypatch.setenv("PALETTERY_WORKERS", "none")
    with pytest.raises(BadInput, match=r"PALETTERY_PORT: .*; PALETTERY_WORKERS: "):
        read_settings()


def test_what_is_said_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("PALETTERY_PORT", "1")
    monkeypatch.setenv("PALETTERY_WORKERS", "2")
    assert (read_settings(port=3).port, read_settings(port=3).workers) == (3, 2)


@pytest.mark.parametrize("name", ["a", "palettery-0", "host.name_1", "x" * 64])
def test_executor_ids(name):
    assert Settings(executor_id=name).executor_id == name


@pytest.mark.parametrize("name", ["", "a b", "a\n", "x" * 65, "a/b"])
def test_executor_ids_that_are_none(name):
    with pytest.raises(BadInput, match="PALETTERY_EXECUTOR_ID"):
        read_settings(executor_id=name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("PALETTERY_TASK_THREAD", "; did you mean PALETTERY_TASK_THREADS?"),
        ("PALETTERY_LIMITS_TENSORS", "; did you mean PALETTERY_LIMIT_TENSORS?"),
        ("PALETTERY_X", ""),
    ],
)
def test_what_is_no_setting_is_reported(name, hint):
    names = [name, "PATH", "PALETTERY_SERVER", "PALETTERY_KEY"]
    (line,) = unknown_settings(dict.fromkeys(names, "1"))
    assert line == f"the environment variable {name} is not a setting{hint}"


@pytest.mark.parametrize("page", ["operations", "security"])
def test_every_setting_is_one(page):
    names = re.findall(r"\bPALETTERY_[A-Z_]*[A-Z]\b", (DOCS / f"{page}.md").read_text())
    assert len(names) > 5
    assert list(unknown_settings(dict.fromkeys({*names} - {"PALETTERY_LIMIT"}, "1"))) == []


@pytest.mark.parametrize("required", [True, False])
def test_whether_a_sandbox_is_required_is_answered_where_it_is_left_open(monkeypatch, required):
    assert Settings().limits.sandbox.required is None
    assert Settings().with_sandbox(required=required).limits.sandbox.required is required
    monkeypatch.setenv("PALETTERY_SANDBOX_REQUIRED", str(not required))
    assert Settings().with_sandbox(required=required).limits.sandbox.required is not required


def service(name, host="10.0.0.7", port=8400, protocol="tcp"):
    """What Kubernetes sets in every pod for a Service."""
    name = name.upper().replace("-", "_")
    named = f"{name}_PORT_{port}_{protocol.upper()}"
    return {
        f"{name}_SERVICE_HOST": host,
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_SERVICE_PORT_HTTP": str(port),
        f"{name}_PORT": f"{protocol}://{host}:{port}",
        named: f"{protocol}://{host}:{port}",
        f"{named}_PROTO": protocol,
        f"{named}_PORT": str(port),
        f"{named}_ADDR": host,
    }


SERVICES = [
    service("palettery"),
    service("palettery", host="fd00::7", port=80),
    service("palettery", host="[fd00::7]"),
    service("palettery", protocol="udp") | service("palettery-scheduler", port=8786),
    service("palettery-api") | service("palettery-clients") | service("palettery-limit"),
]


@pytest.mark.parametrize("variables", SERVICES)
def test_services_of_kubernetes_are_no_settings(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings().port == 8400
    assert read_settings(port=9000).port == 9000
    assert list(unknown_settings(variables)) == []


@pytest.mark.parametrize("command", ["plan", "migrate"])
def test_commands_work_beside_a_service(palettery, monkeypatch, model, tmp_path, command):
    for name, value in service("palettery").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PALETTERY_DATA_DIR", str(tmp_path / "data"))
    words = [model, "--preset", "w4"] if command == "plan" else []
    code, _, stderr = palettery(command, *words)
    assert (code, stderr) == (0, "")


def test_the_port_of_a_pod_goes_before_that_of_a_service(monkeypatch):
    for name, value in (service("palettery") | {"PALETTERY_PORT": "9000"}).items():
        monkeypatch.setenv(name, value)
    assert Settings().port == 9000


@pytest.mark.parametrize(
    "value", ["tcp://10.0.0.7", "http://10.0.0.7:8400", "tcp:8400", "", "84OO"]
)
def test_a_port_that_is_none_is_still_told(monkeypatch, value):
    monkeypatch.setenv("PALETTERY_PORT", value)
    with pytest.raises(BadInput, match="PALETTERY_PORT: "):
        read_settings()


def test_a_mistake_that_looks_like_a_service_is_told():
    messages = list(unknown_settings({"PALETTERY_SERVICE_PORT": "1", "PALETTERY_PORTS": "1"}))
    assert [line.split()[3] for line in messages] == ["PALETTERY_PORTS", "PALETTERY_SERVICE_PORT"]
