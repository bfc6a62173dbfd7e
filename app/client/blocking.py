"""The client for code that waits: the asynchronous one on an event loop of its own."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from app.client.asynchronous import AsyncClient
from app.client.retries import ATTEMPTS

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

        while found := client.run(following):
            yield from found

    return run


class Client:
    """A server's API as methods; every problem it answers with is raised as its error.

    `key` is PALETTERY_KEY if it is not given. What fails by a lost connection, or since the server
    is busy, is tried `attempts` times.
    """

    def __init__(
        self, url: str | None = None, *, key: str | None = None, attempts: int = ATTEMPTS
    ) -> None:
        self.asynchronous = AsyncClient(url, key=key, attempts=attempts)
        self._closing = ExitStack()
        self._portal: BlockingPortal | None = None

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
        if self._portal is None:
            self._portal = self._closing.enter_context(start_blocking_portal())
        future: Future[Result] = self._portal.start_task_soon(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Close every connection."""
        if self._portal is not None:
            self._portal.call(self.asynchronous.close)
            self._portal = None
            self._closing.close()

    ready = waiting(AsyncClient.ready)
    job = waiting(AsyncClient.job)
    jobs = iterating(AsyncClient.jobs)
    cancel = waiting(AsyncClient.cancel)
    retry = waiting(AsyncClient.retry)
    delete = waiting(AsyncClient.delete)
    wait = waiting(AsyncClient.wait)
    report = waiting(AsyncClient.report)
    download = waiting(AsyncClient.download)
    submit = waiting(AsyncClient.submit)
    plan = waiting(AsyncClient.plan)
