"""Secrets of webhooks over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Depends

from palettery.app.http.problems import problems
from palettery.app.http.services import ServiceLookup
from palettery.app.keys.authentication import Writer
from palettery.app.webhooks.repository import WebhookRepository
from palettery.schemas.webhooks import WebhookSecret

router = APIRouter(prefix="/v1", responses=problems(default="an error of another kind"))


Webhooks = Annotated[WebhookRepository, Depends(ServiceLookup(WebhookRepository))]


@router.get("/webhook-secret")
def get_secret(webhooks: Webhooks, caller: Writer) -> WebhookSecret:
    """Return the secret that signs your webhooks; needs `write`, as it allows forging them."""
    return WebhookSecret(secret=webhooks.secret(caller.owner))


@router.post("/webhook-secret/rotate")
def rotate_secret(webhooks: Webhooks, caller: Writer) -> WebhookSecret:
    """Replace the secret by a new one; the old one is not used from now on."""
    return WebhookSecret(secret=webhooks.rotate(caller.owner))
