"""Tasks that are sent to workers as JSON, and their results."""

from typing import Any

from pydantic import Field, NonNegativeInt, field_serializer

from palettery.schemas.base import Schema, is_none
from palettery.schemas.calibration import CalibrationSummary
from palettery.schemas.checkpoint import Checkpoint, StoredFile, StoredTensor
from palettery.schemas.config import KMeansPalettizerConfig, PalettizationSpec
from palettery.schemas.evaluation import Evaluation, Quality
from palettery.schemas.exports import Exported, ExportFormat
from palettery.schemas.plan import Clustering, Plan
from palettery.schemas.report import SliceOutcome
from palettery.schemas.targets import Allocation, Choices, Target


class StoredRows(Schema):
    """The byte range of a whole tensor, or of consecutive rows of one."""

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
    whole: StoredRows | None = None
    """The tensor of these rows, if its share of zeros decides whether they are stored sparse."""
    sensitivity: StoredRows | None = None
    """Weights of the elements' errors; null for equal weights."""
    second_moment: StoredRows | None = None
    """Second moments of the layer's inputs, for error feedback; null without it."""
    known: StoredSlice | None = None
    """Reusable result for the same bytes, spec and kernels; null to compute the slice."""

    def inputs(self) -> tuple[StoredRows, ...]:
        """Return all byte ranges that the slice is computed from."""
        optional = (self.sensitivity, self.second_moment)
        return (self, *(rows for rows in optional if rows is not None))


class CompressionTask(Schema):
    """Tensors that one worker palettizes into one part file."""

    index: NonNegativeInt
    source_url: str
    """URL of the object store with the uploaded model."""
    store_url: str
    """URL of the object store for the part."""
    sensitivities_url: str | None = None
    """URL of the object store with the sensitivities; null for that of the model."""
    second_moments_url: str | None = None
    """URL of the object store with the second moments; null for that of the model."""
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
    allocation: Allocation | None = Field(default=None, exclude_if=is_none)
    """Bits chosen for the target; absent without a target."""
    evaluation: Evaluation | None = Field(default=None, exclude_if=is_none)
    """Earlier evaluation of an artifact with the same tensors; absent without a target of a
    quality."""


class TargetRequest(Schema):
    """Input for choosing the config of a job by a target."""

    target: Target | None
    """Target to reach; null to only compute scores."""
    choices: Choices
    config: KMeansPalettizerConfig
    """Config of the request; fields left out are not stored, since their values may be chosen."""
    checkpoint: Checkpoint
    sensitivities: Checkpoint | None
    """Sensitivities under the names of the model's tensors."""
    second_moments: Checkpoint | None = None
    """Second moments under the names of the model's tensors; null without error feedback."""
    formats: tuple[ExportFormat, ...]
    keep_dense: bool
    scores_path: str
    """Path of the scores of the whole model."""

    @field_serializer("config")
    def _dump_config(self, config: KMeansPalettizerConfig) -> dict[str, Any]:
        return config.model_dump(mode="json", exclude_unset=True)


class JobTask(Schema):
    """Base class of tasks that work on the folder of a job."""

    store_url: str
    """URL of the object store with the job."""
    prefix: str
    """Folder of the job."""
    cancel_path: str
    """Path of an object that cancels the task by its existence."""
    source_url: str | None = None
    """URL of the object store with the model; None for that of the job."""


class TensorToScore(StoredRows):
    """A tensor, and the specs for which to compute size and error."""

    name: str
    sensitivity: StoredRows | None = None
    """Weights of the elements' errors, such as those of a calibration; null for equal weights."""
    specs: tuple[tuple[PalettizationSpec, Clustering], ...]

    def inputs(self) -> tuple[StoredRows, ...]:
        """Return all byte ranges that the errors are computed from."""
        return (self,) if self.sensitivity is None else (self, self.sensitivity)


class ScoreTask(JobTask):
    """Compute missing scores of tensors; returns the paths of the scores, in order."""

    owner: str
    """Owner of the scores; those of others are not used."""
    tensors: tuple[TensorToScore, ...]


class DigestTask(JobTask):
    """Compute the digest of the bytes of each slice; returns them in order."""

    slices: tuple[TensorSlice, ...]


class GatherTask(JobTask):
    """Plan the files of the artifact from finished parts; returns a `Layout`."""


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


class OutputsTask(JobTask):
    """Run the model before palettization and store its outputs; returns a `StoredOutputs`."""

    inputs: tuple[StoredFile, ...]
    """Files of the model's inputs."""
    at_least: Quality | None = None
    """Quality to reach."""
    outputs_path: str
    """Path of the outputs in the store."""


class EvaluateTask(OutputsTask):
    """Compare the outputs of a published artifact with the model's; returns an `Evaluation`."""

    writes_report: bool
    """Whether the result becomes part of the job's report."""
    samples_path: str
    """Path for the comparison of each sample."""


class StoredOutputs(Schema):
    """Outputs of a model before palettization."""

    samples: NonNegativeInt
    """Number of samples."""
    size_bytes: NonNegativeInt
    """Size of the stored outputs; 0 if they are too large to be stored."""


class CalibrateTask(JobTask):
    """Run a model on inputs; returns a `CalibrationSummary`."""


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
        ScoreTask,
        DigestTask,
        GatherTask,
        WriteTask,
        VerifyTask,
        ExportTask,
        PublishTask,
        FinishTask,
        CalibrateTask,
        OutputsTask,
        EvaluateTask,
    )
}
"""Task classes by name."""
Answer = (
    Layout
    | Exported
    | Published
    | CalibrationSummary
    | StoredOutputs
    | Evaluation
    | tuple[str, ...]
    | str
    | None
)
"""Return value of a task; None if its result is in the store."""
