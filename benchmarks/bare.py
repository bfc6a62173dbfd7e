"""A minimal ASGI app for files, as a reference for the service.

Run by `uvicorn benchmarks.bare:app`; PUT hashes and writes a file of the folder `BARE_FOLDER`, GET
returns one.
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
    """Hash and write the body while it arrives; return its SHA-256."""
    digest = hashlib.sha256()
    with (FOLDER / request.path_params["name"]).open("wb") as file:
        async for piece in request.stream():
            digest.update(piece)
            file.write(piece)
        await asyncio.to_thread(os.fsync, file.fileno())
    return PlainTextResponse(digest.hexdigest())


async def get(request: Request) -> Response:
    """Return a file."""
    return FileResponse(FOLDER / request.path_params["name"])


app = Starlette(
    routes=[Route("/{name}", put, methods=["PUT"]), Route("/{name}", get, methods=["GET"])]
)
