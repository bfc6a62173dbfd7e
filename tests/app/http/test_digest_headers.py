"""Digest headers are parsed strictly."""

import base64
import hashlib

import pytest
from starlette.datastructures import Headers

from palettery.app.errors import InvalidUpload
from palettery.app.http.digest_headers import announced_sha256

DIGEST = hashlib.sha256(b"part")
TEXT = base64.b64encode(DIGEST.digest()).decode()
OTHER = base64.b64encode(hashlib.sha256(b"other").digest()).decode()


@pytest.mark.parametrize("name", ["Content-Digest", "Repr-Digest", "content-digest"])
@pytest.mark.parametrize(
    "value",
    [
        "sha-256=:{}:",
        "  sha-256=:{}:\t",
        "sha-512=:AAAA:, sha-256=:{}:",
        "sha-256=:{}:,unixsum=:AAAA:",
    ],
)
def test_the_sha256_is_found(name, value):
    assert announced_sha256(Headers({name: value.format(TEXT)})) == DIGEST.hexdigest()


def test_both_headers_may_tell_the_same():
    headers = {"Content-Digest": f"sha-256=:{TEXT}:", "Repr-Digest": f"sha-256=:{TEXT}:"}
    assert announced_sha256(Headers(headers)) == DIGEST.hexdigest()


def test_lines_of_one_header_are_one_list():
    lines = [
        (b"content-digest", b"sha-512=:AAAA:"),
        (b"content-digest", f"sha-256=:{TEXT}:".encode()),
    ]
    assert announced_sha256(Headers(raw=lines)) == DIGEST.hexdigest()
    with pytest.raises(InvalidUpload):
        announced_sha256(Headers(raw=[*lines, lines[1]]))


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "has no Content-Digest"),
        ({"Content-Digest": ""}, "is ''; send Content-Digest: sha-256="),
        ({"Content-Digest": "sha-512=:AAAA:"}, "has no sha-256"),
        ({"Content-Digest": f"sha-256={TEXT}"}, "send Content-Digest"),
        ({"Content-Digest": f"SHA-256=:{TEXT}:"}, "send Content-Digest"),
        ({"Content-Digest": f"sha-256=:{TEXT}:;a=1"}, "send Content-Digest"),
        ({"Content-Digest": f"sha-256=:{TEXT}:, sha-256=:{TEXT}:"}, "send Content-Digest"),
        ({"Content-Digest": f"sha-256=:{TEXT}:,"}, "send Content-Digest"),
        ({"Content-Digest": f"sha-256=:{DIGEST.hexdigest()}:"}, "another length"),
        ({"Content-Digest": "sha-256=:AAAA:"}, "another length"),
        ({"Content-Digest": "sha-256=:A:"}, "another length"),
        ({"Content-Digest": "sha-256=::"}, "another length"),
        ({"Content-Digest": "é" * 10_000}, "send Content-Digest"),
        (
            {"Content-Digest": f"sha-256=:{TEXT}:", "Repr-Digest": f"sha-256=:{OTHER}:"},
            "have different digests",
        ),
    ],
)
def test_anything_else_is_refused(headers, message):
    with pytest.raises(InvalidUpload, match=message) as error:
        announced_sha256(Headers(headers))
    assert len(error.value.detail) < 400
