"""Untrusted files, built byte by byte."""

import pytest

from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredFile
from tests.forged import safetensors_bytes, tensor


@pytest.fixture(name="safetensors_bytes")
def _safetensors_bytes():
    return safetensors_bytes


@pytest.fixture(name="tensor")
def _tensor():
    return tensor


@pytest.fixture
def read(tmp_path):
    """Return a function from files (name -> bytes) to their Checkpoint."""

    def read_files(files, limits=None):
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        stored = [
            StoredFile(name=name, path=name, size_bytes=len(content))
            for name, content in files.items()
        ]
        return read_checkpoint(open_storage(tmp_path.as_uri()), stored, limits or Limits())

    return read_files
