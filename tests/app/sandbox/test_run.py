"""What strangers' code can do in a sandbox, as root and as nobody; each attack works outside."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from palettery.app.sandbox import missing_protections, working_folder
from palettery.app.sandbox.working_folder import PREFIX

ATTACKS_FOLDER = Path(__file__).parent / "attacks"
sys.path.append(str(ATTACKS_FOLDER))
import hostile  # noqa: E402

NOBODY = 65534
PRIVILEGED = {
    *("mount", "open a file system", "load a program into the kernel", "watch performance"),
    *("handle page faults", "unshare", "use io_uring", "use keys", "copy the parent's memory"),
    *("trace the parent", "share memory", "raise its limits", "find an inherited descriptor"),
    *("become another program", "run a program from memory", "make rules anew"),
}
"""Attacks that fail outside a sandbox as well on some machines, or that end the process."""
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        bool(missing_protections()), reason=f"no sandbox here: {missing_protections()}"
    ),
]


def interpreter(user: str) -> list[str]:
    """Start of a command line: Python as this user."""
    if user == "this user":
        return [sys.executable]
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root becomes nobody")
    python = next((each for each in (sys.executable, *OTHER_PYTHONS) if runs(each)), None)
    if python is None:
        pytest.skip("nobody can run this Python")
    return [*AS_NOBODY, python]


AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
OTHER_PYTHONS = [f"/usr/bin/python3.{sys.version_info.minor}"]


def runs(python: str) -> bool:
    """Whether nobody can run this Python, and it is like ours."""
    again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    command = [*AS_NOBODY, python, "-c", again]
    return Path(python).exists() and not subprocess.run(command, capture_output=True).returncode


@pytest.fixture(params=["this user", "nobody"])
def user(request):
    return request.param


@pytest.fixture
def temporary(user):
    """A folder for temporary files that the user may write to, and nobody else uses."""
    folder = Path(tempfile.mkdtemp(prefix="tests-"))  # others cannot reach what pytest makes
    if user == "nobody" and os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def until():
    """Wait until something holds."""

    def wait(holds):
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    return wait


@pytest.fixture
def command(user, temporary):
    """A function: the command line and environment that run attacks as the user."""

    def build(*names, **order):
        paths = [ATTACKS_FOLDER, Path(__file__).parents[3], *map(Path, sys.path)]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(temporary),
            "TMPDIR": str(temporary),
            "PYTHONPATH": os.pathsep.join(
                str(path) for path in paths if "site-packages" in str(path) or path in paths[:2]
            ),
        }
        argument = json.dumps({"names": names, **order})
        script = str(ATTACKS_FOLDER / "driver.py")
        return [*interpreter(user), script, argument], environment

    return build


@pytest.fixture
def attack(command):
    """A function: what attacks gave, by name, or the error that they ended with."""

    def run(*names, **order):
        line, environment = command(*names, **order)
        done = subprocess.run(line, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]) | {"log": done.stderr}

    return run


def test_no_attack_works(attack):
    result = attack(*hostile.ATTACKS)
    assert {name for name, gave in result["answer"].items() if gave is not None} == set()
    assert not result["left"]


def test_the_same_attacks_work_outside(attack):
    """Else they would show nothing."""
    names = [name for name in hostile.ATTACKS if name not in PRIVILEGED]
    result = attack(*names, plain=True)["answer"]
    assert {name for name, gave in result.items() if gave is None} <= {
        "leave machine code",  # nobody does not own it
        "look up a name",
        "read a system file",
    }


def test_its_own_folder_threads_and_event_loops_work(attack):
    assert attack("work")["answer"] == {"work": "abc"}


@pytest.mark.parametrize("user", ["this user"], indirect=True)
def test_kernels_are_not_compiled_anew(attack):
    attack("kernels", plain=True)
    hits, misses = attack("kernels", bounds={"memory_bytes": 8 << 30, "file_bytes": 64 << 20})[
        "answer"
    ]["kernels"]
    assert (hits > 0, misses) == (True, 0)


def test_it_works_in_a_container_that_forbids_namespaces(attack):
    result = attack("work", "connect by TCP", "read a system file", outer="container")
    assert result["answer"] == {
        "work": "abc",
        "connect by TCP": None,
        "read a system file": None,
    }


def test_proc_shows_no_memory_environment_or_descriptors_of_others(attack):
    """As the Core AI runtime gets to read it."""
    names = [name for name in hostile.ATTACKS if "parent" in name or "environment" in name]
    result = attack(*names, by_name=["/proc"])["answer"]
    assert len(result) > 10
    assert {name for name, gave in result.items() if gave is not None} == set()


ENDS = {
    "crash": ("sandbox_crashed", "signal 11, SIGSEGV"),
    "abort": ("sandbox_crashed", "signal 6, SIGABRT"),
    "terminate": ("sandbox_crashed", "signal 15, SIGTERM"),
    "exit": ("sandbox_crashed", "exit code 3"),
    "fail": ("sandbox_crashed", "ValueError: the library failed"),
    "kill": ("out_of_memory", "SIGKILL"),
    "bytes": ("out_of_memory", "PALETTERY_SANDBOX_MEMORY_BYTES"),
    "array": ("out_of_memory", "PALETTERY_SANDBOX_MEMORY_BYTES"),
    "small objects": ("out_of_memory", "1,073,741,824 bytes"),
    "threads": ("sandbox_crashed", "can't start new thread"),
    "spin": ("sandbox_timeout", "1 s of CPU time"),
    "sleep": ("sandbox_timeout", "limit of 3 s"),
    "refuse": ("invalid_model", "no such model"),
    "large answer": ("sandbox_crashed", "1,048,576 bytes"),
    "large file": ("sandbox_crashed", "File too large"),
    "forge": ("sandbox_crashed", "trust me"),
}
BOUNDS = {
    "spin": {"cpu_s": 1},
    "sleep": {"wall_s": 3},
    "large answer": {"file_bytes": 8 << 20},
}
SLOW = {"spin", "sleep", "small objects", "threads"}


@pytest.mark.parametrize("user", ["this user"], indirect=True)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.heavy] * (name in SLOW)) for name in ENDS]
)
def test_an_end_is_reported_as_what_it_is(attack, temporary, name):
    code, detail = ENDS[name]
    result = attack(name, bounds=BOUNDS.get(name, {}), at={"code": "unauthenticated"})
    assert result.get("code") == code, result
    assert detail in result["detail"]
    assert not result["left"]
    assert list(temporary.glob(f"*{PREFIX}*")) == []


@pytest.mark.parametrize("user", ["this user"], indirect=True)
def test_folders_in_folders_in_folders_are_removed(attack, temporary):
    result = attack("nest")
    assert result["answer"] == {"nest": "nested"}
    assert not result["left"]
    assert list(temporary.glob(f"*{PREFIX}*")) == []


@pytest.mark.parametrize("user", ["this user"], indirect=True)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is of x86_64")
def test_system_calls_of_another_architecture_end_it(attack):
    result = attack("x32")
    assert (result["code"], "SIGSYS" in result["detail"]) == ("sandbox_crashed", True)


@pytest.mark.parametrize("user", ["this user"], indirect=True)
def test_an_error_that_it_may_raise_is_raised_with_its_code_alone(attack):
    assert attack("forge", at={"code": "bad_input"})["code"] == "bad_input"


@pytest.mark.parametrize("user", ["this user"], indirect=True)
@pytest.mark.parametrize("outer", ["no landlock", "no seccomp"])
def test_where_a_protection_is_missing_it_is_refused(attack, outer):
    result = attack("nothing", outer=outer)
    assert result["code"] == "sandbox_missing"
    assert {"no landlock": "files", "no seccomp": "network"}[outer] in result["detail"]
    assert "PALETTERY_SANDBOX_REQUIRED=false" in result["detail"]


@pytest.mark.parametrize("user", ["this user"], indirect=True)
@pytest.mark.parametrize("outer", ["no landlock", "no seccomp"])
def test_who_is_alone_is_warned_in_one_line(attack, outer):
    result = attack("fork", outer=outer, required=None)
    assert result["answer"]
    assert len(result["log"].splitlines()) == 1
    assert "not protected" in result["log"]


@pytest.mark.parametrize("user", ["this user"], indirect=True)
@pytest.mark.parametrize("outer", ["no landlock", "no seccomp"])
def test_an_operator_who_does_without_hears_nothing(attack, outer):
    result = attack("nothing", outer=outer, required=False)
    assert result["answer"]
    assert result["log"] == ""


@pytest.mark.parametrize("user", ["this user"], indirect=True)
def test_it_ends_with_its_parent_and_the_next_removes_what_it_left(
    command, temporary, until, monkeypatch
):
    line, environment = command("wait")
    driver = subprocess.Popen(line, env=environment)
    with driver:
        parent = psutil.Process(driver.pid)
        until(lambda: any(f"{PREFIX}" in each.cwd() for each in parent.children()))
        [child] = parent.children()
        until(lambda: list(temporary.glob(f"{PREFIX}*/request")))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running()
    assert list(temporary.glob(f"{PREFIX}*"))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with working_folder() as folder:
        assert list(temporary.glob(f"{PREFIX}*")) == [folder]
    assert list(temporary.glob(f"{PREFIX}*")) == []
