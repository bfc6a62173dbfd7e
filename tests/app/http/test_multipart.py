"""Streamed forms: the result does not depend on chunks, and an invalid form leaves no files."""

import asyncio
import hashlib
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from palettery.app.errors import InvalidUpload, TooLarge
from palettery.app.http.multipart import HEADER_BYTES, read_form
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.app.storage.spooled_content import pieces

BOUNDARY = b"frontier"
LIMITS = Limits()
KIND = b"multipart/form-data; boundary=" + BOUNDARY


def part(name, body, file_name=None, extra=b""):
    file = b"" if file_name is None else b'; filename="%s"' % file_name
    head = b'Content-Disposition: form-data; name="%s"%s\r\n' % (name, file)
    return b"--%s\r\n%s%s\r\n%s\r\n" % (BOUNDARY, head, extra, body)


def form(*parts):
    return b"".join(parts) + b"--%s--\r\n" % BOUNDARY


def read(storage, chunks, limits=LIMITS, kind=KIND, announced=None, broken=False):
    """Read a form that comes in these chunks, each only once the one before was taken."""
    waiting = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    end = {"type": "http.disconnect"} if broken else {"type": "http.request", "more_body": False}

    async def receive():
        return waiting.pop(0) if waiting else end

    headers = [(b"content-type", kind)]
    if announced is not None:
        headers.append((b"content-length", b"%d" % announced))
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    return asyncio.run(read_form(request, storage, limits))


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return open_storage(tmp_path_factory.mktemp("store").as_uri())


@pytest.fixture
def nothing_left(storage):
    yield
    assert [path for path in storage.root.rglob("*") if path.is_file()] == []


# Bytes that look like the boundary's beginning are where parsers of streams go wrong.
BODIES = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", b"\r\n--front", b"x"]), max_size=60).map(
        b"".join
    ),
)


@settings(deadline=None, max_examples=60)
@given(
    bodies=st.lists(BODIES, min_size=1, max_size=3),
    config=BODIES,
    cuts=st.lists(st.integers(0, 2000), max_size=12),
)
def test_chunking_changes_nothing(storage, bodies, config, cuts):
    whole = form(
        part(b"config", config),
        *(part(b"model", body, b"m%d" % n) for n, body in enumerate(bodies)),
    )
    places = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    chunks = [whole[a:b] for a, b in itertools.pairwise(places)]
    result = read(storage, chunks)
    assert (b"".join(pieces(result.config)), result.texts) == (config, {})
    names = [file.name for file in result.files["model"]]
    assert names == [f"m{number}" for number in range(len(bodies))]
    for file, body in zip(result.files["model"], bodies, strict=True):
        assert bytes(storage.read(file.path)) == body
        assert (file.size_bytes, file.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    storage.delete(*result.paths())


MODEL = part(b"model", b"x" * 1000, b"m.safetensors")
SENSITIVITIES = part(b"sensitivities", b"y" * 10, b"s.safetensors")


def test_files_lie_under_the_fields_they_came_in(storage):
    result = read(storage, [form(SENSITIVITIES, MODEL, SENSITIVITIES, part(b"strict", b"true"))])
    assert {field: len(files) for field, files in result.files.items()} == {
        "model": 1,
        "sensitivities": 2,
    }
    assert result.texts == {"strict": b"true"}
    assert len(set(result.paths())) == 3
    storage.delete(*result.paths())


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (form(part(b"preset", b"w4")), "'model' is missing"),
        (form(SENSITIVITIES, part(b"preset", b"w4")), "'model' is missing"),
        (form(MODEL, part(b"preset", b"w4"), part(b"preset", b"w4")), "'preset' is repeated"),
        (form(MODEL, part(b"presett", b"w4")), "did you mean 'preset'"),
        (form(MODEL, part(b"modle", b"", b"m")), "did you mean 'model'"),
        (form(MODEL, part(b"zzz", b"")), "the fields are model, sensitivities, config, "),
        (form(MODEL, b"--%s\r\nX: y\r\n\r\nbody\r\n" % BOUNDARY), "no name"),
        (MODEL, "ends before"),
        (MODEL[:500], "ends before"),
        (b"", "ends before"),
        (b"no form at all", "not a valid multipart form"),
    ],
)
def test_form_that_is_not_sound(storage, body, message):
    with pytest.raises(InvalidUpload, match=message):
        read(storage, [body])


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("kind", [b"", b"application/json", b"multipart/form-data", b"\xff;;="])
def test_body_of_another_kind(storage, kind):
    with pytest.raises(InvalidUpload, match="must be multipart/form-data"):
        read(storage, [form(MODEL)], kind=kind)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("limits", "body", "message"),
    [
        (Limits(upload_bytes=900), form(MODEL), "over 900 bytes"),
        (Limits(upload_files=2), form(MODEL, MODEL, MODEL), "over 2 files"),
        (Limits(upload_files=2), form(MODEL, SENSITIVITIES, MODEL), "over 2 files"),
        (
            Limits(config_bytes=9),
            form(MODEL, part(b"config", b"0123456789")),
            "'config' has over 9",
        ),
        (
            Limits(),
            form(MODEL, part(b"model", b"", b"m", b"X: " + b"y" * HEADER_BYTES + b"\r\n")),
            "headers",
        ),
    ],
)
def test_limits_hold_whatever_was_announced(storage, limits, body, message):
    with pytest.raises(TooLarge, match=message):
        read(storage, [body[at : at + 100] for at in range(0, len(body), 100)], limits)


@pytest.mark.usefixtures("nothing_left")
def test_announced_size_over_the_limit_is_refused_unread(storage):
    with pytest.raises(TooLarge, match="announces 1,001 bytes; the limit is 1,000"):
        read(storage, [], Limits(upload_bytes=1000), announced=1001, broken=True)


@pytest.mark.usefixtures("nothing_left")
def test_connection_that_breaks_off(storage):
    with pytest.raises(InvalidUpload, match="connection was closed") as caught:
        read(storage, [form(MODEL)[:600]], broken=True)
    assert isinstance(caught.value.__cause__, ClientDisconnect)


@pytest.mark.parametrize(
    ("given_name", "shown"),
    [
        (b"../../etc/passwd", "passwd"),
        (b"C:\\\\models\\\\m.bin", "m.bin"),
        (b"a\x1b[31mb\x7f", "a[31mb"),
        (b"", "model"),
        (b"x" * 5000, "x" * 255),
        (b"\xff\xfe.bin", "\ufffd\ufffd.bin"),
    ],
)
def test_file_names_are_shown_and_never_paths(storage, given_name, shown):
    result = read(storage, [form(part(b"model", b"x", given_name))])
    assert [file.name for file in result.files["model"]] == [shown]
    assert re.fullmatch(r"uploads/[0-9a-f]{32}", result.paths()[0])
    storage.delete(*result.paths())
