"""Compiled kernels have a place wherever the installation cannot be written."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import palettery

PACKAGE = Path(palettery.__file__).parent
IMPORT = "import numba; from palettery import kernels; print(numba.config.CACHE_DIR)"
COMPILE = (  # a kernel that takes no time to compile
    "import numba; from palettery.kernels.scalar import k_link_path;"
    " k_link_path.gain(1.0, 2.0); print(numba.config.CACHE_DIR)"
)


class Installation:
    """A copy of the kernels that can only be read, with a home folder that cannot be written."""

    def __init__(self, folder):
        self.folder = folder / "installed"
        self._temporary = folder / "tmp"
        self._temporary.mkdir()
        cached = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE, self.folder / "palettery", ignore=cached)

    def run(self, program, *arguments, **environment):
        """The last line that a program prints, and what it logs."""
        words = shlex.join([sys.executable, "-c", program, *map(str, arguments)])
        folder = shlex.quote(str(self.folder))
        if os.geteuid() == 0:  # who may write everywhere, but on a file system that is read-only
            mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
            command = ["unshare", "-m", "sh", "-c", f"{mount} && {words}"]
        else:
            command = ["sh", "-c", f"chmod -R a-w {folder} && {words}"]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(self.folder),
                "HOME": str(self.folder),
                "TMPDIR": str(self._temporary),
                **environment,
            },
            check=False,
            capture_output=True,
            text=True,
        )
        if "unshare" in done.stderr or "mount:" in done.stderr:
            pytest.skip(f"nothing can be mounted here: {done.stderr}")
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.splitlines()[-1]), done.stderr

    @property
    def temporary(self):
        return self._temporary / f"palettery-kernels-{os.geteuid()}"


@pytest.fixture
def installation(tmp_path):
    return Installation(tmp_path)


@pytest.mark.heavy
def test_without_a_place_there_is_a_temporary_one_and_one_line(installation):
    folder, told = installation.run(COMPILE)
    assert folder.parent == installation.temporary
    assert list(folder.rglob("*.nbi"))
    assert told.count("\n") == 1
    assert f"cached in {folder}, because neither the installation nor a home folder is" in told
    assert installation.temporary.stat().st_mode & 0o077 == 0
    again, _ = installation.run(IMPORT)
    assert again == folder


@pytest.mark.heavy
def test_the_caller_names_a_place(installation, tmp_path):
    folder, told = installation.run(IMPORT, KERNELS_CACHE_DIR=str(tmp_path / "data" / "kernels"))
    assert folder.parent == tmp_path / "data" / "kernels"
    assert told.count("\n") == 1


@pytest.mark.heavy
def test_the_service_names_a_place_below_its_data_folder(installation, tmp_path):
    data = tmp_path / "data"
    program = (
        "from palettery.app.cli.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "import numba; print(numba.config.CACHE_DIR)"
    )
    nobodys = "192.0.2.1"  # so that it ends before it starts workers
    words = ["serve", "--host", nobodys, "--data-dir", data]
    folder, told = installation.run(program, *words)
    assert folder.parent == data / "kernels"
    line, end = told.splitlines()
    assert json.loads(line)["logger"] == "palettery.kernels.kernel_cache"
    assert f"cannot listen on {nobodys}" in end


@pytest.mark.heavy
def test_a_named_place_that_cannot_be_written_is_passed_over(installation):
    folder, _ = installation.run(IMPORT, KERNELS_CACHE_DIR=str(installation.folder / "no"))
    assert folder.parent == installation.temporary


@pytest.mark.heavy
def test_a_place_of_the_users_is_taken_in_silence(installation, tmp_path):
    own = {"NUMBA_CACHE_DIR": str(tmp_path / "own")}
    assert installation.run(COMPILE, **own) == (tmp_path / "own", "")
    assert installation.run(IMPORT, HOME=str(tmp_path))[1] == ""


@pytest.mark.heavy
def test_a_temporary_folder_that_others_made_is_not_used(installation):
    """What lies in it would be run."""
    installation.temporary.mkdir()
    installation.temporary.chmod(0o777)
    folder, _ = installation.run(IMPORT)
    assert installation.temporary not in folder.parents


@pytest.mark.heavy
def test_what_was_compiled_before_is_copied_where_it_cannot_be_written(installation, tmp_path):
    built = installation.folder / "built"
    before, _ = installation.run(COMPILE)
    shutil.copytree(before, built)
    shutil.rmtree(before)
    words = {"NUMBA_CACHE_DIR": str(built), "KERNELS_CACHE_DIR": str(tmp_path / "data")}
    folder, told = installation.run(IMPORT, **words)
    assert folder.parent == tmp_path / "data"
    assert f"because {built} is not writable" in told
    names = {path.relative_to(built) for path in built.rglob("*.nb?")}
    assert names
    assert {path.relative_to(folder) for path in folder.rglob("*.nb?")} == names
    misses = "; print(sum(k_link_path.gain.stats.cache_misses.values()))"
    assert installation.run(COMPILE + misses, **words)[0] == Path("0")


@pytest.mark.heavy
def test_a_home_folder_does_not_hide_what_was_compiled_before(installation, tmp_path):
    built = installation.folder / "built"
    shutil.move(installation.run(COMPILE)[0], built)
    words = {"NUMBA_CACHE_DIR": str(built), "HOME": str(tmp_path)}
    folder, _ = installation.run(IMPORT, **words)
    assert folder.parent == installation.temporary
    assert list(folder.rglob("*.nbi"))


@pytest.mark.heavy
def test_a_relative_place_is_one(installation, tmp_path):
    program = f"import os; os.chdir({str(tmp_path)!r})\n{COMPILE}"
    assert installation.run(program, NUMBA_CACHE_DIR="own") == (Path("own"), "")
    assert list((tmp_path / "own").rglob("*.nbi"))


@pytest.mark.heavy
@pytest.mark.parametrize("level", ["x86-64-v3", "generic"])
def test_kernels_are_compiled_for_the_processor_that_is_named(installation, level):
    named = {"NUMBA_CPU_NAME": level, "NUMBA_CPU_FEATURES": ""}
    program = COMPILE + "; print(numba.config.CPU_NAME)"
    assert installation.run(program, **named)[0] == Path(level)


@pytest.mark.heavy
def test_a_processor_that_has_less_than_the_named_one_gets_kernels_of_its_own(installation):
    """As an old one, or one of another kind, has them; the real one is asked for nothing else."""
    named = {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": ""}
    program = (
        "import llvmlite.binding as llvm; found = llvm.get_host_cpu_features()\n"
        "llvm.get_host_cpu_features = lambda: type(found)({**found, 'avx2': False})\n"
        f"{COMPILE}; print(numba.config.CPU_NAME)"
    )
    name, told = installation.run(program, **named)
    assert name == Path("None")
    assert "this processor does not support x86-64-v3" in told
