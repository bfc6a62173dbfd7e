"""What a model file holds, as byte ranges; every upload format is reduced to this."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from palettery.schemas.base import Schema

TypeSource = Literal["graph", "hf_config", "inferred"]
ModelFormat = Literal["safetensors", "pytorch_zip", "pytorch_legacy", "pt2"]


class StoredFile(Schema):
    """One file of a checkpoint, as it lies in the object store."""

    name: str
    """The name the user gave it."""
    path: str
    """Where it lies in the store."""
    size_bytes: NonNegativeInt
    sha256: str | None = None
    """Hex digest of the whole file; None when the file was read in place."""


class StoredTensor(Schema):
    """One tensor as a byte range of one file."""

    name: str
    """The first name it goes by."""
    aliases: tuple[str, ...] = ()
    """Every other name that shares these bytes."""
    dtype: str
    """Its safetensors dtype name: F32, BF16, I64, F8_E4M3 and so on."""
    shape: tuple[NonNegativeInt, ...]
    strides: tuple[NonNegativeInt, ...] | None = None
    """Elements to skip per step of each axis; None for row-major."""
    file: NonNegativeInt
    """Index into `Checkpoint.files`."""
    offset: NonNegativeInt
    """First byte, counted from the start of the file."""
    size_bytes: NonNegativeInt


class Module(Schema):
    """One module of the model."""

    name: str
    """Dotted path; empty for the root."""
    aliases: tuple[str, ...] = ()
    """Other paths under which the same module is registered."""
    type: str | None
    """Fully qualified class name, such as `torch.nn.modules.linear.Linear`; None when unknown."""
    type_source: TypeSource


class Op(Schema):
    """One operation that consumes tensors; without a graph only registered ones are known."""

    name: str
    """`<module path>.<functional name>`, then `_1`, `_2` for further calls."""
    type: str
    """Functional name, such as `linear` or `conv2d`."""
    module: str
    """Dotted path of the module that runs it."""
    states: dict[str, str]
    """Local parameter name -> tensor name."""


class Checkpoint(Schema):
    """A model as byte ranges, its module tree and its ops; no code after it knows formats."""

    format: ModelFormat
    files: tuple[StoredFile, ...]
    tensors: tuple[StoredTensor, ...]
    modules: tuple[Module, ...]
    ops: tuple[Op, ...]
    warnings: tuple[str, ...] = ()
    """What the user should know about how the files were read."""

    def tensor_bytes(self) -> int:
        """Bytes of all tensors, each counted once."""
        return sum(tensor.size_bytes for tensor in self.tensors)


class ByteRange(Schema):
    """Where bytes lie in an object store."""

    path: str
    offset: NonNegativeInt
    size_bytes: PositiveInt
