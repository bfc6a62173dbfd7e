"""Named configs: validation, storage, limits."""

import asyncio

from palettery.app.configs.documents import ConfigDocument, NormalizedConfig, normalize, validate
from palettery.app.configs.repository import NAME, ConfigRepository
from palettery.app.errors import BadInput
from palettery.app.http.caller import Caller
from palettery.app.http.pagination import decode_key_cursor, encode_key_cursor
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.sandbox.fair_semaphore import FairSemaphore
from palettery.app.storage.spooled_content import IN_MEMORY_BYTES, Content, SpooledContent, pieces
from palettery.schemas.configs import ConfigPage, ConfigSummary

NORMALIZED_FACTOR = 4
"""Maximum size of a normalized config, as a multiple of the maximum size of a request."""


class ConfigService:
    """Configs of one service."""

    def __init__(
        self, repository: ConfigRepository, documents: DocumentPool, max_bytes: int
    ) -> None:
        self._repository, self._documents = repository, documents
        self.max_bytes = max_bytes
        # Configs have megabytes, and the database reads and writes them in one piece.
        self._in_memory_turns = FairSemaphore(1)

    async def put(
        self, caller: Caller, client: DocumentClient, name: str, document: ConfigDocument
    ) -> tuple[ConfigSummary, Content, bool]:
        """Store a config as the newest version of a name.

        Returns the version, the content (digest, then config) and whether the version is new.

        Raises:
            BadInput: the name is invalid.
            InvalidConfig: lists every invalid field.
            OverQuota: the owner would have more bytes than it may.
        """
        if not NAME.fullmatch(name):
            raise BadInput(
                f"{name[:80]!r} cannot be a config's name; write 1 to 64 of a-z, 0-9, '.', '_' and "
                "'-', and begin with a letter or a digit"
            )
        max_bytes, size_bytes = NORMALIZED_FACTOR * self.max_bytes, len(document.text)
        config = await self._documents.document(client, size_bytes, normalize, document, max_bytes)
        async with self._in_memory_turns.turn(caller.owner):
            summary, is_new = await asyncio.to_thread(self._put, caller, name, config)
        return summary, config, is_new

    async def validate(self, client: DocumentClient, document: ConfigDocument) -> Content:
        """Return the `ValidatedConfig` of a document as JSON."""
        return await self._documents.document(client, len(document.text), validate, document)

    async def get(self, owner: str, reference: str) -> tuple[ConfigSummary, Content]:
        """Return the version `name@version`, or the newest one of `name`.

        Raises:
            NotFound: there is none.
        """
        async with self._in_memory_turns.turn(owner):
            return await asyncio.to_thread(self._get, owner, reference)

    async def document(self, owner: str, reference: str) -> ConfigDocument:
        """Return a version of a config as a document, for a job; see `get`.

        Raises:
            NotFound: there is none.
        """
        summary, content = await self.get(owner, reference)
        return ConfigDocument(content, "json", name=summary.reference)

    def page(self, owner: str, limit: int, cursor: str | None) -> ConfigPage:
        """Return a page of an owner's configs, in the order of their names."""
        rows = self._repository.page(owner, limit + 1, decode_key_cursor(cursor, NAME))
        items = tuple(rows[:limit])
        return ConfigPage(
            items=items, next_cursor=encode_key_cursor(items[-1].name) if rows[limit:] else None
        )

    def delete(self, owner: str, name: str) -> None:
        """Delete a name with all its versions; jobs keep their configs.

        Raises:
            NotFound: there is no such name.
        """
        self._repository.delete(owner, name)

    def _put(self, caller: Caller, name: str, config: Content) -> tuple[ConfigSummary, bool]:
        normalized = NormalizedConfig.from_content(b"".join(pieces(config)))
        return self._repository.put(caller.owner, name, normalized, caller.limits)

    def _get(self, owner: str, reference: str) -> tuple[ConfigSummary, Content]:
        stored = self._repository.get(owner, reference)
        content = stored.document.encode()
        is_large = len(content) > IN_MEMORY_BYTES
        return stored.summary, SpooledContent(content) if is_large else content
