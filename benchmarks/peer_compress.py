"""The peer of benchmarks.compress: coreai-opt on the Linear weights of a safetensors file."""

import sys
from pathlib import Path

import torch
from coreai_opt.palettization import KMeansPalettizer, KMeansPalettizerConfig
from safetensors.torch import load_file


class Linears(torch.nn.Module):
    """Every Linear of a model, run once each, since coreai-opt only palettizes ops that run."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(_linear(weight) for weight in weights.values())
        self.widths = [weight.shape[1] for weight in weights.values()]

    def forward(self, scale: torch.Tensor) -> torch.Tensor:
        """Feed each layer a row of `scale`."""
        fed = zip(self.layers, self.widths, strict=True)
        return torch.stack([layer(scale.expand(1, width)).sum() for layer, width in fed]).sum()


def main(model: Path, out: Path) -> None:
    """Palettize with preset w4 and save."""
    weights = {
        name: tensor
        for name, tensor in load_file(model).items()
        if tensor.ndim == 2 and name.endswith(".weight") and "embedding" not in name
    }
    palettizer = KMeansPalettizer(Linears(weights).eval(), KMeansPalettizerConfig.presets.w4())
    prepared = palettizer.prepare((torch.zeros(1),))
    torch.save(prepared.state_dict(), out)


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = torch.nn.Parameter(weight)
    return layer


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
