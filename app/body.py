"""The body of a request that is one document, and what it says it is."""

from starlette.requests import ClientDisconnect, Request

from app.errors import InvalidUpload, TooLarge


def media_type(request: Request) -> str:
    """What the body says it is, without its parameters; empty when it says nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, most_bytes: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: it has more bytes than are allowed.
        InvalidUpload: the connection broke off.
    """
    held = bytearray()
    try:
        async for piece in request.stream():
            held += piece
            if len(held) > most_bytes:
                raise TooLarge(f"the body has over {most_bytes:,} bytes, the most allowed")
    except ClientDisconnect as error:
        raise InvalidUpload("the connection broke off before the body was complete") from error
    return bytes(held)
