"""From uploaded files and a config to what a job will do, or to a refusal of all of it."""

from dataclasses import dataclass

from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.planning.resolve import resolve
from palettery.app.planning.sensitivities import match, weigh
from palettery.app.planning.strict import check_strict
from palettery.app.settings import Limits
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.checkpoint import Checkpoint, StoredFile
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.plan import Plan


@dataclass(frozen=True)
class JobPlan:
    """What was asked for, understood and found sound."""

    config: KMeansPalettizerConfig
    checkpoint: Checkpoint
    sensitivities: Checkpoint | None
    """Under the names of the model's tensors; None when none were given."""
    plan: Plan

    def files(self) -> tuple[StoredFile, ...]:
        """The uploaded files that the plan needs."""
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
    """Read the headers of an upload, and plan what the config asks for.

    Raises:
        InvalidModel, UnsupportedFormat, TooLarge: see `read_checkpoint`, of either upload.
        InvalidConfig, InvalidSensitivities, StrictViolation: see `take_in_checkpoint`.
    """
    checkpoint = read_checkpoint(model.storage, model.files, limits)
    beside = None
    if sensitivities is not None:
        beside = read_checkpoint(sensitivities.storage, sensitivities.files, limits)
    return take_in_checkpoint(config, checkpoint, beside, limits, strict=strict)


def take_in_checkpoint(
    config: KMeansPalettizerConfig,
    checkpoint: Checkpoint,
    sensitivities: Checkpoint | None,
    limits: Limits,
    *,
    strict: bool,
) -> JobPlan:
    """Plan what the config asks for of a model that was read.

    Raises:
        InvalidConfig: see `resolve`.
        InvalidSensitivities: they do not fit the model.
        StrictViolation: strict, and not everything that the config asks for can be done.
    """
    plan = resolve(config, checkpoint, limits)
    if strict:
        check_strict(plan)
    if sensitivities is None:
        return JobPlan(config, checkpoint, None, plan)
    matched = match(sensitivities, checkpoint)
    return JobPlan(config, checkpoint, matched, weigh(plan, matched))
