"""HTTP behaviour that all endpoints have in common."""

import gzip
import hashlib
import re
from base64 import b64encode

import numpy as np
import pytest
from safetensors.numpy import save

from palettery.app.http.multipart import HEADER_BYTES
from tests.app.in_process import api

MODEL = save({"a.weight": np.arange(2048, dtype=np.float32).reshape(32, 64)})
FILE = {
    "name": "m.safetensors",
    "size_bytes": len(MODEL),
    "sha256": hashlib.sha256(MODEL).hexdigest(),
}
DIGEST = f"sha-256=:{b64encode(hashlib.sha256(MODEL).digest()).decode()}:"


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    with api(tmp_path_factory.mktemp("api") / "data") as client:
        yield client


@pytest.fixture(scope="module")
def there(http):
    """The parameters of paths, of things that there are."""
    upload = http.post("/v1/uploads", json={"files": [FILE]}).json()
    sent = http.put(upload["parts"][0]["url"], content=MODEL, headers={"Content-Digest": DIGEST})
    assert sent.status_code == 204, sent.text
    model = http.post(f"/v1/uploads/{upload['id']}/complete").json()
    job = http.post("/v1/jobs", json={"model_id": model["id"], "preset": "w4"}).json()
    kind = {"Content-Type": "application/yaml"}
    assert http.put("/v1/configs/mine", content="{}", headers=kind).is_success
    return {
        "job_id": job["id"],
        "model_id": model["id"],
        "upload_id": upload["id"],
        "name": "mine",
        "number": "1",
        "key_id": "1",
        "calibration_id": "1",
        "evaluation_id": "1",
        "file": "sensitivities",
        "format": "dense",
    }


def paths(http):
    return http.get("/openapi.json").json()["paths"]


def filled(path, there):
    name = "KMeansPalettizerConfig" if path.startswith("/v1/schemas") else there["name"]
    return path.format(**there | {"name": name})


def test_head_answers_as_get_does_wherever_that_is(http, there):
    varying = {"content-length", "date", "x-request-id"}
    for path, operations in paths(http).items():
        if "get" not in operations or path == "/v1/events":
            continue
        url = filled(path, there)
        if path == "/v1/jobs/{job_id}/events":  # it would go on until the job has ended
            assert http.head(url).headers["Content-Type"].startswith("text/event-stream")
            continue
        got, head = http.get(url), http.head(url)
        assert got.status_code != 500, path
        assert head.status_code == got.status_code, path
        assert head.content == b"", path
        ours, theirs = (
            {name: value for name, value in answer.headers.items() if name not in varying}
            for answer in (head, got)
        )
        assert ours == theirs, path


@pytest.mark.parametrize("path", ["/v1/events", "/", "/docs", "/redoc", "/openapi.json"])
def test_head_of_what_the_document_does_not_list(http, path):
    answer = http.head(path, headers={"Accept": "text/html"})
    assert (answer.status_code, answer.content) == (200, b"")


def test_head_of_what_is_not_there(http):
    assert http.head("/v1/jobs/none").status_code == 404
    assert http.head("/v1/plans").status_code == 405


@pytest.mark.parametrize("header", ["Range", "If-Range"])
def test_head_ignores_ranges(http, header):
    whole = http.get("/main.js").headers
    answer = http.head("/main.js", headers={"Range": "bytes=0-1", header: "bytes=5-9"})
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == whole["Content-Length"]


def test_options_list_what_the_document_lists(http, there):
    for path, operations in paths(http).items():
        answer = http.options(filled(path, there))
        assert (answer.status_code, answer.content) == (204, b""), path
        listed = {method.upper() for method in operations}
        implied = {"OPTIONS"} | ({"HEAD"} if "GET" in listed else set())
        assert set(answer.headers["Allow"].split(", ")) == listed | implied, path


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/", "/main.js"])
def test_options_of_pages(http, path):
    assert set(http.options(path).headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_a_method_that_is_not_allowed_names_those_that_are(http):
    answer = http.put("/v1/jobs")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert "GET, HEAD, OPTIONS, POST" in answer.json()["detail"]
    assert http.options("/v1/nothing").status_code == 404


def test_no_two_paths_of_the_document_differ_in_the_names_of_parameters_alone(http):
    results = [re.sub(r"\{\w+\}", "{}", path) for path in paths(http)]
    assert sorted(results) == sorted(set(results))


def test_document_asks_for_a_key_only_where_the_server_does(http, tmp_path):
    def asking(client):
        listed = [each for operations in paths(client).values() for each in operations.values()]
        return [each for each in listed if "security" in each]

    assert asking(http) == []
    with api(tmp_path / "data", admin_key="k" * 32) as shut:
        assert len(asking(shut)) > 20
        head = {"Authorization": f"Bearer {'k' * 32}"}
        assert shut.get("/v1/jobs").status_code == 401
        assert shut.get("/v1/jobs", headers=head).status_code == 200


def test_document_asks_for_a_key_once_there_is_one(tmp_path):
    with api(tmp_path / "data") as client:
        assert "security" not in paths(client)["/v1/jobs"]["get"]
        made = client.post("/v1/keys", json={"owner": "local", "name": "first"}).json()
        assert paths(client)["/v1/jobs"]["get"]["security"] == [{"key": ["read"]}]
        head = {"Authorization": f"Bearer {made['secret']}"}
        assert client.get("/v1/jobs", headers=head).status_code == 200


ENCODED = gzip.compress(b"{}")


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "zstd", "identity, gzip", "aws-chunked"])
@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/v1/jobs", "application/json"),
        ("POST", "/v1/jobs", "multipart/form-data; boundary=x"),
        ("POST", "/v1/plans", "multipart/form-data; boundary=x"),
        ("POST", "/v1/uploads", "application/json"),
        ("PUT", "/v1/uploads/{upload_id}/parts/1", "application/octet-stream"),
        ("PUT", "/v1/configs/{name}", "application/yaml"),
        ("POST", "/v1/configs/validate", "application/json"),
        ("POST", "/v1/keys", "application/json"),
    ],
)
def test_a_body_that_is_encoded_is_refused(http, coding, method, path, kind):
    upload = http.post("/v1/uploads", json={"files": [FILE | {"sha256": "0" * 64}]}).json()
    url = path.format(upload_id=upload["id"], name="mine")
    digest = f"sha-256=:{b64encode(bytes(32)).decode()}:"
    headers = {"Content-Type": kind, "Content-Encoding": coding, "Content-Digest": digest}
    answer = http.request(method, url, content=ENCODED, headers=headers)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (415, "unsupported_content_encoding")
    assert repr(coding) in problem["detail"]
    assert "send the body uncompressed" in problem["detail"]
    assert answer.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("coding", ["identity", "Identity", "", "identity, identity"])
def test_a_body_that_is_sent_as_it_is_may_say_so(http, coding):
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = http.post("/v1/configs/validate", content=b"{}", headers=headers)
    assert answer.is_success, answer.text


def form(*, preamble=b"", file_name=b"m.safetensors", epilogue=b""):
    return (
        preamble
        + b'--x\r\nContent-Disposition: form-data; name="preset"\r\n\r\nw4\r\n--x\r\n'
        + b'Content-Disposition: form-data; name="model"; filename="%b"\r\n\r\n' % file_name
        + MODEL
        + b"\r\n--x--\r\n"
        + epilogue
    )


def posted(http, body):
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    return http.post("/v1/jobs", content=body, headers=kind)


@pytest.mark.parametrize(
    "preamble",
    [
        b"\r\n",
        b"This is a message in MIME format.\r\n",
        b"\r\nTwo lines - with hyphens --\r\n\r\n--y\r\n",
        b"--xylophone\r\n--\r\n-\r\n",
        b"--\r\n" * 20_000,
        bytes(range(256)) * 64 + b"\r\n",
    ],
    ids=["newline", "text", "hyphens", "another boundary", "long", "binary"],
)
def test_a_preamble_is_skipped(http, preamble):
    answer = posted(http, form(preamble=preamble, epilogue=b"and this is an epilogue"))
    assert answer.status_code == 202, answer.text
    assert answer.json()["size_before_bytes"] == 8192


@pytest.mark.parametrize("body", [b"x" * (3 * HEADER_BYTES), b" --x\r\n", b"--x", b"\r\n--xy\r\n"])
def test_a_form_without_its_boundary_is_refused(http, body):
    problem = posted(http, body).json()
    assert problem["code"] == "invalid_upload"
    assert "no line of it is the boundary of Content-Type, 'x'" in problem["detail"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (b"a%22b.safetensors", 'a"b.safetensors'),
        (b"%22%22", '""'),
        (b"100%.safetensors", "100%.safetensors"),
        (b"a%20b%2Fc%41.safetensors", "a%20b%2Fc%41.safetensors"),
        (b"a%0D%0Ab.safetensors", "ab.safetensors"),
        ("größe%22.safetensors".encode(), 'größe".safetensors'),
        (rb"a\"b.safetensors", 'a"b.safetensors'),
    ],
)
def test_a_file_name_is_shown_as_it_was_meant(http, written, meant):
    answer = posted(http, form(file_name=written))
    assert answer.status_code == 202, answer.text
    assert answer.json()["model_name"] == meant


@pytest.mark.parametrize("path", ["/main.js", "/", "/assets/plotly.min.js"])
def test_if_match_is_honoured(http, path):
    head = {"Accept": "text/html"}
    etag = http.get(path, headers=head).headers["ETag"]
    for names in (etag, "*", f'"other", {etag}'):
        assert http.get(path, headers=head | {"If-Match": names}).status_code == 200
    for names in ('"other"', f"W/{etag}", ""):
        answer = http.get(path, headers=head | {"If-Match": names, "If-None-Match": etag})
        assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")


def test_addresses_are_those_below_the_path_of_a_proxy(tmp_path):
    with api(tmp_path / "data", root_path="/pal") as client:
        made = client.post("/v1/uploads", json={"files": [FILE]})
        assert made.headers["Location"] == f"/pal/v1/uploads/{made.json()['id']}"
        job = posted(client, form())
        assert job.headers["Location"] == f"/pal/v1/jobs/{job.json()['id']}"
        kind = {"Content-Type": "application/yaml"}
        config = client.put("/v1/configs/a", content="{}", headers=kind)
        assert config.headers["Location"] == "/pal/v1/configs/a@1"
        assert client.get("/").headers["Location"] == "/pal/docs"
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/pal"}]
        lost = client.get("/v1/nothing").json()
        assert lost["instance"] == "/pal/v1/nothing"
        assert lost["detail"].endswith("see /pal/docs")


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc"])
def test_pages_name_no_address_from_the_root(http, path):
    page = http.get(path, headers={"Accept": "text/html"}).text
    named = re.findall(r"(?:href|src|spec-url)=[\"']([^\"']+)|\"?url\"?: [\"']([^\"']+)", page)
    results = [one or other for one, other in named]
    assert results
    assert [each for each in results if re.match(r"/|https?:", each)] == []
