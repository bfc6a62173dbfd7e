"""Outputs: checked before the work, replaced atomically, and never a device, pipe or socket."""

import contextlib
import os
import shlex
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from safetensors.numpy import load, load_file

from palettery.app.cli import local_job, offline
from palettery.schemas.report import Report


@pytest.fixture
def artifact(palettery, model, tmp_path):
    path = tmp_path / "artifact.safetensors"
    assert palettery("compress", model, "--preset", "w4", "-o", path)[0] == 0
    return path


@pytest.fixture
def no_work(monkeypatch):
    """Whatever reads a model or computes fails the test: it must not come to that."""

    def work(*_, **__):
        pytest.fail("work began before the outputs were checked")

    for name in ("stored_files", "plan_job", "open_files"):
        monkeypatch.setattr(offline, name, work)
    for name in ("stored_files", "run_tasks"):
        monkeypatch.setattr(local_job, name, work)


COMMANDS = ["compress", "decompress"]


def words_of(command, model, artifact):
    return {
        "compress": ["compress", model, "--preset", "w4"],
        "decompress": ["decompress", artifact],
    }[command]


def null_device(path):
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    try:
        path.open("wb").close()
    except PermissionError:
        pytest.skip("devices do not work here")


def block_device(path):
    try:
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    except PermissionError:
        pytest.skip("only root makes devices")


def listening_socket(path):
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


def linked(make):
    def make_linked(path):
        make(path.with_name("target"))
        path.symlink_to("target")

    make_linked.__name__ = f"link_to_{make.__name__}"
    return make_linked


def kind(path):
    return stat.S_IFMT(path.lstat().st_mode), stat.S_IFMT(path.stat().st_mode)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (block_device, "is a block device"),
        (linked(block_device), "is a block device"),
        (listening_socket, "is a socket"),
        (linked(listening_socket), "is a socket"),
        (Path.mkdir, "is a folder"),
        (linked(Path.mkdir), "is a folder"),
    ],
)
def test_what_cannot_be_an_output_is_refused_before_the_work(
    palettery, model, tmp_path, command, make, message
):
    out = tmp_path / "out"
    make(out)
    before, files = kind(out), set(tmp_path.iterdir())
    code, out_text, error = palettery(*words_of(command, model, model), "-o", out)
    assert (code, out_text) == (2, "")
    assert f"{out} {message}; name a file to write" in error
    assert kind(out) == before
    assert set(tmp_path.iterdir()) == files


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("make", [null_device, linked(null_device)])
def test_a_device_is_written_to_and_stays(palettery, model, artifact, tmp_path, command, make):
    out = tmp_path / "null"
    make(out)
    before, files = kind(out), set(tmp_path.iterdir())
    code, _, error = palettery(*words_of(command, model, artifact), "-o", out)
    assert code == 0, error
    assert kind(out) == before
    assert set(tmp_path.iterdir()) == files


@pytest.fixture
def reader():
    """Reads what comes through a pipe, in a thread of its own."""
    threads = []

    def read(path):
        chunks = []
        thread = threading.Thread(target=lambda: chunks.append(path.read_bytes()), daemon=True)
        thread.start()
        threads.append(thread)

        def result():
            thread.join(30)
            return chunks[0]

        return result

    return read


@pytest.mark.parametrize("make", [os.mkfifo, linked(os.mkfifo)])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_gets_the_bytes_that_a_file_would(
    palettery, model, artifact, tmp_path, command, make, reader
):
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    make(pipe)
    received = reader(pipe)
    code, _, error = palettery(*words_of(command, model, artifact), "-o", pipe)
    assert code == 0, error
    palettery(*words_of(command, model, artifact), "-o", file)
    assert received() == file.read_bytes()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("suffix", ["json", "html"])
def test_a_report_goes_through_a_pipe(palettery, model, tmp_path, reader, suffix):
    pipe = tmp_path / f"r.{suffix}"
    os.mkfifo(pipe)
    received = reader(pipe)
    out = tmp_path / "out"
    code, _, error = palettery("compress", model, "--preset", "w4", "-o", out, "--report", pipe)
    assert code == 0, error
    assert received().startswith(b"<!" if suffix == "html" else b"{")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


COMMAND = [sys.executable, "-c", "from palettery.app.cli.main import main; main()"]


def run_command(*words, **options):
    return subprocess.run([*COMMAND, *map(str, words)], check=False, **options)


def run_mounted(mount, *words):
    """Run a command in a mount namespace of its own, after a command that mounts something."""
    own = ["unshare", "-m", "sh", "-c"]
    if subprocess.run([*own, mount], check=False, capture_output=True).returncode:
        pytest.skip("no mounts can be made here")
    script = f"{mount} && {shlex.join([*COMMAND, *map(str, words)])}"
    return subprocess.run([*own, script], check=False, capture_output=True, text=True)


@pytest.mark.heavy
def test_standard_output_can_be_piped(model, artifact):
    done = run_command(
        "compress", model, "--preset", "w4", "-o", "/dev/stdout", capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == artifact.read_bytes()
    assert b"encoder.0.weight" in done.stderr
    assert load(done.stdout)


@pytest.mark.heavy
def test_standard_output_that_is_a_file_goes_on_where_it_is(model, artifact, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"before")
    words = ("compress", model, "--preset", "w4", "-o", "/dev/stdout")
    with log.open("ab") as out:
        done = run_command(*words, stdout=out, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert log.read_bytes() == b"before" + artifact.read_bytes()


@pytest.mark.heavy
def test_a_reader_that_ends_early_is_one_line(model):
    reading, writing = os.pipe()
    os.close(reading)
    words = ("compress", model, "--preset", "w4", "-o", "/dev/stdout")
    done = run_command(*words, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 1
    assert b"palettery: cannot write /dev/stdout: Broken pipe" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_the_file_behind_it_is_replaced(palettery, model, tmp_path, exists):
    behind = tmp_path / "disk" / "there"
    behind.parent.mkdir()
    if exists:
        behind.write_bytes(b"old")
    out = tmp_path / "out"
    out.symlink_to("disk/there")
    assert palettery("compress", model, "--preset", "w4", "-o", out)[0] == 0
    assert out.is_symlink()
    assert load_file(behind)
    assert [*behind.parent.iterdir()] == [behind]


def unwritable_folder(folder):
    folder.chmod(0o555)
    return folder / "out", "is not a writable folder; name a file in another one"


def unreachable_folder(folder):
    inner = folder / "inner"
    inner.mkdir()
    inner.chmod(0)
    return inner / "out", "Permission denied"


def missing_folder(folder):
    return folder / "no" / "out", "there is no folder"


def file_for_a_folder(folder):
    (folder / "file").write_bytes(b"")
    return folder / "file" / "out", "Not a directory"


def long_name(folder):
    return folder / ("x" * 256), "File name too long"


def loop(folder):
    (folder / "out").symlink_to("out")
    return folder / "out", "Too many levels"


def link_into_nowhere(folder):
    (folder / "out").symlink_to("no/such/out")
    return folder / "out", "there is no folder"


def others_file(folder):
    if os.geteuid() != 0:
        pytest.skip("only root makes files of others")
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "out").write_bytes(b"theirs")
    return shared / "out", "it belongs to another user"


UNWRITABLE = [
    unwritable_folder,
    unreachable_folder,
    missing_folder,
    file_for_a_folder,
    long_name,
    loop,
    link_into_nowhere,
]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("option", ["-o", "--report"])
@pytest.mark.parametrize("make", UNWRITABLE)
def test_what_cannot_be_written_is_told_before_the_work(
    palettery, model, tmp_path, unprivileged, make, option
):
    folder = tmp_path / "folder"
    folder.mkdir()
    path, message = make(folder)
    outputs = {"-o": tmp_path / "artifact", "--report": tmp_path / "r.json"} | {option: path}
    words = [str(word) for pair in outputs.items() for word in pair]
    with unprivileged(tmp_path):
        code, out_text, error = palettery("compress", model, "--preset", "w4", *words)
    assert (code, out_text, error.count("\n")) == (2, "", 1)
    assert message in error
    assert path.name in error
    assert not (tmp_path / "artifact").exists()


@pytest.mark.usefixtures("no_work")
def test_a_file_of_somebody_else_in_a_shared_folder_is_refused(
    palettery, model, tmp_path, unprivileged
):
    with unprivileged(tmp_path):
        pass  # the folders are theirs
    path, message = others_file(tmp_path)
    os.chown(path, 1, 1)
    os.chown(path.parent, 1, 1)
    os.setegid(65_534)
    os.seteuid(65_534)
    try:
        code, _, error = palettery("compress", model, "--preset", "w4", "-o", path)
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert (code, message in error) == (2, True)
    assert path.read_bytes() == b"theirs"


@pytest.mark.heavy
@pytest.mark.parametrize("option", ["-o", "--report"])
def test_a_read_only_file_system_is_told_before_the_work(tmp_path, model, option):
    read_only = tmp_path / "ro"
    read_only.mkdir()
    mount = f"mount -t tmpfs none {read_only} && mount -o remount,ro {read_only}"
    outputs = {"-o": tmp_path / "out", "--report": tmp_path / "r.json"} | {option: read_only / "x"}
    words = [word for pair in outputs.items() for word in pair]
    done = run_mounted(mount, "compress", model, "--preset", "w4", *words)
    assert done.returncode == 2, done.stderr
    assert f"{read_only} is not a writable folder" in done.stderr
    assert set(tmp_path.iterdir()) == {model, read_only}


@pytest.mark.heavy
def test_a_full_disk_names_the_output(tmp_path, model):
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=16k none {small}"
    done = run_mounted(mount, "compress", model, "--preset", "w8", "-o", small / "out")
    assert done.returncode == 1
    assert f"cannot write {small / 'out'}: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("length", [255, 240, 210])
@pytest.mark.parametrize("letter", ["x", "é"])
def test_the_longest_names_can_be_written(palettery, model, tmp_path, length, letter):
    out = tmp_path / (letter * (length // len(letter.encode())))
    assert palettery("compress", model, "--preset", "w4", "-o", out)[0] == 0
    assert load_file(out)
    assert set(tmp_path.iterdir()) == {model, out}


@pytest.mark.parametrize("suffix", ["json", "html"])
def test_a_report_that_fails_in_the_end_costs_nothing_else(
    palettery, monkeypatch, model, tmp_path, suffix
):
    """Its name is taken while the work runs."""
    report, out = tmp_path / f"r.{suffix}", tmp_path / "out"
    run = local_job.run_tasks

    def run_and_block(*words):
        report.mkdir()
        run(*words)

    monkeypatch.setattr(local_job, "run_tasks", run_and_block)
    code, _, error = palettery("compress", model, "--preset", "w4", "-o", out, "--report", report)
    assert (code, error.count("\n")) == (1, 1)
    assert f"{report} is a folder" in error
    assert f"the artifact is at {out}" in error
    assert load_file(out)


def test_an_artifact_that_cannot_get_its_name_is_kept(palettery, monkeypatch, model, tmp_path):
    out = tmp_path / "out"
    run = local_job.run_tasks

    def run_and_block(*words):
        out.mkdir()
        run(*words)

    monkeypatch.setattr(local_job, "run_tasks", run_and_block)
    code, _, error = palettery("compress", model, "--preset", "w4", "-o", out)
    assert code == 1
    kept = Path(error.strip().rpartition("the result is kept at ")[2])
    assert load_file(kept)
    assert [*kept.parents[2].rglob("*.safetensors")] == [kept]


@pytest.mark.usefixtures("no_work")
def test_outputs_are_no_inputs_and_not_each_other(palettery, model, tmp_path):
    before = model.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(model.name)
    sensitivities = tmp_path / "s.safetensors"
    sensitivities.write_bytes(before)
    given = [model, "--preset", "w4", "--sensitivities", sensitivities]
    for report, message in [
        (model, "a file of the model"),
        (link, "a file of the model"),
        (sensitivities, "a file of the sensitivities"),
        (tmp_path / "out", "the other output"),
    ]:
        words = [*given, "-o", tmp_path / "out", "--report", report]
        code, _, error = palettery("compress", *words)
        assert (code, message in error) == (2, True)
    assert model.read_bytes() == sensitivities.read_bytes() == before


def test_reports_are_those_of_files(palettery, model, tmp_path):
    """Whole, or not there: nothing lies beside them."""
    report = tmp_path / "r.json"
    report.write_text("old")
    words = [model, "--preset", "w4", "-o", tmp_path / "out", "--report", report]
    assert palettery("compress", *words)[0] == 0
    assert Report.model_validate_json(report.read_bytes())
    assert set(tmp_path.iterdir()) == {model, tmp_path / "out", report}
