"""Rows of webhooks: where a job's goes, and the secrets that sign them."""

import base64
import secrets
from typing import NamedTuple

from sqlalchemy import select

from palettery.app.database.engine import Database, insert
from palettery.app.database.tables import JobRow, WebhookSecretRow

SECRET_BYTES = 32


class WebhookTarget(NamedTuple):
    """Whom to call."""

    url: str
    secret: str


class WebhookRepository:
    """Reads and writes, each in its own transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def secret(self, owner: str) -> str:
        """What an owner's webhooks are signed with; made when it is first asked for."""
        with self._database.transaction() as session:
            made = insert(session, WebhookSecretRow).values(owner=owner, secret=_new_secret())
            session.execute(made.on_conflict_do_nothing())
            query = select(WebhookSecretRow.secret).where(WebhookSecretRow.owner == owner)
            return session.scalars(query).one()

    def rotate(self, owner: str) -> str:
        """A new secret, by which all webhooks are signed from now on."""
        secret = _new_secret()
        with self._database.transaction() as session:
            made = insert(session, WebhookSecretRow).values(owner=owner, secret=secret)
            changed = made.on_conflict_do_update(index_elements=["owner"], set_={"secret": secret})
            session.execute(changed)
        return secret

    def target(self, job_id: str) -> WebhookTarget | None:
        """Whom to call about a job; None if nobody, or if the job was deleted."""
        query = select(JobRow.owner, JobRow.webhook_url).where(JobRow.id == job_id)
        with self._database.transaction() as session:
            found = session.execute(query).one_or_none()
        if found is None or found.webhook_url is None:
            return None
        return WebhookTarget(found.webhook_url, self.secret(found.owner))


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
