"""Plan of a job, from uploaded files and a config."""

from dataclasses import dataclass

from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.planning.resolve import resolve
from palettery.app.planning.sensitivities import apply_sensitivities, match_sensitivities
from palettery.app.planning.strict import check_strict
from palettery.app.settings import Limits
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.checkpoint import Checkpoint, StoredFile
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.plan import Plan


@dataclass(frozen=True)
class JobPlan:
    """A validated job: config, model, sensitivities, and the plan for every tensor."""

    config: KMeansPalettizerConfig
    checkpoint: Checkpoint
    sensitivities: Checkpoint | None
    """Sensitivities under the names of the model's tensors; None if the user sent none."""
    plan: Plan

    def files(self) -> tuple[StoredFile, ...]:
        """Return the uploaded files that the plan needs."""
        beside = self.sensitivities.files if self.sensitivities else ()
        return (*self.checkpoint.files, *beside)


def plan_job(
    config: KMeansPalettizerConfig,
    model: StoredFiles,
    sensitivities: StoredFiles | None,
    limits: Limits,
    *,
    strict: bool,
) -> JobPlan:
    """Read the headers of the uploaded files, and plan the job.

    Raises:
        InvalidModel, UnsupportedFormat, TooLarge: see `read_checkpoint`.
        InvalidConfig, InvalidSensitivities, StrictViolation: see `plan_checkpoint`.
    """
    checkpoint = read_checkpoint(model.storage, model.files, limits)
    beside = None
    if sensitivities is not None:
        beside = read_checkpoint(sensitivities.storage, sensitivities.files, limits)
    return plan_checkpoint(config, checkpoint, beside, limits, strict=strict)


def plan_checkpoint(
    config: KMeansPalettizerConfig,
    checkpoint: Checkpoint,
    sensitivities: Checkpoint | None,
    limits: Limits,
    *,
    strict: bool,
) -> JobPlan:
    """Plan the job on a model whose headers have been read.

    Raises:
        InvalidConfig: see `resolve`.
        InvalidSensitivities: see `match_sensitivities`.
        StrictViolation: `strict` is true, and see `check_strict`.
    """
    plan = resolve(config, checkpoint, limits)
    if strict:
        check_strict(plan)
    if sensitivities is None:
        return JobPlan(config, checkpoint, None, plan)
    matched = match_sensitivities(sensitivities, checkpoint)
    return JobPlan(config, checkpoint, matched, apply_sensitivities(plan, matched))
