"""Named configs: what the endpoints ask for."""

import asyncio

from app.configs.read import Document, normalised, validated
from app.configs.records import NAME, ConfigRecords, StoredConfig
from app.errors import BadInput
from app.keys.caller import Caller
from app.paging import sealed_key, unsealed_key
from app.readers import Readers
from schemas.configs import ConfigPage


class Configs:
    """Configs of one service."""

    def __init__(self, records: ConfigRecords, readers: Readers, most_bytes: int) -> None:
        self._records, self._readers = records, readers
        self.most_bytes = most_bytes

    async def put(self, caller: Caller, name: str, document: Document) -> tuple[StoredConfig, bool]:
        """Store a config as the newest version of a name; whether it was not that already.

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
        config = await self._readers.run(caller.owner, len(document.text), normalised, document)
        return await asyncio.to_thread(self._records.put, caller.owner, name, config, caller.limits)

    async def validate(self, owner: str, document: Document) -> bytes:
        """What is to be said of a document, as JSON of `ValidatedConfig`."""
        return await self._readers.run(owner, len(document.text), validated, document)

    def get(self, owner: str, reference: str) -> StoredConfig:
        """The version that `name@version` names, or the newest that `name` does.

        Raises:
            NotFound: there is none.
        """
        return self._records.get(owner, reference)

    def document(self, owner: str, reference: str) -> Document:
        """The same, for a job.

        Raises:
            NotFound: there is none.
        """
        found = self.get(owner, reference)
        return Document(found.document, "json", name=found.summary.reference)

    def page(self, owner: str, limit: int, cursor: str | None) -> ConfigPage:
        """An owner's configs, in the order of their names."""
        found = self._records.page(owner, limit + 1, unsealed_key(cursor, NAME))
        items = tuple(found[:limit])
        return ConfigPage(
            items=items, next_cursor=sealed_key(items[-1].name) if found[limit:] else None
        )

    def delete(self, owner: str, name: str) -> None:
        """Remove a name with its versions; jobs keep what they were given.

        Raises:
            NotFound: there is no such name.
        """
        self._records.delete(owner, name)
