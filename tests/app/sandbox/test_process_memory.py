"""Free memory goes back to the system."""

import subprocess
import sys

import pytest

from palettery.app.sandbox import process_memory

PROGRAM = """
from palettery.app.sandbox.process_memory import MemoryTrimmer, resident_bytes
trimmer = MemoryTrimmer()
blocks = [b"x" * 60_000 for _ in range(4_000)]
last_block = b"x" * 60_000  # at the end of the heap, so that the allocator keeps what is before it
trimmer.run()
in_use = resident_bytes()
blocks.clear()
trimmer.run()
print(in_use - resident_bytes())
"""


@pytest.mark.skipif(process_memory._glibc() is None, reason="only glibc has malloc_trim")
def test_memory_that_was_in_use_at_the_last_trim_is_returned_once_it_is_free() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)

    assert int(ran.stdout) > 200 << 20
