"""Inputs of a model: tensors in safetensors files, named like the model's inputs.

Samples lie along the first axis. Files of one set may have different lengths along other axes.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from palettery.app.errors import BadInput
from palettery.app.inference.model_files import LABELS, input_names_error

LABEL_IGNORED = -100
"""Label that does not count, as in torch's cross entropy."""
MASK = "attention_mask"
"""Input that marks padding: 0 where a position of a sample is padding."""
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class InputSpec:
    """Dtype, shape and range that a model expects of one input; None where anything is allowed."""

    name: str
    dtype: torch.dtype | None = None
    sizes: tuple[int | None, ...] | None = None
    """Shape; None for an axis of variable length."""
    vocabulary: int | None = None
    """Number of rows of the embedding that its values are indices of."""


@dataclass(frozen=True)
class Signature:
    """The inputs of a model."""

    specs: Mapping[str, InputSpec]
    optional: bool = False
    """Whether inputs may be left out."""

    def describe(self) -> str:
        """Return the names of the inputs, for messages."""
        return ", ".join(self.specs) or "none"


@dataclass(frozen=True)
class Batch:
    """Samples that run together; padding that none of them needs is cut off."""

    samples: Sequence[int]
    """Index of each sample in all files together."""
    tensors: Tensors
    labels: torch.Tensor | None = None

    def mask(self) -> torch.Tensor | None:
        """Return false for padding; None without a mask. Shapes: -> (samples, length) bool."""
        mask = self.tensors.get(MASK)
        return mask.bool() if mask is not None and mask.dim() == 2 else None

    def without_padding(self, output: torch.Tensor, row: int) -> torch.Tensor:
        """Return the values of an output that belong to one sample, without padding."""
        if output.dim() == 0 or len(output) != len(self.samples):
            return output.reshape(-1)
        mask = self.mask()
        values = output[row]
        if mask is not None and output.shape[:2] == mask.shape:
            values = values[mask[row]]
        return values


@dataclass(frozen=True)
class InputFile:
    """The tensors of one file, and the model's signature, which says how to split them."""

    name: str
    """Name for messages."""
    tensors: Tensors
    signature: Signature
    first: int = 0
    """Index of its first sample in all files together."""

    @cached_property
    def is_single(self) -> bool:
        """Whether the model takes one sample at a time, without a batch axis."""
        ranked = [
            (spec, self.tensors[name])
            for name, spec in self.signature.specs.items()
            if name in self.tensors and spec.sizes is not None
        ]
        return bool(ranked) and all(
            tensor.dim() == len(spec.sizes or ()) + 1 for spec, tensor in ranked
        )

    @cached_property
    def batch_size(self) -> int | None:
        """Number of samples that the model takes at once; None if any number."""
        if self.is_single:
            return 1
        known = [spec for spec in self.signature.specs.values() if spec.sizes]
        if not known or any(spec.sizes[0] is None for spec in known if spec.sizes):
            return None
        return known[0].sizes[0] if known[0].sizes else None

    @cached_property
    def split(self) -> Tensors:
        """The tensors whose first axis is that of the samples; others belong to all samples."""
        return {name: tensor for name, tensor in self.tensors.items() if self.is_split(name)}

    def is_split(self, name: str) -> bool:
        """Return whether the first axis of a tensor is that of the samples."""
        spec, tensor = self.signature.specs.get(name), self.tensors[name]
        if name == LABELS or self.is_single or spec is None or spec.sizes is None:
            return tensor.dim() > 0
        return bool(spec.sizes) and spec.sizes[0] == self.batch_size

    @cached_property
    def count(self) -> int:
        """Number of samples; 1 if no tensor has an axis of them."""
        return min((len(tensor) for tensor in self.split.values()), default=1)

    def lengths(self) -> torch.Tensor | None:
        """Return the length of each sample without padding; None if padding cannot be cut off."""
        mask = self.split.get(MASK)
        if mask is None or mask.dim() != 2 or not self._may_truncate(mask.shape[1]):
            return None
        positions = torch.arange(1, mask.shape[1] + 1)
        return (mask.bool() * positions).amax(1).clamp(min=1)

    def _may_truncate(self, length: int) -> bool:
        """Return whether the model accepts other lengths of the sequence axis."""
        specs = (self.signature.specs.get(name) for name in self._sequence_tensors(length))
        return all(spec is None or spec.sizes is None or spec.sizes[1] is None for spec in specs)

    def _sequence_tensors(self, length: int) -> list[str]:
        """Return the names of the tensors whose second axis is the sequence, by its length."""
        return [
            name
            for name, tensor in self.split.items()
            if tensor.dim() > 1 and tensor.shape[1] == length
        ]

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield the samples in batches, those of similar length together."""
        size = self.batch_size or size
        lengths = self.lengths()
        order = torch.arange(self.count) if lengths is None else lengths.argsort(stable=True)
        for rows in order.split(size):  # type: ignore[no-untyped-call]
            longest = None if lengths is None else int(lengths[rows].max())
            yield self._batch(rows, longest)

    def batches_in_order(self, size: int) -> Iterator[Batch]:
        """Yield the samples in batches, in their order and with all of their padding."""
        for rows in torch.arange(self.count).split(self.batch_size or size):  # type: ignore[no-untyped-call]
            yield self._batch(rows, None)

    def _batch(self, rows: torch.Tensor, longest: int | None) -> Batch:
        tensors = {name: self._rows(name, rows, longest) for name in self.tensors}
        labels = tensors.pop(LABELS, None)
        return Batch([self.first + row for row in rows.tolist()], tensors, labels)

    def _rows(self, name: str, rows: torch.Tensor, longest: int | None) -> torch.Tensor:
        if name not in self.split:
            return self.tensors[name]
        tensor = self.tensors[name][rows]
        if longest is not None and name in self._sequence_tensors(self.tensors[MASK].shape[1]):
            tensor = tensor[:, :longest]
        return tensor[0] if self.is_single and name != LABELS else tensor

    def digests(self) -> Iterator[str]:
        """Yield a digest of each sample, which does not depend on its padding."""
        lengths = self.lengths()
        for row in range(self.count):
            longest = None if lengths is None else int(lengths[row])
            batch = self._batch(torch.tensor([row]), longest)
            digest = hashlib.sha256()
            for name in sorted(batch.tensors):
                tensor = batch.tensors[name].contiguous()
                digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
                digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
            yield digest.hexdigest()


def read_inputs(paths: Mapping[Path, str], signature: Signature) -> list[InputFile]:
    """Return the inputs in these files, checked against what the model takes.

    Args:
        paths: File -> its name for messages.
        signature: What the model takes.

    Raises:
        BadInput: a file is damaged or has no samples, or a tensor is not what the model takes.
    """
    files: list[InputFile] = []
    for path, name in paths.items():
        first = sum(file.count for file in files)
        files.append(_check_file(InputFile(name, _load(path, name), signature, first)))
    return files


def input_warnings(files: Sequence[InputFile]) -> Iterator[str]:
    """Yield warnings about valid inputs."""
    if sum(file.count for file in files) == 1:
        yield "the inputs hold one sample; results are of this sample alone"


def _load(path: Path, name: str) -> Tensors:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise BadInput(f"the inputs {name} are no safetensors file: {error}") from error


def _check_file(file: InputFile) -> InputFile:
    names = [name for name in file.tensors if name != LABELS]
    unknown = [name for name in names if name not in file.signature.specs]
    missing = [name for name in file.signature.specs if name not in file.tensors]
    if unknown or (missing and not file.signature.optional) or not names:
        raise input_names_error(file.signature.describe(), file.name, names)
    for name in names:
        _check_shape(file, name)
    counts = {name: len(tensor) for name, tensor in file.split.items()}
    if len(set(counts.values())) > 1:
        described = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
        raise BadInput(f"{file.name} has {described}; give each tensor one row for each sample")
    if not file.count:
        raise BadInput(f"{file.name} has no samples; its tensors need at least one row")
    if file.batch_size is not None and file.count % file.batch_size:
        raise BadInput(
            f"the model was exported for batches of {file.batch_size}, and {file.name} has "
            f"{file.count:,} samples; send a multiple, or export it with a batch size that varies "
            "(dynamic_shapes of torch.export.export)"
        )
    for name in names:
        _check_values(file, name)
    return file


def _check_shape(file: InputFile, name: str) -> None:
    spec, tensor = file.signature.specs[name], file.tensors[name]
    if spec.dtype is not None and tensor.dtype != spec.dtype:
        raise BadInput(
            f"{name} in {file.name} has the dtype {_dtype_name(tensor.dtype)}; the model takes "
            f"{_dtype_name(spec.dtype)}: convert it"
        )
    if spec.sizes is None:
        return
    shape = list(tensor.shape)[1 if file.is_single else 0 :]
    sizes = [size if size is not None else "any" for size in spec.sizes]
    is_split = file.is_single or file.is_split(name)
    fits = len(shape) == len(sizes) and all(
        expected in ("any", length)
        for axis, (length, expected) in enumerate(zip(shape, sizes, strict=True))
        if axis or not is_split or file.is_single
    )
    if not fits:
        raise BadInput(
            f"{name} in {file.name} has the shape {list(tensor.shape)}; the model takes "
            f"[{', '.join(map(str, sizes))}], with samples along the first axis"
        )


def _check_values(file: InputFile, name: str) -> None:
    spec, tensor = file.signature.specs[name], file.tensors[name]
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        row = int((~tensor.isfinite()).nonzero()[0][0]) if tensor.dim() else 0
        raise BadInput(
            f"{name} in {file.name} has values that are not finite (NaN or infinite), first in "
            f"sample {row}; leave such samples out"
        )
    if spec.vocabulary is None or tensor.is_floating_point() or not tensor.numel():
        return
    smallest, largest = int(tensor.min()), int(tensor.max())
    if smallest < 0 or largest >= spec.vocabulary:
        raise BadInput(
            f"{name} in {file.name} has the index {smallest if smallest < 0 else largest:,}; the "
            f"model's embedding has {spec.vocabulary:,} rows, so 0 to {spec.vocabulary - 1:,} are "
            "allowed: is it of another tokenizer?"
        )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
