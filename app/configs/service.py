"""Named configs: what the endpoints ask for."""

import asyncio

from palettery.app.configs.documents import ConfigDocument, NormalizedConfig, normalised, validated
from palettery.app.configs.repository import NAME, ConfigRepository
from palettery.app.errors import BadInput
from palettery.app.http.caller import Caller
from palettery.app.http.pagination import decode_key_cursor, encode_key_cursor
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.sandbox.fair_semaphore import FairSemaphore
from palettery.app.storage.spooled_content import IN_MEMORY_BYTES, Content, SpooledContent, pieces
from palettery.schemas.configs import ConfigPage, ConfigSummary

NORMALISED = 4
"""A config with every default filled in may be so many times as long as one that is sent."""


class ConfigService:
    """Configs of one service."""

    def __init__(self, records: ConfigRepository, documents: DocumentPool, most_bytes: int) -> None:
        self._records, self._documents = records, documents
        self.most_bytes = most_bytes
        # They have megabytes, and the database takes and gives them in one piece.
        self._in_memory = FairSemaphore(1)

    async def put(
        self, caller: Caller, client: DocumentClient, name: str, document: ConfigDocument
    ) -> tuple[ConfigSummary, Content, bool]:
        """Store a config as the newest version of a name; whether it was not that already.

        The content is the digest of the config, and behind it the config.

        Raises:
            BadInput: the name is none.
            InvalidConfig: every field at fault, at once.
            OverQuota: the caller has too many bytes.
        """
        if not NAME.fullmatch(name):
            raise BadInput(
                f"{name[:80]!r} cannot be a config's name; write 1 to 64 of a-z, 0-9, '.', '_' and "
                "'-', and begin with a letter or a digit"
            )
        most_bytes, size_bytes = NORMALISED * self.most_bytes, len(document.text)
        config = await self._documents.document(
            client, size_bytes, normalised, document, most_bytes
        )
        async with self._in_memory.turn(caller.owner):
            summary, is_new = await asyncio.to_thread(self._put, caller, name, config)
        return summary, config, is_new

    async def validate(self, client: DocumentClient, document: ConfigDocument) -> Content:
        """What is to be said of a document, as JSON of `ValidatedConfig`."""
        return await self._documents.document(client, len(document.text), validated, document)

    async def get(self, owner: str, reference: str) -> tuple[ConfigSummary, Content]:
        """The version that `name@version` names, or the newest that `name` does.

        Raises:
            NotFound: there is none.
        """
        async with self._in_memory.turn(owner):
            return await asyncio.to_thread(self._get, owner, reference)

    async def document(self, owner: str, reference: str) -> ConfigDocument:
        """The same, for a job.

        Raises:
            NotFound: there is none.
        """
        summary, content = await self.get(owner, reference)
        return ConfigDocument(content, "json", name=summary.reference)

    def page(self, owner: str, limit: int, cursor: str | None) -> ConfigPage:
        """An owner's configs, in the order of their names."""
        found = self._records.page(owner, limit + 1, decode_key_cursor(cursor, NAME))
        items = tuple(found[:limit])
        return ConfigPage(
            items=items, next_cursor=encode_key_cursor(items[-1].name) if found[limit:] else None
        )

    def delete(self, owner: str, name: str) -> None:
        """Remove a name with its versions; jobs keep what they were given.

        Raises:
            NotFound: there is no such name.
        """
        self._records.delete(owner, name)

    def _put(self, caller: Caller, name: str, config: Content) -> tuple[ConfigSummary, bool]:
        parsed = NormalizedConfig.of(b"".join(pieces(config)))
        return self._records.put(caller.owner, name, parsed, caller.limits)

    def _get(self, owner: str, reference: str) -> tuple[ConfigSummary, Content]:
        found = self._records.get(owner, reference)
        content = found.document.encode()
        is_large = len(content) > IN_MEMORY_BYTES
        return found.summary, SpooledContent(content) if is_large else content
