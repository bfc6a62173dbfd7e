"""Digest headers of a request, which announce the SHA-256 of its body.

Source: RFC 9530, sections 2 and 3; RFC 8941, section 3.2 (syntax).
"""

import base64
import binascii
import re

from starlette.datastructures import Headers

from palettery.app.errors import InvalidUpload

CONTENT, REPR = "Content-Digest", "Repr-Digest"
_MEMBER = re.compile(r"[ \t]*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):[ \t]*")
_ADVICE = f"send {CONTENT}: sha-256=:<the digest's 32 bytes in base64>:"


def announced_sha256(headers: Headers) -> str:
    """Return the SHA-256 in hex that a request announces for its body.

    Raises:
        InvalidUpload: there is no digest, it is malformed, or there are two different ones.
    """
    values = {name: ",".join(headers.getlist(name)) for name in (CONTENT, REPR) if name in headers}
    if not values:
        raise InvalidUpload(f"the part has no {CONTENT} header; {_ADVICE}")
    digests = {_sha256(name, value) for name, value in values.items()}
    if len(digests) > 1:
        raise InvalidUpload(f"{CONTENT} and {REPR} have different digests; send one of them")
    return digests.pop()


def _sha256(header: str, value: str) -> str:
    digests: dict[str, str] = {}
    for member in value.split(","):
        match = _MEMBER.fullmatch(member)
        if match is None or match[1] in digests:
            raise InvalidUpload(f"the {header} header is {value[:100]!r}; {_ADVICE}")
        digests[match[1]] = match[2]
    if "sha-256" not in digests:
        raise InvalidUpload(f"the {header} header has no sha-256; {_ADVICE}")
    try:
        digest = base64.b64decode(digests["sha-256"], validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise InvalidUpload(f"the {header} header has a sha-256 of another length; {_ADVICE}")
    return digest.hex()
