"""The service in one process, on a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from palettery.app.settings import sqlite_url
from palettery.app.storage.open import open_storage
from tests.integration.service import DEADLINE_S, Program, Service
from tests.ports import free_port


@dataclass
class Embedded(Service):
    """`palettery serve`, all in one."""

    data_dir: Path

    @property
    def program(self) -> Program:
        return self.programs["serve"]


@contextmanager
def serving(data_dir: Path, workers: int = 1, **environment: str) -> Iterator[Embedded]:
    """A server, from ready until all of it is gone."""
    port = free_port()
    words = ("serve", "--port", port, "--data-dir", data_dir, "--workers", workers)
    program = Program(
        [str(word) for word in words],
        environment,
        data_dir.with_name(f"{data_dir.name}-{port}.log"),
    )
    folder = data_dir / "store"

    def unfinished() -> list[str]:
        root = Path(unquote(urlsplit(store.url).path))
        return [str(path.relative_to(root)) for path in root.rglob("*.aside")]

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as http:
        url = environment.get("PALETTERY_DATABASE_URL", sqlite_url(data_dir / "palettery.db"))
        store = open_storage(environment.get("PALETTERY_STORAGE_URL", folder.resolve().as_uri()))
        service = Embedded(
            {"serve": program}, http, store, url, unfinished, data_dir.parent, data_dir
        )
        try:
            service.start()
            yield service
        finally:
            service.end()
