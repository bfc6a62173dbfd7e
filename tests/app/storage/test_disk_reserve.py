"""Room that is kept for deletions."""

import shutil
from collections import namedtuple

import pytest

from palettery.app.settings import Settings
from palettery.app.storage import disk_reserve as module
from palettery.app.storage.disk_reserve import PLENTY_BYTES, RESERVE_BYTES, DiskReserve
from palettery.app.storage.folder import MIN_FREE_BYTES

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(monkeypatch):
    """A disk with as much free as a test says."""

    def has_free(size_bytes):
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(0, 0, size_bytes))

    return has_free


@pytest.fixture
def reserve(tmp_path):
    return DiskReserve(Settings(data_dir=tmp_path))


def test_reserve_takes_room_and_gives_it_back(reserve, tmp_path, disk):
    place = tmp_path / "reserve"
    disk(PLENTY_BYTES)
    reserve.create()
    assert place.stat().st_blocks * 512 >= RESERVE_BYTES, "it is no sparse file"
    reserve.create()
    reserve.release()
    assert place.exists(), "there is room without it"
    disk(MIN_FREE_BYTES - 1)
    reserve.release()
    reserve.release()
    assert not place.exists()
    reserve.create()
    assert not place.exists(), "there is no room for it yet"
    disk(PLENTY_BYTES)
    reserve.create()
    assert place.exists()


def test_other_databases_have_none_and_a_folder_to_come_is_no_fault(tmp_path):
    settings = Settings(data_dir=tmp_path, database_url="postgresql://elsewhere/x")
    DiskReserve(settings).create()
    DiskReserve(settings).release()
    assert list(tmp_path.iterdir()) == []
    DiskReserve(Settings(data_dir=tmp_path / "new")).release()


def test_real_disk_is_looked_at(reserve, tmp_path):
    if shutil.disk_usage(tmp_path).free < PLENTY_BYTES:
        pytest.skip("this disk is full")
    reserve.create()
    assert (tmp_path / "reserve").exists()
