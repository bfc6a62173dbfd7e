"""Payloads of webhooks, and the secret that signs them.

Source: Standard Webhooks, https://www.standardwebhooks.com.
"""

from datetime import datetime
from typing import Literal

from palettery.schemas.base import Schema
from palettery.schemas.jobs import Job


class WebhookMessage(Schema):
    """Body of a webhook request."""

    type: Literal["job.succeeded", "job.failed", "job.cancelled"]
    """Event that happened."""
    timestamp: datetime
    """Time of the event, in UTC."""
    data: Job
    """Job at the time of the event."""


class WebhookSecret(Schema):
    """Secret that signs an owner's webhooks."""

    secret: str
    """Secret in the format of Standard Webhooks: `whsec_` and 32 random bytes in base64."""
