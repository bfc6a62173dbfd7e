"""Rows of webhooks: their URLs, and the secrets that sign them."""

import base64
import secrets
from typing import NamedTuple

from sqlalchemy import select

from palettery.app.database.engine import Database, insert
from palettery.app.database.tables import JobRow, WebhookSecretRow

SECRET_BYTES = 32


class WebhookTarget(NamedTuple):
    """URL to call, and the secret that signs the call."""

    url: str
    secret: str


class WebhookRepository:
    """Reads and writes of URLs and secrets of webhooks, each in its own transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def secret(self, owner: str) -> str:
        """Return the secret of an owner, which is created at the first call."""
        with self._database.transaction() as session:
            new = insert(session, WebhookSecretRow).values(owner=owner, secret=_new_secret())
            session.execute(new.on_conflict_do_nothing())
            query = select(WebhookSecretRow.secret).where(WebhookSecretRow.owner == owner)
            return session.scalars(query).one()

    def rotate(self, owner: str) -> str:
        """Replace the secret of an owner and return the new one."""
        secret = _new_secret()
        with self._database.transaction() as session:
            new = insert(session, WebhookSecretRow).values(owner=owner, secret=secret)
            changed = new.on_conflict_do_update(index_elements=["owner"], set_={"secret": secret})
            session.execute(changed)
        return secret

    def target(self, job_id: str) -> WebhookTarget | None:
        """Return the target of a job's webhook; None without one, or if the job was deleted."""
        query = select(JobRow.owner, JobRow.webhook_url).where(JobRow.id == job_id)
        with self._database.transaction() as session:
            row = session.execute(query).one_or_none()
        if row is None or row.webhook_url is None:
            return None
        return WebhookTarget(row.webhook_url, self.secret(row.owner))


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
