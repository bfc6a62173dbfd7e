"""Jobs as they lie when they were accepted and nothing has run."""

import json
from pathlib import Path

from palettery.app.database.engine import open_database
from palettery.app.database.migrations import migrate
from palettery.app.files.repository import FileLocation
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.app.storage.base import Storage
from palettery.app.storage.open import open_storage
from palettery.schemas.jobs import Progress

DOCUMENTS = ("request.json", "tasks.json")


def hand_over(source: Storage, done: str, data_dir: Path, job_id: str) -> None:
    """Put a job that ended elsewhere into a data folder under another id, as if just accepted."""
    store = open_storage((data_dir / "store").resolve().as_uri())
    document = {}
    for name in DOCUMENTS:
        document[name] = bytes(source.read(f"jobs/{done}/{name}")).replace(
            done.encode(), job_id.encode()
        )
        store.write(f"jobs/{job_id}/{name}", document[name])
    files = {
        file["path"]: FileLocation(file["sha256"], file["path"], file["size_bytes"])
        for file in json.loads(document["request.json"])["checkpoint"]["files"]
    }
    for task in json.loads(document["tasks.json"]):
        for item in task["slices"]:
            if rows := item["sensitivity"]:
                files[rows["path"]] = FileLocation(rows["file_sha256"], rows["path"], 0)
    for path in files:
        store.write(path, source.read(path))
    add_row(data_dir, job_id, list(files.values()))


def add_row(data_dir: Path, job_id: str, files: list[FileLocation]) -> None:
    """A queued job that no workflow knows."""
    data_dir.mkdir(parents=True, exist_ok=True)
    database = open_database(f"sqlite:///{data_dir / 'palettery.db'}")
    migrate(database)
    JobRepository(database).add(NewJob(job_id, "m.safetensors", 1, Progress()), files)
    database.close()
