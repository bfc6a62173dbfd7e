"""Checkpoints as byte ranges: the common form of all upload formats."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from palettery.schemas.base import Schema

TypeSource = Literal["graph", "hf_config", "inferred"]
ModelFormat = Literal["safetensors", "pytorch_zip", "pytorch_legacy", "pt2"]


class StoredFile(Schema):
    """One file of a checkpoint in the object store."""

    name: str
    """File name given by the user."""
    path: str
    """Path in the object store."""
    size_bytes: NonNegativeInt
    """Size of the file."""
    sha256: str | None = None
    """SHA-256 digest of the file in hexadecimal; null if the file was read in place."""


class StoredTensor(Schema):
    """One tensor as a byte range of one file."""

    name: str
    """First name of the tensor."""
    aliases: tuple[str, ...] = ()
    """Further names of the same bytes."""
    dtype: str
    """Safetensors dtype name, such as F32, BF16, I64 or F8_E4M3."""
    shape: tuple[NonNegativeInt, ...]
    """Shape of the tensor."""
    strides: tuple[NonNegativeInt, ...] | None = None
    """Strides in elements; null for row-major."""
    file: NonNegativeInt
    """Index of the file in `Checkpoint.files`."""
    offset: NonNegativeInt
    """Offset of the first byte in the file."""
    size_bytes: NonNegativeInt
    """Size of the tensor in the file."""


class Module(Schema):
    """One module of the model."""

    name: str
    """Dotted path of the module; empty for the root."""
    aliases: tuple[str, ...] = ()
    """Further paths under which the same module is registered."""
    type: str | None
    """Fully qualified class name, such as `torch.nn.modules.linear.Linear`; null if unknown."""
    type_source: TypeSource
    """Source of the class name: a graph, a Hugging Face config, or the tensor names."""


class Op(Schema):
    """An operation that reads tensors; without a graph, only known module types have operations."""

    name: str
    """Operation name: `<module path>.<functional name>`, with `_1`, `_2` for further calls."""
    type: str
    """Functional name, such as `linear` or `conv2d`."""
    module: str
    """Dotted path of the module that runs the operation."""
    states: dict[str, str]
    """Names of the tensors that the operation reads, by local parameter name."""


class Checkpoint(Schema):
    """A model as byte ranges, its module tree and its operations, independent of the format."""

    format: ModelFormat
    """Format of the files."""
    files: tuple[StoredFile, ...]
    """Files of the checkpoint."""
    tensors: tuple[StoredTensor, ...]
    """Distinct tensors."""
    modules: tuple[Module, ...]
    """Modules, parents before children."""
    ops: tuple[Op, ...]
    """Operations that read tensors."""
    warnings: tuple[str, ...] = ()
    """Warnings for the user about how the files were read."""

    def tensor_bytes(self) -> int:
        """Return the size of all tensors, each counted once."""
        return sum(tensor.size_bytes for tensor in self.tensors)


class ByteRange(Schema):
    """A byte range of a file in an object store."""

    path: str
    """Path in the object store."""
    offset: NonNegativeInt
    """Offset of the first byte in the file."""
    size_bytes: PositiveInt
    """Number of bytes."""
