"""What a webhook sends, and the secret that signs it.

Source: Standard Webhooks, https://www.standardwebhooks.com.
"""

from datetime import datetime
from typing import Literal

from palettery.schemas.base import Schema
from palettery.schemas.jobs import Job


class WebhookMessage(Schema):
    """The body of a webhook's request."""

    type: Literal["job.succeeded", "job.failed", "job.cancelled"]
    """What happened."""
    timestamp: datetime
    """When it happened."""
    data: Job
    """The job as it was then."""


class WebhookSecret(Schema):
    """What an owner's webhooks are signed with."""

    secret: str
    """`whsec_` and 32 random bytes in base64, as the libraries of Standard Webhooks take it."""
