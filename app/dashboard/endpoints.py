"""The page and its files, which anybody may have: what they show, they ask the API for."""

import asyncio
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from palettery.app.dashboard.files import HERE, MEDIA_TYPES, PLOTLY, body_of
from palettery.app.http.etags import is_listed_in_if_none_match, satisfies_if_match

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


@router.get("/")
async def page(request: Request) -> Response:
    """The page for a browser; others find the reference."""
    if "text/html" not in request.headers.get("accept", ""):
        docs = f"{request.scope.get('root_path', '')}/docs"
        return RedirectResponse(docs, headers={"Vary": "Accept"})
    return await _answer(request, HERE / "index.html", "Accept, Accept-Encoding")


@router.get("/assets/plotly.min.js")
async def plotly(request: Request) -> Response:
    """What draws the charts, out of its package."""
    return await _answer(request, PLOTLY)


@router.get("/{name}.{suffix}")
async def file(request: Request, name: str, suffix: str) -> Response:
    """A file of the page."""
    path = HERE / f"{name}.{suffix}"
    if path.suffix not in MEDIA_TYPES or path.parent != HERE:
        raise HTTPException(404)
    return await _answer(request, path)


async def _answer(request: Request, path: Path, vary: str = "Accept-Encoding") -> Response:
    """A file, or 304 where the client has it already."""
    is_packed = _takes_gzip(request.headers.get("accept-encoding", ""))
    try:
        body = await asyncio.to_thread(body_of, path, is_packed=is_packed)
    except (OSError, ValueError) as error:  # of a name that no file can have
        raise HTTPException(404) from error
    headers = HEADERS | {"ETag": body.etag, "Vary": vary}
    if body.is_packed:
        headers["Content-Encoding"] = "gzip"
    if not satisfies_if_match(request.headers.get("if-match"), body.etag):
        raise HTTPException(412, f"the file has the ETag {body.etag}, which If-Match does not name")
    if is_listed_in_if_none_match(request.headers.get("if-none-match", ""), body.etag):
        return Response(status_code=304, headers=headers)
    return Response(body.data, headers=headers, media_type=body.media_type)


def _takes_gzip(encodings: str) -> bool:
    """Whether that is among the encodings, and not refused. Source: RFC 9110, section 12.5.3."""
    for each in encodings.lower().replace(" ", "").split(","):
        name, _, weight = each.partition(";q=")
        if name == "gzip":
            return not weight or bool(set(weight) - {"0", "."})
    return False
