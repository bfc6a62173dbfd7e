"""Everything that the OpenAPI document allows, and much that it does not: nothing is undocumented.

A fixed budget of requests made up by Schemathesis, with ids that exist and ids that do not.
"""

import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.examples import examples
from tests.integration.embedded import Embedded, serving

BUDGET_S = examples(10)
KEY = "plt_" + "k" * 40
SCHEMATHESIS = Path(sys.executable).with_name("st")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[Embedded]:
    """A server with keys from the start: requests made up make keys, too."""
    with serving(tmp_path_factory.mktemp("fuzz") / "data", PALETTERY_ADMIN_KEY=KEY) as service:
        service.http.headers["Authorization"] = f"Bearer {KEY}"
        yield service


@pytest.fixture
def ids(guarded, model) -> dict[str, str]:
    """Of one of everything, where requests shall find something."""
    job_id = guarded.submit(model)
    guarded.succeeded(job_id)
    file = {"name": "model", "size_bytes": len(model), "sha256": sha256(model).hexdigest()}
    upload = guarded.http.post("/v1/uploads", json={"files": [file]}).raise_for_status().json()
    made = guarded.http.post(f"/v1/uploads/{upload['id']}/complete").raise_for_status().json()
    return {
        "path.job_id": job_id,
        "path.upload_id": upload["id"],
        "path.model_id": made["id"],
    }


@pytest.mark.heavy
@pytest.mark.parametrize("known", [False, True], ids=["made up", "there"])
def test_no_request_fails_the_server_or_meets_what_is_not_documented(guarded, ids, tmp_path, known):
    config = tmp_path / "schemathesis.toml"
    lines = [f'"{name}" = "{value}"' for name, value in ids.items()] if known else []
    config.write_text("\n".join(["[parameters]", *lines]) + "\n")
    run = subprocess.run(
        [
            *(SCHEMATHESIS, "--config-file", config, "--no-color", "run"),
            f"{guarded.http.base_url}/openapi.json",
            *("--checks", ",".join(CHECKS), "--max-time", str(BUDGET_S), "--seed", "1"),
            *("--exclude-path", "/v1/events"),  # which goes on and on, as it should
            *("--continue-on-failure", "--suppress-health-check", "all", "--warnings", "off"),
            *("--generation-database", "none", "--header", f"Authorization: Bearer {KEY}"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=10 * BUDGET_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
    assert " passed" in run.stdout
    assert guarded.http.get("/readyz").is_success
