"""Growth of time and memory with the number of weights.

Run as `python -m benchmarks.scaling [--full]`; `--full` adds 2^28 weights. Each size runs in
a new process, so that peaks of memory are independent.
"""

import argparse
import json
import subprocess
import sys

SIZES = (18, 20, 22, 24, 26)
LARGEST = 28
CODE = """
import json, re, sys, time
from pathlib import Path
import numpy as np
from palettery.kernels import PaletteSettings, palettize

def memory_bytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

rows = 2 ** (int(sys.argv[1]) // 2)
group_size = int(sys.argv[2]) or None
shape = (rows, 2 ** int(sys.argv[1]) // rows)
weight = np.random.default_rng(0).standard_normal(shape, np.float32)
copy = np.empty_like(weight)
settings = PaletteSettings(4, group_size=group_size)
palettize(weight[:64, :64], settings)
copies, times = [], []
for _ in range(3):
    start = time.perf_counter(); np.copyto(copy, weight)
    copies.append(time.perf_counter() - start)
del copy
before = memory_bytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
for _ in range(2):
    start = time.perf_counter(); palette = palettize(weight, settings)
    times.append(time.perf_counter() - start)
    output = palette.indices.nbytes + palette.lut.nbytes
    peak = memory_bytes("VmHWM") - before
    del palette
result = {"s": min(times), "copies": min(times) / min(copies), "extra": (peak - output) / 2**20}
print(json.dumps(result))
"""


def main() -> None:
    """Print one row per size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="up to 2^28 weights")
    sizes = (*SIZES, LARGEST) if parser.parse_args().full else SIZES
    print(
        "| weights, 4 bit, exact | palettes | ns a weight | times np.copyto | MiB beside output |"
    )
    print("| --- | --- | --- | --- | --- |")
    for group_size in (16, 0):
        for size in sizes:
            command = [sys.executable, "-c", CODE, str(size), str(group_size)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            where = f"group {group_size}" if group_size else "per tensor"
            print(
                f"| 2^{size} | {where} | {result['s'] / 2**size * 1e9:.1f} "
                f"| {result['copies']:.1f} | {result['extra']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
