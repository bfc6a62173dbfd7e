"""Sums over samples, in memory-mapped files that outlive the process."""

import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from palettery.app.artifacts.writer import TensorEntry, header, sort_entries
from palettery.app.calibration.calibrate import (
    PROGRESS_FILE,
    SAVE_INTERVAL_FACTOR,
    SECOND_MOMENTS,
    SENSITIVITIES,
    STATE_PREFIX,
)
from palettery.schemas.base import Schema

WORK_FOLDER = "work"


class SumsProgress(Schema):
    """Number of batches and samples that the sums include."""

    batches: int = 0
    samples: int = 0
    rows: dict[str, int] = Field(default_factory=dict)
    """Name of a layer's input -> number of rows added up."""


class Sums:
    """Sums of squared gradients and of second moments, which `save` makes durable."""

    def __init__(
        self,
        folder: Path,
        sensitivities: Mapping[str, tuple[int, ...]],
        moments: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._folder, self._work = folder, folder / WORK_FOLDER
        self.progress = SumsProgress()
        self._saved_at, self._save_s = time.monotonic(), 0.0
        self._restore()
        self.sensitivities = _map_file(self._work / SENSITIVITIES, sensitivities)
        self.moments = _map_file(self._work / SECOND_MOMENTS, moments)

    def save(self, progress: SumsProgress) -> None:
        """Record progress, and copy the sums to a new state folder if the last is old enough."""
        self.progress = progress
        started = time.monotonic()
        if started - self._saved_at < SAVE_INTERVAL_FACTOR * self._save_s:
            return
        new, earlier = self._folder / "new-state", [*self._folder.glob(f"{STATE_PREFIX}*")]
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(self._work, new)
        (new / PROGRESS_FILE).write_text(progress.model_dump_json(), "utf-8")
        new.rename(self._folder / f"{STATE_PREFIX}{progress.batches}")
        for path in earlier:
            shutil.rmtree(path)
        self._saved_at = time.monotonic()
        self._save_s = self._saved_at - started

    def _restore(self) -> None:
        """Copy the last saved sums into the work folder, if there are any."""
        shutil.rmtree(self._work, ignore_errors=True)
        states = sorted(
            self._folder.glob(f"{STATE_PREFIX}*"),
            key=lambda path: int(path.name.removeprefix(STATE_PREFIX)),
        )
        if not states:
            self._work.mkdir()
            return
        shutil.copytree(states[-1], self._work)
        text = (self._work / PROGRESS_FILE).read_text("utf-8")
        self.progress = SumsProgress.model_validate_json(text)


def _map_file(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Map a safetensors file of float32 tensors into memory; create it with zeros if missing."""
    entries = sort_entries(
        TensorEntry(name, "F32", shape, 4 * math.prod(shape), lambda: ())
        for name, shape in shapes.items()
    )
    head = header(entries, {})
    if not path.exists():
        with path.open("wb") as file:
            file.write(head)
            file.truncate(len(head) + sum(entry.size_bytes for entry in entries))
    tensors, offset = {}, len(head)
    for entry in entries:
        mapped = np.memmap(path, np.float32, "r+", offset, entry.shape)
        tensors[entry.name] = torch.from_numpy(mapped)
        offset += entry.size_bytes
    return tensors
