"""Data folders: each its own, whatever its name is; and one line where it cannot be used."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from palettery.app.database.engine import open_database
from palettery.app.errors import BadInput
from palettery.app.roles.role import migrate
from palettery.app.settings import Settings, read_settings
from palettery.app.storage.data_folder import prepare
from palettery.app.storage.open import open_storage

NAMES = [
    "team?1",
    "team?2",
    "team#1",
    "feature%2Flogin",
    "feature%252Flogin",
    "100%",
    "%(here)s",
    "a b",
    "a+b",
    "a&b=c;d",
    "a:b@c",
    "é ü 模型",
    "quote'\"`",
    "back\\slash",
    "new\nline\ttab",
    "-dash",
    "..dots",
    "~",
    "$HOME",
    "*[x]{y}",
    "file:",
    ":memory:",
    "sqlite:",
    "x" * 255,
    "/".join(["deep"] * 50),
]


def test_every_folder_has_its_own_database_and_store(tmp_path):
    root = tmp_path / "ws"
    for name in NAMES:
        settings = Settings(data_dir=root / name)
        prepare(settings)
        database = open_database(settings.resolved_database_url())
        with database.transaction() as session:
            session.connection().exec_driver_sql("CREATE TABLE named (name TEXT)")
            session.connection().exec_driver_sql("INSERT INTO named VALUES (?)", (name,))
        database.close()
        open_storage(settings.resolved_storage_url()).write("name", name.encode())
    for name in NAMES:
        folder = root / name
        assert {path.name for path in folder.iterdir()} >= {"palettery.db", "store"}
        assert (folder / "store" / "name").read_bytes() == name.encode()
        file = sqlite3.connect(folder / "palettery.db")
        assert file.execute("SELECT name FROM named").fetchall() == [(name,)]
        file.close()
    assert {path.name for path in root.iterdir()} == {name.split("/")[0] for name in NAMES}


@pytest.mark.parametrize("name", ["team?1", "feature%2Flogin", "%(here)s #é'\n"])
def test_the_engine_and_alembic_take_every_name(tmp_path, name):
    settings = Settings(data_dir=tmp_path / name)
    prepare(settings)
    database = open_database(settings.resolved_database_url())
    migrate(database)
    database.close()
    file = sqlite3.connect(tmp_path / name / "palettery.db")
    tables = {row[0] for row in file.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    file.close()
    assert {"jobs", "workflow_status"} <= tables
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_path_that_is_too_long_for_sqlite_is_one_line(palettery, tmp_path):
    folder = tmp_path.joinpath(*["deep" * 10] * 20)
    code, out, err = palettery("migrate", "--data-dir", folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "SQLite allows 500; choose a shorter --data-dir" in err


def test_relative_folders_are_those_of_now(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(data_dir=Path("-a?b"))
    prepare(settings)
    open_database(settings.resolved_database_url()).close()
    assert str(tmp_path) in settings.resolved_storage_url()
    assert (tmp_path / "-a?b").is_dir()


def test_a_name_that_is_not_utf8_is_one_line(tmp_path):
    settings = Settings(data_dir=tmp_path / os.fsdecode(b"\xff"))
    with pytest.raises(BadInput, match="is not UTF-8; choose another --data-dir"):
        settings.resolved_database_url()


def read_only_folder(folder):
    folder.mkdir()
    folder.chmod(0o555)
    return folder


def below_a_read_only_folder(folder):
    return read_only_folder(folder) / "data"


def below_a_file(folder):
    folder.write_bytes(b"")
    return folder / "data"


def a_file(folder):
    folder.write_bytes(b"")
    return folder


def link_to_nowhere(folder):
    folder.symlink_to("no/such/folder")
    return folder


def read_only_database(folder):
    folder.mkdir()
    (folder / "palettery.db").write_bytes(b"")
    (folder / "palettery.db").chmod(0o444)
    return folder


def read_only_store(folder):
    (folder / "store").mkdir(parents=True)
    (folder / "store").chmod(0o555)
    return folder


def read_only_lock(folder):
    folder.mkdir()
    (folder / "server.lock").write_bytes(b"")
    (folder / "server.lock").chmod(0o444)
    return folder


def too_long(folder):
    return folder / ("x" * 256)


@pytest.mark.parametrize("command", ["serve", "migrate"])
@pytest.mark.parametrize(
    "make",
    [
        read_only_folder,
        below_a_read_only_folder,
        below_a_file,
        a_file,
        link_to_nowhere,
        read_only_database,
        read_only_store,
        read_only_lock,
        too_long,
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(
    palettery, tmp_path, unprivileged, monkeypatch, make, command
):
    monkeypatch.setattr("palettery.app.cli.service_commands._configure_logging", lambda _: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    folder = make(tmp_path / "folder")
    with unprivileged(tmp_path):
        code, out, err = palettery(command, "--data-dir", folder)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert str(tmp_path / "folder") in err
    assert "--data-dir" in err


@pytest.mark.heavy
@pytest.mark.parametrize("words", [["serve"], ["migrate"], ["keys", "list"]])
def test_a_read_only_file_system_is_one_line(tmp_path, words):
    """As root, whom no mode stops."""
    folder = tmp_path / "ro"
    folder.mkdir()
    mount = f"mount -t tmpfs none {folder} && : >{folder}/palettery.db"
    mount += f" && mount -o remount,ro {folder}"
    own = ["unshare", "-m", "sh", "-c"]
    if subprocess.run([*own, mount], check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    command = (
        f"{sys.executable} -c 'from palettery.app.cli.main import main; main()' {' '.join(words)}"
    )
    script = f"{mount} && {command} --data-dir {folder}"
    done = subprocess.run([*own, script], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"this process may not read and write {folder}" in done.stderr


def test_settings_name_no_folder_that_they_do_not_need(tmp_path, monkeypatch):
    """A role with a database and a store of its own looks at no data folder."""
    monkeypatch.chdir(tmp_path)
    settings = read_settings(
        database_url="postgresql://host/name", storage_url=(tmp_path / "s").as_uri()
    )
    assert settings.resolved_database_url() == "postgresql://host/name"
    assert not (tmp_path / "data").exists()
