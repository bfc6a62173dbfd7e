"""Rows and workflows that a crash left apart come together at the next start."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save
from sqlalchemy import create_engine, text

from tests.integration.cluster import own_database
from tests.integration.handed_over import add_row, hand_over

WITHOUT_WORKFLOW = "01890a5d-ac96-774b-bcce-b302099a8057"
WITHOUT_FILES = "01890a5d-ac96-774b-bcce-b302099a8058"


def finished(server, model):
    answer = server.http.post(
        "/v1/jobs", files={"model": ("tiny.safetensors", model)}, data={"preset": "w4"}
    )
    job = server.ended(answer.json()["id"])
    assert job["state"] == "succeeded", job
    return job["id"]


def set_running(data_dir: Path, job_id: str) -> None:
    engine = create_engine(f"sqlite:///{data_dir / 'palettery.db'}")
    with engine.begin() as connection:
        change = text("UPDATE jobs SET state = 'running', ended_at = NULL WHERE id = :id")
        assert connection.execute(change, {"id": job_id}).rowcount == 1
    engine.dispose()


@pytest.mark.heavy
def test_rows_and_workflows_come_together(embedded, serve, model, tmp_path):
    done = finished(embedded, model)
    expected = load(embedded.http.get(f"/v1/jobs/{done}/artifact").content)
    data_dir = tmp_path / "data"
    hand_over(embedded.store, done, data_dir, WITHOUT_WORKFLOW)
    add_row(data_dir, WITHOUT_FILES, [])

    with serve(data_dir) as first:
        lost = first.ended(WITHOUT_FILES)
        assert (lost["state"], lost["error"]["code"]) == ("failed", "object_missing")
        assert first.ended(WITHOUT_WORKFLOW)["state"] == "succeeded"
        artifact = load(first.http.get(f"/v1/jobs/{WITHOUT_WORKFLOW}/artifact").content)
        assert artifact.keys() == expected.keys()
        assert all((artifact[name] == expected[name]).all() for name in expected)

    set_running(data_dir, WITHOUT_WORKFLOW)
    with serve(data_dir) as second:
        ended = second.ended(WITHOUT_WORKFLOW)
        assert ended["state"] == "failed"
        assert "ended without a result" in ended["error"]["detail"]


@pytest.mark.heavy
def test_database_that_goes_away_comes_back(serve, postgres, model, tmp_path):
    with (
        own_database(postgres) as url,
        serve(tmp_path / "data", PALETTERY_DATABASE_URL=url) as server,
    ):
        first = finished(server, model)
        assert not list(server.data_dir.glob("*.db")), "nothing is kept beside the database"
        postgres.stop()
        try:
            away = server.http.get("/readyz")
            assert away.status_code == 503
            assert away.headers["content-type"] == "application/problem+json"
            assert [field["pointer"] for field in away.json()["errors"]] == ["/database"]
            assert server.http.get("/livez").is_success
        finally:
            postgres.start()
        server.wait_until(lambda: server.http.get("/readyz").is_success, "it is ready again")
        second = finished(server, model)
        newest = server.http.get("/v1/jobs").json()["items"]
        assert [job["id"] for job in newest[:2]] == [second, first]


@pytest.fixture(scope="module")
def slow_to_assemble():
    """A model that is almost all untouched bytes: nothing to cluster, much to copy and check."""
    rng = np.random.default_rng(9)
    weight = rng.normal(size=(64, 64)).astype(np.float32)
    return save({"a.weight": weight, "table": np.zeros(96 << 20, np.uint8)})


@pytest.mark.scaled
@pytest.mark.heavy
def test_job_cancelled_while_its_artifact_is_written_keeps_none(server, model, slow_to_assemble):
    answer = server.http.post(
        "/v1/jobs", files={"model": ("m.safetensors", slow_to_assemble)}, data={"preset": "w4"}
    )
    job_id = answer.json()["id"]

    def written():
        folder = f"jobs/{job_id}"
        return server.unfinished() + server.store.list(f"{folder}/artifact")

    server.wait_until(written, "the artifact is being written")
    assert server.http.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    server.wait_until(lambda: not written(), "the artifact is gone")
    for _ in range(2):  # as many as there are workers: whoever wrote the artifact is through
        finished(server, model)
    assert written() == []
    assert not server.store.exists(f"jobs/{job_id}/report.json")
    assert server.http.get(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"
