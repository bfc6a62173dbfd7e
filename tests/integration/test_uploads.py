"""Models that are uploaded in parts, on real services: whole in the end, or nothing left."""

import base64
import contextlib
import hashlib
import itertools
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import text

from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.http.multipart import UPLOADS
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.models import Model
from palettery.schemas.problem import Problem
from palettery.schemas.uploads import MIN_PART_BYTES
from tests.examples import EXAMPLES

seeds = itertools.count(100)
UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
DELAYS_MS = (0, 20, 40, 80, 160, 320, 640)


def made(megabytes):
    """A model that nothing else has uploaded."""
    rng = np.random.default_rng(next(seeds))
    rows = megabytes << 20
    return save({"encoder.weight": rng.integers(0, 9, rows, np.uint8).view("f4").reshape(-1, 1024)})


@pytest.fixture(scope="module")
def large():
    """A model of four parts, which no test leaves behind."""
    return made(28)


def hexdigest(data):
    return hashlib.sha256(data).hexdigest()


def digest_header(data):
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return {"Content-Digest": f"sha-256=:{digest}:"}


def announced(data, name="m.safetensors", **more):
    file = {"name": name, "size_bytes": len(data), "sha256": hexdigest(data)}
    return {"files": [file], "part_size_bytes": MIN_PART_BYTES} | more


def start(http, data, **how):
    answer = http.post("/v1/uploads", json=announced(data), **how)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == answer.json()["links"]["self"]
    return answer.json()


def put(http, part, data):
    piece = data[part["offset"] : part["offset"] + part["size_bytes"]]
    return http.put(part["url"], content=piece, headers=digest_header(piece))


def send(http, upload, data):
    """Send what is missing, some parts at once, in any order."""
    missing = [part for part in upload["parts"] if not part["is_received"]]
    random.shuffle(missing)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda part: put(http, part, data), missing))
    assert {answer.status_code for answer in answers} <= {204}, answers


def complete(http, upload):
    return http.post(upload["links"]["complete"])


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    outcome = Problem.model_validate_json(answer.content)
    assert (outcome.status, outcome.code) == (status, code)
    return outcome


@pytest.fixture
def upload(server, large):
    """An upload that is given up in the end."""
    made = start(server.http, large)
    yield made
    server.http.delete(made["links"]["self"])
    assert server.leftovers() == []


@pytest.mark.scaled
def test_parts_become_a_model_that_goes_again(server, large):
    http, before = server.http, {*server.store.list("")}
    upload = start(http, large)
    assert [part["number"] for part in upload["parts"]] == [1, 2, 3, 4]
    send(http, upload, large)
    answer = complete(http, upload)
    assert answer.status_code == 201, answer.text
    model = answer.json()
    assert answer.headers["location"] == model["links"]["self"]
    assert http.get(model["links"]["self"]).json() == model
    assert [tensor["name"] for tensor in model["tensors"]] == ["encoder.weight"]
    assert model["files"] == [
        {"name": "m.safetensors", "size_bytes": len(large), "sha256": hexdigest(large)}
    ]
    again = complete(http, upload)
    assert (again.status_code, again.json()) == (200, model)
    shown = http.get(upload["links"]["self"]).json()
    assert (shown["state"], shown["model_id"], shown["parts"]) == ("complete", model["id"], [])
    summary = {
        name: model[name]
        for name in model
        if name not in ("files", "tensors", "modules", "warnings")
    }
    assert summary in http.get("/v1/models").json()["items"]
    (path,) = (path for path in {*server.store.list("uploads")} - before)
    assert server.store.read(path) == large
    assert server.leftovers() == []
    assert http.delete(model["links"]["self"]).status_code == 204
    refused(http.get(model["links"]["self"]), 404, "not_found")
    assert {*server.store.list("")} == before


def test_a_model_of_many_tensors_is_answered_whole(server, tmp_path):
    """In pieces, as it was stored when it was read."""
    data = save({f"layers.{n}.weight": np.full((1, 2), n, "f4") for n in range(12_000)})
    folder = open_storage(tmp_path.as_uri())
    folder.write("m", data)
    file = StoredFile(name="m.safetensors", path="m", size_bytes=len(data))
    read = read_checkpoint(folder, [file], Limits())
    upload = start(server.http, data)
    send(server.http, upload, data)
    answer = complete(server.http, upload)
    assert answer.status_code == 201, answer.text[:1_000]
    model = Model.model_validate_json(answer.content)
    url = model.links["self"]
    assert server.http.get(url).content == answer.content
    assert model.tensors_total == len(read.tensors) == 12_000
    assert (model.modules, model.warnings) == (read.modules, read.warnings)
    seen = [(one.name, one.dtype, one.shape, one.size_bytes) for one in model.tensors]
    assert seen == [(one.name, one.dtype, one.shape, one.size_bytes) for one in read.tensors]
    assert len(server.store.list(f"models/{model.id}")) == 2
    assert server.http.delete(url).status_code == 204
    assert server.store.list(f"models/{model.id}") == []


@pytest.mark.scaled
def test_the_same_bytes_again_are_there_at_once(server, large):
    http = server.http
    upload = start(http, large)
    send(http, upload, large)
    model = complete(http, upload).json()
    again = start(http, large)
    assert (again["parts"], again["files"][0]["is_present"]) == ([], True)
    answer = complete(http, again)
    assert (answer.status_code, answer.json()["id"]) == (201, model["id"])
    http.delete(model["links"]["self"])


def test_a_key_gives_the_same_upload(server, large):
    http, key = server.http, {"Idempotency-Key": hexdigest(large)}
    first = http.post("/v1/uploads", json=announced(large), headers=key)
    again = http.post("/v1/uploads", json=announced(large), headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    other = http.post("/v1/uploads", json=announced(large, "other"), headers=key)
    refused(other, 409, "idempotency_conflict")
    http.delete(first.json()["links"]["self"])


def test_missing_parts_are_named(server, upload, large):
    assert put(server.http, upload["parts"][1], large).status_code == 204
    outcome = refused(complete(server.http, upload), 409, "parts_missing")
    assert [error.pointer for error in outcome.errors] == ["/parts/1", "/parts/3", "/parts/4"]


@pytest.mark.parametrize(
    ("number", "body", "headers", "status", "code"),
    [
        (1, b"123", digest_header(b"123"), 422, "invalid_upload"),
        (1, bytes(MIN_PART_BYTES), digest_header(b"123"), 422, "invalid_upload"),
        (1, bytes(MIN_PART_BYTES), {}, 422, "invalid_upload"),
        (1, bytes(MIN_PART_BYTES), {"Content-Digest": "md5=:AAAA:"}, 422, "invalid_upload"),
        (1, bytes(MIN_PART_BYTES + 1), digest_header(b""), 413, "too_large"),
        (4, bytes(MIN_PART_BYTES), digest_header(b""), 413, "too_large"),
        (5, b"123", digest_header(b"123"), 404, "not_found"),
        (0, b"123", digest_header(b"123"), 422, "bad_input"),
        (10**30, b"123", digest_header(b"123"), 422, "bad_input"),
        ("x", b"123", digest_header(b"123"), 422, "bad_input"),
    ],
)
def test_a_wrong_part_is_refused_and_leaves_nothing(
    server, upload, number, body, headers, status, code
):
    url = f"{upload['links']['self']}/parts/{number}"
    refused(server.http.put(url, content=body, headers=headers), status, code)
    assert server.store.list(f"uploads/parts/{upload['id']}") == []


def test_a_body_without_end_is_not_read(server, upload):
    def endless():
        while True:
            yield bytes(1 << 20)

    url = f"{upload['links']['self']}/parts/1"
    with contextlib.suppress(httpx.WriteError):  # the answer may come while we write
        answer = server.http.put(url, content=endless(), headers=digest_header(b""))
        refused(answer, 413, "too_large")
    assert server.http.get(upload["links"]["self"]).json()["parts"][0]["is_received"] is False


@pytest.mark.scaled
def test_a_part_that_breaks_off_leaves_nothing(server, upload, large):
    def broken():
        yield large[: MIN_PART_BYTES // 2]
        raise ConnectionError

    headers = digest_header(large[:MIN_PART_BYTES])
    url = f"{server.http.base_url}{upload['parts'][0]['url']}"
    with pytest.raises(ConnectionError):
        httpx.put(url, content=broken(), headers=headers)
    server.wait_until(lambda: not server.unfinished(), "the part is gone")
    assert server.store.list(f"uploads/parts/{upload['id']}") == []


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": ""}, "/files/0/name"),
        ({"name": "x" * 10_000}, "/files/0/name"),
        ({"name": "a\nb"}, "/files/0/name"),
        ({"name": "\x00"}, "/files/0/name"),
        ({"name": "../evil"}, "/files/0/name"),
        ({"name": "a\\b"}, "/files/0/name"),
        ({"name": "\u202eevil"}, "/files/0/name"),
        ({"name": "."}, "/files/0/name"),
        ({"name": ".."}, "/files/0/name"),
        ({"name": " "}, "/files/0/name"),
        ({"name": "   "}, "/files/0/name"),
        ({"name": None}, "/files/0/name"),
        ({"size_bytes": 0}, "/files/0/size_bytes"),
        ({"size_bytes": -1}, "/files/0/size_bytes"),
        ({"size_bytes": 10**40}, "/files/0/size_bytes"),
        ({"sha256": "0" * 63}, "/files/0/sha256"),
        ({"sha256": "G" * 64}, "/files/0/sha256"),
        ({"path": "/etc/passwd"}, "/files/0/path"),
    ],
)
def test_a_file_that_cannot_be_announced(server, change, pointer):
    document = announced(b"123")
    document["files"][0] |= change
    outcome = refused(server.http.post("/v1/uploads", json=document), 422, "bad_input")
    assert [error.pointer for error in outcome.errors] == [pointer]
    assert len(outcome.model_dump_json()) < 2_000


@pytest.mark.parametrize(
    ("document", "status", "code"),
    [
        ({}, 422, "bad_input"),
        ({"files": []}, 422, "bad_input"),
        (announced(b"1", part_size_bytes=MIN_PART_BYTES - 1), 422, "bad_input"),
        (announced(b"1", part_size_bytes=(5 << 30) + 1), 422, "bad_input"),
        (announced(b"1") | {"files": announced(b"1")["files"] * 2}, 422, "bad_input"),
        (
            {"files": [announced(b"1")["files"][0] | {"size_bytes": 101 << 30}]},
            413,
            "too_large",
        ),
        (
            {
                "files": [
                    announced(bytes([a, b]), f"{a}-{b}")["files"][0]
                    for a in range(4)
                    for b in range(251)
                ]
            },
            413,
            "too_large",
        ),
        (
            announced(b"1") | {"files": [announced(b"1")["files"][0] | {"size_bytes": 90 << 30}]},
            422,
            "bad_input",
        ),
    ],
    ids=["nothing", "no file", "small", "large", "twice", "bytes", "files", "parts"],
)
def test_an_upload_that_cannot_be_announced(server, document, status, code):
    outcome = refused(server.http.post("/v1/uploads", json=document), status, code)
    assert len(outcome.model_dump_json()) < 2_000


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/json", 422, "bad_input"),
        (b"null", "application/json", 422, "bad_input"),
        (b"[" * 100_000, "application/json", 422, "bad_input"),
        (b"\xff", "application/json", 422, "bad_input"),
        (b'{"files": ' + b" " * (3 << 20), "application/json", 413, "too_large"),
        (b"files: []", "application/yaml", 415, "unsupported_media_type"),
    ],
)
def test_an_announcement_that_is_no_json(server, body, kind, status, code):
    answer = server.http.post("/v1/uploads", content=body, headers={"Content-Type": kind})
    refused(answer, status, code)


@pytest.mark.parametrize("id_", [UNKNOWN, "x", "%00", "..%2f..", "9" * 500])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("DELETE", ""), ("POST", "/complete"), ("PUT", "/parts/1")],
)
def test_an_upload_that_is_not_there(server, method, path, id_):
    answer = server.http.request(
        method, f"/v1/uploads/{id_}{path}", headers=digest_header(b""), content=b""
    )
    refused(answer, 404, "not_found")


def test_uploads_page_by_page(server):
    uploads = [start(server.http, b"%d" % number) for number in range(3)]
    seen, cursor = [], {}
    while True:
        page = server.http.get("/v1/uploads", params={"limit": 1} | cursor).json()
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert [upload["id"] for upload in uploads[::-1]] == seen[:3]
    assert len(seen) == len(set(seen))
    for upload in uploads:
        assert server.http.delete(upload["links"]["self"]).status_code == 204
    refused(server.http.get("/v1/uploads?cursor=x"), 422, "bad_input")


@pytest.mark.parametrize("path", ["uploads", "models", "keys"])
@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_cursor_of_a_time_that_utc_has_not(server, path, at):
    cursor = base64.urlsafe_b64encode(f'["{at}","x"]'.encode()).decode()
    refused(server.http.get(f"/v1/{path}", params={"cursor": cursor}), 422, "bad_input")


def test_what_is_no_model_stays_open_until_it_is_given_up(server):
    bad = b"no model" * 1000
    upload = start(server.http, bad)
    send(server.http, upload, bad)
    refused(complete(server.http, upload), 422, "invalid_model")
    assert server.http.get(upload["links"]["self"]).json()["state"] == "open"
    assert server.http.delete(upload["links"]["self"]).status_code == 204
    assert server.leftovers() == []
    assert not [path for path in server.store.list("uploads/parts") if upload["id"] in path]


def begin_part(http, upload, data):
    """Send half a part, and keep the connection."""
    address = (http.base_url.host, http.base_url.port)
    wire = socket.create_connection(address)
    digest = digest_header(data[:MIN_PART_BYTES])["Content-Digest"]
    head = (
        f"PUT {upload['parts'][0]['url']} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Digest: {digest}\r\n"
        f"Content-Length: {MIN_PART_BYTES}\r\n\r\n"
    )
    wire.sendall(head.encode() + data[: MIN_PART_BYTES * 3 // 4])
    return wire


@pytest.mark.heavy
def test_an_upload_goes_on_after_kill_9_of_the_server(own, large):
    upload = start(own.http, large)
    for part in upload["parts"][1:3]:
        assert put(own.http, part, large).status_code == 204
    with begin_part(own.http, upload, large):
        own.wait_until(own.unfinished, "the part is being written")
        own.kill_all()
    own.start()
    assert own.leftovers() == []
    upload = own.http.get(upload["links"]["self"]).json()
    received = [part["is_received"] for part in upload["parts"]]
    assert received == [False, True, True, False]
    send(own.http, upload, large)
    model = complete(own.http, upload)
    assert model.status_code == 201, model.text
    (path,) = own.store.list("uploads")
    assert own.store.read(path) == large
    assert own.leftovers() == []


@pytest.mark.heavy
def test_completion_goes_on_after_kill_9_of_the_server_at_any_point(own):
    """The server dies in its midst, a little later each time, until it is through."""
    data = made(120)
    upload = start(own.http, data)
    send(own.http, upload, data)
    for delay_ms in DELAYS_MS if EXAMPLES else DELAYS_MS[2:5:2]:
        asking = threading.Thread(target=ask_in_vain, args=(own.http, upload))
        asking.start()
        asking.join(delay_ms / 1000)
        own.kill_all()
        asking.join()
        own.start()
        assert own.leftovers() == []
    answer = complete(own.http, upload)
    assert answer.is_success, answer.text
    (path,) = own.store.list("uploads")
    assert own.store.read(path) == data
    own.http.delete(answer.json()["links"]["self"])
    assert uploaded_objects(own) == []


def uploaded_objects(service):
    """What a service stores of uploads: their files, parts and digests."""
    return [*service.store.list(UPLOADS), *service.unused_digests()]


def ask_in_vain(http, upload):
    with contextlib.suppress(httpx.TransportError):
        httpx.post(f"{http.base_url}{upload['links']['complete']}", timeout=60)


@pytest.mark.heavy
def test_an_upload_expires(own, large):
    upload = start(own.http, large)
    assert put(own.http, upload["parts"][0], large).status_code == 204
    with own.database() as database, database.transaction() as session:
        session.execute(text("UPDATE uploads SET expires_at = '2026-01-01 00:00:00'"))
    for method, path in (("GET", ""), ("POST", "/complete"), ("PUT", "/parts/1")):
        answer = own.http.request(
            method, f"{upload['links']['self']}{path}", headers=digest_header(b"")
        )
        assert answer.status_code in (404, 410), answer.text
    own.wait_until(lambda: uploaded_objects(own) == [], "the parts are removed")
    refused(own.http.get(upload["links"]["self"]), 404, "not_found")
