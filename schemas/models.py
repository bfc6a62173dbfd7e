"""Models as the API shows them: uploaded files that were read and are kept."""

from datetime import datetime

from pydantic import NonNegativeInt, PositiveInt

from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import ModelFormat, Module, TypeSource


class ModelFile(Schema):
    """One file of a model."""

    name: str
    """The name the user gave it."""
    size_bytes: NonNegativeInt
    """Of the whole file."""
    sha256: str
    """Hex digest of the whole file."""


class ModelTensor(Schema):
    """One distinct tensor of a model."""

    name: str
    """The first name it goes by."""
    aliases: tuple[str, ...] = ()
    """Every other name of the same tensor."""
    dtype: str
    """Its safetensors dtype name."""
    shape: tuple[NonNegativeInt, ...]
    """Of the tensor as it is used."""
    size_bytes: NonNegativeInt
    """That it takes in its file."""
    file: str
    """Name of that file."""
    module: str
    """Dotted path of the owning module."""
    module_type: str | None
    """Fully qualified class name of that module; null when unknown."""
    type_source: TypeSource
    """Where the module type comes from."""


class ModelSummary(Schema):
    """One model, without its files and what is in them."""

    id: str
    """SHA-256 of the names and digests of its files; names the model in every path."""
    name: str
    """Name of the first file that holds tensors."""
    label: str | None = None
    """What its owner calls it: the label of its latest upload that had one."""
    format: ModelFormat
    """Of the files that hold tensors."""
    size_bytes: NonNegativeInt
    """Of all files together."""
    tensors_total: NonNegativeInt
    """Distinct tensors."""
    file_count: PositiveInt
    """Number of its files."""
    created_at: datetime
    """When it was completed first."""
    expires_at: datetime
    """When it is removed, unless a job uses it before."""
    links: dict[str, str]
    """`self`."""


class ModelDetails(ModelSummary):
    """One model with its files, without what is in them."""

    files: tuple[ModelFile, ...]
    """In the order of their names."""


class ModelContents(Schema):
    """What is in a model; it depends on nothing but the files, and may be large."""

    warnings: tuple[str, ...]
    """What the user should know about how the files were read."""
    modules: tuple[Module, ...]
    """Parents before children."""
    tensors: tuple[ModelTensor, ...]
    """In the order of the files, and that within each."""


class Model(ModelContents, ModelDetails):
    """One model with its files, its module tree and its tensors."""


class ModelPage(Schema):
    """One page of models, newest first."""

    items: tuple[ModelSummary, ...]
    """Models of this page."""
    next_cursor: str | None = None
    """Pass as `cursor` to get the next page; None on the last."""
