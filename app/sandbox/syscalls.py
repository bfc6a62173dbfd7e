"""System calls that a confined process may make: it computes, and works on files that it may open.

An allow list: what is not in it, and what later kernels add, fails. File names are Landlock's
business; calls that change a file by its name, and that Landlock lets through, are left out.

Source: Linux 6.18, libseccomp 2.5.4, glibc 2.36 to 2.41; the names that an architecture lacks are
skipped.
"""

import fcntl
import os
from collections.abc import Sequence

Condition = tuple[int, int, int]
"""Number of an argument, the mask that it is compared under, its value then."""

ALLOWED: Sequence[str] = (
    # Descriptors.
    *("read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2"),
    *("pwritev2", "lseek", "_llseek", "close", "close_range", "dup", "dup2", "dup3", "flock"),
    *("fsync", "fdatasync", "ftruncate", "fallocate", "fadvise64", "copy_file_range", "sendfile"),
    *("pipe", "pipe2", "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1"),
    *("epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2", "memfd_create", "timerfd_create"),
    *("timerfd_settime", "timerfd_gettime"),
    # Files by name, which Landlock judges; and what tells of a file.
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
    # Limits only go down: the capability to raise them is dropped before.
    "setrlimit",
    # On the one kind of sockets that there are, see below.
    *("recvfrom", "getsockopt", "getsockname", "shutdown"),
)
NETWORK: Sequence[str] = (
    *("socket", "connect", "bind", "listen", "accept", "accept4", "sendmsg", "recvmsg"),
    *("sendmmsg", "recvmmsg", "setsockopt", "getpeername"),
)
"""Allowed, too, where the network is."""
REFUSED: Sequence[str] = (
    *("fork", "vfork", "execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev"),
    *("truncate", "link", "linkat", "symlink", "symlinkat", "mount", "unshare", "setns"),
)
"""Fail as not permitted; all others fail as if the kernel had none such, so that libraries use
what came before."""
IGNORED: Sequence[str] = (
    *("chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat", "setpriority"),
)
"""Do nothing and succeed: files are copied with modes and times, and Landlock would let these reach
files that cannot be opened."""

_INT = 0xFFFFFFFF
"""Of an argument that the kernel takes as an int, the bits that count."""
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
"""None of those that have the kernel send a signal to a process."""


def conditional() -> Sequence[tuple[str, Sequence[Condition]]]:
    """Calls that this process may make where all conditions hold."""
    own = os.getpid()
    return (
        ("clone", [(0, _CLONE_THREAD, _CLONE_THREAD)]),
        ("kill", [(0, _INT, own)]),
        ("tgkill", [(0, _INT, own)]),
        ("rt_tgsigqueueinfo", [(0, _INT, own)]),
        ("sched_setaffinity", [(0, _INT, 0)]),
        ("prlimit64", [(0, _INT, 0)]),
        *(("prctl", [(0, _INT, option)]) for option in _PRCTL),
        *(("fcntl", [(1, _INT, command)]) for command in _FCNTL),
        *(("ioctl", [(1, _INT, request)]) for request in _IOCTL),
        # Of a file that it has open: its owner may read it still, and no more people write to it.
        ("fchmod", [(1, 0o7422, 0o400)]),
        # An event loop wakes itself through a pair of sockets. Datagrams could be sent to others.
        ("socketpair", [(0, _INT, _AF_UNIX), (1, _SOCK_TYPE, _SOCK_STREAM)]),
        ("sendto", [(4, _LONG, 0)]),
    )
