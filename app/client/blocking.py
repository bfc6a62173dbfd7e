"""The blocking client: the asynchronous one on an event loop of its own."""

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


def blocking_call(
    method: Callable[Concatenate[AsyncClient, Parameters], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate["Client", Parameters], Result]:
    """Return a blocking version of an asynchronous method."""

    @wraps(method)
    def run(client: "Client", /, *args: Parameters.args, **named: Parameters.kwargs) -> Result:
        return client.run(lambda: method(client.asynchronous, *args, **named))

    return run


def blocking_iterator(
    method: Callable[Concatenate[AsyncClient, Parameters], AsyncIterator[Result]],
) -> Callable[Concatenate["Client", Parameters], Iterator[Result]]:
    """Return a blocking version of a method that is an asynchronous iterator."""

    @wraps(method)
    def run(
        client: "Client", /, *args: Parameters.args, **named: Parameters.kwargs
    ) -> Iterator[Result]:
        items = method(client.asynchronous, *args, **named)

        async def next_item() -> tuple[Result, ...]:
            try:
                return (await anext(items),)
            except StopAsyncIteration:
                return ()

        async def close() -> None:
            if isinstance(items, AsyncGenerator):
                await items.aclose()

        try:
            while item := client.run(next_item):
                yield from item
        finally:
            client.start(close)

    return run


def _do_nothing() -> None:
    """Placeholder of `_stop_loop` until there is an event loop."""


def _stop_loop(portal: BlockingPortal, loop: ExitStack) -> None:
    """Stop an event loop, cancelling its tasks."""
    portal.start_task_soon(portal.stop, True)
    loop.close()


class Client:
    """A server's API as methods; an error response is raised as the matching exception.

    `url` and `key` default to PALETTERY_SERVER and PALETTERY_KEY. Requests that fail because of a
    lost connection or a busy server are tried up to `attempts` times.
    """

    def __init__(
        self, url: str | None = None, *, key: str | None = None, attempts: int = ATTEMPTS
    ) -> None:
        self.asynchronous = AsyncClient(url, key=key, attempts=attempts)
        self._portal: BlockingPortal | None = None
        self._start_lock = Lock()
        self._end: Callable[[], object] = _do_nothing

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
        """Run a coroutine and return its result; cancel it when interrupted."""
        with self._start_lock:  # threads that share a client share its loop
            if self._portal is None:
                loop = ExitStack()
                self._portal = loop.enter_context(start_blocking_portal())
                # Without a finalizer Python would not exit while a client is open.
                self._end = finalize(self, _stop_loop, self._portal, loop)
            future: Future[Result] = self._portal.start_task_soon(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a coroutine without waiting for it, unless the client is closed."""
        if self._portal is not None:
            self._portal.start_task_soon(work)

    def close(self) -> None:
        """Close every connection."""
        if self._portal is not None:
            self._portal.call(self.asynchronous.close)
            self._portal = None
            self._end()

    ready = blocking_call(AsyncClient.ready)
    me = blocking_call(AsyncClient.me)
    service = blocking_call(AsyncClient.service)
    upload = blocking_call(AsyncClient.upload)
    models = blocking_iterator(AsyncClient.models)
    model = blocking_call(AsyncClient.model)
    delete_model = blocking_call(AsyncClient.delete_model)
    plan = blocking_call(AsyncClient.plan)
    submit = blocking_call(AsyncClient.submit)
    put_config = blocking_call(AsyncClient.put_config)
    configs = blocking_iterator(AsyncClient.configs)
    config = blocking_call(AsyncClient.config)
    delete_config = blocking_call(AsyncClient.delete_config)
    validate = blocking_call(AsyncClient.validate)
    job = blocking_call(AsyncClient.job)
    jobs = blocking_iterator(AsyncClient.jobs)
    cancel = blocking_call(AsyncClient.cancel)
    retry = blocking_call(AsyncClient.retry)
    delete = blocking_call(AsyncClient.delete)
    events = blocking_iterator(AsyncClient.events)
    watch = blocking_iterator(AsyncClient.watch)
    wait = blocking_call(AsyncClient.wait)
    log = blocking_iterator(AsyncClient.log)
    job_config = blocking_call(AsyncClient.job_config)
    report = blocking_call(AsyncClient.report)
    report_page = blocking_call(AsyncClient.report_page)
    evaluate = blocking_call(AsyncClient.evaluate)
    evaluation = blocking_call(AsyncClient.evaluation)
    evaluation_samples = blocking_call(AsyncClient.evaluation_samples)
    evaluations = blocking_call(AsyncClient.evaluations)
    statistics = blocking_call(AsyncClient.statistics)
    download = blocking_call(AsyncClient.download)
    download_export = blocking_call(AsyncClient.download_export)
    calibrate = blocking_call(AsyncClient.calibrate)
    submit_calibration = blocking_call(AsyncClient.submit_calibration)
    calibration = blocking_call(AsyncClient.calibration)
    calibrations = blocking_iterator(AsyncClient.calibrations)
    calibration_events = blocking_iterator(AsyncClient.calibration_events)
    wait_for_calibration = blocking_call(AsyncClient.wait_for_calibration)
    cancel_calibration = blocking_call(AsyncClient.cancel_calibration)
    retry_calibration = blocking_call(AsyncClient.retry_calibration)
    delete_calibration = blocking_call(AsyncClient.delete_calibration)
    download_calibration = blocking_call(AsyncClient.download_calibration)
    webhook_secret = blocking_call(AsyncClient.webhook_secret)
    rotate_webhook_secret = blocking_call(AsyncClient.rotate_webhook_secret)
    keys = blocking_iterator(AsyncClient.keys)
    create_key = blocking_call(AsyncClient.create_key)
    revoke_key = blocking_call(AsyncClient.revoke_key)
