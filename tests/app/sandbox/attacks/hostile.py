# ruff: noqa: ARG005, PTH102, PTH116, PTH208, S108, S605, S606
"""What code that broke out of a model would try. Each attack returns if it works, else it raises.

`answer` is for `app.sandbox.run`; the request names the attack, and what is at hand for it.
"""

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np

from palettery.app.errors import BadInput, InvalidModel

LIBC = ctypes.CDLL(None, use_errno=True)
CALLS = {"x86_64": 0, "aarch64": 1}
NUMBERS = {  # of x86_64 and aarch64
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "open_by_handle_at": (304, 265),
    "memfd_create": (319, 279),
    "execveat": (322, 281),
    "shmget": (29, 194),
    "tgkill": (234, 131),
    "kexec_load": (246, 104),
    "truncate": (76, 45),
    "fsopen": (430, 430),
    "landlock_create_ruleset": (444, 444),
}


def call(name, *arguments):
    number = NUMBERS[name][CALLS[os.uname().machine]]
    result = LIBC.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def read(path):
    with Path(path).open("rb") as file:
        return len(file.read(16))


def listen_and_accept(_):
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()


def send_datagram(at):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        return sender.sendto(b"x", ("127.0.0.1", at["tcp"]))


def connect_unix(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        return path


def through_pair(at):
    """A datagram pair is connected, and sends to others all the same."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        return one.sendto(b"x", at["datagrams"])


def descriptors(at):
    """Whether a descriptor is open that leads to the secret file."""
    wanted = os.stat(at["inherited"])
    for number in range(3, 256):
        try:
            result = os.fstat(number)
        except OSError:
            continue
        if (result.st_ino, result.st_dev) == (wanted.st_ino, wanted.st_dev):
            return number
    raise PermissionError("no descriptor")


def environment(_):
    if any("hunter2" in value for value in os.environ.values()):
        return "os.environ"
    raise PermissionError("nothing in the environment")


def fork(_):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def execute(_):
    return subprocess.run(["/bin/sh", "-c", "exit 0"], check=True).returncode


def spawn(_):
    child = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {})
    os.waitpid(child, 0)
    return child


def system(_):
    if os.system("exit 7") >> 8 != 7:
        raise PermissionError("no shell")
    return "shell"


def execute_memory(_):
    code = call("memfd_create", b"x", 0)
    os.write(code, Path("/bin/true").read_bytes())
    return call("execveat", code, b"", None, None, 0x1000)


def own_signals(at):
    """Have the kernel send the parent a signal when a pipe is ready."""
    import fcntl

    reading, _writing = os.pipe()
    f_setown = 8
    return fcntl.fcntl(reading, f_setown, at["parent"])


def change_mode(path):
    Path(path).chmod(0o777)
    if Path(path).stat().st_mode & 0o777 != 0o777:
        raise PermissionError("the mode stayed")
    return "mode"


def change_open_mode(path):
    with Path(path).open("rb") as file:
        os.fchmod(file.fileno(), 0o666)
    return "mode"


def change_time(path):
    os.utime(path, (1, 1))
    if Path(path).stat().st_mtime != 1:
        raise PermissionError("the time stayed")
    return "time"


def raise_limits(_):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard + 1, hard + 1))
    return "limit"


def outlive(_):
    if LIBC.prctl(1, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    return "PR_SET_PDEATHSIG"


def parent_memory(at):
    class Range(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    room = ctypes.create_string_buffer(8)
    here = Range(ctypes.cast(room, ctypes.c_void_p), 8)
    there = Range(at["address"], 8)
    return call("process_vm_readv", at["parent"], ctypes.byref(here), 1, ctypes.byref(there), 1, 0)


ATTACKS = {
    # Files.
    "read a system file": lambda at: read("/etc/passwd"),
    "read the data folder": lambda at: read(at["data"]),
    "list the data folder": lambda at: os.listdir(Path(at["data"]).parent),
    "read another sandbox": lambda at: read(at["other"]),
    "list the temporary folder": lambda at: os.listdir(Path.cwd().parent),
    "list the home folder": lambda at: os.listdir(at["home"]),
    "read beside our packages": lambda at: read(at["project"]),
    "read the parent's environment": lambda at: read(f"/proc/{at['parent']}/environ"),
    "read the parent's memory": lambda at: read(f"/proc/{at['parent']}/maps"),
    "open the parent's memory": lambda at: Path(f"/proc/{at['parent']}/mem").open("rb").close(),
    "list the parent's descriptors": lambda at: os.listdir(f"/proc/{at['parent']}/fd"),
    "follow the parent's root": lambda at: read(f"/proc/{at['parent']}/root/etc/passwd"),
    "write outside": lambda at: Path(at["outside"]).write_text("x"),
    "append to data": lambda at: Path(at["data"]).open("ab").close(),
    "truncate data": lambda at: call("truncate", at["data"].encode(), 0),
    "take data": lambda at: Path(at["data"]).rename("taken"),
    "remove data": lambda at: Path(at["data"]).unlink(),
    "make a folder outside": lambda at: Path(at["outside"]).mkdir(),
    "change the mode of data": lambda at: change_mode(at["data"]),
    "change the time of data": lambda at: change_time(at["data"]),
    "open a file of its own to all": lambda at: change_open_mode("request"),
    "make a link to data": lambda at: Path("link").symlink_to(at["data"]),
    "make a hard link to data": lambda at: Path("hard").hardlink_to(at["data"]),
    "make a pipe": lambda at: os.mkfifo("pipe"),
    "leave machine code": lambda at: Path(at["kernels"], "x.nbc").write_bytes(b"x"),
    "write shared memory": lambda at: Path(f"/dev/shm/{os.getpid()}").write_bytes(b"x"),
    # Secrets that it was not given.
    "find a secret in the environment": environment,
    "find an inherited descriptor": descriptors,
    # The network.
    "connect by TCP": lambda at: socket.create_connection(("127.0.0.1", at["tcp"])).close(),
    "listen": listen_and_accept,
    "send by UDP": send_datagram,
    "connect a Unix socket": lambda at: connect_unix(at["unix"]),
    "connect an abstract socket": lambda at: connect_unix(at["abstract"]),
    "send through a pair": through_pair,
    "ask routes": lambda at: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(),
    "look up a name": lambda at: socket.getaddrinfo("localhost.localdomain", 80),
    "use io_uring": lambda at: call("io_uring_setup", 8, ctypes.create_string_buffer(120)),
    # Processes.
    "fork": fork,
    "run a shell": execute,
    "spawn a shell": spawn,
    "run a shell by libc": system,
    "become another program": lambda at: os.execv("/bin/true", ["true"]),
    "run a program from memory": execute_memory,
    "signal the parent": lambda at: os.kill(at["parent"], 0),
    "signal everybody": lambda at: os.kill(-1, 0),
    "signal a thread of the parent": lambda at: call("tgkill", at["parent"], at["parent"], 0),
    "signal the parent through a pipe": own_signals,
    "hold the parent": lambda at: call("pidfd_open", at["parent"], 0),
    "trace the parent": lambda at: call("ptrace", 16, at["parent"], 0, 0),
    "copy the parent's memory": parent_memory,
    "slow the parent": lambda at: os.sched_setaffinity(at["parent"], {0}),
    "outlive the parent": outlive,
    "raise its limits": raise_limits,
    # The kernel.
    "unshare": lambda at: call("unshare", 0x10000000),
    "mount": lambda at: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "open a file system": lambda at: call("fsopen", b"tmpfs", 0),
    "load a program into the kernel": lambda at: call("bpf", 0, ctypes.create_string_buffer(128)),
    "watch performance": lambda at: call(
        "perf_event_open", ctypes.create_string_buffer(128), 0, -1, -1, 0
    ),
    "handle page faults": lambda at: call("userfaultfd", 1),
    "use keys": lambda at: call("keyctl", 0, -3, 1),
    "share memory": lambda at: call("shmget", 0, 4096, 0o1600),
    "make rules anew": lambda at: call("landlock_create_ruleset", None, 0, 1),
}


def in_folder(_):
    """What a process needs must work: its files, threads, event loops, mapped memory, signals."""
    import asyncio

    Path("own").mkdir()
    Path("own", "a").write_bytes(b"abc")
    Path("own", "a").rename("b")
    with Path("b").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        result = mapped[:3].decode()
    Path("b").unlink()
    Path("own").rmdir()
    threads = [threading.Thread(target=lambda: None) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(asyncio.sleep(0))
    os.kill(os.getpid(), 0)
    Path(os.devnull).write_bytes(b"x")
    assert float(np.ones((300, 300)).dot(np.ones((300, 300)))[0, 0]) == 300
    return result


def use_kernels(_):
    """Machine code that is found, and that is compiled anew, of kernels that are used."""
    from palettery.kernels import packing

    indices = np.zeros((3, 5), np.uint8)
    packing.unpack(packing.pack(indices, 4), 4, indices.shape)
    stats = [each.stats for each in vars(packing).values() if hasattr(each, "stats")]
    hits = sum(sum(each.cache_hits.values()) for each in stats)
    return [hits, sum(sum(each.cache_misses.values()) for each in stats)]


def nest(_):
    for _ in range(3_000):
        os.mkdir("n")
        os.chdir("n")
    return "nested"


def spin(_):
    while True:
        pass


def use_x32(_):
    return LIBC.syscall(0x40000000 + 39)


def forge(at):
    Path("outcome").write_text(json.dumps({"code": at["code"], "detail": "trust me"}))
    os._exit(0)


def refuse(_):
    raise InvalidModel("no such model")


def fail(_):
    raise ValueError("the library failed")


def grow_file(_):
    with Path("large").open("wb") as file:
        for _ in range(1 << 10):
            file.write(bytes(1 << 20))
    return "large"


OTHERS = {
    "nothing": lambda at: at,
    "work": in_folder,
    "nest": nest,
    "kernels": use_kernels,
    "wait": lambda at: signal.pause(),
    "sleep": lambda at: time.sleep(3_600),
    "spin": spin,
    "crash": lambda at: ctypes.string_at(8),
    "abort": lambda at: os.abort(),
    "kill": lambda at: os.kill(os.getpid(), signal.SIGKILL),
    "terminate": lambda at: os.kill(os.getpid(), signal.SIGTERM),
    "x32": use_x32,
    "exit": lambda at: os._exit(3),
    "bytes": lambda at: len(bytes(16 << 30)),
    "array": lambda at: np.ones(2 << 30).nbytes,
    "small objects": lambda at: [bytearray(1 << 20) for _ in range(1 << 16)],
    "threads": lambda at: [threading.Thread(target=signal.pause).start() for _ in range(10_000)],
    "forge": forge,
    "refuse": refuse,
    "fail": fail,
    "large answer": lambda at: "x" * (2 << 20),
    "large file": grow_file,
    "bad input": lambda at: (_ for _ in ()).throw(BadInput("no")),
}


def answer(request):
    order = json.loads(request)
    return json.dumps(attempt(order["names"], order["at"])).encode()


def attempt(names, at):
    """By attack: what it gave; None if it was refused."""
    results = {}
    for name in names:
        if name in OTHERS:
            results[name] = OTHERS[name](at)
            continue
        try:
            results[name] = repr(
                ATTACKS[name]({**at, **{key: at[key].format(name) for key in ("data", "outside")}})
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            results[name] = None
            del error
    return results
