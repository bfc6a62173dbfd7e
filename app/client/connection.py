"""HTTP connection to one server: authorization, retries, and errors."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from palettery.app.client.proxies import proxies_set, proxy_hint
from palettery.app.client.retries import (
    ATTEMPTS,
    FIRST_ATTEMPTS,
    Transient,
    retry_after_s,
    retrying,
)
from palettery.app.errors import (
    ERRORS,
    BadInput,
    NotFound,
    PaletteryError,
    PartsMissing,
    Unavailable,
)
from palettery.schemas.calibration_jobs import CalibrationPage
from palettery.schemas.configs import ConfigPage
from palettery.schemas.jobs import JobPage
from palettery.schemas.keys import KeyPage
from palettery.schemas.models import ModelPage
from palettery.schemas.problem import Problem

Result = TypeVar("Result")
Typed = TypeVar("Typed", bound=BaseModel)
Page = TypeVar("Page", bound=CalibrationPage | ConfigPage | JobPage | KeyPage | ModelPage)

TIMEOUT = httpx.Timeout(300, connect=10)
"""Timeouts of a request: the server may take minutes to verify a large upload."""
STREAM_TIMEOUT = httpx.Timeout(60, connect=10)
"""Timeouts of a stream: servers send something on every stream more often than this."""
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Errors before the request was sent."""
RUNNING_HINT = "is `palettery serve` running there?"
REACHABLE_HINT = "is it reachable from here?"
TRANSIENT_STATUSES = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


@cache
def _tls_context() -> ssl.SSLContext:
    """Return the trusted certificates; loading them takes longer than the rest of a client."""
    return httpx.create_ssl_context()


class Connection:
    """A connection to one server.

    Raises:
        BadInput: the URL or the key is not valid.
    """

    def __init__(self, url: str, key: str | None, attempts: int = ATTEMPTS) -> None:
        self.url = url
        self._attempts = attempts
        self._has_responded = False
        key = _check_key(key or "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        try:
            self.external = httpx.AsyncClient(verify=_tls_context(), timeout=TIMEOUT, limits=limits)
            """Client for presigned URLs of the object store, which must not receive the key."""
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise BadInput(
                f"a proxy of the environment cannot be used ({error}); correct or unset "
                f"{proxies_set()}"
            ) from error
        try:
            self.http = httpx.AsyncClient(
                base_url=url,
                headers=headers,
                verify=_tls_context(),
                timeout=TIMEOUT,
                limits=limits,
            )
        except httpx.InvalidURL as error:
            raise BadInput(f"{url!r} is not the URL of a server: {error}") from error
        if self.http.base_url.scheme not in ("http", "https") or not self.http.base_url.host:
            raise BadInput(
                f"{url!r} is not the URL of a server; expected one such as http://127.0.0.1:8400"
            )

    async def close(self) -> None:
        """Close every connection."""
        await self.http.aclose()
        await self.external.aclose()

    async def call(
        self, method: str, path: str, *, is_repeatable: bool = True, **request: Any
    ) -> httpx.Response:
        """Return the response to a request, with retries.

        Raises:
            PaletteryError: the server responded with an error.
            Unavailable: the server cannot be reached.
        """
        return await self.with_retries(
            lambda: self.request_once(method, path, **request), is_repeatable=is_repeatable
        )

    async def get(self, kind: type[Typed], path: str, **query: object) -> Typed:
        """GET a path, and parse the response."""
        params = {name: value for name, value in query.items() if value is not None}
        return parse(kind, await self.call("GET", path, params=params))

    async def post(self, kind: type[Typed], path: str, **request: Any) -> Typed:
        """POST to a path, and parse the response."""
        return parse(kind, await self.call("POST", path, **request))

    async def pages(self, kind: type[Page], path: str, **query: object) -> AsyncIterator[Page]:
        """Yield the pages of a list; each is fetched when needed."""
        cursor: str | None = None
        while True:
            page = await self.get(kind, path, limit=100, cursor=cursor, **query)
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return

    async def delete(self, path: str) -> None:
        """DELETE a path; a 404 after a retry is a success: an earlier attempt deleted it."""
        attempts = 0

        async def once() -> None:
            nonlocal attempts
            attempts += 1
            try:
                await self.request_once("DELETE", path)
            except NotFound:
                if attempts == 1:
                    raise

        await self.with_retries(once)

    async def with_retries(
        self, work: Callable[[], Awaitable[Result]], *, is_repeatable: bool = True
    ) -> Result:
        """Return the result of `work`, retrying while it raises Transient.

        Raises:
            PaletteryError: the error of the last attempt.
        """
        retry = retrying(self._max_attempts, is_repeatable=is_repeatable)
        try:
            # tenacity recognizes coroutine functions by inspection, which fails for a lambda.
            return await retry(_await_call, work)
        except Transient as failure:
            raise failure.error from failure

    async def request_once(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Return the response to a request that is sent once.

        Raises:
            Transient: a retry may succeed.
            PaletteryError: the server responded with an error.
        """
        with self._transport_errors():
            response = await self.http.request(method, path, **request)
        self._raise_for_status(response)
        return response

    async def put(self, path: str, **request: Any) -> None:
        """PUT to a path, once.

        Raises:
            Transient, PaletteryError: see `request_once`.
        """
        await self.request_once("PUT", path, **request)

    async def put_external(self, url: str, **request: Any) -> None:
        """PUT to a presigned URL, once, without the key.

        Raises:
            Transient: a retry may succeed.
            PartsMissing: the URL was refused; it may have expired.
        """
        host = httpx.URL(url).host
        with self._transport_errors(httpx.URL(url)):
            response = await self.external.put(url, **request)
        if response.is_success:
            return
        error = PartsMissing(
            f"{host} refused a part: {response.status_code} {response.text[:200]!r}"
        )
        if response.is_server_error or response.status_code in TRANSIENT_STATUSES:
            raise Transient(error)
        raise error

    @asynccontextmanager
    async def stream(
        self, path: str, headers: dict[str, str], accept: int | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Open the response to a GET, sent once; its body is not read yet.

        Raises:
            Transient: a retry may succeed.
            PaletteryError: the server responded with an error, other than status `accept`.
        """
        with self._transport_errors():
            request = self.http.stream("GET", path, headers=headers, timeout=STREAM_TIMEOUT)
            async with request as response:
                if response.status_code != accept:
                    if not response.is_success:
                        await response.aread()
                    self._raise_for_status(response)
                yield response

    @contextmanager
    def _transport_errors(self, external: httpx.URL | None = None) -> Iterator[None]:
        """Translate transport errors in the block."""
        server = external.host if external else self.url
        try:
            yield
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            hint = proxy_hint(external or self.http.base_url)
            if isinstance(error, NOT_SENT):
                question = REACHABLE_HINT if external else RUNNING_HINT
                message = f"no response from {server} ({reason}){hint or f'; {question}'}"
                raise Transient(Unavailable(message)) from error
            message = (
                f"the connection to {server} was lost ({reason}); the request may have "
                f"succeeded{hint}"
            )
            raise Transient(Unavailable(message), may_have_succeeded=True) from error

    def _raise_for_status(self, response: httpx.Response) -> None:
        self._has_responded = True
        if response.is_success:
            return
        error = problem_error(response)
        if response.status_code in TRANSIENT_STATUSES:
            wait_s = retry_after_s(response.headers.get("Retry-After"))
            raise Transient(error, retry_after_s=wait_s)
        raise error

    def _max_attempts(self) -> int:
        return self._attempts if self._has_responded else min(FIRST_ATTEMPTS, self._attempts)


def _check_key(key: str) -> str:
    """Return a key without surrounding spaces, if it is valid; messages never contain it."""
    key = key.strip()
    if not all("!" <= character <= "~" for character in key):
        raise BadInput(
            "the key has spaces or characters that are not printable ASCII; check that it was "
            "copied completely"
        )
    return key


async def _await_call(work: Callable[[], Awaitable[Result]]) -> Result:
    return await work()


def parse(kind: type[Typed], response: httpx.Response) -> Typed:
    """Parse a response; fields that a newer server adds are ignored.

    Raises:
        PaletteryError: it does not match; the server is another version or another program.
    """
    try:
        return kind.model_validate_json(response.content, extra="ignore")
    except ValidationError as error:
        raise PaletteryError(
            f"the response of {response.url} is not a {kind.__name__} that this client reads; is "
            f"it a Palettery server of the same version?{proxy_hint(response.url)}"
        ) from error


def problem_error(response: httpx.Response) -> PaletteryError:
    """Return the exception for an error response."""
    try:
        problem = Problem.model_validate_json(response.content, extra="ignore")
    except ValidationError:
        kind = BadInput if response.is_client_error else PaletteryError
        return kind(
            f"{response.url} responded with {response.status_code}, and an error that this client "
            f"cannot read: {response.text[:200]!r}{proxy_hint(response.url)}"
        )
    kind = ERRORS.get(problem.code, BadInput if response.is_client_error else PaletteryError)
    request_id = response.headers.get("X-Request-ID") if response.is_server_error else None
    return kind(problem.detail + (f" (request {request_id})" if request_id else ""), problem.errors)
