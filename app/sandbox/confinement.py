"""Restrictions that a process puts on itself, for good, before it touches what strangers sent.

Two kernel features that need no privileges, so that they work in a container, too: Landlock keeps
files, seccomp keeps the network, other processes and the rest of the kernel from it. Namespaces
would do as much, but containers forbid them.
"""

import ctypes
import errno
import importlib
import os
import resource
import signal
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from palettery.app.sandbox.syscalls import (
    ALLOWED,
    IGNORED,
    NETWORK,
    REFUSED,
    Condition,
    conditional,
)


def _imported(name: str) -> Any:
    """A module, or None where it, or the C library that it needs, is missing."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError):
        return None


# Both find C libraries by starting a process, which is forbidden later.
landlockpy, pyseccomp = _imported("landlockpy"), _imported("pyseccomp")
if landlockpy is not None:
    landlockpy.abi_version()

NO_FILES = (
    "no protection of files: that takes Linux 5.13 or newer with Landlock, permitted by the "
    "container if there is one, and landlockpy"
)
NO_CALLS = (
    "no protection of the network and of other processes: that takes Linux with seccomp, and "
    "libseccomp.so.2 with pyseccomp"
)
OPEN_FILES = 512
"""Descriptors at once."""
_AFTER_SIGNAL_S = 5
"""From SIGXCPU, which says that the processor time is over, to SIGKILL."""
_PR_SET_PDEATHSIG = 1
_CAPABILITY_VERSION = 0x20080522
_UNKNOWN_CALL = -1
"""Number that libseccomp gives a name that it does not know; such a call fails."""


def confine(
    *,
    read: Sequence[Path] = (),
    write: Sequence[Path] = (),
    by_name: Sequence[Path] = (),
    memory_bytes: int | None = None,
    cpu_s: int | None = None,
    file_bytes: int | None = None,
    network: bool = False,
) -> tuple[str, ...]:
    """Restrict this process for good; the protections that this machine does not give, if any.

    It must have one thread yet. From then on it opens no file but those below `read` and `write`,
    reaches no network (but with `network`), starts no process, signals and traces none, changes no
    file's mode or owner, and has no capabilities. Links, sockets and devices cannot be made, not
    even below `write`. Descriptors that are open stay so.

    Args:
        read: Folders and files to read; those that do not exist are left out.
        write: Folders and files to read and change.
        by_name: Folders whose files are read by name; they cannot be listed.
        memory_bytes: Address space beyond what is mapped by now.
        cpu_s: Processor time; the kernel ends the process after it.
        file_bytes: The most of each file that is written.
        network: Whether sockets work.

    Returns:
        A sentence on each protection that is missing; empty if all hold. Limits always do.

    Raises:
        RuntimeError: other threads run, which the kernel would not confine.
    """
    _check_alone()
    _drop_capabilities()
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    if cpu_s is not None:
        limit(resource.RLIMIT_CPU, cpu_s, cpu_s + _AFTER_SIGNAL_S)
    if file_bytes is not None:
        limit(resource.RLIMIT_FSIZE, file_bytes)
    if memory_bytes is not None:
        limit_memory(memory_bytes)
    faults = (
        confine_files(read=read, write=write, by_name=by_name, network=network),
        confine_calls(network=network),
    )
    return tuple(fault for fault in faults if fault is not None)


def missing() -> tuple[str, ...]:
    """A sentence on each protection that `confine` does not have here."""
    faults = []
    if landlockpy is None or not landlockpy.supported():
        faults.append(NO_FILES)
    if pyseccomp is None or pyseccomp.get_api() < 1:
        faults.append(NO_CALLS)
    return tuple(faults)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, the process of this id, ends.

    Linux only; it is the thread that started this process whose end counts.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it ended before
            os.kill(os.getpid(), signal.SIGKILL)


def limit(kind: int, most: int, hard: int | None = None) -> None:
    """Lower a limit of this process, the hard one with it; one that is lower already stays."""
    _, before = resource.getrlimit(kind)
    after = most if hard is None else hard
    after = after if before == resource.RLIM_INFINITY else min(after, before)
    resource.setrlimit(kind, (min(most, after), after))


def limit_memory(more_bytes: int, *, soft: bool = False) -> None:
    """Limit address space to what is mapped by now, and so much more.

    With `soft`, programs that this process starts can lift the limit for themselves.
    """
    mapped = Path("/proc/self/statm")  # absent where the kernel does not enforce the limit either
    if not mapped.exists():
        return
    most = int(mapped.read_text().split()[0]) * resource.getpagesize() + more_bytes
    if not soft:
        limit(resource.RLIMIT_AS, most)
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def lift_memory_limit() -> None:
    """Lift a soft limit of address space that this process inherited."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _present(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """The paths that are there, and whether they are folders."""
    for path in paths:
        with suppress(OSError):
            yield path, stat.S_ISDIR(path.stat().st_mode)


def _check_alone() -> None:
    threads = Path("/proc/self/task")
    count = sum(1 for _ in threads.iterdir()) if threads.is_dir() else 1
    if count > 1:
        raise RuntimeError(f"{count} threads run; confine a process before it starts any")


def _drop_capabilities() -> None:
    """Give up what root may do beyond its own files, such as to raise limits again."""
    if sys.platform == "linux":
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
        none = (ctypes.c_uint32 * 6)()
        if ctypes.CDLL(None, use_errno=True).capset(header, none):
            raise OSError(ctypes.get_errno(), "the process cannot drop its capabilities")


def confine_files(
    *,
    read: Sequence[Path] = (),
    write: Sequence[Path] = (),
    by_name: Sequence[Path] = (),
    programs: bool = False,
    network: bool = False,
) -> str | None:
    """Open no other files from now on; the reason if the kernel does not see to that.

    With `programs`, what is read may be run as well: such a process may still start others, which
    are confined as it is.
    """
    if landlockpy is None or not landlockpy.supported():
        return NO_FILES
    rights = landlockpy.AccessFS
    reading = rights.READ_FILE | rights.READ_DIR
    if programs:
        reading |= rights.EXECUTE
    changing = rights.WRITE_FILE | rights.TRUNCATE | rights.MAKE_REG | rights.MAKE_DIR
    changing |= rights.REMOVE_FILE | rights.REMOVE_DIR | rights.REFER
    of_files = rights.READ_FILE | rights.WRITE_FILE | rights.TRUNCATE | rights.EXECUTE
    granted = ((reading, read), (reading | changing, write), (rights.READ_FILE, by_name))
    try:
        handled_net = landlockpy.AccessNet.NONE if network else None
        scoped = (
            landlockpy.Scope.SIGNAL
            if network
            else landlockpy.Scope.SIGNAL | landlockpy.Scope.ABSTRACT_UNIX_SOCKET
        )
        with landlockpy.Ruleset(handled_net=handled_net, scoped=scoped) as rules:
            for access, paths in granted:
                for path, is_folder in _present(paths):
                    rules.allow_path(path, access if is_folder else access & of_files)
            rules.restrict()
    except landlockpy.LandlockError as error:
        return f"{NO_FILES} ({error})"
    return None


def confine_calls(*, network: bool = False) -> str | None:
    """Make only harmless system calls from now on; the reason if the kernel does not see to that.

    See `palettery.app.sandbox.syscalls`; no other process can be started or touched.
    """
    if pyseccomp is None:
        return NO_CALLS

    def add(action: int, names: Sequence[str], conditions: Sequence[Condition] = ()) -> None:
        arguments = [
            pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, mask, value)
            for argument, mask, value in conditions
        ]
        for name in names:
            number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
            if number != _UNKNOWN_CALL:
                rules.add_rule(action, number, *arguments)

    try:
        rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
        rules.set_attr(pyseccomp.Attr.CTL_TSYNC, 1)
        rules.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
        add(pyseccomp.ALLOW, ALLOWED)
        for name, conditions in conditional():
            add(pyseccomp.ALLOW, [name], conditions)
        if network:
            add(pyseccomp.ALLOW, ["socketpair", "sendto"])
        add(pyseccomp.ERRNO(errno.EPERM), REFUSED)
        add(pyseccomp.ALLOW if network else pyseccomp.ERRNO(errno.EPERM), NETWORK)
        add(pyseccomp.ERRNO(0), IGNORED)
        rules.load()
    except OSError as error:
        return f"{NO_CALLS} ({error})"
    return None
