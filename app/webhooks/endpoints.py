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
    """What your webhooks are signed with; who has it can forge them, so it takes `write`."""
    return WebhookSecret(secret=webhooks.secret(caller.owner))


@router.post("/webhook-secret/rotate")
def rotate_secret(webhooks: Webhooks, caller: Writer) -> WebhookSecret:
    """A new secret in place of the old one, which signs nothing from now on."""
    return WebhookSecret(secret=webhooks.rotate(caller.owner))
