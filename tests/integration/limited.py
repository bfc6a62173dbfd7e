"""The `palettery` command in processes with limits, forked from this one once it has imported it.

Reads one JSON object per line: the words of a command, its limits, and where its output goes.
Answers each with its exit code, which is below 0 after a signal.
"""

import json
import os
import resource
import sys
from pathlib import Path

import palettery.app.cli.offline
import palettery.app.cli.tables  # noqa: F401 - imported here, once, and not by each process
from palettery.app.cli import main as cli


def run(words, folder, memory_bytes, cpu_s):
    """Be the command; what this process had before it counts nothing towards the limits."""
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    held_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held_bytes + memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = ["palettery", *words]
    try:
        cli.main()
    except SystemExit as ended:
        sys.stdout.flush()
        os._exit(ended.code or 0)  # Python's own end takes longer than the command


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(**json.loads(line))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201
