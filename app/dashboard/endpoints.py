"""The page and its files, which anybody may have: what they show, they ask the API for."""

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Response
from fastapi.responses import RedirectResponse

from app.dashboard.files import HERE, MEDIA_TYPES, PLOTLY, body_of
from app.etags import lists

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data: blob:",
    "font-src": "'self'",
    "style-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
"""What a browser lets the page do. Source: W3C, Content Security Policy Level 3.

plotly.js needs no styles of its own where an element with the id `plotly.js-style-global` has the
class `no-inline-styles`: the page has one, and those styles among its own.
"""
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{what} {who}" for what, who in POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # which is to ask whether it has changed
}

router = APIRouter(include_in_schema=False)

Accept = Annotated[str, Header()]
Encodings = Annotated[str, Header(alias="Accept-Encoding")]
Known = Annotated[str, Header(alias="If-None-Match")]


@router.get("/")
async def page(accept: Accept = "", encodings: Encodings = "", known: Known = "") -> Response:
    """The page for a browser; others find the reference."""
    if "text/html" not in accept:
        return RedirectResponse("/docs", headers={"Vary": "Accept"})
    return await _answer(HERE / "index.html", encodings, known, "Accept, Accept-Encoding")


@router.get("/assets/plotly.min.js")
async def plotly(encodings: Encodings = "", known: Known = "") -> Response:
    """What draws the charts, out of its package."""
    return await _answer(PLOTLY, encodings, known)


@router.get("/{name}.{suffix}")
async def file(name: str, suffix: str, encodings: Encodings = "", known: Known = "") -> Response:
    """A file of the page."""
    path = HERE / f"{name}.{suffix}"
    if path.suffix not in MEDIA_TYPES or path.parent != HERE:
        raise HTTPException(404)
    return await _answer(path, encodings, known)


async def _answer(
    path: Path, encodings: str, known: str, vary: str = "Accept-Encoding"
) -> Response:
    """A file, or that the one which is known is right still."""
    try:
        body = await asyncio.to_thread(body_of, path, is_packed=_takes_gzip(encodings))
    except (OSError, ValueError) as error:  # of a name that no file can have
        raise HTTPException(404) from error
    headers = HEADERS | {"ETag": body.etag, "Vary": vary}
    if body.is_packed:
        headers["Content-Encoding"] = "gzip"
    if lists(known, body.etag):
        return Response(status_code=304, headers=headers)
    return Response(body.data, headers=headers, media_type=body.media_type)


def _takes_gzip(encodings: str) -> bool:
    """Whether that is among the encodings, and not refused. Source: RFC 9110, section 12.5.3."""
    for each in encodings.lower().replace(" ", "").split(","):
        name, _, weight = each.partition(";q=")
        if name == "gzip":
            return not weight or bool(set(weight) - {"0", "."})
    return False
