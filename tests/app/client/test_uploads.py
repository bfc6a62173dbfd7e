"""Parts that go to a store, past the server."""

import hashlib
from datetime import UTC, datetime

import pytest

from palettery.app.client import Client
from palettery.app.errors import PartsMissing
from palettery.schemas.models import Model
from palettery.schemas.uploads import Upload, UploadFile, UploadPart
from tests.app.client.conftest import Answer

NOW = datetime(2026, 5, 6, tzinfo=UTC)
DATA = b"weights"
SHA256 = hashlib.sha256(DATA).hexdigest()
REFUSED = Answer(403, b"<Error><Code>AccessDenied</Code></Error>")
MODEL = Model(
    id="mdl_1",
    name="m",
    format="safetensors",
    files=(),
    file_count=1,
    size_bytes=len(DATA),
    tensors_total=0,
    created_at=NOW,
    expires_at=NOW,
    links={},
    warnings=(),
    modules=(),
    tensors=(),
)


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "m"
    made.write_bytes(DATA)
    return made


def upload(store_url):
    """What a server says of an upload whose part goes to its store."""
    file = UploadFile(name="m", size_bytes=len(DATA), sha256=SHA256, is_present=False)
    part = UploadPart(
        number=1, file=0, offset=0, size_bytes=len(DATA), is_received=False, url=f"{store_url}/p"
    )
    return Answer(
        201,
        Upload(
            id="u",
            state="open",
            name="m",
            files=(file,),
            file_count=1,
            size_bytes=len(DATA),
            part_size_bytes=8 << 20,
            created_at=NOW,
            expires_at=NOW,
            links={},
            parts=(part,),
        )
        .model_dump_json()
        .encode(),
    )


def test_the_store_is_not_told_the_key_and_asked_again_for_a_new_address(scripted, path):
    begun, made = upload(scripted.url), Answer(201, MODEL.model_dump_json().encode())
    scripted.answers = [begun, REFUSED, begun, Answer(503), Answer(200), made]
    with Client(scripted.url, key="secret") as client:
        assert client.upload(path, direct=True) == MODEL
    begin, put, complete = "POST /v1/uploads?presign=true", "PUT /p", "POST /v1/uploads/u/complete"
    assert scripted.request_lines() == [begin, put, begin, put, put, complete]
    keys = ["Bearer secret" if line != put else None for line in scripted.request_lines()]
    assert [headers.get("Authorization") for _, headers in scripted.requests] == keys


def test_a_store_that_keeps_refusing_is_told(scripted, path):
    begun = upload(scripted.url)
    scripted.answers = [begun, REFUSED] * 3
    with (
        Client(scripted.url) as client,
        pytest.raises(PartsMissing, match=r"refused a part: 403 '<Error><Code>AccessDenied"),
    ):
        client.upload(path, direct=True)
