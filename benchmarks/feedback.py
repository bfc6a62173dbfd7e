"""Error feedback on the linear layers of MiniLM: error of their outputs, and time.

Run as `python -m benchmarks.feedback WHEEL [--calibration FOLDER]`, where WHEEL is the one that
`make demo` downloads; without the folder it calibrates on texts of Debian's `fortunes` first. The
error of a layer, tr((W - Q) H (W - Q)^T), is that of K-means weighted by the mean of x^2 over
itself with error feedback; goals are 0.3 in the geometric mean, and 15 s on two cores.
"""

import argparse
import math
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from transformers import AutoTokenizer

from benchmarks.quality import split_texts, write_inputs
from palettery.app.calibration.calibrate import SECOND_MOMENTS
from palettery.app.calibration.tensor_matching import read_calibration
from palettery.app.cli.offline_models import calibrate
from palettery.kernels import PaletteSettings, palettize, reconstruct
from palettery.schemas.calibration import CalibrationOptions

SETTINGS = {
    "3 bit, one palette a tensor": PaletteSettings(3),
    "4 bit, one palette a tensor": PaletteSettings(4),
    "4 bit, 16 rows a palette": PaletteSettings(4, group_size=16),
}


@dataclass(frozen=True)
class Layer:
    """A linear layer."""

    weight: NDArray[np.float32]
    second_moment: NDArray[np.float32]

    def sensitivity(self) -> NDArray[np.float32]:
        """Mean of x^2, for each weight."""
        return np.broadcast_to(np.diagonal(self.second_moment), self.weight.shape)

    def error(self, dense: NDArray[np.float32]) -> float:
        """Error of the layer's outputs."""
        errors = self.weight.astype(np.float64) - dense
        return float(((errors @ self.second_moment.astype(np.float64)) * errors).sum())


def main() -> None:
    """Run and print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--calibration", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        zipfile.ZipFile(arguments.wheel).extractall(temporary)
        folder = next(Path(temporary).glob("*/model"))
        calibration = arguments.calibration or calibrated(folder, Path(temporary))
        layers = list(linear_layers(folder, calibration))
    palettize(layers[0].weight[:64], SETTINGS["3 bit, one palette a tensor"],
              second_moment=layers[0].second_moment)  # fmt: skip
    print(
        f"{len(layers)} linear layers | error, with / without feedback | worst | s | s, processor"
    )
    for title, settings in SETTINGS.items():
        ratios, wall, processor = [], time.perf_counter(), time.process_time()
        dense = [
            reconstruct(palettize(each.weight, settings, second_moment=each.second_moment))
            for each in layers
        ]
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        for layer, own in zip(layers, dense, strict=True):
            plain = reconstruct(palettize(layer.weight, settings, layer.sensitivity()))
            ratios.append(layer.error(own) / layer.error(plain))
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(
            f"{title} | {mean:.3f} | {max(ratios):.3f} | {wall:.1f} | {processor:.1f}", flush=True
        )


def calibrated(folder: Path, temporary: Path) -> Path:
    """Calibrate on the texts of `benchmarks.quality`."""
    inputs, calibration = temporary / "calibrate.safetensors", temporary / "calibration"
    write_inputs(AutoTokenizer.from_pretrained(folder), split_texts()[0], inputs)
    calibrate([folder], [inputs], calibration, CalibrationOptions(), lambda *_: None)
    return calibration


def linear_layers(folder: Path, calibration: Path) -> Iterator[Layer]:
    """Yield the layers with second moments."""
    with (
        safe_open(folder / "model.safetensors", "numpy") as weights,
        safe_open(calibration / SECOND_MOMENTS, "numpy") as moments,
    ):
        for tensor in read_calibration(calibration).tensors:
            if tensor.second_moments is not None:
                weight = weights.get_tensor(tensor.name)
                yield Layer(weight, moments.get_tensor(tensor.second_moments))


if __name__ == "__main__":
    main()
