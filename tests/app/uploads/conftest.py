import asyncio
import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from safetensors.numpy import save
from starlette.datastructures import Headers

from palettery.app.database.engine import Database
from palettery.app.files.repository import FileRepository
from palettery.app.http.caller import UNLIMITED, Caller
from palettery.app.models.repository import ModelRepository
from palettery.app.models.service import ModelService
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.open import open_storage
from palettery.app.storage.verified_reader import DIGESTS
from palettery.app.uploads.completion import UploadCompletion
from palettery.app.uploads.expiry import UploadExpiry
from palettery.app.uploads.repository import UploadRepository
from palettery.app.uploads.service import UploadService
from palettery.schemas.uploads import MIN_PART_BYTES, FileToSend, NewUpload
from tests.app.stored_job import draws
from tests.document_pools import PoolPerCall

DAY = timedelta(days=1)


def announced(**files):
    """An upload of files, as `name=bytes`, in the smallest parts that may be."""
    sent = [
        FileToSend(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    ]
    return NewUpload(files=sent, part_size_bytes=MIN_PART_BYTES)


def digest_header(data):
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return {"content-digest": f"sha-256=:{digest}:"}


async def streamed(data):
    for start in range(0, len(data), 1 << 20):
        yield data[start : start + (1 << 20)]


@dataclass
class World:
    """Uploads into a store and a database, with a clock that the test sets."""

    database: Database
    store: Storage

    def __post_init__(self):
        self.now = datetime.now(UTC)
        self.files = FileRepository(self.database)
        self.upload_repository = UploadRepository(self.database, DAY, lambda: self.now)
        self.model_repository = ModelRepository(self.database, 30 * DAY, lambda: self.now)
        self.models = ModelService(
            Limits(), self.model_repository, self.files, self.store, PoolPerCall()
        )
        self.completion, self.uploads = self.process()
        self.expiry = UploadExpiry(
            self.files, self.upload_repository, self.model_repository, self.store, DAY
        )

    def process(self):
        """As another process of the service has them."""
        completion = UploadCompletion(
            self.upload_repository, self.models, self.model_repository, self.files, self.store
        )
        limits = Limits(upload_files=5)
        return completion, UploadService(
            limits, self.upload_repository, self.model_repository, self.store, completion
        )

    def start(self, owner="a", **files):
        return self.uploads.start(Caller(owner), announced(**files), None, presign=False)[0]

    async def put(self, upload, number, data, owner="a", limits=UNLIMITED, **headers):
        """Send a part."""
        sent = Headers(digest_header(data) | headers)
        await self.uploads.receive_part(
            Caller(owner, limits=limits), upload.id, number, sent, streamed(data)
        )

    async def send(self, upload, data, numbers=None, owner="a"):
        """Send the parts of an upload of one file."""
        for part in upload.parts:
            if numbers is None or part.number in numbers:
                piece = data[part.offset : part.offset + part.size_bytes]
                await self.put(upload, part.number, piece, owner)

    def left(self):
        """But for the digests of uploaded files."""
        return {path for path in self.store.list("") if not path.startswith(f"{DIGESTS}/")}


def run(work):
    return asyncio.run(work)


def completed(world, upload, owner="a"):
    return run(world.uploads.complete(owner, upload.id))


def check_only_models_are_left(world):
    stored = set(world.files.paths())
    assert {path for path in world.left() if not path.startswith("models/")} == stored
    if hasattr(world.store, "root"):
        assert [*world.store.root.rglob("*.aside")] == []


@pytest.fixture(scope="session")
def large():
    """A model of four of the smallest parts that may be, of which the last is short."""
    return save(draws(x=(2048, 1024), y=(2048, 1024), z=(2048, 1024)))


@pytest.fixture(scope="session")
def small():
    return save(draws(1, x=(4, 8)))


@pytest.fixture
def world(tmp_path, database):
    return World(database, open_storage((tmp_path / "store").as_uri()))
