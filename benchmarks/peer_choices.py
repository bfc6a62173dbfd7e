"""Bits of every tensor as others choose them: by one threshold for all tensors.

`psnr_losses` has the peak signal-to-noise ratio of each tensor's weights, which is what a threshold
is often set on by hand. `output_losses` has what each tensor alone does to the model's outputs,
which Apple's documentation describes as a greedy search: each layer's bits are lowered as long as
the outputs keep a threshold. Neither has a size as its goal, so the threshold is lowered until the
size is used.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.quality import every_weight
from palettery import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig, PalettizationSpec, load
from palettery.app.checkpoints.local_files import stored_files
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.cli.offline import compress
from palettery.app.compression.planned_size import planned_size_bytes
from palettery.app.planning.job_plan import JobPlan, plan_checkpoint
from palettery.app.settings import read_settings
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.config.granularity import PerGroupedChannelGranularity
from palettery.schemas.tasks import JobRequest

EFFECT_TEXTS, EFFECT_BATCH = 32, 8
"""Texts on which the effect of one tensor is measured, 234 times."""
WIDTHS = (8, 6, 4, 3, 2, 1)
GROUP = PerGroupedChannelGranularity(group_size=16, axis=0)

Losses = Mapping[str, Mapping[int, float]]
"""Tensor name -> n_bits -> what is lost, so that less is better."""
Weights = Mapping[int, Mapping[str, torch.Tensor]]
"""n_bits -> tensor name -> the decoded weight."""


def uniform_weights(model: Path, folder: Path) -> Weights:
    """Return all weights at uniform widths; their artifacts stay in the folder."""
    weights = {}
    for n_bits in WIDTHS:
        packed = folder / f"uniform-{n_bits}.safetensors"
        if not packed.exists():
            compress([model], _uniform(n_bits), packed, lambda *_: None)
        weights[n_bits] = load(packed)
    return weights


def psnr_losses(
    names: Sequence[str], weights: Weights, dense: Mapping[str, torch.Tensor]
) -> Losses:
    """Return the negative PSNR of the weights of each tensor, in decibels."""

    def loss(name: str, n_bits: int) -> float:
        weight = dense[name].double()
        error = (weights[n_bits][name] - weight).square().mean()
        return float(10 * torch.log10(error / weight.abs().max().square()))

    return {name: {n_bits: loss(name, n_bits) for n_bits in WIDTHS} for name in names}


def output_losses(
    names: Sequence[str], weights: Weights, model: torch.nn.Module, inputs: Path
) -> Losses:
    """Return 1 - mean cosine of the outputs of some texts, with only one tensor palettized."""
    batches = sorted_batches(inputs)
    parameters = dict(model.named_parameters())

    @torch.inference_mode()
    def outputs() -> torch.Tensor:
        return torch.cat([model(**batch)["embedding"] for batch in batches])

    reference = outputs()

    def loss(name: str, n_bits: int) -> float:
        before = parameters[name].data
        parameters[name].data = weights[n_bits][name]
        cosines = torch.cosine_similarity(outputs(), reference)
        parameters[name].data = before
        return 1 - cosines.mean().item()

    return {name: {n_bits: loss(name, n_bits) for n_bits in WIDTHS} for name in names}


class ThresholdChooser:
    """Configs of a model by a threshold on what is lost."""

    def __init__(self, model: Path) -> None:
        self._limits = read_settings().limits
        files = stored_files([model], digests=False)
        self._checkpoint: Checkpoint = read_checkpoint(files.storage, files.files, self._limits)
        self._specs: dict[str, dict[int, PalettizationSpec]] = {}
        for n_bits in WIDTHS:
            for tensor in self._plan(_uniform(n_bits)).plan.palettized():
                assert tensor.spec is not None  # noqa: S101 - it is palettized
                self._specs.setdefault(tensor.name, {})[n_bits] = tensor.spec

    @property
    def names(self) -> Sequence[str]:
        """Names of the tensors whose bits are chosen."""
        return list(self._specs)

    def within(self, losses: Losses, size_bytes: int) -> KMeansPalettizerConfig:
        """Return the choice of the lowest threshold whose artifact has at most this size.

        A tensor whose next step is too large stays, and the others go on, so that nothing is lost
        for large embeddings.
        """
        bits = dict.fromkeys(self._specs, WIDTHS[-1])
        settled: set[str] = set()
        for threshold in _thresholds(losses):
            for name in self._specs:
                wanted = _lowest_bits(losses[name], threshold)
                if wanted <= bits[name] or name in settled:
                    continue
                if self._size_bytes(self._config({**bits, name: wanted})) <= size_bytes:
                    bits[name] = wanted
                else:
                    settled.add(name)
        return self._config(bits)

    def _config(self, bits: Mapping[str, int]) -> KMeansPalettizerConfig:
        modules = {}
        for name, specs in self._specs.items():
            module, _, local = name.rpartition(".")
            modules[module.replace(".", r"\.")] = ModuleKMeansPalettizerConfig(
                module_state_spec={local: specs[bits[name]]}, enable_fast_kmeans_mode=False
            )
        return KMeansPalettizerConfig(global_config=None, module_name_configs=modules)

    def _size_bytes(self, config: KMeansPalettizerConfig) -> int:
        job = self._plan(config)
        return planned_size_bytes(
            JobRequest(config=job.config, checkpoint=job.checkpoint, plan=job.plan)
        )

    def _plan(self, config: KMeansPalettizerConfig) -> JobPlan:
        return plan_checkpoint(config, self._checkpoint, None, self._limits, strict=False)


def _uniform(n_bits: int) -> KMeansPalettizerConfig:
    return every_weight(PalettizationSpec(n_bits=n_bits, granularity=GROUP))


def _thresholds(losses: Losses) -> Sequence[float]:
    """Return all thresholds that differ in some tensor, from the one that allows most."""
    return sorted({loss for each in losses.values() for loss in each.values()}, reverse=True)


def _lowest_bits(losses: Mapping[int, float], threshold: float) -> int:
    """Return the last of the widths, from the most bits down, that keeps the threshold."""
    chosen = WIDTHS[0]
    for n_bits in WIDTHS:
        if losses[n_bits] > threshold:
            break
        chosen = n_bits
    return chosen


def sorted_batches(inputs: Path) -> Sequence[Mapping[str, torch.Tensor]]:
    """Return some texts of all lengths, in batches with no more padding than they need."""
    tensors = load_file(inputs)
    lengths = tensors["attention_mask"].sum(1)
    order = torch.argsort(lengths)[:: max(1, len(lengths) // EFFECT_TEXTS)]
    chunks = [order[start : start + EFFECT_BATCH] for start in range(0, len(order), EFFECT_BATCH)]
    return [
        {name: tensor[rows, : int(lengths[rows].max())] for name, tensor in tensors.items()}
        for rows in chunks
    ]
