"""Units of work, each small enough to send to a worker as JSON, and what they give back."""

from pydantic import Field, NonNegativeInt

from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import Checkpoint, StoredTensor
from palettery.schemas.config import KMeansPalettizerConfig, PalettizationSpec
from palettery.schemas.exports import Exported, ExportFormat
from palettery.schemas.plan import Clustering, Plan
from palettery.schemas.report import SliceOutcome


class StoredRows(Schema):
    """A whole tensor, or consecutive rows of one, as bytes to fetch."""

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    """Of these rows."""
    strides: tuple[NonNegativeInt, ...] | None = None
    """Of the stored tensor, in elements; None for row-major."""
    path: str
    """File in its store."""
    offset: NonNegativeInt
    size_bytes: NonNegativeInt
    file_sha256: str | None = None
    """Hex digest of that whole file; None when it was read in place."""
    file_name: str | None = None
    """What its owner calls it."""


class StoredBytes(Schema):
    """Where some bytes lie."""

    path: str
    """File in its store."""
    offset: NonNegativeInt
    size_bytes: NonNegativeInt


class StoredSlice(Schema):
    """A palettized slice as it lies in the store: in a part, or in an artifact."""

    path: str
    """The safetensors file that holds its arrays."""
    outcome: SliceOutcome
    tensors: dict[str, StoredTensor]
    """`indices`, `lut` and so on -> where the array lies; empty when the slice was kept."""
    statistics: StoredBytes | None = None
    """The line of its statistics; None when it was kept, or made before there were any."""


class TensorSlice(StoredRows):
    """A whole tensor, or consecutive rows of a huge one, to fetch and cluster."""

    name: str
    first_row: NonNegativeInt = 0
    """Where the slice begins along axis 0 of the whole tensor."""
    spec: PalettizationSpec
    clustering: Clustering
    sensitivity: StoredRows | None = None
    """How much the error of each of its weights counts; None counts all alike."""
    known: StoredSlice | None = None
    """The same bytes palettized by the same spec and kernels before; None to compute them."""


class CompressionTask(Schema):
    """Tensors that one worker palettizes into one part file."""

    index: NonNegativeInt
    source_url: str
    """Object store that holds the uploaded model."""
    store_url: str
    """Object store that takes the part."""
    sensitivities_url: str | None = None
    """Object store that holds the sensitivities; None where the model lies."""
    part_path: str
    """Where the part goes; when it exists, the task is done."""
    cancel_path: str | None = None
    """An object whose existence asks the task to stop."""
    digests: bool = False
    """Whether the outcomes tell the digests of the bytes that were read."""
    slices: tuple[TensorSlice, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights the task reads."""
        return sum(part.size_bytes for part in self.slices)


class JobRequest(Schema):
    """What a job is to do, and with what."""

    config: KMeansPalettizerConfig
    checkpoint: Checkpoint
    plan: Plan


class JobTask(Schema):
    """Work on a whole job, found in its folder."""

    store_url: str
    """Object store that holds the job."""
    prefix: str
    """The job's folder."""
    cancel_path: str
    """An object whose existence asks the task to stop."""
    source_url: str | None = None
    """Object store that holds the model; None where the job lies."""


class DigestTask(JobTask):
    """Digest the bytes of some slices; gives a hex digest for each, in their order."""

    slices: tuple[TensorSlice, ...]


class GatherTask(JobTask):
    """Lay finished parts out as an artifact; gives its `Layout`."""


class WriteTask(JobTask):
    """Write one file of the artifact; gives its hex digest."""

    shard: str


class VerifyTask(JobTask):
    """Compare tensors of the written artifact with the upload."""

    names: tuple[str, ...]


class ExportTask(JobTask):
    """Write a verified artifact in another form, and verify that; gives what is `Exported`."""

    format: ExportFormat


class PublishTask(JobTask):
    """Write the report of an artifact that was verified; gives what is `Published`."""

    digests: dict[str, str]
    """File name -> hex digest."""
    exports: tuple[Exported, ...] = ()
    """Its other forms."""


class FinishTask(JobTask):
    """All of these for a small job in one; gives what is `Published`."""

    first: tuple[CompressionTask, ...] = ()
    """What is still to be palettized, before that."""


class Layout(Schema):
    """What an artifact will consist of."""

    shards: tuple[str, ...]
    """Names of its files."""
    batches: tuple[tuple[str, ...], ...]
    """Names of its tensors, in batches of about equal bytes to verify."""
    formats: tuple[ExportFormat, ...] = ()
    """Other forms that it is to have."""


class Published(Schema):
    """A verified artifact."""

    size_bytes: NonNegativeInt
    """Of all its files."""
    stored_bytes: NonNegativeInt
    """Of all that its job keeps."""
    results: tuple["Result", ...] = ()
    """Its palettized slices, for other jobs to use."""
    kept: dict[str, NonNegativeInt] = Field(default_factory=dict)
    """Why tensors were kept as they are -> how many were."""


class Result(Schema):
    """A palettized slice under the keys that it can be found by."""

    recipe: str
    """Digest of everything that decides a result but the bytes: spec, shape, kernels."""
    origin_key: str
    """Digest of the recipe and the place of the bytes in the uploaded file."""
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
"""Every kind of task by its name."""
Answer = Layout | Exported | Published | tuple[str, ...] | str | None
"""What a task gives back; None when its work lies in the store."""
