"""Every benchmark that takes minutes at most: `python -m benchmarks MODEL.safetensors`."""

import subprocess
import sys

COMMANDS = (
    ["benchmarks.compress", *sys.argv[1:]],
    ["benchmarks.planning"],
    ["benchmarks.targets", *sys.argv[1:]],
    ["benchmarks.reading"],
    ["benchmarks.parsers"],
    ["benchmarks.artifacts"],
    ["benchmarks.storage"],
    ["benchmarks.kernels"],
    ["benchmarks.scaling"],
    ["benchmarks.vector"],
    ["benchmarks.vector_small"],
    ["benchmarks.sparse"],
    ["benchmarks.inference"],
    ["benchmarks.service"],
    ["benchmarks.events"],
    ["benchmarks.api"],
    ["benchmarks.transfer"],
    ["benchmarks.dashboard"],
    ["benchmarks.abuse"],
)

if __name__ == "__main__":
    for command in COMMANDS:
        print(f"\n# python -m {' '.join(command)}\n", flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)
