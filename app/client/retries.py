"""When to try again: what may pass by itself is tried anew, each time later."""

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
"""A minute and a half in all: longer than a server takes to start anew."""
FIRST_ATTEMPTS = 3
"""Of a server that has never answered: probably there is none."""
LONGEST_S = 120
"""Of all waits together; a server that wants more patience has its answer passed on."""
LONG_S = 5
"""A wait that the user should be told of."""

WAIT = wait_exception(lambda error: getattr(error, "retry_after_s", 0)) + wait_exponential_jitter(
    multiplier=0.25, max=10, jitter=0.5
)


class Transient(Exception):
    """A failure that may pass; `error` is what it means if it does not."""

    def __init__(
        self, error: PaletteryError, *, retry_after_s: float = 0, may_be_done: bool = False
    ) -> None:
        super().__init__(error.detail)
        self.error = error
        self.retry_after_s = retry_after_s
        """What the server asks to wait."""
        self.may_be_done = may_be_done
        """Whether the server may have done what was asked, and only its answer was lost."""


def retrying(attempts: Callable[[], int], *, is_repeatable: bool) -> AsyncRetrying:
    """Calls what it is given until it succeeds, fails for good, or has had its attempts.

    What is not repeatable is tried again only where the server cannot have done it.
    """

    def is_worth_it(error: BaseException) -> bool:
        return isinstance(error, Transient) and (is_repeatable or not error.may_be_done)

    def is_over(state: RetryCallState) -> bool:
        waited_s = state.idle_for + state.upcoming_sleep
        return state.attempt_number >= attempts() or waited_s > LONGEST_S

    return AsyncRetrying(
        retry=retry_if_exception(is_worth_it),
        stop=is_over,
        wait=WAIT,
        before_sleep=_tell,
        reraise=True,
    )


def _tell(state: RetryCallState) -> None:
    level = logging.WARNING if state.upcoming_sleep >= LONG_S else logging.INFO
    failure = state.outcome and state.outcome.exception()
    log.log(level, "%s; trying again in %.0f s", failure, state.upcoming_sleep)


def retry_after_s(header: str | None) -> float:
    """Seconds that a Retry-After header asks for; none if it says nothing that can be read."""
    if not header:
        return 0
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0
