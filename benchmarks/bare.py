"""The least that a server can do with files: an ASGI app to measure ours beside.

Run by `uvicorn benchmarks.bare:app`; it writes what is PUT, hashed, and hands out what is asked for
by name, in the folder `BARE_FOLDER`.
"""

import asyncio
import hashlib
import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

FOLDER = Path(os.environ.get("BARE_FOLDER", "."))


async def put(request: Request) -> Response:
    """Hash and write the body as it comes in; its digest."""
    digest = hashlib.sha256()
    with (FOLDER / request.path_params["name"]).open("wb") as file:
        async for piece in request.stream():
            digest.update(piece)
            file.write(piece)
        await asyncio.to_thread(os.fsync, file.fileno())
    return PlainTextResponse(digest.hexdigest())


async def get(request: Request) -> Response:
    """A file."""
    return FileResponse(FOLDER / request.path_params["name"])


app = Starlette(
    routes=[Route("/{name}", put, methods=["PUT"]), Route("/{name}", get, methods=["GET"])]
)
