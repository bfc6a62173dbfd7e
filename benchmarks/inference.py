"""Time of a Linear by the form of its weight: `python -m benchmarks.inference`.

Palettes of 4 bits, one for 16 rows, and of other widths, beside the same layer dense in float32 and
bfloat16, and beside torchao's int4 and codebooks. Each row runs its form and the dense float32
layer in turn, so that both meet the same load; numbers are medians, and of processor time, least.
"""

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn

from palettery import kernels
from palettery.app.artifacts.packed_weights import PackedWeight, replace_weight
from palettery.kernels import PaletteSettings
from palettery.schemas.artifact import PalettizedWeight

BATCHES, RUNS = (1, 8, 128), 9
SIZE = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
CODES: torch.dtype = vars(torch)["uint4"]
"""Type of torchao's codes, which torch does not declare."""
Layer = Callable[[torch.Tensor], torch.Tensor]


def packed_layer(dense: nn.Linear, n_bits: int, axis: int) -> Layer:
    """Return the layer with a packed weight, a palette for each 16 channels of an axis."""
    settings = PaletteSettings(n_bits, axis, 16)
    palette = kernels.palettize(dense.weight.detach().numpy(), settings)
    shape = tuple(dense.weight.shape)
    weight = PalettizedWeight(n_bits=n_bits, axis=axis, group_size=16, shape=shape, dtype="F32")
    arrays = {
        "indices": torch.from_numpy(kernels.pack(palette.indices, n_bits)),
        "lut": torch.from_numpy(palette.lut),
    }
    layer = nn.Linear(SIZE, SIZE, bias=False)
    replace_weight(layer, "weight", PackedWeight(weight, arrays))
    return layer


def before_kernels(packed: Layer) -> Layer:
    """Return the layer as it was before it had kernels: dense by torch's operators at each call."""
    weight = packed.weight_palette  # type: ignore[attr-defined]

    def call(vectors: torch.Tensor) -> torch.Tensor:
        weight._has_kernel = lambda _: False
        try:
            return nn.functional.linear(vectors, weight())
        finally:
            del weight._has_kernel

    return call


def torchao_int4(dense: nn.Linear) -> Layer:
    """Return torchao's 4-bit layer for CPUs, which computes in bfloat16."""
    from torchao.quantization import Int4WeightOnlyConfig, quantize_

    layer = nn.Sequential(nn.Linear(SIZE, SIZE, bias=False)).bfloat16()
    layer[0].weight.data = dense.weight.detach().bfloat16()
    quantize_(layer, Int4WeightOnlyConfig(group_size=32, int4_packing_format="opaque"))
    return lambda vectors: layer(vectors.bfloat16())


def torchao_codebook(dense: nn.Linear) -> Layer:
    """Return a layer with a palette in torchao's form, which is decoded at each call."""
    from torchao.prototype.quantization.codebook_coreml import CodebookQuantizedTensor

    palette = kernels.palettize(dense.weight.detach().numpy(), PaletteSettings(4, 0, 16))
    codes, lut = torch.from_numpy(palette.indices), torch.from_numpy(palette.lut)
    weight = CodebookQuantizedTensor(codes, lut, CODES, [16, -1], codes.shape)
    return lambda vectors: nn.functional.linear(vectors, weight.dequantize())


def measure(layer: Layer, dense: Layer, vectors: torch.Tensor) -> tuple[float, float, float]:
    """Return a layer's time in ms, its ratio to the dense layer's, and that of processor time."""
    walls: tuple[list[float], list[float]] = ([], [])
    processor: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS + 1):
        for number, each in enumerate((layer, dense)):
            started, used = time.perf_counter(), time.process_time()
            each(vectors)
            walls[number].append(1e3 * (time.perf_counter() - started))
            processor[number].append(time.process_time() - used)
    own, reference = (statistics.median(times[1:]) for times in walls)
    used, reference_used = (min(times[1:]) for times in processor)
    return own, own / reference, used / reference_used


def forms(dense: nn.Linear) -> dict[str, Callable[[], Layer]]:
    """Return name -> function that makes a layer."""
    g16 = packed_layer(dense, 4, 0)
    half = nn.Linear(SIZE, SIZE, bias=False).bfloat16()
    half.weight.data = dense.weight.detach().bfloat16()
    return {
        "4 bits, 16 rows": lambda: g16,
        "4 bits, 16 columns": lambda: packed_layer(dense, 4, 1),
        "1 bit, 16 rows": lambda: packed_layer(dense, 1, 0),
        "2 bits, 16 rows": lambda: packed_layer(dense, 2, 0),
        "8 bits, 16 rows": lambda: packed_layer(dense, 8, 0),
        "4 bits, 16 rows, decoded by torch": lambda: before_kernels(g16),
        "dense bfloat16": lambda: lambda vectors: half(vectors.bfloat16()),
        "torchao int4, 32 columns": lambda: torchao_int4(dense),
        "torchao codebook, 16 rows": lambda: torchao_codebook(dense),
    }


def main() -> None:
    """Print a table."""
    torch.manual_seed(0)
    dense = nn.Linear(SIZE, SIZE, bias=False).requires_grad_(False)
    load = os.getloadavg()[0]
    print(f"{SIZE} x {SIZE}, {torch.get_num_threads()} threads, load {load:.1f}")
    print("form                                batch       ms   x dense float32  processor time")
    for name, make in forms(dense).items():
        try:
            layer = make()
            layer(torch.zeros(1, SIZE))
        except Exception as error:  # noqa: BLE001 - a form that does not run here is a row, too
            print(f"{name:<36}does not run here: {str(error).strip().splitlines()[0][:90]}")
            continue
        for batch in BATCHES:
            own, ratio, used = measure(layer, dense, torch.randn(batch, SIZE))
            print(f"{name:<36}{batch:>5}{own:>9.2f}{ratio:>18.2f}{used:>18.2f}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with torch.no_grad():
        main()
