# ruff: noqa: RUF005, S105, T201
"""A process that runs attacks, in a sandbox or without, as whatever user it is started as.

`driver.py ORDER` prints one line of JSON: the answer, or the error.
"""

import ctypes
import json
import os
import socket
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path

import hostile

from palettery.app.errors import PaletteryError
from palettery.app.sandbox import Bounds, run, working_folder

PACKAGE = Path(find_spec("palettery").origin).parent
BOUNDS = Bounds(
    memory_bytes=1 << 30, cpu_s=60, wall_s=120, file_bytes=1 << 20, answer_bytes=1 << 20
)


def main() -> None:
    order = json.loads(sys.argv[1])
    within(order.get("outer"))
    with tempfile.TemporaryDirectory() as data, working_folder() as other:
        at = targets(Path(data), other) | order.get("at", {})
        for name in order["names"]:
            Path(at["data"].format(name)).write_text("secret")
        request = json.dumps({"names": order["names"], "at": at}).encode()
        if order.get("plain"):
            os.chdir(other)
            Path("request").write_bytes(b"")
            print(json.dumps({"answer": hostile.attempt(order["names"], at)}), flush=True)
            os._exit(0)
        try:
            with working_folder() as folder:
                bounds = BOUNDS.model_copy(update=order.get("bounds", {}))
                answer = run(
                    "hostile", request, folder, bounds, what="the work",
                    required=order.get("required", True), by_name=order.get("by_name", []),
                )  # fmt: skip
            print(json.dumps({"answer": json.loads(answer), "left": folder.exists()}))
        except PaletteryError as error:
            left = {"left": folder.exists()}
            print(json.dumps({"code": error.code, "detail": error.detail} | left))


def targets(data: Path, other: Path) -> dict[str, object]:
    """What is there to attack: files, sockets and this process."""
    os.environ["SECRET"] = "hunter2"
    inherited = data / "inherited"
    inherited.write_text("secret")
    os.set_inheritable(os.open(inherited, os.O_RDONLY), True)
    (other / "theirs").write_text("secret")
    server = socket.create_server(("127.0.0.1", 0))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(data / "s"))
    listening.listen()
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0palettery-{os.getpid()}")
    abstract.listen()
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagrams.bind(str(data / "d"))
    keep.extend([server, listening, abstract, datagrams])
    secret = ctypes.create_string_buffer(b"hunter2!")
    keep.append(secret)
    return {
        "parent": os.getpid(),
        "address": ctypes.addressof(secret),
        "data": str(data / "{}"),
        "outside": str(data / "new {}"),
        "inherited": str(inherited),
        "other": str(other / "theirs"),
        "home": os.environ.get("HOME", "/"),
        "project": str(PACKAGE.parent / "pyproject.toml"),
        "kernels": str(PACKAGE / "kernels" / "__pycache__"),
        "tcp": server.getsockname()[1],
        "unix": str(data / "s"),
        "abstract": f"\0palettery-{os.getpid()}",
        "datagrams": str(data / "d"),
    }


keep: list[object] = []
"""What stays open."""


def within(outer: str | None) -> None:
    """Put this process under what a container, or a kernel that lacks something, would."""
    if outer is None:
        return
    import errno

    import pyseccomp

    forbidden = {
        "no landlock": (errno.ENOSYS, ["landlock_create_ruleset"]),
        "no seccomp": (errno.EINVAL, ["seccomp"]),
        "container": (
            errno.EPERM,
            ["unshare", "setns", "mount", "umount2", "pivot_root", "bpf", "keyctl", "add_key"]
            + ["perf_event_open", "userfaultfd", "open_by_handle_at", "ptrace", "io_uring_setup"],
        ),
    }
    number, names = forbidden[outer]
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in names:
        known = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        rules.add_rule(pyseccomp.ERRNO(number), 444 if known == -1 else known)
    if outer == "no seccomp":
        pr_set_seccomp = 22
        rules.add_rule(
            pyseccomp.ERRNO(number), "prctl", pyseccomp.Arg(0, pyseccomp.EQ, pr_set_seccomp)
        )
    rules.load()


if __name__ == "__main__":
    threading.excepthook = sys.excepthook
    main()
