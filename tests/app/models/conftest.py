import asyncio
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from safetensors.numpy import save

from palettery.app.database.engine import Database
from palettery.app.files.repository import FileLocation, FileRepository
from palettery.app.models.indexing import load_checkpoint
from palettery.app.models.repository import ModelRepository
from palettery.app.models.response import model_response
from palettery.app.models.service import ModelService
from palettery.app.sandbox.document_pool import DocumentClient
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.models import Model
from tests.app.stored_job import draws
from tests.document_pools import PoolPerCall


@dataclass
class World:
    """Models in a folder and a database, with a clock that the test sets."""

    database: Database
    store: Storage
    clock: list

    def __post_init__(self):
        self.files = FileRepository(self.database)
        self.records = ModelRepository(self.database, timedelta(days=30), lambda: self.clock[0])

    @property
    def models(self):
        """The service of another process."""
        return ModelService(Limits(), self.records, self.files, self.store, PoolPerCall())

    def put(self, name, data):
        sha256 = hashlib.sha256(data).hexdigest()
        path = f"uploads/{sha256[:32]}"
        self.store.write(path, data)
        return StoredFile(name=name, path=path, size_bytes=len(data), sha256=sha256)

    def add(self, owner="a", in_transaction=lambda _: None, **files):
        """A model of files, as `name=bytes`; without any, a small one."""
        named = files or {"m": save(draws(x=(4, 8)))}
        stored = [self.put(f"{name}.safetensors", data) for name, data in named.items()]
        digests = {file.sha256: file for file in stored}
        paths = self.files.find(digests)
        locations = [
            FileLocation(f.sha256, f.path, f.size_bytes, f.sha256 in paths) for f in stored
        ]
        return asyncio.run(self.models.add(owner, stored, locations, in_transaction))

    def response(self, owner, model_id):
        """A model as the API returns it."""

        async def body():
            sent = model_response(
                self.store, await self.models.get(DocumentClient(owner), model_id)
            )
            data = b"".join([bytes(piece) async for piece in sent.body_iterator])
            assert int(sent.headers["content-length"]) == len(data)
            return data

        return Model.model_validate_json(asyncio.run(body()))

    def checkpoint(self, owner, model_id):
        """A model as a job gets it."""
        files = self.records.files(owner, model_id)
        return load_checkpoint(self.store, model_id, files, Limits())


@pytest.fixture
def world(tmp_path, database):
    store = open_storage((tmp_path / "store").as_uri())
    return World(database, store, [datetime(2026, 1, 1, tzinfo=UTC)])
