"""Call webhooks: signed, again after a while where that fails, and told in the job's log.

Source: Standard Webhooks, https://www.standardwebhooks.com.
"""

import asyncio
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import httpcore
import httpx
from standardwebhooks import Webhook

from palettery.app.errors import InvalidWebhook
from palettery.app.events.log_messages import Line
from palettery.app.events.repository import EventRepository
from palettery.app.execution.engine import Engine, WorkflowCall
from palettery.app.settings import Settings
from palettery.app.version import VERSION
from palettery.app.webhooks.addresses import AddressRefused, CheckedNetwork, checked_url
from palettery.app.webhooks.repository import WebhookRepository, WebhookTarget
from palettery.schemas.webhooks import WebhookMessage

TRIES = 9
SLOWER, LONGEST_S = 4.0, 57_600.0
"""Each wait is so many times the one before, up to 16 hours: nine tries take a day."""
TIMEOUT_S = 10.0
"""For everything from the name's resolution to the end of the answer."""
ANSWER_BYTES = 4 << 10
"""That are read of an answer, out of politeness."""
GONE = 410

Verdict = Literal["delivered", "refused", "failed"]
"""`refused` is for good; what `failed` is tried again."""


class DeliveryOutcome(NamedTuple):
    """What a call came to."""

    verdict: Verdict
    why: str


class WebhookDeliveries:
    """Calls of this service's webhooks."""

    def __init__(
        self,
        settings: Settings,
        events: EventRepository,
        webhooks: WebhookRepository,
        engine: Engine,
    ) -> None:
        self._settings, self._events = settings, events
        self._webhooks, self._engine = webhooks, engine

    async def call(self, call: WorkflowCall) -> DeliveryOutcome | None:
        """Send the message about a job's end once; None if the job was deleted meanwhile."""
        found = await asyncio.to_thread(self._found, call)
        if found is None:
            return None
        target, message = found
        try:
            url = checked_url(target.url, private=self._settings.webhook_private)
            status = await self._post(url, message, _headers(call, target.secret, message))
        except InvalidWebhook as error:
            return DeliveryOutcome("refused", error.detail)
        except AddressRefused:
            return DeliveryOutcome("refused", "its host has an address that is not public")
        except (TimeoutError, httpcore.TimeoutException):
            return DeliveryOutcome("failed", f"no answer within {TIMEOUT_S:g} s")
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError) as error:
            return DeliveryOutcome("failed", f"no answer: {type(error).__name__}")
        if 200 <= status < 300:
            return DeliveryOutcome("delivered", f"HTTP {status}")
        return DeliveryOutcome("refused" if status == GONE else "failed", f"HTTP {status}")

    async def conclude(self, call: WorkflowCall, outcome: DeliveryOutcome) -> None:
        """Have it tried again, or tell the job's log how it went in the end."""
        tried = call.tries + 1
        if outcome.verdict == "failed" and tried < TRIES:
            wait_s = min(self._settings.webhook_retry_s * SLOWER**call.tries, LONGEST_S)
            again = call._replace(tries=tried)
            await asyncio.to_thread(self._engine.call_webhook_later, again, wait_s)
            return
        ends = {"delivered": "was called", "refused": "is not called", "failed": "was given up"}
        told = f"the webhook {ends[outcome.verdict]}: {outcome.why} at try {tried} of {TRIES}"
        line = Line(told, "info" if outcome.verdict == "delivered" else "warning")
        await asyncio.to_thread(self._events.log, call.job_id, line)

    def _found(self, call: WorkflowCall) -> tuple[WebhookTarget, bytes] | None:
        target = self._webhooks.target(call.job_id)
        ended = self._events.state(call.job_id, call.number)
        if target is None or ended is None:
            return None
        at, job = ended
        message = WebhookMessage(type=f"job.{job.state}", timestamp=at, data=job)
        return target, message.model_dump_json().encode()

    async def _post(self, url: httpx.URL, body: bytes, headers: dict[str, str]) -> int:
        """The status of the answer, whatever becomes of the rest of it; no redirect is followed."""
        status: int | None = None
        address = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        network = CheckedNetwork(private=self._settings.webhook_private)
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                httpcore.AsyncConnectionPool(network_backend=network) as pool,
                pool.stream("POST", address, headers=list(headers.items()), content=body) as answer,
            ):
                status, read = answer.status, 0
                async for chunk in answer.aiter_stream():
                    read += len(chunk)
                    if read > ANSWER_BYTES:
                        break
        except (OSError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
            if status is None:
                raise
        assert status is not None  # noqa: S101 - there is no other way out
        return status


def _headers(call: WorkflowCall, secret: str, message: bytes) -> dict[str, str]:
    """Of one try: the id stays, and the time is that of the try."""
    now, name = datetime.now(UTC), f"msg_{call.job_id}-{call.attempt}"
    return {
        "content-type": "application/json",
        "user-agent": f"palettery/{VERSION}",
        "webhook-id": name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(name, now, message.decode()),
    }
