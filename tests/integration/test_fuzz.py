"""Everything that the OpenAPI document allows, and much that it does not: nothing is undocumented.

A fixed budget of requests made up by Schemathesis, with ids that exist and ids that do not.
"""

import subprocess
import sys
from pathlib import Path

import pytest

BUDGET_S = 90
SCHEMATHESIS = Path(sys.executable).with_name("st")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


@pytest.fixture
def ids(embedded, model) -> dict[str, str]:
    """Of one of everything, where requests shall find something."""
    job_id = embedded.submit(model)
    embedded.succeeded(job_id)
    return {"path.job_id": job_id}


@pytest.mark.heavy
@pytest.mark.parametrize("known", [False, True], ids=["made up", "there"])
def test_no_request_fails_the_server_or_meets_what_is_not_documented(
    embedded, ids, tmp_path, known
):
    config = tmp_path / "schemathesis.toml"
    lines = [f'"{name}" = "{value}"' for name, value in ids.items()] if known else []
    config.write_text("\n".join(["[parameters]", *lines]) + "\n")
    run = subprocess.run(
        [
            *(SCHEMATHESIS, "--config-file", config, "--no-color", "run"),
            f"{embedded.http.base_url}/openapi.json",
            *("--checks", ",".join(CHECKS), "--max-time", str(BUDGET_S), "--seed", "1"),
            *("--continue-on-failure", "--suppress-health-check", "all", "--warnings", "off"),
            *("--generation-database", "none"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=10 * BUDGET_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
    assert " passed" in run.stdout
    assert embedded.http.get("/readyz").is_success
