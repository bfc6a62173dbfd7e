"""HTTP to one server: authorized, tried again where that is safe, every problem an error."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
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
from palettery.schemas.configs import ConfigPage
from palettery.schemas.jobs import JobPage
from palettery.schemas.keys import KeyPage
from palettery.schemas.models import ModelPage
from palettery.schemas.problem import Problem

Result = TypeVar("Result")
Typed = TypeVar("Typed", bound=BaseModel)
Page = TypeVar("Page", bound=ConfigPage | JobPage | KeyPage | ModelPage)

TIMEOUT = httpx.Timeout(300, connect=10)
"""To read as many gigabytes as an upload may have takes the server its time."""
STREAM_TIMEOUT = httpx.Timeout(60, connect=10)
"""Between two pieces of a stream, which a server that is well never lets pass."""
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
RUNNING = "is `palettery serve` running there?"
REACHED = "can it be reached from here?"
PASSING = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


class Connection:
    """One server.

    Raises:
        BadInput: the URL is none, or the key.
    """

    def __init__(self, url: str, key: str | None, attempts: int = ATTEMPTS) -> None:
        self.url = url
        self._attempts = attempts
        self._was_answered = False
        key = _sendable(key or "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        try:
            self.elsewhere = httpx.AsyncClient(timeout=TIMEOUT, limits=limits)
            """For addresses that the server gave, which must not get its key."""
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise BadInput(
                f"a proxy that the environment names cannot be used ({error}); it has "
                f"{proxies_set()}: correct or unset that"
            ) from error
        try:
            self.http = httpx.AsyncClient(
                base_url=url, headers=headers, timeout=TIMEOUT, limits=limits
            )
        except httpx.InvalidURL as error:
            raise BadInput(f"{url!r} is no URL of a server: {error}") from error
        if self.http.base_url.scheme not in ("http", "https") or not self.http.base_url.host:
            raise BadInput(f"a server's URL is such as http://127.0.0.1:8400; got {url!r}")

    async def close(self) -> None:
        """Close every connection."""
        await self.http.aclose()
        await self.elsewhere.aclose()

    async def call(
        self, method: str, path: str, *, is_repeatable: bool = True, **request: Any
    ) -> httpx.Response:
        """The answer to a request, which is sent as often as it takes.

        Raises:
            PaletteryError: the problem that the server answered with.
            Unavailable: it cannot be reached.
        """
        return await self.again(
            lambda: self.once(method, path, **request), is_repeatable=is_repeatable
        )

    async def get(self, kind: type[Typed], path: str, **query: object) -> Typed:
        """What is at a path."""
        params = {name: value for name, value in query.items() if value is not None}
        return parsed(kind, await self.call("GET", path, params=params))

    async def post(self, kind: type[Typed], path: str, **request: Any) -> Typed:
        """What a change comes to."""
        return parsed(kind, await self.call("POST", path, **request))

    async def pages(self, kind: type[Page], path: str, **query: object) -> AsyncIterator[Page]:
        """Every page of a list; each is fetched when it is needed."""
        cursor: str | None = None
        while True:
            page = await self.get(kind, path, limit=100, cursor=cursor, **query)
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return

    async def delete(self, path: str) -> None:
        """Have something removed; that an earlier try of ours has removed it already is fine."""
        tries = 0

        async def once() -> None:
            nonlocal tries
            tries += 1
            try:
                await self.once("DELETE", path)
            except NotFound:
                if tries == 1:
                    raise

        await self.again(once)

    async def again(
        self, work: Callable[[], Awaitable[Result]], *, is_repeatable: bool = True
    ) -> Result:
        """What `work` returns, tried anew as long as it raises Transient.

        Raises:
            PaletteryError: what the last failure means.
        """
        retry = retrying(self._attempts_now, is_repeatable=is_repeatable)
        try:
            # Not `work` itself: a lambda's coroutine would not be awaited.
            return await retry(_awaited, work)
        except Transient as given_up:
            raise given_up.error from given_up

    async def once(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The answer to a request that is sent once.

        Raises:
            Transient: another try may mend it.
            PaletteryError: the problem that the server answered with.
        """
        with self._reached():
            response = await self.http.request(method, path, **request)
        self._check(response)
        return response

    async def put(self, path: str, **request: Any) -> None:
        """Send something, once.

        Raises:
            Transient, PaletteryError: see `once`.
        """
        await self.once("PUT", path, **request)

    async def put_elsewhere(self, url: str, **request: Any) -> None:
        """Send something, once, to an address that the server gave; nobody there gets its key.

        Raises:
            Transient: another try may mend it.
            PartsMissing: it was refused; an address may be good for a while only.
        """
        host = httpx.URL(url).host
        with self._reached(httpx.URL(url)):
            response = await self.elsewhere.put(url, **request)
        if response.is_success:
            return
        refused = PartsMissing(
            f"{host} refused a part: {response.status_code} {response.text[:200]!r}"
        )
        if response.is_server_error or response.status_code in PASSING:
            raise Transient(refused)
        raise refused

    @asynccontextmanager
    async def stream(
        self, path: str, headers: dict[str, str], accept: int | None = None
    ) -> AsyncIterator[httpx.Response]:
        """The answer to a GET, sent once, whose body is yet to be read.

        Raises:
            Transient: another try may mend it.
            PaletteryError: the problem that the server answered with, unless that is `accept`.
        """
        with self._reached():
            asked = self.http.stream("GET", path, headers=headers, timeout=STREAM_TIMEOUT)
            async with asked as response:
                if response.status_code != accept:
                    if not response.is_success:
                        await response.aread()
                    self._check(response)
                yield response

    @contextmanager
    def _reached(self, elsewhere: httpx.URL | None = None) -> Iterator[None]:
        where = elsewhere.host if elsewhere else self.url
        try:
            yield
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            hint = proxy_hint(elsewhere or self.http.base_url)
            if isinstance(error, UNSENT):
                ask = REACHED if elsewhere else RUNNING
                told = f"no answer from {where} ({why}){hint or f'; {ask}'}"
                raise Transient(Unavailable(told)) from error
            told = f"{where} was lost before the whole answer came ({why}); it may be done{hint}"
            raise Transient(Unavailable(told), may_be_done=True) from error

    def _check(self, response: httpx.Response) -> None:
        self._was_answered = True
        if response.is_success:
            return
        error = told_by(response)
        if response.status_code in PASSING:
            asked_s = retry_after_s(response.headers.get("Retry-After"))
            raise Transient(error, retry_after_s=asked_s)
        raise error

    def _attempts_now(self) -> int:
        return self._attempts if self._was_answered else min(FIRST_ATTEMPTS, self._attempts)


def _sendable(key: str) -> str:
    """A key as it goes into a header; what is wrong with one is told without it."""
    key = key.strip()
    if not all("!" <= character <= "~" for character in key):
        raise BadInput(
            "the key holds spaces, or characters that are not printable ASCII, as no key does; "
            "see that it was copied right"
        )
    return key


async def _awaited(work: Callable[[], Awaitable[Result]]) -> Result:
    return await work()


def parsed(kind: type[Typed], response: httpx.Response) -> Typed:
    """A typed answer; what a newer server adds to it is left out.

    Raises:
        PaletteryError: it is none, so it comes from another version or from no Palettery at all.
    """
    try:
        return kind.model_validate_json(response.content, extra="ignore")
    except ValidationError as error:
        raise PaletteryError(
            f"{response.url} answered with no {kind.__name__} that this client reads; is a "
            f"Palettery of the same version there?{proxy_hint(response.url)}"
        ) from error


def told_by(response: httpx.Response) -> PaletteryError:
    """The error that a problem stands for."""
    try:
        told = Problem.model_validate_json(response.content, extra="ignore")
    except ValidationError:
        kind = BadInput if response.is_client_error else PaletteryError
        return kind(
            f"{response.url} answered {response.status_code}, with no problem that this client "
            f"reads: {response.text[:200]!r}{proxy_hint(response.url)}"
        )
    kind = ERRORS.get(told.code, BadInput if response.is_client_error else PaletteryError)
    request_id = response.headers.get("X-Request-ID") if response.is_server_error else None
    return kind(told.detail + (f" (request {request_id})" if request_id else ""), told.errors)
