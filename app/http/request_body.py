"""The body of a request that is one document, and what it says it is."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from palettery.app.errors import (
    BadInput,
    InvalidUpload,
    TooLarge,
    UnsupportedContentEncoding,
    UnsupportedMediaType,
)
from palettery.app.sandbox.document_pool import DocumentClient
from palettery.app.storage.spooled_content import Content, collected, pieces
from palettery.schemas.config.errors import describe_errors

JSON = "application/json"
Model = TypeVar("Model", bound=BaseModel)


def media_type(request: Request) -> str:
    """What the body says it is, without its parameters; empty when it says nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_encoding(headers: Headers) -> None:
    """Check that a body is sent as it is.

    Raises:
        UnsupportedContentEncoding: it is compressed, or otherwise encoded.
    """
    sent = ", ".join(headers.getlist("content-encoding"))
    if {coding.strip().lower() for coding in sent.split(",")} - {"", "identity"}:
        raise UnsupportedContentEncoding(
            f"the body has the Content-Encoding {sent[:100]!r}, and only bodies without one are "
            "read; send it uncompressed, without this header"
        )


async def read_body(request: Request, most_bytes: int) -> Content:
    """Return the whole body, which lies in a file if it is large.

    Raises:
        UnsupportedContentEncoding: it is compressed.
        TooLarge: it has more bytes than are allowed.
        InvalidUpload: the connection broke off.
    """
    check_encoding(request.headers)
    try:
        body = await collected(request.stream(), most_bytes)
    except ClientDisconnect as error:
        raise InvalidUpload("the connection broke off before the body was complete") from error
    if body is None:
        raise TooLarge(f"the body has over {most_bytes:,} bytes, the most allowed")
    return body


async def read_json(request: Request, owner: str, kind: type[Model], most_bytes: int) -> Model:
    """Return the body as a document of a kind; whether its owner may send it was checked before.

    Raises:
        UnsupportedMediaType: it says that it is something else than JSON.
        TooLarge, InvalidUpload: see `read_body`.
        BadInput: with every field at fault.
    """
    if media_type(request) != JSON:
        raise UnsupportedMediaType(f"the body must be {JSON}; say so in Content-Type")
    body = await read_body(request, most_bytes)
    client = DocumentClient(owner, request)
    found: Model = await request.state.documents.run(client, len(body), parse_json, kind, body)
    return found


def parse_json(kind: type[Model], body: Content) -> Model:
    """Parse a document of a kind.

    Raises:
        BadInput: with every field at fault.
    """
    try:
        return kind.model_validate_json(b"".join(pieces(body)), strict=True)
    except ValidationError as error:
        faults = describe_errors(error, kind)
        raise BadInput(
            "the body is not as it must be; `errors` names each field", faults
        ) from error


def inlined(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a document, which refers to nothing outside of itself."""
    schema = kind.model_json_schema()
    defined = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, list):
            return [resolved(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolved(defined[node["$ref"].rpartition("/")[2]])
        return {key: resolved(value) for key, value in node.items()}

    found: dict[str, Any] = resolved(schema)
    return found
