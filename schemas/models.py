"""Models of the API: uploaded files, their modules and their tensors."""

from datetime import datetime

from pydantic import NonNegativeInt, PositiveInt

from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import ModelFormat, Module, TypeSource


class ModelFile(Schema):
    """One file of a model."""

    name: str
    """File name given by the user."""
    size_bytes: NonNegativeInt
    """Size of the file."""
    sha256: str
    """SHA-256 digest of the file, in hexadecimal."""


class ModelTensor(Schema):
    """One distinct tensor of a model."""

    name: str
    """First name of the tensor."""
    aliases: tuple[str, ...] = ()
    """Further names of the same tensor."""
    dtype: str
    """Safetensors dtype name of the tensor."""
    shape: tuple[NonNegativeInt, ...]
    """Shape of the tensor."""
    size_bytes: NonNegativeInt
    """Size of the tensor in its file."""
    file: str
    """Name of the file that contains the tensor."""
    module: str
    """Dotted path of the module that owns the tensor."""
    module_type: str | None
    """Fully qualified class name of that module; null if unknown."""
    type_source: TypeSource
    """Source of the class name: a graph, a Hugging Face config, or the tensor names."""


class ModelSummary(Schema):
    """One model, without its files and their contents."""

    id: str
    """Id of the model, used in paths: SHA-256 digest of the names and digests of its files."""
    name: str
    """Name of the first file with tensors."""
    label: str | None = None
    """Label of the model's latest upload that had one."""
    format: ModelFormat
    """Format of the files with tensors."""
    size_bytes: NonNegativeInt
    """Total size of the files."""
    tensors_total: NonNegativeInt
    """Number of distinct tensors."""
    file_count: PositiveInt
    """Number of files."""
    created_at: datetime
    """Time the model was first completely uploaded, in UTC."""
    expires_at: datetime
    """Time the model will be deleted unless a job uses it before, in UTC."""
    links: dict[str, str]
    """URLs by relation: `self`."""


class ModelDetails(ModelSummary):
    """One model with its files, without their contents."""

    files: tuple[ModelFile, ...]
    """Files of the model, ordered by name."""


class ModelContents(Schema):
    """Contents of a model. They depend only on its files, and can be large."""

    warnings: tuple[str, ...]
    """Warnings about how the files were read."""
    modules: tuple[Module, ...]
    """Modules of the model, parents before children."""
    tensors: tuple[ModelTensor, ...]
    """Tensors of the model, in the order of the files and of the tensors within each."""


class Model(ModelContents, ModelDetails):
    """One model with its files, its module tree and its tensors."""


class ModelPage(Schema):
    """One page of models, newest first."""

    items: tuple[ModelSummary, ...]
    """Models of this page."""
    next_cursor: str | None = None
    """Value of the `cursor` parameter for the next page; null on the last page."""
