"""The client for code that waits: the asynchronous one on an event loop of its own."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import wraps
from threading import Lock
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar
from weakref import finalize

from anyio.from_thread import BlockingPortal, start_blocking_portal

from palettery.app.client.asynchronous import AsyncClient
from palettery.app.client.retries import ATTEMPTS

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def waiting(
    method: Callable[Concatenate[AsyncClient, Parameters], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate["Client", Parameters], Result]:
    """A method that returns when the asynchronous one has."""

    @wraps(method)
    def run(client: "Client", /, *args: Parameters.args, **named: Parameters.kwargs) -> Result:
        return client.run(lambda: method(client.asynchronous, *args, **named))

    return run


def iterating(
    method: Callable[Concatenate[AsyncClient, Parameters], AsyncIterator[Result]],
) -> Callable[Concatenate["Client", Parameters], Iterator[Result]]:
    """A method that gives what the asynchronous one does, each as it comes."""

    @wraps(method)
    def run(
        client: "Client", /, *args: Parameters.args, **named: Parameters.kwargs
    ) -> Iterator[Result]:
        items = method(client.asynchronous, *args, **named)

        async def following() -> tuple[Result, ...]:
            try:
                return (await anext(items),)
            except StopAsyncIteration:
                return ()

        async def close() -> None:
            if isinstance(items, AsyncGenerator):
                await items.aclose()

        try:
            while found := client.run(following):
                yield from found
        finally:
            client.start(close)

    return run


def _nothing() -> None:
    """There is no event loop to end yet."""


def _end(portal: BlockingPortal, loop: ExitStack) -> None:
    """End an event loop, with whatever still runs on it."""
    portal.start_task_soon(portal.stop, True)
    loop.close()


class Client:
    """A server's API as methods; every problem it answers with is raised as its error.

    `key` is PALETTERY_KEY if it is not given. What fails by a lost connection, or since the server
    is busy, is tried `attempts` times.
    """

    def __init__(
        self, url: str | None = None, *, key: str | None = None, attempts: int = ATTEMPTS
    ) -> None:
        self.asynchronous = AsyncClient(url, key=key, attempts=attempts)
        self._portal: BlockingPortal | None = None
        self._starting = Lock()
        self._end: Callable[[], object] = _nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """What a coroutine returns; interrupted, it is cancelled."""
        with self._starting:  # threads that share a client share its loop
            if self._portal is None:
                loop = ExitStack()
                self._portal = loop.enter_context(start_blocking_portal())
                # Or a client that nobody closes would wait for its loop when Python ends.
                self._end = finalize(self, _end, self._portal, loop)
            future: Future[Result] = self._portal.start_task_soon(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have a coroutine run, without waiting for it, if anything may still run."""
        if self._portal is not None:
            self._portal.start_task_soon(work)

    def close(self) -> None:
        """Close every connection."""
        if self._portal is not None:
            self._portal.call(self.asynchronous.close)
            self._portal = None
            self._end()

    ready = waiting(AsyncClient.ready)
    me = waiting(AsyncClient.me)
    service = waiting(AsyncClient.service)
    upload = waiting(AsyncClient.upload)
    models = iterating(AsyncClient.models)
    model = waiting(AsyncClient.model)
    delete_model = waiting(AsyncClient.delete_model)
    plan = waiting(AsyncClient.plan)
    submit = waiting(AsyncClient.submit)
    put_config = waiting(AsyncClient.put_config)
    configs = iterating(AsyncClient.configs)
    config = waiting(AsyncClient.config)
    delete_config = waiting(AsyncClient.delete_config)
    validate = waiting(AsyncClient.validate)
    job = waiting(AsyncClient.job)
    jobs = iterating(AsyncClient.jobs)
    cancel = waiting(AsyncClient.cancel)
    retry = waiting(AsyncClient.retry)
    delete = waiting(AsyncClient.delete)
    events = iterating(AsyncClient.events)
    watch = iterating(AsyncClient.watch)
    wait = waiting(AsyncClient.wait)
    log = iterating(AsyncClient.log)
    job_config = waiting(AsyncClient.job_config)
    report = waiting(AsyncClient.report)
    report_page = waiting(AsyncClient.report_page)
    statistics = waiting(AsyncClient.statistics)
    download = waiting(AsyncClient.download)
    download_export = waiting(AsyncClient.download_export)
    webhook_secret = waiting(AsyncClient.webhook_secret)
    rotate_webhook_secret = waiting(AsyncClient.rotate_webhook_secret)
    keys = iterating(AsyncClient.keys)
    create_key = waiting(AsyncClient.create_key)
    revoke_key = waiting(AsyncClient.revoke_key)
