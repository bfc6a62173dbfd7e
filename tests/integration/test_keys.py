"""Keys and owners on a real server."""

import base64
import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from palettery.app.client import Client
from palettery.app.errors import Unauthenticated
from tests.integration.service import DEADLINE_S, PALETTERY

pytestmark = pytest.mark.heavy

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
BURST = 12


def assert_problem(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()["detail"]


def submit(http, model, **fields):
    data = {"preset": "w4"} | fields
    return http.post("/v1/jobs", files={"model": ("m.safetensors", model)}, data=data)


@pytest.mark.scaled
def test_revoked_key_is_refused_at_the_next_request(holder, admin):
    seen = holder("a")
    assert seen.http.get("/v1/jobs").is_success
    assert admin.delete(f"/v1/keys/{seen.key['id']}").status_code == 204
    detail = assert_problem(seen.http.get("/v1/jobs"), 401, "unauthenticated")
    assert detail == f"the key {seen.key['prefix']} was revoked; ask an admin for another"
    listed = {key["id"]: key for key in admin.get("/v1/keys").json()["items"]}
    assert listed[seen.key["id"]]["revoked_at"]
    detail = assert_problem(admin.delete(f"/v1/keys/{UNKNOWN}"), 404, "not_found")
    assert UNKNOWN in detail


@pytest.mark.parametrize(
    "sent",
    [None, b"Bearer plt_", b"Bearer plt_" + b"x" * 43, b"Bearer \xfc", b"Bearer", b"Basic YTpi"],
)
def test_no_key_and_what_is_none(keyed, sent):
    answer = keyed.http.get("/v1/jobs", headers={"Authorization": sent} if sent else {})
    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_command_without_a_key_tells_its_own_way_to_give_one(keyed):
    environment = {name: value for name, value in os.environ.items() if name != "PALETTERY_KEY"}
    url = str(keyed.http.base_url)
    process = subprocess.run(
        [PALETTERY, "jobs", "--server", url],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    output = f"palettery: {url} requires a key; set --key or PALETTERY_KEY\n"
    assert (process.returncode, process.stdout, process.stderr) == (1, "", output)


def test_upload_without_a_key_leaves_nothing(keyed, model):
    before = keyed.store.list("uploads")
    assert_problem(submit(keyed.http, model), 401, "unauthenticated")
    assert keyed.store.list("uploads") == before


def test_open_endpoints_ask_for_no_key(keyed):
    for path in ("/livez", "/readyz", "/docs", "/openapi.json", "/v1/presets", "/v1/schemas"):
        assert keyed.http.get(path).status_code == 200, path


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [(["read"], "read"), (["write"], "write"), (["admin"], "admin"), (["read", "write"], None)],
)
def test_scopes_do_what_they_say_and_nothing_else(holder, scopes, allowed):
    http = holder("a", scopes=scopes).http
    request = {
        "read": http.get("/v1/me"),
        "write": http.post(f"/v1/jobs/{UNKNOWN}/cancel"),
        "admin": http.get("/v1/keys"),
    }
    for scope, answer in request.items():
        if scope in scopes:
            assert answer.status_code in {200, 404}
        else:
            detail = assert_problem(answer, 403, "forbidden")
            assert f"the scope {scope};" in detail
            assert "insufficient_scope" in answer.headers["www-authenticate"]
    assert allowed is None or allowed in scopes


def test_who_am_i(holder, admin):
    seen = holder("me", queued_jobs=3, scopes=["write", "read"])
    assert seen.http.get("/v1/me").json() == {
        "owner": "me",
        "scopes": ["read", "write"],
        "limits": {"queued_jobs": 3, "stored_bytes": None, "upload_bytes": 100 << 30},
        "used": {"queued_jobs": 0, "stored_bytes": 0},
    }
    assert admin.get("/v1/me").json()["owner"] == "admin"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"owner": "a"}',
        b'{"owner": "a", "name": "\\ud800"}',
        b'{"owner": "a", "name": "x", "\\ud800": 1}',
        b'{"owner": "a", "name": "x\\u0000"}',
        b'{"owner": "../a", "name": "x"}',
        b'{"owner": "a", "name": "x", "expires_at": "2001-01-01T00:00:00Z"}',
        b'{"owner": "a", "name": "x", "queued_jobs": 1e400}',
        b'{"owner": "a", "name": "x", "queued_jobs": "1"}',
        b"\xff",
    ],
)
def test_keys_that_cannot_be(admin, body):
    answer = admin.post("/v1/keys", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "bad_input")


def test_body_that_is_no_json_or_too_large(keyed, admin):
    response = admin.post("/v1/keys", content=b"owner: a", headers={"Content-Type": "text/yaml"})
    assert_problem(response, 415, "unsupported_media_type")
    large = {"owner": "a", "name": "x" * (1 << 20)}
    assert_problem(admin.post("/v1/keys", json=large), 413, "too_large")
    assert_problem(keyed.http.post("/v1/keys", json=large), 401, "unauthenticated")


@pytest.mark.scaled
def test_limits_hold_under_a_burst(holder, large_model):
    seen = holder("busy", queued_jobs=3)
    with ThreadPoolExecutor(BURST) as pool:
        answers = list(pool.map(lambda _: submit(seen.http, large_model), range(BURST)))
    jobs = [each.json()["id"] for each in answers if each.status_code == 202]
    for job_id in jobs:
        seen.http.post(f"/v1/jobs/{job_id}/cancel")
    refused = [each for each in answers if each.status_code != 202]
    assert (len(jobs), len(refused)) == (3, BURST - 3)
    for each in refused:
        assert "3 are allowed" in assert_problem(each, 429, "over_quota")
        assert int(each.headers["retry-after"]) > 0
    assert seen.http.get("/v1/me").json()["used"]["queued_jobs"] == 0
    assert submit(seen.http, large_model).status_code == 202


def test_bytes_over_a_limit_leave_nothing(holder, model):
    before = holder("small").seen.leftovers()
    tight = holder("small", stored_bytes=len(model) - 1)
    assert_problem(submit(tight.http, model), 429, "over_quota")
    short = holder("small", upload_bytes=100)
    assert_problem(submit(short.http, model), 413, "too_large")
    exact = holder("small", stored_bytes=len(model))
    assert_problem(submit(exact.http, model), 429, "over_quota")  # no room for an artifact
    assert exact.seen.leftovers() == before


def test_a_job_counts_with_all_that_it_stores(holder, model):
    roomy = holder("roomy")
    job = roomy.seen.succeeded(submit(roomy.http, model).json()["id"])
    used = roomy.http.get("/v1/me").json()["used"]
    report = len(roomy.http.get(job["links"]["report"]).content)
    assert used["stored_bytes"] > len(model) + job["size_after_bytes"] + report
    tight = holder("tight", stored_bytes=used["stored_bytes"])
    before = tight.seen.leftovers()
    first = submit(tight.http, model)
    assert first.status_code == 202, first.text
    assert_problem(submit(tight.http, model), 429, "over_quota")  # whether or not it has ended
    tight.seen.succeeded(first.json()["id"])
    assert_problem(submit(tight.http, model), 429, "over_quota")
    assert tight.seen.leftovers() == before


def test_configs_count(holder):
    config = {"global_config": None}
    talker = holder("talker")
    assert talker.http.put("/v1/configs/a", json=config).status_code == 201
    assert talker.http.get("/v1/me").json()["used"]["stored_bytes"] > 0
    spare = holder("terse", stored_bytes=1)
    assert_problem(spare.http.put("/v1/configs/a", json=config), 429, "over_quota")
    assert spare.http.get("/v1/configs").json()["items"] == []


def test_files_that_are_gone_count_once_they_are_sent(holder, model):
    sha256 = hashlib.sha256(model).digest()
    new = {"files": [{"name": "m", "size_bytes": len(model), "sha256": sha256.hex()}]}
    digest = {"Content-Digest": f"sha-256=:{base64.b64encode(sha256).decode()}:"}
    seen = holder("sly", stored_bytes=2 * len(model))
    before = seen.seen.leftovers()

    def announced():
        answer = seen.http.post("/v1/uploads", json=new)
        assert answer.status_code == 201, answer.text
        return f"/v1/uploads/{answer.json()['id']}"

    def sent(upload):
        return seen.http.put(f"{upload}/parts/1", content=model, headers=digest)

    first = announced()
    assert sent(first).status_code == 204
    made = seen.http.post(f"{first}/complete")
    assert made.status_code == 201, made.text
    uploads = [announced() for _ in range(5)]
    assert seen.http.delete(made.headers["location"]).status_code == 204
    answers = [sent(upload) for upload in uploads]
    assert [each.status_code for each in answers] == [204, 204, 429, 429, 429]
    assert_problem(answers[-1], 429, "over_quota")
    assert seen.http.get("/v1/me").json()["used"]["stored_bytes"] == 2 * len(model)
    assert_problem(seen.http.post("/v1/uploads", json=new), 429, "over_quota")
    for upload in uploads:
        assert seen.http.delete(upload).status_code == 204
    assert seen.seen.leftovers() == before


def test_running_server_gets_its_first_key_and_loses_it(own, model):
    assert b"there are no keys" in own.program.log.read_bytes()
    job_id = own.submit(model)
    made = palettery("keys", "create", "--owner", "local", "--name", "me", data_dir=own.data_dir)
    secret = made.stdout.strip()
    # What another process does to keys counts within a second.
    own.wait_until(lambda: own.http.get("/v1/jobs").is_error, "a key is asked for")
    assert_problem(own.http.get("/v1/jobs"), 401, "unauthenticated")
    url = str(own.http.base_url)
    with Client(url, key=secret) as client:
        assert client.job(job_id).owner == "local"
    (key_id,) = made.stderr.split(":")[:1]
    palettery("keys", "revoke", key_id, data_dir=own.data_dir)
    here = f"/v1/jobs/{job_id}"
    own.wait_until(lambda: own.http.get(here).is_success, "none is asked for again")
    bearer = {"Authorization": f"Bearer {secret}"}
    own.wait_until(lambda: own.http.get(here, headers=bearer).is_error, "it is refused")
    with Client(url, key=secret) as client, pytest.raises(Unauthenticated, match="revoked"):
        client.job(job_id)


def palettery(*words, data_dir):
    return subprocess.run(
        [PALETTERY, *words, "--data-dir", str(data_dir)],
        check=True,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Host", "attacker.example", 403),
        ("Host", "127.0.0.1.attacker.example:8400", 403),
        ("Host", "10.0.0.1", 403),
        ("Host", "[", 403),
        ("Host", "localhost:1", 200),
        ("Host", "[::1]:1", 200),
        ("Origin", "https://attacker.example", 403),
        ("Origin", "null", 403),
        ("Origin", "http://[", 403),
        ("Origin", "http://localhost:3000", 200),
    ],
)
def test_websites_do_not_use_a_server_without_keys(embedded, header, value, status):
    answer = embedded.http.get("/v1/jobs", headers={header: value})
    assert answer.status_code == status, answer.text
    if status == 403:
        assert_problem(answer, 403, "forbidden")


def test_holder_of_a_key_may_come_from_anywhere(holder):
    headers = {"Host": "palettery.example", "Origin": "https://dashboard.example"}
    assert holder("a").http.get("/v1/jobs", headers=headers).is_success


def test_server_listens_elsewhere_only_with_keys(keyed, admin):
    log = (keyed.programs.get("serve") or keyed.programs["api"]).log.read_bytes()
    assert b"there are no keys" not in log
    assert b" is ready at http://0.0.0.0:" in log
    assert_problem(keyed.http.get("/v1/jobs"), 401, "unauthenticated")
    assert admin.get("/v1/jobs").is_success
