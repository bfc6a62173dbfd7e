"""Jobs over HTTP, on a real server: the main path, the cursor, ranges, and every refusal."""

import hashlib
import io
import json
import pickle
import re
import struct

import httpx
import numpy as np
import pytest
from safetensors.numpy import load, save

from palettery.schemas.config import w4
from palettery.schemas.job_options import JobOptions
from palettery.schemas.problem import Problem
from palettery.schemas.report import Report


def submit(server, *files, **fields):
    parts = [("model", (name, body)) for name, body in files]
    return server.http.post("/v1/jobs", files=parts, data=fields)


def finished(server, *files, **fields):
    answer = submit(server, *files, **fields)
    assert answer.status_code == 202, answer.text
    job = server.ended(answer.json()["id"])
    assert job["state"] == "succeeded", job
    return job


@pytest.fixture(scope="module")
def job(server, model):
    return finished(server, ("tiny.safetensors", model), preset="w4")


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    outcome = Problem.model_validate_json(answer.content)
    assert (outcome.status, outcome.code) == (status, code)
    assert "Traceback" not in answer.text
    return outcome


def test_submit_answers_at_once_with_where_to_look(server, model):
    answer = submit(server, ("tiny.safetensors", model), preset="w4")
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{body['id']}" == body["links"]["self"]
    assert answer.headers["retry-after"].isdigit()
    assert body["state"] in ("queued", "running", "succeeded")
    server.ended(body["id"])


@pytest.mark.scaled
def test_job_palettizes_and_accounts_for_every_tensor(server, job, weights):
    report = Report.model_validate_json(server.http.get(job["links"]["report"]).content)
    assert {tensor.name: tensor.action for tensor in report.tensors} == {
        "encoder.0.weight": "palettized",
        "encoder.0.bias": "kept",
        "encoder.1.weight": "palettized",
    }
    artifact = load(server.http.get(job["links"]["artifact"]).content)
    np.testing.assert_array_equal(artifact["encoder.0.bias"], weights["encoder.0.bias"])
    assert artifact["encoder.0.weight.indices"].nbytes == 64 * 96 // 2
    assert artifact["encoder.0.weight.lut"].shape == (4, 1, 16, 1)
    assert job["progress"]["bytes_done"] == job["progress"]["bytes_total"] > 0
    assert job["progress"]["tensors_done"] == job["progress"]["tensors_total"] == 2
    assert job["size_after_bytes"] < job["size_before_bytes"]


def test_download_has_the_digest_of_report_and_etag(server, job):
    answer = server.http.get(job["links"]["artifact"])
    digest = hashlib.sha256(answer.content).hexdigest()
    report = server.http.get(job["links"]["report"]).json()
    assert list(report["artifact_sha256"].values()) == [digest]
    assert answer.headers["etag"] == f'"{digest}"'
    assert "tiny" in answer.headers["content-disposition"]
    assert len(answer.content) == job["size_after_bytes"]


@pytest.mark.scaled
def test_download_resumes_where_it_broke_off(server, job):
    url = job["links"]["artifact"]
    whole = server.http.get(url)
    etag = whole.headers["etag"]
    rest = server.http.get(url, headers={"Range": "bytes=100-", "If-Range": etag})
    assert (rest.status_code, rest.content) == (206, whole.content[100:])
    assert (
        rest.headers["content-range"] == f"bytes 100-{len(whole.content) - 1}/{len(whole.content)}"
    )
    other = server.http.get(url, headers={"Range": "bytes=100-", "If-Range": '"old"'})
    assert (other.status_code, other.content) == (200, whole.content)
    beyond = server.http.get(url, headers={"Range": f"bytes={len(whole.content)}-"})
    refused(beyond, 416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{len(whole.content)}"
    for request, got in {"bytes=-7": slice(-7, None), "bytes=3-5": slice(3, 6)}.items():
        assert server.http.get(url, headers={"Range": request}).content == whole.content[got]
    for request in ("bytes=5-3", "bytes=-", "lines=1-2", "bytes=0-1,4-5"):
        ignored = server.http.get(url, headers={"Range": request})
        assert (ignored.status_code, ignored.content) == (200, whole.content)


@pytest.mark.parametrize("shown", ["{}", "W/{}", '"other", {}', "*"])
def test_download_is_not_repeated(server, job, shown):
    etag = server.http.head(job["links"]["artifact"]).headers["etag"]
    answer = server.http.get(
        job["links"]["artifact"], headers={"If-None-Match": shown.format(etag)}
    )
    assert (answer.status_code, answer.content) == (304, b"")


def test_other_etag_is_another_file(server, job):
    headers = {"If-None-Match": '"0"'}
    assert server.http.get(job["links"]["artifact"], headers=headers).status_code == 200


def test_config_as_text_file_or_preset_gives_the_same_bytes(server, model, job):
    config = json.dumps(w4().to_dict())
    as_text = finished(server, ("tiny.safetensors", model), config=config)
    answer = server.http.post(
        "/v1/jobs",
        files=[("config", ("c.json", config)), ("model", ("tiny.safetensors", model))],
    )
    as_file = server.ended(answer.json()["id"])
    bodies = {
        server.http.get(done["links"]["artifact"]).content for done in (job, as_text, as_file)
    }
    assert len(bodies) == 1


def test_shards_make_one_job(server, weights):
    names = list(weights)
    first, second = save({names[0]: weights[names[0]]}), save({n: weights[n] for n in names[1:]})
    index = {
        "metadata": {},
        "weight_map": {names[0]: "m-1.safetensors"} | dict.fromkeys(names[1:], "m-2.safetensors"),
    }
    done = finished(
        server,
        ("m-1.safetensors", first),
        ("m-2.safetensors", second),
        ("m.safetensors.index.json", json.dumps(index).encode()),
        preset="w4",
    )
    report = server.http.get(done["links"]["report"]).json()
    assert sorted(tensor["name"] for tensor in report["tensors"]) == sorted(names)


def test_plan_tells_what_a_job_would_do_and_keeps_nothing(server, model):
    answer = server.http.post(
        "/v1/plans", files=[("model", ("tiny.safetensors", model + b""))], data={"preset": "w4"}
    )
    assert answer.status_code == 200, answer.text
    actions = {tensor["name"]: tensor["action"] for tensor in answer.json()["tensors"]}
    assert actions["encoder.0.weight"] == "palettize"
    assert server.leftovers() == []


def test_pages_are_newest_first_and_meet(server, model):
    made = [submit(server, ("tiny.safetensors", model), preset="w4").json()["id"] for _ in range(3)]
    seen, cursor = [], None
    while len(seen) < 3:
        query = {"limit": 1} | ({"cursor": cursor} if cursor else {})
        page = server.http.get("/v1/jobs", params=query).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == made[::-1]
    for job_id in made:
        server.ended(job_id)


def test_last_page_says_so(server, job):
    page = server.http.get("/v1/jobs", params={"limit": 1000}).json()
    assert job["id"] in [item["id"] for item in page["items"]]
    assert page.get("next_cursor") is None


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "x"}, {"limit": "1001"}, {"cursor": "%%%"}, {"cursor": "é"}]
)
def test_bad_page_is_refused(server, query):
    refused(server.http.get("/v1/jobs", params=query), 422, "bad_input")


def header(entries, payload=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + payload


def tensor(begin, end, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


BAD_MODELS = {
    "not safetensors": (b"\x00" * 7 + b"hello, this is no model", {422, 415}),
    "truncated": (save({"a.weight": np.zeros((64, 64), np.float32)})[:-5], {422}),
    "header over the limit": (struct.pack("<Q", 1 << 40) + b"{}" + b" " * 100, {413, 422}),
    "overlapping ranges": (header({"a": tensor(0, 8), "b": tensor(4, 12)}, b"\0" * 12), {422}),
    "empty file": (b"", {422}),
    "a pickle": (pickle.dumps({"a": 1}), {415}),
}


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans"])
@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_model_is_refused_and_gone(server, kind, path):
    body, statuses = BAD_MODELS[kind]
    answer = server.http.post(
        path, files=[("model", ("bad.safetensors", body))], data={"preset": "w4"}
    )
    assert answer.status_code in statuses, answer.text
    outcome = refused(answer, answer.status_code, answer.json()["code"])
    assert "bad.safetensors" in outcome.detail
    assert outcome.instance == path
    assert server.leftovers() == []


WEIGHT = {"n_bits": 4}
BAD_CONFIGS = {
    "a typo": ({"op_state_spec": {"weight": {"n_bitz": 4}}}, "n_bits"),
    "n_bits 5": ({"op_state_spec": {"weight": {"n_bits": 5}}}, "n_bits"),
    "cluster_dim 0": ({"op_state_spec": {"weight": {**WEIGHT, "cluster_dim": 0}}}, "cluster_dim"),
}


@pytest.mark.parametrize("kind", BAD_CONFIGS)
def test_bad_config_is_refused_field_by_field(server, model, kind):
    module, named = BAD_CONFIGS[kind]
    config = json.dumps({"kmeans_palettization_config": {"global_config": module}})
    outcome = refused(
        submit(server, ("m.safetensors", model), config=config), 422, "invalid_config"
    )
    assert any(named in field.pointer + field.detail for field in outcome.errors)
    assert server.leftovers() == []


def test_unknown_module_type_is_told_in_the_plan(server, model):
    spec = {"op_state_spec": {"weight": WEIGHT}}
    config = {"kmeans_palettization_config": {"module_type_configs": {"torch.nn.Linearr": spec}}}
    answer = server.http.post(
        "/v1/plans",
        files=[("model", ("m.safetensors", model))],
        data={"config": json.dumps(config)},
    )
    if answer.status_code == 200:
        (key,) = answer.json()["unmatched"]
        assert "Linearr" in key["path"]
    else:
        outcome = refused(answer, 422, "invalid_config")
        assert "Linear" in outcome.errors[0].detail


def test_unknown_preset_names_the_presets(server, model):
    outcome = refused(submit(server, ("m.safetensors", model), preset="w5"), 422, "unknown_preset")
    assert all(name in outcome.detail for name in ("w4", "w6", "w8"))


@pytest.mark.parametrize(
    ("files", "fields", "named"),
    [
        ([], {"preset": "w4"}, "model"),
        ([("model", b"x")], {}, "got none"),
        ([("model", b"x")], {"preset": "w4", "config": "{}"}, "got config and preset"),
        ([("modell", b"x")], {"preset": "w4"}, "modell"),
    ],
)
def test_form_that_is_not_one(server, files, fields, named):
    parts = [(name, ("m.safetensors", io.BytesIO(body))) for name, body in files]
    if not parts:
        parts = [("preset", (None, "w4"))]
        fields = {}
    answer = server.http.post("/v1/jobs", files=parts, data=fields)
    outcome = refused(answer, 422, answer.json()["code"])
    assert named in outcome.detail
    assert server.leftovers() == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=b", b"--b\r\ncut short"),
        ("multipart/form-data; boundary=b", b"garbage"),
        ("multipart/form-data; boundary=b", b""),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\nhalf a file',
        ),
    ],
)
def test_body_that_is_no_form(server, kind, body):
    answer = server.http.post("/v1/jobs", content=body, headers={"Content-Type": kind})
    refused(answer, 422, "invalid_upload")
    assert server.leftovers() == []


def test_names_of_files_are_never_paths(server, model):
    done = finished(server, ("../../../etc/cron.d/evil.safetensors", model), preset="w4")
    assert done["model_name"] == "evil.safetensors"
    assert not list(server.folder.rglob("evil*"))
    assert not [path for path in server.store.list("") if "evil" in path]


@pytest.mark.scaled
def test_upload_that_breaks_off_leaves_nothing(server):
    size = 8 << 20

    def broken():
        yield b'--b\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n'
        yield b"x" * size
        raise ConnectionError

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    before = len(server.http.get("/v1/jobs").json()["items"])
    with (
        httpx.Client(base_url=server.http.base_url) as http,
        pytest.raises(ConnectionError),
    ):
        http.post("/v1/jobs", content=broken(), headers=kind)
    server.wait_until(lambda: server.leftovers() == [], "the broken upload is gone")
    assert len(server.http.get("/v1/jobs").json()["items"]) == before


UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", f"/v1/jobs/{UNKNOWN}", 404, "not_found"),
        ("GET", f"/v1/jobs/{UNKNOWN}/artifact", 404, "not_found"),
        ("GET", f"/v1/jobs/{UNKNOWN}/report", 404, "not_found"),
        ("POST", f"/v1/jobs/{UNKNOWN}/cancel", 404, "not_found"),
        ("GET", "/v1/jobs/no-such-thing", 404, "not_found"),
        ("GET", "/nowhere", 404, "not_found"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("GET", "/v1/schemas/Plam", 404, "not_found"),
    ],
)
def test_what_is_not_there_is_a_problem_too(server, method, path, status, code):
    outcome = refused(server.http.request(method, path), status, code)
    assert outcome.instance == path


def test_ended_job_cannot_be_cancelled(server, job):
    outcome = refused(server.http.post(f"{job['links']['self']}/cancel"), 409, "conflict")
    assert "succeeded" in outcome.detail


def test_artifact_has_no_such_file(server, job):
    path = f"{job['links']['artifact']}/other.safetensors"
    outcome = refused(server.http.get(path), 404, "not_found")
    assert "model.safetensors" in outcome.detail


def test_catalog(server):
    assert set(server.http.get("/v1/presets").json()) == {"w4", "w6", "w8", "small"}
    for name in server.http.get("/v1/schemas").json():
        schema = server.http.get(f"/v1/schemas/{name}").json()
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert schema["title"] == name
    assert server.http.get("/livez").is_success


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_reference_needs_no_other_server(server, path):
    page = server.http.get(path).text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert any(address.endswith(".js") for address in addresses)
    for address in addresses:
        assert not address.startswith(("/", "http")), address  # it may lie below any path
        assert server.http.get(address).is_success, address


def test_openapi_documents_forms_and_problems(server):
    paths = server.http.get("/openapi.json").json()["paths"]
    form = paths["/v1/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"model", "sensitivities", "config", *JobOptions.model_fields}
    for status in ("413", "415", "422"):
        content = paths["/v1/jobs"]["post"]["responses"][status]["content"]
        assert "application/problem+json" in content


def test_openapi_tells_of_no_error_but_problems(server):
    document = server.http.get("/openapi.json").json()
    answers = [
        (path, status, answer)
        for path, methods in document["paths"].items()
        for method in methods.values()
        for status, answer in method["responses"].items()
    ]
    for path, status, answer in answers:
        if not status.startswith(("2", "3")):
            assert set(answer["content"]) == {"application/problem+json"}, (path, status)
    assert {path for path, status, _ in answers if status == "default"} == set(document["paths"])


def test_openapi_refers_to_nothing_that_is_not_there(server):
    document = server.http.get("/openapi.json").json()
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)))
    assert "#/components/schemas/Problem" in references
    for reference in references:
        result = document
        for step in reference.removeprefix("#/").split("/"):
            result = result[step]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/jobs", "GET, HEAD, OPTIONS, POST"),
        (f"/v1/jobs/{'0' * 36}/artifact", "GET, HEAD, OPTIONS"),
        ("/livez", "GET, HEAD, OPTIONS"),
        ("/v1/plans", "OPTIONS, POST"),
    ],
)
def test_method_that_is_not_allowed_tells_those_that_are(server, path, allowed):
    answer = server.http.delete(path)
    outcome = refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed
    assert allowed in outcome.detail
    assert outcome.type == "urn:palettery:problem:method_not_allowed"
