"""What only a folder does."""

import asyncio
import errno
import hashlib
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from palettery.app.errors import BadInput, StorageFailed, StorageFull
from palettery.app.storage import folder as module
from palettery.app.storage.open import open_storage


def test_no_path_leaves_the_folder(folder):
    for path in ("../a", "/a", "a/../../b", "a//b", "", "a\0b", "."):
        for ask in (folder.read, folder.delete, lambda path: folder.write(path, b"")):
            with pytest.raises(StorageFailed, match="is not a path in the store"):
                ask(path)
    assert not (folder.root.parent / "a").exists()


def test_no_empty_folder_is_left(folder):
    for path in ("a/b/c", "a/d/e", "f/g/h/i"):
        folder.write(path, b"")
    folder.delete("a/b/c")
    folder.delete_folder("f/g")
    assert sorted(file.name for file in folder.root.rglob("*")) == ["a", "d", "e"]
    folder.delete_folder("")
    assert list(folder.root.iterdir()) == []


def test_writers_and_deleters_of_one_folder_do_not_disturb_each_other(folder):
    def work(name):
        for _ in range(200):
            folder.write(f"a/b/{name}", b"1")
            folder.delete(f"a/b/{name}")

    failures = []
    threads = [threading.Thread(target=_noting(failures, work), args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(folder.root.iterdir()) == []


def _noting(failures, work):
    def run(*arguments):
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001 - the test's thread tells of it
            failures.append(error)

    return run


def test_what_a_crash_left_is_found_by_age_and_shown_to_nobody(folder):
    folder.write("a/b", b"1")
    for name, age_s in (("a/b", 100), ("a/c", 5), ("d/e", 100)):
        place = folder.root / f"{name}.{'0' * 32}.aside"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"half")
        then = datetime.now(UTC).timestamp() - age_s
        os.utime(place, (then, then))
    assert folder.list("") == ["a/b"]
    before = datetime.now(UTC) - timedelta(seconds=50)
    assert folder.delete_unfinished("", before) == 2
    left = sorted(file.name for file in folder.root.rglob("*"))
    assert left == ["a", "b", f"c.{'0' * 32}.aside"]
    assert folder.delete_unfinished("a", datetime.now(UTC)) == 1


def test_holes_read_as_zeros(folder):
    with (folder.root / "a").open("wb") as file:
        file.truncate(1 << 20)
    assert folder.read("a", 5, 1_000) == bytes(1_000)


def test_a_full_disk_says_so(folder):
    with pytest.raises(StorageFull, match="free some space"):
        folder.write("a", _full())
    assert list(folder.root.rglob("*")) == []


def _full():
    with Path("/dev/full").open("wb", buffering=0) as device:
        yield b"1"
        device.write(b"2")


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_joining_where_the_file_system_cannot_copy(folder, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, "refused")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    data = bytes(range(256)) * 20_000
    folder.write("a", data)
    assert (
        asyncio.run(folder.join(["a", "a"], "b")).hexdigest()
        == hashlib.sha256(data + data).hexdigest()
    )
    assert folder.read("b") == data + data


def test_joining_that_is_cut_off_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(module, "STEP_BYTES", 1_000)
    folder.write("a", bytes(10_000_000))

    async def cut_off():
        joining = asyncio.create_task(folder.join(["a"], "b"))
        while not [file for file in folder.root.glob("b.*") if file.stat().st_size]:
            await asyncio.sleep(0)
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining

    asyncio.run(cut_off())
    assert [file.name for file in folder.root.rglob("*")] == ["a"]


def test_folder_that_is_gone_is_named(folder):
    assert folder.health_problem() is None
    moved = folder.root.rename(folder.root.with_name("moved"))
    assert folder.health_problem() == f"there is no folder {folder.root}"
    moved.rename(folder.root)
    assert folder.health_problem() is None


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(os.devnull)])
def test_what_is_no_file_is_never_replaced(folder, make):
    make(folder.root / "x")
    before = (folder.root / "x").lstat()
    folder.write("y", b"1")
    for write in (lambda: folder.write("x", b"2"), lambda: folder.copy("y", "x")):
        with pytest.raises(StorageFailed, match="not a regular file"):
            write()
    assert (folder.root / "x").lstat() == before
    assert sorted(path.name for path in folder.root.iterdir()) == ["x", "y"]


@pytest.mark.parametrize("end", ["?1", "?", "#1", "?a=b#c"])
def test_a_url_that_ends_before_the_folder_does_is_refused(tmp_path, end):
    with pytest.raises(BadInput, match="write %3F or %23"):
        open_storage((tmp_path / "team").as_uri() + end)
    assert not list(tmp_path.iterdir())
