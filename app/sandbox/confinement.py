"""Permanent restrictions of the current process, applied before it reads untrusted input.

They use two kernel features that need no privileges and work in containers: Landlock restricts
files; seccomp restricts the network, other processes and the rest of the kernel. Namespaces would
do the same, but containers forbid them.
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
    conditional_calls,
)


def _import_optional(name: str) -> Any:
    """Import a module; return None if it or its C library is missing."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError):
        return None


# Both start a process to find C libraries, which is forbidden later.
landlockpy, pyseccomp = _import_optional("landlockpy"), _import_optional("pyseccomp")
if landlockpy is not None:
    landlockpy.abi_version()

NO_FILES = (
    "files are not protected: this needs Linux 5.13 or newer with Landlock, permitted by the "
    "container if there is one, and landlockpy"
)
NO_CALLS = (
    "the network and other processes are not protected: this needs Linux with seccomp, and "
    "libseccomp.so.2 with pyseccomp"
)
OPEN_FILES = 512
"""Maximum number of open descriptors."""
_AFTER_SIGNAL_S = 5
"""CPU time between SIGXCPU, at the limit, and SIGKILL."""
_PR_SET_PDEATHSIG = 1
_CAPABILITY_VERSION = 0x20080522
_UNKNOWN_CALL = -1
"""Number that libseccomp returns for an unknown name; such calls fail."""


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
    """Restrict this process permanently; return the protections that this machine lacks.

    The process must have only one thread. Afterwards it can open only files below `read` and
    `write`, has no network (unless `network`), starts, signals and traces no process, changes no
    file's mode or owner, and has no capabilities. It cannot create links, sockets or devices, even
    below `write`. Open descriptors stay open.

    Args:
        read: Folders and files to read; missing ones are ignored.
        write: Folders and files to read and change.
        by_name: Folders whose files are read by name; they cannot be listed.
        memory_bytes: Address space beyond what is already mapped.
        cpu_s: CPU time; the kernel ends the process after it.
        file_bytes: Largest size of each written file.
        network: Whether sockets are allowed.

    Returns:
        A sentence on each missing protection. Resource limits are always applied.

    Raises:
        RuntimeError: other threads run, to which the kernel would not apply this.
    """
    _check_single_thread()
    _drop_capabilities()
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    if cpu_s is not None:
        limit(resource.RLIMIT_CPU, cpu_s, cpu_s + _AFTER_SIGNAL_S)
    if file_bytes is not None:
        limit(resource.RLIMIT_FSIZE, file_bytes)
    if memory_bytes is not None:
        limit_memory(memory_bytes)
    problems = (
        confine_files(read=read, write=write, by_name=by_name, network=network),
        confine_calls(network=network),
    )
    return tuple(problem for problem in problems if problem is not None)


def missing_protections() -> tuple[str, ...]:
    """Return a sentence on each protection of `confine` that this machine lacks."""
    problems = []
    if landlockpy is None or not landlockpy.supported():
        problems.append(NO_FILES)
    if pyseccomp is None or pyseccomp.get_api() < 1:
        problems.append(NO_CALLS)
    return tuple(problems)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent, of this process id, ends.

    Linux only; strictly, when the thread ends that started this process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it has already ended
            os.kill(os.getpid(), signal.SIGKILL)


def limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Lower a resource limit of this process, soft and hard; never raise it."""
    _, current_hard = resource.getrlimit(kind)
    new_hard = soft if hard is None else hard
    new_hard = new_hard if current_hard == resource.RLIM_INFINITY else min(new_hard, current_hard)
    resource.setrlimit(kind, (min(soft, new_hard), new_hard))


def limit_memory(extra_bytes: int, *, soft: bool = False) -> None:
    """Limit the address space to what is already mapped plus `extra_bytes`.

    With `soft`, child processes can lift the limit.
    """
    mapped = Path("/proc/self/statm")  # missing only where the kernel does not enforce the limit
    if not mapped.exists():
        return
    limit_bytes = int(mapped.read_text().split()[0]) * resource.getpagesize() + extra_bytes
    if not soft:
        limit(resource.RLIMIT_AS, limit_bytes)
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit_bytes = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard))


def lift_memory_limit() -> None:
    """Lift an inherited soft limit of the address space."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _existing(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield the existing paths, and whether each is a folder."""
    for path in paths:
        with suppress(OSError):
            yield path, stat.S_ISDIR(path.stat().st_mode)


def _check_single_thread() -> None:
    """Check that this thread is the only one of the process."""
    threads = Path("/proc/self/task")
    count = sum(1 for _ in threads.iterdir()) if threads.is_dir() else 1
    if count > 1:
        raise RuntimeError(f"{count} threads run; confine a process before it starts any")


def _drop_capabilities() -> None:
    """Drop the capabilities of root, such as raising limits."""
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
    """Restrict the files that this process can open; return the reason if the kernel cannot.

    With `programs`, readable files may also be executed; child processes inherit the restrictions.
    """
    if landlockpy is None or not landlockpy.supported():
        return NO_FILES
    rights = landlockpy.AccessFS
    read_rights = rights.READ_FILE | rights.READ_DIR
    if programs:
        read_rights |= rights.EXECUTE
    write_rights = rights.WRITE_FILE | rights.TRUNCATE | rights.MAKE_REG | rights.MAKE_DIR
    write_rights |= rights.REMOVE_FILE | rights.REMOVE_DIR | rights.REFER
    file_rights = rights.READ_FILE | rights.WRITE_FILE | rights.TRUNCATE | rights.EXECUTE
    grants = ((read_rights, read), (read_rights | write_rights, write), (rights.READ_FILE, by_name))
    try:
        handled_net = landlockpy.AccessNet.NONE if network else None
        scoped = (
            landlockpy.Scope.SIGNAL
            if network
            else landlockpy.Scope.SIGNAL | landlockpy.Scope.ABSTRACT_UNIX_SOCKET
        )
        with landlockpy.Ruleset(handled_net=handled_net, scoped=scoped) as rules:
            for access, paths in grants:
                for path, is_folder in _existing(paths):
                    rules.allow_path(path, access if is_folder else access & file_rights)
            rules.restrict()
    except landlockpy.LandlockError as error:
        return f"{NO_FILES} ({error})"
    return None


def confine_calls(*, network: bool = False) -> str | None:
    """Restrict system calls to `palettery.app.sandbox.syscalls`; return the reason if it fails.

    Afterwards no other process can be started, signalled or traced.
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
        for name, conditions in conditional_calls():
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
