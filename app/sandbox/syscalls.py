"""System calls that a confined process may make: for computing, and for files that it may open.

An allow list: all other calls fail, including those of later kernels. Landlock controls file names;
calls that change a file by name and that Landlock does not control are not in the list.

Source: Linux 6.18, libseccomp 2.5.4, glibc 2.36 to 2.41; names that an architecture lacks are
skipped.
"""

import fcntl
import os
from collections.abc import Sequence

Condition = tuple[int, int, int]
"""Index of an argument, bit mask, and required value under the mask."""

ALLOWED: Sequence[str] = (
    # Descriptors.
    *("read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2"),
    *("pwritev2", "lseek", "_llseek", "close", "close_range", "dup", "dup2", "dup3", "flock"),
    *("fsync", "fdatasync", "ftruncate", "fallocate", "fadvise64", "copy_file_range", "sendfile"),
    *("pipe", "pipe2", "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1"),
    *("epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2", "memfd_create", "timerfd_create"),
    *("timerfd_settime", "timerfd_gettime"),
    # Files by name, which Landlock controls; and file status.
    *("open", "openat", "stat", "fstat", "lstat", "newfstatat", "statx", "access", "faccessat"),
    *("faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "getcwd", "chdir"),
    *("fchdir", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat"),
    *("renameat2", "umask", "statfs", "fstatfs", "getxattr", "lgetxattr", "fgetxattr"),
    *("listxattr", "llistxattr", "flistxattr"),
    # Memory.
    *("mmap", "munmap", "mremap", "mprotect", "madvise", "brk", "msync", "mincore", "mlock"),
    *("munlock", "membarrier", "get_mempolicy", "mbind"),
    # Threads of its own, and its own signals.
    *("futex", "set_robust_list", "set_tid_address", "rseq", "gettid", "sched_yield"),
    *("sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_get_priority_max"),
    *("sched_get_priority_min", "getpriority", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn"),
    *("rt_sigpending", "rt_sigtimedwait", "rt_sigsuspend", "sigaltstack", "restart_syscall"),
    *("exit", "exit_group", "arch_prctl", "wait4", "waitid", "pause"),
    # Time and identity.
    *("nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time"),
    *("alarm", "setitimer", "getitimer", "getcpu", "getrandom", "getpid", "getppid", "getuid"),
    *("geteuid", "getgid", "getegid", "getgroups", "getpgrp", "getpgid", "getsid", "getresuid"),
    *("getresgid", "capget", "getrusage", "getrlimit", "times", "sysinfo", "uname"),
    # Only to lower limits: the capability to raise them has been dropped.
    "setrlimit",
    # On socket pairs, see below.
    *("recvfrom", "getsockopt", "getsockname", "shutdown"),
)
NETWORK: Sequence[str] = (
    *("socket", "connect", "bind", "listen", "accept", "accept4", "sendmsg", "recvmsg"),
    *("sendmmsg", "recvmmsg", "setsockopt", "getpeername"),
)
"""Calls that are allowed in addition with network access."""
REFUSED: Sequence[str] = (
    *("fork", "vfork", "execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev"),
    *("truncate", "link", "linkat", "symlink", "symlinkat", "mount", "unshare", "setns"),
)
"""These fail with EPERM; all others fail with ENOSYS, so that libraries use older calls."""
IGNORED: Sequence[str] = (
    *("chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat", "setpriority"),
)
"""These do nothing and succeed: copying a file sets its mode and times, and Landlock would not keep
them from files that cannot be opened."""

_INT = 0xFFFFFFFF
"""Significant bits of an argument that the kernel reads as an int."""
_CLONE_THREAD = 0x00010000
_PRCTL = (3, 15, 16, 0x53564D41)
"""PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_SET_VMA."""
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_LONG = 0xFFFFFFFFFFFFFFFF
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE = 1, 1, 0xF
_F_DUPFD_CLOEXEC, _F_GETPIPE_SZ, _F_ADD_SEALS, _F_GET_SEALS = 1030, 1032, 1033, 1034
_FCNTL = (
    *(fcntl.F_DUPFD, _F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL),
    *(fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW, _F_GETPIPE_SZ, _F_ADD_SEALS, _F_GET_SEALS),
    *(36, 37, 38),  # F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW
)
"""Commands of fcntl that are allowed: none that makes the kernel send signals."""


def conditional_calls() -> Sequence[tuple[str, Sequence[Condition]]]:
    """Return calls that this process may make, each with conditions that must all hold."""
    pid = os.getpid()
    return (
        ("clone", [(0, _CLONE_THREAD, _CLONE_THREAD)]),
        ("kill", [(0, _INT, pid)]),
        ("tgkill", [(0, _INT, pid)]),
        ("rt_tgsigqueueinfo", [(0, _INT, pid)]),
        ("sched_setaffinity", [(0, _INT, 0)]),
        ("prlimit64", [(0, _INT, 0)]),
        *(("prctl", [(0, _INT, option)]) for option in _PRCTL),
        *(("fcntl", [(1, _INT, command)]) for command in _FCNTL),
        *(("ioctl", [(1, _INT, request)]) for request in _IOCTL),
        # On an open file: its owner can still read it, and nobody else gains write access.
        ("fchmod", [(1, 0o7422, 0o400)]),
        # An event loop wakes itself through a socket pair; datagrams could go to other processes.
        ("socketpair", [(0, _INT, _AF_UNIX), (1, _SOCK_TYPE, _SOCK_STREAM)]),
        ("sendto", [(4, _LONG, 0)]),
    )
