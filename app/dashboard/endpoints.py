"""Endpoints of the page's static files; they are public, as all data comes from the API."""

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
"""The page's Content-Security-Policy. Source: W3C, Content Security Policy Level 3.

plotly.js adds no inline styles if an element with the id `plotly.js-style-global` has the class
`no-inline-styles`: the page has one, and includes those styles in its own.
"""
HEADERS = {
    "Content-Security-Policy": "; ".join(
        f"{directive} {sources}" for directive, sources in POLICY.items()
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # caches must revalidate
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page(request: Request) -> Response:
    """Return the page to a browser; redirect other clients to the API reference."""
    if "text/html" not in request.headers.get("accept", ""):
        docs = f"{request.scope.get('root_path', '')}/docs"
        return RedirectResponse(docs, headers={"Vary": "Accept"})
    return await _response(request, HERE / "index.html", "Accept, Accept-Encoding")


@router.get("/assets/plotly.min.js")
async def plotly(request: Request) -> Response:
    """Return plotly.js."""
    return await _response(request, PLOTLY)


@router.get("/{name}.{suffix}")
async def file(request: Request, name: str, suffix: str) -> Response:
    """Return a file of the page."""
    path = HERE / f"{name}.{suffix}"
    if path.suffix not in MEDIA_TYPES or path.parent != HERE:
        raise HTTPException(404)
    return await _response(request, path)


async def _response(request: Request, path: Path, vary: str = "Accept-Encoding") -> Response:
    """Return a file, or 304 if the client already has it."""
    is_gzipped = _accepts_gzip(request.headers.get("accept-encoding", ""))
    try:
        body = await asyncio.to_thread(body_of, path, is_gzipped=is_gzipped)
    except (OSError, ValueError) as error:  # ValueError: the name is not a valid file name
        raise HTTPException(404) from error
    headers = HEADERS | {"ETag": body.etag, "Vary": vary}
    if body.is_gzipped:
        headers["Content-Encoding"] = "gzip"
    if not satisfies_if_match(request.headers.get("if-match"), body.etag):
        raise HTTPException(412, f"the file has the ETag {body.etag}, which If-Match does not name")
    if is_listed_in_if_none_match(request.headers.get("if-none-match", ""), body.etag):
        return Response(status_code=304, headers=headers)
    return Response(body.data, headers=headers, media_type=body.media_type)


def _accepts_gzip(encodings: str) -> bool:
    """Return whether gzip is accepted. Source: RFC 9110, section 12.5.3."""
    for encoding in encodings.lower().replace(" ", "").split(","):
        name, _, weight = encoding.partition(";q=")
        if name == "gzip":
            return not weight or bool(set(weight) - {"0", "."})
    return False
