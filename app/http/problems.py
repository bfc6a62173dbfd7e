"""Every error as an RFC 9457 response, and how the API reference tells of them."""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from palettery.app.errors import BadInput, NotFound, PaletteryError, Unavailable, problem
from palettery.app.http.services import find_service
from palettery.app.observability.metrics import Metrics
from palettery.schemas.problem import InvalidField, Problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
HTTP_CODES = {
    400: "bad_request",
    405: "method_not_allowed",
    412: "precondition_failed",
    413: "too_large",
    414: "uri_too_long",
    416: "range_not_satisfiable",
    431: "headers_too_large",
}
"""Codes of the errors that HTTP itself defines and no class of ours stands for."""
HEADERS = {
    "unauthenticated": {"WWW-Authenticate": 'Bearer realm="palettery"'},
    "forbidden": {"WWW-Authenticate": 'Bearer realm="palettery", error="insufficient_scope"'},
    "over_quota": {"Retry-After": "30"},
    "too_many_streams": {"Retry-After": "5"},
    # Or the rest of the body would be read, to be dropped.
    "too_large": {"Connection": "close"},
    "unsupported_content_encoding": {"Accept-Encoding": "identity", "Connection": "close"},
}
"""Headers of the errors of these codes. Source: RFC 6585; RFC 6750, section 3; RFC 9110."""


def problems(**codes: str) -> dict[int | str, dict[str, Any]]:
    """Documented problem responses, as `_404="no such job"`."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        code.lstrip("_"): {"description": text, "content": content} for code, text in codes.items()
    }


def problem_response(told: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem as a response."""
    return JSONResponse(
        told.model_dump(mode="json", exclude_none=True), told.status, headers, MEDIA_TYPE
    )


def add_problem_handlers(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Have every error of an app answered with a problem; `routes` are all that it serves."""

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for these alone
        if error.status_code == 404:
            docs = f"{request.scope.get('root_path', '')}/docs"
            lost = NotFound(f"nothing is at {request.url.path[:200]}; see {docs}")
            return problem_response(problem(lost, request.url.path))
        if error.status_code == 405:
            return _not_allowed(request, _methods(request, routes) or {"GET"})
        return _plain(request, error.status_code, str(error.detail), dict(error.headers or {}))

    app.add_exception_handler(PaletteryError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, _unforeseen)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PaletteryError)  # noqa: S101
    if isinstance(error, Unavailable):
        find_service(request, Metrics).failed(error)
    return problem_response(problem(error, request.url.path), HEADERS.get(error.code))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's own validation, of queries and paths."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    fields = [
        InvalidField(pointer="/" + "/".join(map(str, found["loc"])), detail=found["msg"])
        for found in error.errors()
    ]
    told = BadInput("the request is not valid; `errors` names each field", fields)
    return problem_response(problem(told, request.url.path))


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error.__cause__, PaletteryError):  # behind the headers: it breaks off
        log.error("%s %s broke off: %s", request.method, request.url.path, error.__cause__)
    else:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    told = PaletteryError("this should not have happened; the server's log tells more")
    return problem_response(problem(told, request.url.path))


def _not_allowed(request: Request, methods: set[str]) -> Response:
    """The methods that there are: as an error, or as the answer to OPTIONS."""
    implied = {"HEAD", "OPTIONS"} if "GET" in methods else {"OPTIONS"}
    allowed = ", ".join(sorted(methods | implied))
    if request.method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": allowed})
    detail = f"{request.method[:16]} is not allowed here; allowed are {allowed}"
    return _plain(request, 405, detail, {"Allow": allowed})


def _methods(request: Request, routes: Sequence[BaseRoute]) -> set[str]:
    """Methods of the path that matches first, as the API reference lists them."""
    found = [route for route in routes if route.matches(request.scope)[0] is Match.PARTIAL]
    paths = [getattr(route, "path", "") for route in found]
    sharing = [route for route, path in zip(found, paths, strict=True) if path == paths[0]]
    return {method for route in sharing for method in getattr(route, "methods", ())}


def _plain(request: Request, status: int, detail: str, headers: dict[str, str]) -> JSONResponse:
    told = http_problem(status, detail, request.url.path)
    return problem_response(told, HEADERS.get(told.code, {}) | headers)


def http_problem(status: int, detail: str, instance: str | None = None) -> Problem:
    """An error that HTTP itself defines."""
    code = HTTP_CODES.get(status, "http")
    return Problem(
        type=f"urn:palettery:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        instance=instance,
    )
