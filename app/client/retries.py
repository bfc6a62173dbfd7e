"""Retries of transient failures, with exponential backoff."""

import logging
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    wait_exception,
    wait_exponential_jitter,
)

from palettery.app.errors import PaletteryError

log = logging.getLogger(__name__)

ATTEMPTS = 15
"""Maximum number of attempts, over a minute and a half in total: a server restarts in less."""
FIRST_ATTEMPTS = 3
"""Maximum number of attempts while the server has never responded: there is probably none."""
MAX_WAIT_S = 120
"""Limit of all waits together; a longer Retry-After raises the error at once."""
NOTABLE_WAIT_S = 5
"""Minimum wait that is logged as a warning."""

WAIT = wait_exception(lambda error: getattr(error, "retry_after_s", 0)) + wait_exponential_jitter(
    multiplier=0.25, max=10, jitter=0.5
)


class Transient(Exception):
    """A failure that a retry may resolve; `error` is raised if it does not."""

    def __init__(
        self, error: PaletteryError, *, retry_after_s: float = 0, may_have_succeeded: bool = False
    ) -> None:
        super().__init__(error.detail)
        self.error = error
        self.retry_after_s = retry_after_s
        """Wait that the server requests by Retry-After."""
        self.may_have_succeeded = may_have_succeeded
        """Whether the request may have succeeded, and only its response was lost."""


def retrying(attempts: Callable[[], int], *, is_repeatable: bool) -> AsyncRetrying:
    """Return a tenacity retrier of transient failures; `attempts` returns their maximum number.

    A request that is not repeatable is retried only if it cannot have succeeded.
    """

    def is_retryable(error: BaseException) -> bool:
        return isinstance(error, Transient) and (is_repeatable or not error.may_have_succeeded)

    def is_over(state: RetryCallState) -> bool:
        waited_s = state.idle_for + state.upcoming_sleep
        return state.attempt_number >= attempts() or waited_s > MAX_WAIT_S

    return AsyncRetrying(
        retry=retry_if_exception(is_retryable),
        stop=is_over,
        wait=WAIT,
        before_sleep=_log_retry,
        reraise=True,
    )


def _log_retry(state: RetryCallState) -> None:
    level = logging.WARNING if state.upcoming_sleep >= NOTABLE_WAIT_S else logging.INFO
    failure = state.outcome and state.outcome.exception()
    log.log(level, "%s; trying again in %.0f s", failure, state.upcoming_sleep)


def retry_after_s(header: str | None) -> float:
    """Return the seconds of a Retry-After header; 0 if it is missing or invalid."""
    if not header:
        return 0
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0
