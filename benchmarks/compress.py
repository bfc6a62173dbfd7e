"""`palettery compress` of the demo's model against coreai-opt, each as a whole process.

Run as `python -m benchmarks.compress MODEL.safetensors`.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks.timing import process_seconds
from palettery.schemas.report import Report


def main(model: Path) -> None:
    """Print seconds, ratios and sizes."""
    palettery = Path(sys.executable).with_name("palettery")
    with tempfile.TemporaryDirectory() as folder:
        out, report = Path(folder, "w4.safetensors"), Path(folder, "report.json")
        command: list[str | Path] = [palettery, "compress", model]
        command += ["--preset", "w4", "-o", out, "--report", report]
        ours = process_seconds(command)
        peer = process_seconds(
            [sys.executable, "-m", "benchmarks.peer_compress", model, Path(folder, "peer.pt")]
        )
        result = Report.model_validate_json(report.read_bytes())
    help_s = process_seconds([palettery, "--help"])
    share = result.palettized_size_after_bytes / result.palettized_size_before_bytes
    print("| whole process | seconds | |")
    print("| --- | --- | --- |")
    print(f"| coreai-opt: load, prepare (w4), save | {peer:.2f} | 1x |")
    print(f"| palettery compress --preset w4 | {ours:.2f} | {peer / ours:.1f}x faster (goal 3x) |")
    print(f"| palettery --help | {help_s:.2f} | goal 0.5 s |")
    print(f"\npalettized tensors: {share:.3f} of their float32 bytes (goal 0.20)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
