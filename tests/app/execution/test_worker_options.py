"""Workers share out the cores and the memory that this process may use, not the machine's."""

import os
import subprocess
import sys

import pytest

from palettery.app.execution import worker_options
from palettery.app.settings import Settings

SHOW = (
    "from palettery.app.settings import Settings;"
    "from palettery.app.execution.worker_options import worker_options;"
    "from palettery.kernels.threads import available_threads;"
    "workers = worker_options(Settings());"
    "print(len(workers), available_threads(), workers[0]['env']['PALETTERY_TASK_THREADS'],"
    " workers[0]['memory_limit'])"
)


def printed(script, *words):
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *words, sys.executable, "-c", SHOW],
        check=False,
        capture_output=True,
        text=True,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.heavy
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_workers_and_threads_follow_affinity():
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\n{SHOW}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[:3] == ["1", "1", "1"]


V1 = """
mount -t tmpfs none /sys/fs/cgroup && mkdir -p /sys/fs/cgroup/cpu,cpuacct /sys/fs/cgroup/memory &&
echo $1 >/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us &&
echo 100000 >/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us &&
echo $2 >/sys/fs/cgroup/memory/memory.limit_in_bytes && shift 2 && exec "$@"
"""
V2 = """
own=$(tail -n 1 /proc/self/cgroup | cut -d: -f3)
mount -t tmpfs none /sys/fs/cgroup && group=/sys/fs/cgroup$own &&
mkdir -p $group && echo "$1 100000" >$group/cpu.max && echo $2 >/sys/fs/cgroup/memory.max &&
shift 2 && exec "$@"
"""


@pytest.mark.heavy
@pytest.mark.parametrize("version", [V1, V2], ids=["v1", "v2"])
def test_workers_threads_and_memory_follow_a_cgroup(version):
    """Its files as a container sees them, over those of this machine."""
    limit = 2 << 30
    count, cores, threads, memory = printed(version, "50000", str(limit))
    assert (count, cores, threads) == (1, 1, 1)
    assert memory == limit - worker_options.WORKER_BYTES


@pytest.mark.heavy
@pytest.mark.parametrize(("version", "none"), [(V1, "-1"), (V2, "max")], ids=["v1", "v2"])
def test_a_cgroup_without_limits_sets_none(version, none):
    most = "max" if none == "max" else str((1 << 63) - 4096)
    count, cores, _, memory = printed(version, none, most)
    assert (count, cores, memory) == (len(os.sched_getaffinity(0)),) * 2 + (0,)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_memory_is_shared_out_down_to_what_a_task_needs(monkeypatch, workers):
    monkeypatch.setattr(worker_options, "MEMORY_LIMIT", 4 << 30)
    settings = Settings(workers=workers)
    (share,) = {each["memory_limit"] for each in worker_options.worker_options(settings)}
    least = worker_options.WORKER_BYTES + worker_options.TASK_COPIES * settings.task_bytes
    assert share == max(least, ((4 << 30) - worker_options.WORKER_BYTES) // workers)
    assert (share == least) == (workers == 8)


def test_memory_that_is_set_goes_before_the_cgroup(monkeypatch):
    monkeypatch.setattr(worker_options, "MEMORY_LIMIT", 4 << 30)
    settings = Settings(workers=2, worker_memory_bytes=123)
    assert {each["memory_limit"] for each in worker_options.worker_options(settings)} == {123}
