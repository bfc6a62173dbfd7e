"""Tasks that are sent to workers as JSON, and their results."""

from pydantic import Field, NonNegativeInt

from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import Checkpoint, StoredTensor
from palettery.schemas.config import KMeansPalettizerConfig, PalettizationSpec
from palettery.schemas.exports import Exported, ExportFormat
from palettery.schemas.plan import Clustering, Plan
from palettery.schemas.report import SliceOutcome


class StoredRows(Schema):
    """A byte range with a whole tensor, or with consecutive rows of one."""

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    """Shape of these rows."""
    strides: tuple[NonNegativeInt, ...] | None = None
    """Strides of the stored tensor in elements; null for row-major."""
    path: str
    """Path of the file in its store."""
    offset: NonNegativeInt
    size_bytes: NonNegativeInt
    file_sha256: str | None = None
    """SHA-256 digest of the file in hexadecimal; null if it was read in place."""
    file_name: str | None = None
    """File name given by the user."""


class StoredBytes(Schema):
    """A byte range of a file in a store."""

    path: str
    """Path of the file in its store."""
    offset: NonNegativeInt
    size_bytes: NonNegativeInt


class StoredSlice(Schema):
    """A palettized slice in the store, in a part or in an artifact."""

    path: str
    """Path of the safetensors file with its arrays."""
    outcome: SliceOutcome
    tensors: dict[str, StoredTensor]
    """Stored arrays by key, such as `indices` and `lut`; empty if the slice was kept."""
    statistics: StoredBytes | None = None
    """Location of its line of statistics; null if the slice was kept, and in old results."""


class TensorSlice(StoredRows):
    """A whole tensor, or consecutive rows of a huge one, to fetch and cluster."""

    name: str
    first_row: NonNegativeInt = 0
    """First row of the slice along axis 0 of the whole tensor."""
    spec: PalettizationSpec
    clustering: Clustering
    sensitivity: StoredRows | None = None
    """Weights of the elements' errors; null for equal weights."""
    known: StoredSlice | None = None
    """Reusable result for the same bytes, spec and kernels; null to compute the slice."""


class CompressionTask(Schema):
    """Tensors that one worker palettizes into one part file."""

    index: NonNegativeInt
    source_url: str
    """URL of the object store with the uploaded model."""
    store_url: str
    """URL of the object store for the part."""
    sensitivities_url: str | None = None
    """URL of the object store with the sensitivities; null for that of the model."""
    part_path: str
    """Path of the part; if it exists, the task is done."""
    cancel_path: str | None = None
    """Path of an object that cancels the task by its existence."""
    digests: bool = False
    """Whether the outcomes include the digests of the input bytes."""
    slices: tuple[TensorSlice, ...]

    @property
    def size_bytes(self) -> int:
        """Size of the weights that the task reads."""
        return sum(part.size_bytes for part in self.slices)


class JobRequest(Schema):
    """Config, checkpoint and plan of a job."""

    config: KMeansPalettizerConfig
    checkpoint: Checkpoint
    plan: Plan


class JobTask(Schema):
    """A task that processes a whole job in its folder."""

    store_url: str
    """URL of the object store with the job."""
    prefix: str
    """Folder of the job."""
    cancel_path: str
    """Path of an object that cancels the task by its existence."""
    source_url: str | None = None
    """URL of the object store with the model; None for that of the job."""


class DigestTask(JobTask):
    """Compute the digest of the bytes of each slice; returns them in order."""

    slices: tuple[TensorSlice, ...]


class GatherTask(JobTask):
    """Plan the artifact from finished parts; returns its `Layout`."""


class WriteTask(JobTask):
    """Write one file of the artifact; returns its digest in hexadecimal."""

    shard: str


class VerifyTask(JobTask):
    """Compare tensors of the written artifact with the upload."""

    names: tuple[str, ...]


class ExportTask(JobTask):
    """Write and verify an export of a verified artifact; returns an `Exported`."""

    format: ExportFormat


class PublishTask(JobTask):
    """Write the report of a verified artifact; returns a `Published`."""

    digests: dict[str, str]
    """SHA-256 digests in hexadecimal, by file name."""
    exports: tuple[Exported, ...] = ()
    """Exports of the artifact."""


class FinishTask(JobTask):
    """Finish a small job in one task, from the parts to the report; returns a `Published`."""

    first: tuple[CompressionTask, ...] = ()
    """Compression tasks to run first."""


class Layout(Schema):
    """Planned files of an artifact."""

    shards: tuple[str, ...]
    """Names of the artifact's files."""
    batches: tuple[tuple[str, ...], ...]
    """Names of the tensors, in batches of about equal size for verification."""
    formats: tuple[ExportFormat, ...] = ()
    """Requested export formats."""


class Published(Schema):
    """A verified artifact."""

    size_bytes: NonNegativeInt
    """Total size of the artifact's files."""
    stored_bytes: NonNegativeInt
    """Total size of all files of the job."""
    results: tuple["Result", ...] = ()
    """Palettized slices that other jobs can reuse."""
    kept: dict[str, NonNegativeInt] = Field(default_factory=dict)
    """Number of tensors kept unchanged, by reason."""


class Result(Schema):
    """A palettized slice with the keys of the result cache."""

    recipe: str
    """Digest of everything that affects the result except the bytes: spec, shape, kernels."""
    origin_key: str
    """Digest of the recipe and of the location of the bytes in the uploaded file."""
    content_key: str
    """Digest of the recipe and of the bytes."""
    stored: StoredSlice


Task = CompressionTask | JobTask
KINDS: dict[str, type[Task]] = {
    kind.__name__: kind
    for kind in (
        CompressionTask,
        DigestTask,
        GatherTask,
        WriteTask,
        VerifyTask,
        ExportTask,
        PublishTask,
        FinishTask,
    )
}
"""Classes of tasks by name."""
Answer = Layout | Exported | Published | tuple[str, ...] | str | None
"""Result of a task; None if it is in the store."""
