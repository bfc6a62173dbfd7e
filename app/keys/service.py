"""Service of API keys: authentication, creation and revocation."""

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

MAX_VALIDITY = timedelta(days=36_525)
"""Maximum validity of a key that expires."""

CACHE_S, CACHE_SIZE = 1.0, 10_000
"""Lifetime and size of the cache of callers."""

log = logging.getLogger(__name__)


class KeyService:
    """API keys of the service.

    Changes apply immediately in this process, and within a second in others.
    """

    def __init__(self, settings: Settings, keys: KeyRepository) -> None:
        self._settings, self._keys = settings, keys
        self._cache: dict[str | None, tuple[float, Caller]] = {}
        """Digest of a secret -> (end of validity by the monotonic clock, caller)."""
        admin_key = settings.admin_key
        self._admin_sha256 = admin_key and secret_sha256(admin_key.get_secret_value())

    def check_address(self) -> None:
        """Check that other machines cannot access a server without keys.

        Raises:
            BadInput: there are no keys, and the address is not loopback.
        """
        if self._admin_sha256 or self._keys.exist():
            return
        if not self._settings.is_loopback():
            raise BadInput(
                f"refusing to listen on {self._settings.host}: there are no keys, so anyone could "
                "use it; run `palettery keys create`, set PALETTERY_ADMIN_KEY, or listen on "
                "127.0.0.1"
            )
        log.warning(
            "there are no keys: everyone who can reach %s has full access; create a key with "
            "`palettery keys create`",
            self._settings.host,
        )

    async def authenticate(self, secret: str | None) -> Caller:
        """Return what `caller` returns for a secret, from a cache if possible.

        Raises:
            Unauthenticated: the secret is missing or invalid.
        """
        digest, now = secret and secret_sha256(secret), time.monotonic()
        valid_until, caller = self._cache.get(digest, (0.0, None))
        if caller is None or valid_until < now:
            caller = await self._keys.read_in_thread(self.caller, secret)
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            self._cache[digest] = (now + CACHE_S, caller)
        return caller

    def caller(self, secret: str | None) -> Caller:
        """Return the caller with a secret; without one, the local owner if there are no keys.

        Raises:
            Unauthenticated: the secret is missing or invalid.
        """
        if secret is None:
            return self._caller_without_key()
        digest = secret_sha256(secret)
        if self._admin_sha256 and hmac.compare_digest(digest, self._admin_sha256):
            return Caller(ADMIN, limits=self._limits())
        if not PATTERN.fullmatch(secret):
            raise Unauthenticated(
                "this is not a key: keys are `plt_` and 43 letters, digits, `-` and `_`; check "
                "that it was copied completely"
            )
        match = self._keys.find(digest)
        if match is None or not hmac.compare_digest(digest, match[1]):
            raise Unauthenticated("there is no such key; ask an admin of this server for one")
        key, now = match[0], self._keys.now()
        if key.revoked_at is not None:
            raise Unauthenticated(f"the key {key.prefix} was revoked; ask an admin for another")
        if key.expires_at is not None and key.expires_at <= now:
            raise Unauthenticated(f"the key {key.prefix} has expired; ask an admin for another")
        return Caller(key.owner, frozenset(key.scopes), self._limits(key), key.prefix)

    def create(self, new: NewKey) -> CreatedKey:
        """Create a key, and return it with its secret, which cannot be shown again.

        Raises:
            BadInput: `expires_at` is in the past, or over a hundred years ahead.
        """
        now = self._keys.now()
        if new.expires_at is not None and not now < new.expires_at < now + MAX_VALIDITY:
            raise BadInput(
                f"expires_at is {new.expires_at.isoformat()}; it must be after "
                f"{now.isoformat(timespec='seconds')}, by less than a hundred years"
            )
        secret = new_secret()
        key = self._keys.add(
            str(uuid.uuid4()), secret[:PREFIX_CHARACTERS], secret_sha256(secret), new
        )
        self._cache.clear()
        return CreatedKey(key=key, secret=secret)

    def page(self, limit: int, cursor: str | None) -> KeyPage:
        """Return a page of the keys of all owners, newest first."""
        before = None if cursor is None else decode_cursor(cursor)
        keys = self._keys.page(limit + 1, before)
        items = tuple(keys[:limit])
        if not keys[limit:]:
            return KeyPage(items=items)
        return KeyPage(items=items, next_cursor=encode_cursor(items[-1].created_at, items[-1].id))

    def revoke(self, key_id: str) -> None:
        """Revoke a key."""
        self._keys.revoke(key_id)
        self._cache.clear()

    def exist(self) -> bool:
        """Return whether any key is not revoked."""
        return self._keys.exist()

    def is_key_required(self) -> bool:
        """Return whether every request needs a key."""
        is_protected = self._admin_sha256 or not self._settings.is_loopback()
        return bool(is_protected) or self._keys.exist()

    def me(self, caller: Caller) -> Me:
        """Return a caller with its scopes, limits and usage."""
        return Me(
            owner=caller.owner,
            scopes=tuple(sorted(caller.scopes)),
            limits=caller.limits,
            used=self._keys.usage(caller.owner),
        )

    def _caller_without_key(self) -> Caller:
        """Return the local owner; on an address that others can reach, a key is always required."""
        if not self.is_key_required():
            return Caller(limits=self._limits())
        raise Unauthenticated(
            "this server requires a key; send it as `Authorization: Bearer plt_...`"
        )

    def _limits(self, key: Key | None = None) -> OwnerLimits:
        """Return the service's limits, overridden by those of a key."""
        limits = self._settings.limits
        key_limits = key and {name: getattr(key, name) for name in OwnerLimits.model_fields}
        return OwnerLimits(
            queued_jobs=limits.queued_jobs,
            stored_bytes=limits.stored_bytes,
            upload_bytes=limits.upload_bytes,
        ).model_copy(
            update={name: value for name, value in (key_limits or {}).items() if value is not None}
        )
