"""Request bodies that are one document: media type, limits and parsing."""

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
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.storage.spooled_content import Content, collect, pieces
from palettery.schemas.config.errors import describe_errors

JSON = "application/json"
Model = TypeVar("Model", bound=BaseModel)


def media_type(request: Request) -> str:
    """Return the Content-Type without its parameters; empty if there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_encoding(headers: Headers) -> None:
    """Check that a body has no Content-Encoding.

    Raises:
        UnsupportedContentEncoding: the body is encoded, such as compressed.
    """
    codings = ", ".join(headers.getlist("content-encoding"))
    if {coding.strip().lower() for coding in codings.split(",")} - {"", "identity"}:
        raise UnsupportedContentEncoding(
            f"the Content-Encoding {codings[:100]!r} is not supported; send the body uncompressed, "
            "without this header"
        )


async def read_body(request: Request, max_bytes: int) -> Content:
    """Return the whole body; a large one is spooled to a file.

    Raises:
        UnsupportedContentEncoding: the body is compressed.
        TooLarge: the body is over the limit.
        InvalidUpload: the connection was closed.
    """
    check_encoding(request.headers)
    try:
        body = await collect(request.stream(), max_bytes)
    except ClientDisconnect as error:
        raise InvalidUpload("the connection was closed before the body was complete") from error
    if body is None:
        raise TooLarge(f"the body has over {max_bytes:,} bytes, the limit")
    return body


async def read_json(
    request: Request, documents: DocumentPool, owner: str, kind: type[Model], max_bytes: int
) -> Model:
    """Return the body parsed as a model; authorization must come first.

    Raises:
        UnsupportedMediaType: the Content-Type is not JSON.
        UnsupportedContentEncoding, TooLarge, InvalidUpload: see `read_body`.
        BadInput: the body is not valid; one entry per field.
    """
    if media_type(request) != JSON:
        raise UnsupportedMediaType(f"the Content-Type must be {JSON}")
    body = await read_body(request, max_bytes)
    client = DocumentClient(owner, request)
    return await documents.run(client, len(body), parse_json, kind, body)


def parse_json(kind: type[Model], body: Content) -> Model:
    """Return JSON parsed as a model.

    Raises:
        BadInput: the body is not valid; one entry per field.
    """
    try:
        return kind.model_validate_json(b"".join(pieces(body)), strict=True)
    except ValidationError as error:
        errors = describe_errors(error, kind)
        raise BadInput("the body is not valid; `errors` names each field", errors) from error


def inline_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of a model with all references inlined."""
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rpartition("/")[2]])
        return {key: resolve(value) for key, value in node.items()}

    inlined: dict[str, Any] = resolve(schema)
    return inlined
