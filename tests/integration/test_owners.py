"""What belongs to one owner is, to any other, as if it did not exist."""

import base64
import hashlib

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


def seen_by_nobody_else(theirs, id_, unknown, requests):
    """Somebody else's requests are answered as those for what does not exist."""
    for method, path in requests:
        answer = theirs.http.request(method, path)
        other = theirs.http.request(method, path.replace(id_, unknown))
        assert answer.status_code == other.status_code == 404, (method, path)
        assert answer.text.replace(id_, unknown) == other.text


def test_own_jobs_and_nobody_elses(holder, model):
    ours, theirs = holder("ours"), holder("theirs")
    job_id = ours.seen.submit(model)
    assert ours.seen.succeeded(job_id)["owner"] == "ours"
    name = next(iter(ours.seen.report(job_id)["artifact_sha256"]))
    requests = [
        ("GET", ""),
        ("GET", "/report"),
        ("GET", "/report.csv"),
        ("GET", "/events"),
        ("GET", "/log"),
        ("GET", "/artifact"),
        ("HEAD", "/artifact"),
        ("GET", f"/artifact/{name}"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("DELETE", ""),
    ]
    here = f"/v1/jobs/{job_id}"
    seen_by_nobody_else(theirs, job_id, UNKNOWN, [(m, f"{here}{path}") for m, path in requests])
    assert theirs.http.get("/v1/jobs").json()["items"] == []
    assert [job["id"] for job in ours.http.get("/v1/jobs").json()["items"]] == [job_id]
    assert holder("ours").http.get(f"/v1/jobs/{job_id}").is_success, "another key of its owner"


def test_own_configs_and_nobody_elses(holder):
    ours, theirs = holder("ours"), holder("theirs")
    made = ours.http.put("/v1/configs/mine", json={"kmeans_palettization_config": {}})
    assert made.status_code == 201, made.text
    requests = [("GET", "mine"), ("GET", "mine@1"), ("DELETE", "mine")]
    at = [(method, f"/v1/configs/{path}") for method, path in requests]
    seen_by_nobody_else(theirs, "mine", "none", at)
    assert theirs.http.get("/v1/configs").json()["items"] == []
    assert ours.http.get("/v1/configs/mine@1").is_success


def test_result_of_another_owner_is_not_reused(holder, model):
    first, stranger = holder("first"), holder("stranger")
    first.seen.succeeded(first.seen.submit(model))
    for seen, reused in ((stranger.seen, 0), (first.seen, 2)):
        job = seen.succeeded(seen.submit(model))
        assert job["progress"]["tensors_reused"] == reused


def announced(model):
    return {
        "files": [
            {
                "name": "m.safetensors",
                "size_bytes": len(model),
                "sha256": hashlib.sha256(model).hexdigest(),
            }
        ]
    }


def put(holder, part, model):
    digest = base64.b64encode(hashlib.sha256(model).digest()).decode()
    headers = {"Content-Digest": f"sha-256=:{digest}:"}
    return holder.http.put(part["url"], content=model, headers=headers)


def test_own_uploads_and_models_and_nobody_elses(holder, model):
    """Whoever announces the same bytes has to send them: a digest alone proves nothing."""
    ours, theirs = holder("sender"), holder("guesser")
    upload = ours.http.post("/v1/uploads", json=announced(model)).json()
    here, (part,) = upload["links"]["self"], upload["parts"]
    requests = [("GET", here), ("DELETE", here), ("POST", f"{here}/complete")]
    seen_by_nobody_else(theirs, upload["id"], UNKNOWN, requests)
    assert put(theirs, part, model).status_code == 404
    assert theirs.http.get("/v1/uploads").json()["items"] == []
    assert put(ours, part, model).status_code == 204
    made = ours.http.post(upload["links"]["complete"]).json()
    path = f"/v1/models/{made['id']}"
    seen_by_nobody_else(theirs, made["id"], "0" * 64, [("GET", path), ("DELETE", path)])
    assert theirs.http.get("/v1/models").json()["items"] == []
    for what in ("jobs", "plans"):
        request = {"model_id": made["id"], "preset": "w4"}
        assert theirs.http.post(f"/v1/{what}", json=request).status_code == 404
    guessed = theirs.http.post("/v1/uploads", json=announced(model)).json()
    assert [file["is_present"] for file in guessed["files"]] == [False]
    assert ours.http.get(path).is_success
