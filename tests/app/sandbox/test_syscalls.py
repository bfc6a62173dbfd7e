"""The lists of system calls; the attacks in `test_run.py` show what they do."""

import os

import pytest

from palettery.app.sandbox import syscalls

DANGEROUS = {
    *("fork", "vfork", "execve", "execveat", "clone3", "ptrace", "process_vm_readv", "kill"),
    *("process_vm_writev", "socket", "connect", "sendto", "sendmsg", "mount", "unshare", "setns"),
    *("bpf", "io_uring_setup", "perf_event_open", "keyctl", "userfaultfd", "chroot", "link"),
    *("symlink", "truncate", "setuid", "personality", "prctl", "ioctl", "fcntl", "clone"),
}
CONDITIONAL = {name for name, _ in syscalls.conditional_calls()}


def test_lists_are_apart():
    lists = (syscalls.ALLOWED, syscalls.NETWORK, syscalls.REFUSED, syscalls.IGNORED, CONDITIONAL)
    names = [name for each in lists for name in each]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", sorted(DANGEROUS))
def test_no_dangerous_call_is_allowed_whatever_its_arguments(name):
    assert name not in syscalls.ALLOWED
    assert name not in syscalls.IGNORED


def test_signals_go_to_this_process_alone():
    conditions = dict(syscalls.conditional_calls())
    for name in ("kill", "tgkill", "rt_tgsigqueueinfo"):
        assert conditions[name] == [(0, 0xFFFFFFFF, os.getpid())]
    assert all(conditions.values())
