"""API reference: the OpenAPI document and two pages, without requests to other hosts.

All URLs in the pages are relative, so that they work under any path prefix.
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
    """Add the API reference to an app."""
    files = StaticFiles(directory=Path(fastapi_offline.__file__).with_name("static"))
    app.mount(f"/{STATIC}", files)
    app.include_router(router)


@router.get(f"/{OPENAPI}")
async def openapi(request: Request, keys: Keys) -> JSONResponse:
    """Return the OpenAPI document, with security if the server requires keys."""
    document = request.app.openapi()
    is_key_required = True
    with suppress(DatabaseFailed):
        is_key_required = await run_in_threadpool(keys.is_key_required)
    if not is_key_required:
        document = _without_security(document)
    if root := request.scope.get("root_path"):
        document = document | {"servers": [{"url": root}]}
    return JSONResponse(document)


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Return the reference as Swagger UI."""
    return get_swagger_ui_html(
        openapi_url=OPENAPI,
        title="Palettery - Swagger UI",
        swagger_js_url=f"{STATIC}/swagger-ui-bundle.js",
        swagger_css_url=f"{STATIC}/swagger-ui.css",
        swagger_favicon_url=ICON,
    )


@router.get("/redoc")
async def redoc() -> HTMLResponse:
    """Return the reference as ReDoc."""
    return get_redoc_html(
        openapi_url=OPENAPI,
        title="Palettery - ReDoc",
        redoc_js_url=f"{STATIC}/redoc.standalone.js",
        redoc_favicon_url=ICON,
        with_google_fonts=False,
    )


def _without_security(document: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI document without the security of its operations."""
    paths = {
        path: {
            method: {name: value for name, value in operation.items() if name != "security"}
            for method, operation in operations.items()
        }
        for path, operations in document["paths"].items()
    }
    return document | {"paths": paths}
