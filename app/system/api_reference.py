"""The API reference: the OpenAPI document, and two pages that show it without any other host.

Every address in the pages is relative, so that they work below any path.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from palettery.app.errors import DatabaseFailed
from palettery.app.keys.authentication import Keys

OPENAPI, STATIC = "openapi.json", "static-offline-docs"
ICON = f"{STATIC}/favicon.png"

router = APIRouter(include_in_schema=False)


def add_reference(app: FastAPI) -> None:
    """Serve the reference of an app."""
    files = StaticFiles(directory=Path(fastapi_offline.__file__).with_name("static"))
    app.mount(f"/{STATIC}", files)
    app.include_router(router)


@router.get(f"/{OPENAPI}")
async def openapi(request: Request, keys: Keys) -> JSONResponse:
    """The OpenAPI document; it asks for a key if the server does."""
    document = request.app.openapi()
    needs_key = True
    with suppress(DatabaseFailed):
        needs_key = await run_in_threadpool(keys.are_asked_for)
    if not needs_key:
        document = _without_security(document)
    if root := request.scope.get("root_path"):
        document = document | {"servers": [{"url": root}]}
    return JSONResponse(document)


@router.get("/docs")
async def docs() -> HTMLResponse:
    """The reference, to read and to try out."""
    return get_swagger_ui_html(
        openapi_url=OPENAPI,
        title="Palettery - Swagger UI",
        swagger_js_url=f"{STATIC}/swagger-ui-bundle.js",
        swagger_css_url=f"{STATIC}/swagger-ui.css",
        swagger_favicon_url=ICON,
    )


@router.get("/redoc")
async def redoc() -> HTMLResponse:
    """The reference, to read."""
    return get_redoc_html(
        openapi_url=OPENAPI,
        title="Palettery - ReDoc",
        redoc_js_url=f"{STATIC}/redoc.standalone.js",
        redoc_favicon_url=ICON,
        with_google_fonts=False,
    )


def _without_security(document: dict[str, Any]) -> dict[str, Any]:
    """The document without any operation that needs a key."""
    paths = {
        path: {
            method: {name: value for name, value in operation.items() if name != "security"}
            for method, operation in operations.items()
        }
        for path, operations in document["paths"].items()
    }
    return document | {"paths": paths}
