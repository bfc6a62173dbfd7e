"""Plan of a job, from uploaded files and a config."""

from dataclasses import dataclass

from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.planning.resolve import resolve
from palettery.app.planning.second_moments import apply_second_moments
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
    second_moments: Checkpoint | None = None
    """Second moments under the names of the model's tensors; None without error feedback."""

    def files(self) -> tuple[StoredFile, ...]:
        """Return the uploaded files that the plan needs."""
        additional = (self.sensitivities, self.second_moments)
        return (
            *self.checkpoint.files,
            *(
                file
                for checkpoint in additional
                if checkpoint is not None
                for file in checkpoint.files
            ),
        )


def plan_job(
    config: KMeansPalettizerConfig,
    model: StoredFiles,
    sensitivities: StoredFiles | None,
    limits: Limits,
    *,
    strict: bool,
    second_moments: Checkpoint | None = None,
) -> JobPlan:
    """Read the headers of the uploaded files, and plan the job.

    Raises:
        InvalidModel, UnsupportedFormat, TooLarge: see `read_checkpoint`.
        InvalidConfig, InvalidSensitivities, StrictViolation: see `plan_checkpoint`.
    """
    checkpoint = read_checkpoint(model.storage, model.files, limits)
    sensitivities_checkpoint = None
    if sensitivities is not None:
        sensitivities_checkpoint = read_checkpoint(
            sensitivities.storage, sensitivities.files, limits
        )
    return plan_checkpoint(
        config,
        checkpoint,
        sensitivities_checkpoint,
        limits,
        strict=strict,
        second_moments=second_moments,
    )


def plan_checkpoint(
    config: KMeansPalettizerConfig,
    checkpoint: Checkpoint,
    sensitivities: Checkpoint | None,
    limits: Limits,
    *,
    strict: bool,
    second_moments: Checkpoint | None = None,
) -> JobPlan:
    """Plan the job on a model whose headers have been read.

    Second moments have the names of the model's tensors already.

    Raises:
        InvalidConfig: see `resolve`.
        InvalidSensitivities: see `match_sensitivities`.
        StrictViolation: `strict` is true, and see `check_strict`.
    """
    plan = resolve(config, checkpoint, limits)
    if strict:
        check_strict(plan)
    matched = None
    if sensitivities is not None:
        matched = match_sensitivities(sensitivities, checkpoint)
        plan = apply_sensitivities(plan, matched)
    if second_moments is not None:
        plan = apply_second_moments(plan, second_moments)
    return JobPlan(config, checkpoint, matched, plan, second_moments)
