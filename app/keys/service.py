"""Tell callers by their keys, and look after the keys."""

import hmac
import logging
import time
import uuid
from datetime import timedelta

from palettery.app.errors import BadInput, Unauthenticated
from palettery.app.http.caller import ADMIN, Caller
from palettery.app.http.pagination import decode_cursor, encode_cursor
from palettery.app.keys.repository import KeyRepository
from palettery.app.keys.secret import PATTERN, PREFIX_CHARACTERS, new_secret, secret_sha256
from palettery.app.settings import Settings
from palettery.schemas.keys import CreatedKey, Key, KeyPage, Me, NewKey, OwnerLimits

LONGEST = timedelta(days=36_525)
"""From now to the end of a key that has one."""

log = logging.getLogger(__name__)


KNOWN_S, MOST_KNOWN = 1.0, 10_000
"""How long a caller is known without being looked up again, and how many are at once."""


class KeyService:
    """Keys of one service.

    What changes here holds from the next request on; what changes in another process, within a
    second.
    """

    def __init__(self, settings: Settings, records: KeyRepository) -> None:
        self._settings, self._records = settings, records
        self._known: dict[str | None, tuple[float, Caller]] = {}
        """Callers by the digests of their secrets, and until when they are known."""
        given = settings.admin_key
        self._admin_sha256 = given and secret_sha256(given.get_secret_value())

    def check_address(self) -> None:
        """See that nobody is let in from elsewhere without a key.

        Raises:
            BadInput: there are no keys, and the address is not loopback.
        """
        if self._admin_sha256 or self._records.are_there():
            return
        if not self._settings.is_loopback():
            raise BadInput(
                f"refusing to listen on {self._settings.host}: there are no keys, so anyone could "
                "use it; run `palettery keys create`, set PALETTERY_ADMIN_KEY, or listen on "
                "127.0.0.1"
            )
        log.warning(
            "there are no keys: whoever reaches %s may do everything; `palettery keys create` "
            "makes one",
            self._settings.host,
        )

    async def known_caller(self, secret: str | None) -> Caller:
        """As `caller`, which is asked at most once a second for the same secret.

        Raises:
            Unauthenticated: says what is wrong with it.
        """
        digest, now = secret and secret_sha256(secret), time.monotonic()
        until, caller = self._known.get(digest, (0.0, None))
        if caller is None or until < now:
            caller = await self._records.quickly(self.caller, secret)
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[digest] = (now + KNOWN_S, caller)
        return caller

    def caller(self, secret: str | None) -> Caller:
        """Whose secret it is; without one, whoever is here as long as there are no keys.

        Raises:
            Unauthenticated: says what is wrong with it.
        """
        if secret is None:
            return self._without_key()
        digest = secret_sha256(secret)
        if self._admin_sha256 and hmac.compare_digest(digest, self._admin_sha256):
            return Caller(ADMIN, limits=self._limits())
        if not PATTERN.fullmatch(secret):
            raise Unauthenticated(
                "this is no key: keys are `plt_` and 43 letters, digits, `-` and `_`; see that it "
                "was copied whole"
            )
        found = self._records.find(digest)
        if found is None or not hmac.compare_digest(digest, found[1]):
            raise Unauthenticated("there is no such key; ask an admin of this server for one")
        key, now = found[0], self._records.now()
        if key.revoked_at is not None:
            raise Unauthenticated(f"the key {key.prefix} was revoked; ask an admin for another")
        if key.expires_at is not None and key.expires_at <= now:
            raise Unauthenticated(f"the key {key.prefix} has expired; ask an admin for another")
        return Caller(key.owner, frozenset(key.scopes), self._limits(key), key.prefix)

    def create(self, new: NewKey) -> CreatedKey:
        """A new key; its secret is told here, and never again.

        Raises:
            BadInput: it would have expired already, or never in a lifetime.
        """
        now = self._records.now()
        if new.expires_at is not None and not now < new.expires_at < now + LONGEST:
            raise BadInput(
                f"expires_at is {new.expires_at.isoformat()}; it must lie behind "
                f"{now.isoformat(timespec='seconds')}, by less than a hundred years"
            )
        secret = new_secret()
        key = self._records.add(
            str(uuid.uuid4()), secret[:PREFIX_CHARACTERS], secret_sha256(secret), new
        )
        self._known.clear()
        return CreatedKey(key=key, secret=secret)

    def page(self, limit: int, cursor: str | None) -> KeyPage:
        """Keys of every owner, newest first."""
        before = None if cursor is None else decode_cursor(cursor)
        found = self._records.page(limit + 1, before)
        items = tuple(found[:limit])
        if not found[limit:]:
            return KeyPage(items=items)
        return KeyPage(items=items, next_cursor=encode_cursor(items[-1].created_at, items[-1].id))

    def revoke(self, key_id: str) -> None:
        """Have a key not be valid from the next request on."""
        self._records.revoke(key_id)
        self._known.clear()

    def are_there(self) -> bool:
        """Whether any key is asked for."""
        return self._records.are_there()

    def are_asked_for(self) -> bool:
        """Whether nobody is let in without a key."""
        is_shut = self._admin_sha256 or not self._settings.is_loopback()
        return bool(is_shut) or self._records.are_there()

    def me(self, caller: Caller) -> Me:
        """Who asks, what it may have and what it has."""
        return Me(
            owner=caller.owner,
            scopes=tuple(sorted(caller.scopes)),
            limits=caller.limits,
            used=self._records.usage(caller.owner),
        )

    def _without_key(self) -> Caller:
        """Whoever is here; nobody on an address that others reach, were the last key revoked."""
        if not self.are_asked_for():
            return Caller(limits=self._limits())
        raise Unauthenticated(
            "this server asks for a key; send it as `Authorization: Bearer plt_...`"
        )

    def _limits(self, key: Key | None = None) -> OwnerLimits:
        """The service's, beaten by a key's."""
        limits = self._settings.limits
        own = key and {name: getattr(key, name) for name in OwnerLimits.model_fields}
        return OwnerLimits(
            queued_jobs=limits.queued_jobs,
            stored_bytes=limits.stored_bytes,
            upload_bytes=limits.upload_bytes,
        ).model_copy(update={name: most for name, most in (own or {}).items() if most is not None})
