"""Delivery of webhooks: signed, retried with backoff, and logged in the job's log.

Source: Standard Webhooks, https://www.standardwebhooks.com.
"""

import asyncio
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import httpcore
import httpx
from standardwebhooks import Webhook

from palettery.app.errors import InvalidWebhook
from palettery.app.events.log_messages import LogMessage
from palettery.app.events.repository import EventRepository
from palettery.app.execution.engine import Engine, WorkflowCall
from palettery.app.settings import Settings
from palettery.app.version import VERSION
from palettery.app.webhooks.addresses import CheckedNetwork, PrivateAddressError, parse_webhook_url
from palettery.app.webhooks.repository import WebhookRepository, WebhookTarget
from palettery.schemas.webhooks import WebhookMessage

MAX_ATTEMPTS = 9
BACKOFF, MAX_WAIT_S = 4.0, 57_600.0
"""Factor between two waits, and the maximum wait, 16 hours: nine attempts take a day."""
TIMEOUT_S = 10.0
"""Timeout of a whole call, from name resolution to the end of the response."""
RESPONSE_BYTES = 4 << 10
"""Maximum size of a response that is read before the connection is closed."""
STATUS_GONE = 410

DeliveryStatus = Literal["delivered", "refused", "failed"]
"""`refused` is final, `failed` is retried."""


class DeliveryOutcome(NamedTuple):
    """Result of one call."""

    status: DeliveryStatus
    reason: str


class WebhookDeliveries:
    """Calls webhooks."""

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
        """Send the message about the end of a job once; None if the job was deleted."""
        target_and_message = await asyncio.to_thread(self._build_message, call)
        if target_and_message is None:
            return None
        target, message = target_and_message
        try:
            url = parse_webhook_url(target.url, private=self._settings.webhook_private)
            status = await self._post(url, message, _headers(call, target.secret, message))
        except InvalidWebhook as error:
            return DeliveryOutcome("refused", error.detail)
        except PrivateAddressError:
            return DeliveryOutcome("refused", "its host has an address that is not public")
        except (TimeoutError, httpcore.TimeoutException):
            return DeliveryOutcome("failed", f"no answer within {TIMEOUT_S:g} s")
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError) as error:
            return DeliveryOutcome("failed", f"no answer: {type(error).__name__}")
        if 200 <= status < 300:
            return DeliveryOutcome("delivered", f"HTTP {status}")
        return DeliveryOutcome("refused" if status == STATUS_GONE else "failed", f"HTTP {status}")

    async def conclude(self, call: WorkflowCall, outcome: DeliveryOutcome) -> None:
        """Schedule a retry, or log the final outcome in the job's log."""
        tries = call.tries + 1
        if outcome.status == "failed" and tries < MAX_ATTEMPTS:
            wait_s = min(self._settings.webhook_retry_s * BACKOFF**call.tries, MAX_WAIT_S)
            retry = call._replace(tries=tries)
            await asyncio.to_thread(self._engine.call_webhook_later, retry, wait_s)
            return
        results = {"delivered": "was called", "refused": "is not called", "failed": "was given up"}
        result = f"{results[outcome.status]}: {outcome.reason}"
        text = f"the webhook {result} at try {tries} of {MAX_ATTEMPTS}"
        message = LogMessage(text, "info" if outcome.status == "delivered" else "warning")
        await asyncio.to_thread(self._events.log, call.job_id, message)

    def _build_message(self, call: WorkflowCall) -> tuple[WebhookTarget, bytes] | None:
        target = self._webhooks.target(call.job_id)
        state = self._events.state(call.job_id, call.number)
        if target is None or state is None:
            return None
        at, job = state
        message = WebhookMessage(type=f"job.{job.state}", timestamp=at, data=job)
        return target, message.model_dump_json().encode()

    async def _post(self, url: httpx.URL, body: bytes, headers: dict[str, str]) -> int:
        """Send the message and return the status of the response; redirects are not followed."""
        status: int | None = None
        address = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        network = CheckedNetwork(private=self._settings.webhook_private)
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                httpcore.AsyncConnectionPool(network_backend=network) as pool,
                pool.stream(
                    "POST", address, headers=list(headers.items()), content=body
                ) as response,
            ):
                status, size_bytes = response.status, 0
                async for chunk in response.aiter_stream():
                    size_bytes += len(chunk)
                    if size_bytes > RESPONSE_BYTES:
                        break
        except (OSError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
            if status is None:
                raise
        assert status is not None  # noqa: S101 - there is no other way out
        return status


def _headers(call: WorkflowCall, secret: str, message: bytes) -> dict[str, str]:
    """Return the headers of one attempt; all attempts have the same id, but different times."""
    now, name = datetime.now(UTC), f"msg_{call.job_id}-{call.attempt}"
    return {
        "content-type": "application/json",
        "user-agent": f"palettery/{VERSION}",
        "webhook-id": name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(name, now, message.decode()),
    }
