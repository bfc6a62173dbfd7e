"""Room that is kept for deletions."""

import shutil
from collections import namedtuple

import pytest

from palettery.app.settings import Settings
from palettery.app.storage import reserve as module
from palettery.app.storage.folder import FLOOR_BYTES
from palettery.app.storage.reserve import PLENTY_BYTES, RESERVE_BYTES, Reserve

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(monkeypatch):
    """A disk with as much free as a test says."""

    def has_free(size_bytes):
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(0, 0, size_bytes))

    return has_free


@pytest.fixture
def reserve(tmp_path):
    return Reserve(Settings(data_dir=tmp_path))


def test_reserve_takes_room_and_gives_it_back(reserve, tmp_path, disk):
    place = tmp_path / "reserve"
    disk(PLENTY_BYTES)
    reserve.make()
    assert place.stat().st_blocks * 512 >= RESERVE_BYTES, "it is no sparse file"
    reserve.make()
    reserve.give_up()
    assert place.exists(), "there is room without it"
    disk(FLOOR_BYTES - 1)
    reserve.give_up()
    reserve.give_up()
    assert not place.exists()
    reserve.make()
    assert not place.exists(), "there is no room for it yet"
    disk(PLENTY_BYTES)
    reserve.make()
    assert place.exists()


def test_other_databases_have_none_and_a_folder_to_come_is_no_fault(tmp_path):
    settings = Settings(data_dir=tmp_path, database_url="postgresql://elsewhere/x")
    Reserve(settings).make()
    Reserve(settings).give_up()
    assert list(tmp_path.iterdir()) == []
    Reserve(Settings(data_dir=tmp_path / "new")).give_up()


def test_real_disk_is_looked_at(reserve, tmp_path):
    if shutil.disk_usage(tmp_path).free < PLENTY_BYTES:
        pytest.skip("this disk is full")
    reserve.make()
    assert (tmp_path / "reserve").exists()
