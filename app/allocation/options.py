"""Options of every tensor: bytes in the artifact and expected error of each spec."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np

from palettery.app.allocation.candidates import Candidates
from palettery.app.allocation.solver import Item
from palettery.app.artifacts.writer import ALIGNMENT_BYTES, header
from palettery.app.compression.artifact_files import tensors_metadata
from palettery.app.compression.layout import SHARD_BYTES
from palettery.app.compression.planned_size import header_bytes
from palettery.app.planning.incompatibility import (
    group_count,
    palettized_bytes,
    resolve_clustering,
)
from palettery.app.planning.tensor_rules import FLOAT_BYTES
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.config import KMeansPalettizerConfig, PalettizationSpec
from palettery.schemas.plan import PlannedTensor
from palettery.schemas.targets import ModelScores
from palettery.schemas.tasks import JobRequest

_INDEX_ENTRY: Final = len('\\n  "": "model-00000-of-00000.safetensors",') + 16
"""Bytes of an entry in the index of several files, beside its name, and of its longest key."""
_ENTRIES: Final = 6
"""Most arrays of a palettized tensor."""


class Option(NamedTuple):
    """One spec for tensors that get the same."""

    spec: PalettizationSpec | None
    """None to keep them."""
    size_bytes: int
    """Upper bound of their bytes in the artifact's files, with those in headers."""
    error: float
    """Expected error."""


class Options:
    """Options of groups of tensors that get the same spec, in the order of `Candidates.alike`.

    Sizes are upper bounds because a header's length depends on all tensors: offsets are counted
    with as many digits as the largest can have. The sum exceeds the files by some bytes a tensor.
    """

    def __init__(self, candidates: Candidates, checkpoint: Checkpoint, scores: ModelScores) -> None:
        self._candidates, self._checkpoint, self._scores = candidates, checkpoint, scores
        self._stored = {tensor.name: tensor for tensor in checkpoint.tensors}
        self._total = checkpoint.tensor_bytes()
        self._errors = {
            name: {choice.spec: choice.error for choice in of_tensor.choices}
            for name, of_tensor in scores.tensors.items()
        }
        self.weighted = scores.weighted
        self.before = {tensor.name: tensor for tensor in candidates.plan.tensors}
        """Plan of the config without a target, by tensor name."""
        self.of_groups = [self._options_of(names) for names in candidates.alike]

    @cached_property
    def fixed_bytes(self) -> int:
        """Upper bound of the bytes that no option changes."""
        return self._base_bytes() + sum(
            self._bytes(planned)
            for name, planned in self.before.items()
            if name not in self._candidates.by_name
        )

    def _options_of(self, names: Sequence[str]) -> list[Option]:
        """Return the options of tensors that get the same spec."""
        first = self._candidates.by_name[names[0]]
        scores = [self._scores.tensors[name] for name in names]
        specs: list[PalettizationSpec | None] = []
        if first.may_keep or any(score.reason for score in scores):
            specs.append(None)
        if not any(score.reason for score in scores):
            specs += first.specs
        return [
            Option(
                spec,
                sum(self._bytes(self.planned(name, spec)) for name in names),
                sum(self.error(name, spec) for name in names),
            )
            for spec in specs
        ]

    def error(self, name: str, spec: PalettizationSpec | None) -> float:
        """Return the expected error; relative to the tensor's energy without sensitivities."""
        if spec is None:
            return 0.0
        error, signal = self._errors[name][spec], self._scores.tensors[name].signal
        if self.weighted:
            return error
        return error / signal if signal > 0 else 0.0

    def planned(self, name: str, spec: PalettizationSpec | None) -> PlannedTensor:
        """Return the plan of a candidate with a spec, or kept."""
        before, candidate = self.before[name], self._candidates.by_name[name]
        if spec is None:
            update: dict[str, Any] = {
                "action": "keep",
                "spec": None,
                "clustering": None,
                "groups": 0,
                "predicted_bytes": before.size_bytes,
            }
        else:
            clustering = resolve_clustering(spec, candidate.config, candidate.op_type)
            groups = group_count(before.shape, clustering)
            size = palettized_bytes(before.shape, FLOAT_BYTES[before.dtype], spec, groups)
            update = {
                "action": "palettize",
                "spec": spec,
                "clustering": clustering,
                "groups": groups,
                "predicted_bytes": size,
            }
        return before.model_copy(update=update)

    def _bytes(self, planned: PlannedTensor) -> int:
        """Return an upper bound of a tensor's bytes in the artifact's files."""
        most = 2 * min(self._total, SHARD_BYTES)
        size = planned.predicted_bytes + header_bytes(planned, self._stored[planned.name], most)
        if self._total < SHARD_BYTES:
            return size
        entries = _ENTRIES if planned.action == "palettize" else 1
        return size + entries * (len(planned.name.encode()) + _INDEX_ENTRY)

    def _base_bytes(self) -> int:
        """Return an upper bound of the bytes of headers that belong to no tensor."""
        plan = self._candidates.plan
        request = JobRequest(
            config=KMeansPalettizerConfig(), checkpoint=self._checkpoint, plan=plan
        )
        metadata = tensors_metadata(request, [(planned, None) for planned in plan.tensors])
        files = 2 * self._total // SHARD_BYTES + 1
        return files * (len(header([], metadata)) + 2 * ALIGNMENT_BYTES)


def as_item(options: Sequence[Option]) -> Item:
    """Return the options for the solver: errors as costs, bytes as weights."""
    return Item(
        np.array([option.error for option in options], dtype=np.float64),
        np.array([option.size_bytes for option in options], dtype=np.float64),
    )
