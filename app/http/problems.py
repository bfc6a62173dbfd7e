"""Problem responses (RFC 9457): handlers for all errors, and their API documentation."""

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
"""Codes of the errors that HTTP defines and that have no `PaletteryError`."""
HEADERS_BY_CODE = {
    "unauthenticated": {"WWW-Authenticate": 'Bearer realm="palettery"'},
    "forbidden": {"WWW-Authenticate": 'Bearer realm="palettery", error="insufficient_scope"'},
    "over_quota": {"Retry-After": "30"},
    "too_many_streams": {"Retry-After": "5"},
    # Otherwise the server would read and discard the rest of the body.
    "too_large": {"Connection": "close"},
    "unsupported_content_encoding": {"Accept-Encoding": "identity", "Connection": "close"},
}
"""Headers by error code. Source: RFC 6585; RFC 6750, section 3; RFC 9110."""


def problems(**codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of problem responses, as `_404="no such job"`."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        code.lstrip("_"): {"description": text, "content": content} for code, text in codes.items()
    }


def problem_response(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return a problem as a response."""
    body = problem.model_dump(mode="json", exclude_none=True)
    return JSONResponse(body, problem.status, headers, MEDIA_TYPE)


def add_problem_handlers(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Add handlers that turn every error of an app, with these routes, into a problem response."""

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for these only
        if error.status_code == 404:
            docs = f"{request.scope.get('root_path', '')}/docs"
            missing = NotFound(f"there is no {request.url.path[:200]}; see {docs}")
            return problem_response(problem(missing, request.url.path))
        if error.status_code == 405:
            return _method_not_allowed(request, _methods(request, routes) or {"GET"})
        return _http_error(request, error.status_code, str(error.detail), dict(error.headers or {}))

    app.add_exception_handler(PaletteryError, _palettery_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, _unexpected_error)


async def _palettery_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PaletteryError)  # noqa: S101
    if isinstance(error, Unavailable):
        find_service(request, Metrics).failed(error)
    return problem_response(problem(error, request.url.path), HEADERS_BY_CODE.get(error.code))


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    """Handle FastAPI's validation errors of paths, queries and headers."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    fields = [
        InvalidField(pointer="/" + "/".join(map(str, error_["loc"])), detail=error_["msg"])
        for error_ in error.errors()
    ]
    invalid = BadInput("the request is not valid; `errors` names each field", fields)
    return problem_response(problem(invalid, request.url.path))


async def _unexpected_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error.__cause__, PaletteryError):  # after the headers: the response is cut off
        log.error("%s %s was cut off: %s", request.method, request.url.path, error.__cause__)
    else:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    internal = PaletteryError("an unexpected error occurred; see the server's log")
    return problem_response(problem(internal, request.url.path))


def _method_not_allowed(request: Request, methods: set[str]) -> Response:
    """Return 405 with the allowed methods, or 204 in response to OPTIONS."""
    implied = {"HEAD", "OPTIONS"} if "GET" in methods else {"OPTIONS"}
    allowed = ", ".join(sorted(methods | implied))
    if request.method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": allowed})
    detail = f"{request.method[:16]} is not allowed; use {allowed}"
    return _http_error(request, 405, detail, {"Allow": allowed})


def _methods(request: Request, routes: Sequence[BaseRoute]) -> set[str]:
    """Return the methods of the first path that matches, as the API reference lists them."""
    matches = [route for route in routes if route.matches(request.scope)[0] is Match.PARTIAL]
    paths = [getattr(route, "path", "") for route in matches]
    same_path = [route for route, path in zip(matches, paths, strict=True) if path == paths[0]]
    return {method for route in same_path for method in getattr(route, "methods", ())}


def _http_error(
    request: Request, status: int, detail: str, headers: dict[str, str]
) -> JSONResponse:
    problem = http_problem(status, detail, request.url.path)
    return problem_response(problem, HEADERS_BY_CODE.get(problem.code, {}) | headers)


def http_problem(status: int, detail: str, instance: str | None = None) -> Problem:
    """Return the problem of an error that HTTP defines."""
    code = HTTP_CODES.get(status, "http")
    return Problem(
        type=f"urn:palettery:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        instance=instance,
    )
