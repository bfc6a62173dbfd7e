"""File with the outputs of a model: a zip archive with a safetensors file for each batch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from zipfile import ZIP_STORED, ZipFile

import torch
from safetensors.torch import load, save


class OutputsWriter:
    """Writes outputs batch by batch, until they exceed a limit."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._zip, self._max_bytes = ZipFile(path, "w", ZIP_STORED), max_bytes
        self._bytes = self._batches = 0

    def add(self, outputs: Mapping[str, torch.Tensor]) -> bool:
        """Write the outputs of the next batch; return whether they fit."""
        self._bytes += sum(output.nbytes for output in outputs.values())
        if self._bytes > self._max_bytes or any(map(torch.is_complex, outputs.values())):
            return False
        # By number: safetensors does not keep the order, and some names are reserved.
        numbered = {str(number): output for number, output in enumerate(outputs.values())}
        data = save(
            {name: output.detach().clone().contiguous() for name, output in numbered.items()}
        )
        self._zip.writestr(str(self._batches), data)
        self._batches += 1
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()


class OutputsReader:
    """Reads outputs batch by batch."""

    def __init__(self, path: Path) -> None:
        self._zip = ZipFile(path)

    def read(self, batch: int) -> Sequence[torch.Tensor]:
        """Return the outputs of a batch, in the order in which the model gives them."""
        tensors = load(self._zip.read(str(batch)))
        return [tensors[str(number)] for number in range(len(tensors))]
