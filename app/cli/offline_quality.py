"""Compression to a quality without a server: measures few artifacts, and keeps the smallest."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from palettery.app.allocation.allocate import Allocator
from palettery.app.allocation.measured_quality import (
    Proposal,
    best_measured,
    measured_allocation,
    measured_size,
    propose,
)
from palettery.app.artifacts.reader import open_artifact
from palettery.app.calibration.tensor_matching import read_calibration
from palettery.app.cli.local_job import (
    JOB,
    PARTS,
    Advance,
    LocalFiles,
    check_fits,
    check_outputs,
    palettize,
    publish_job,
    store_in,
)
from palettery.app.cli.targets import stdout_to_stderr
from palettery.app.evaluation.dense_outputs import dense_outputs
from palettery.app.evaluation.evaluate import evaluate
from palettery.app.evaluation.goals import quality_goals
from palettery.app.planning.job_plan import JobPlan
from palettery.app.planning.second_moments import SecondMoments, apply_second_moments
from palettery.app.planning.tasks import with_shared_parts
from palettery.app.settings import read_settings
from palettery.app.storage.base import Storage
from palettery.app.storage.output_files import Output
from palettery.schemas.evaluation import Evaluation, Quality
from palettery.schemas.report import Report
from palettery.schemas.targets import Allocation, CurvePoint, MeasuredSize
from palettery.schemas.tasks import JobRequest

Measured = Callable[[MeasuredSize], None]
"""Called with each size that was measured."""


@dataclass(frozen=True)
class QualityRequest:
    """A model that is to be as small as a quality allows."""

    model: Sequence[Path]
    allocator: Allocator
    """Choices for the model, from its scores."""
    quality: Quality
    inputs: Sequence[Path]
    """Inputs on which the quality is measured."""
    sensitivities: Sequence[Path] = ()
    second_moments: SecondMoments | None = None
    calibration: Path | None = None
    """Folder of the calibration, whose samples are pointed out among the inputs."""


def compress_to_quality(
    request: QualityRequest,
    out: Path,
    advance: Advance,
    *,
    measured: Measured = lambda _: None,
    report: Path | None = None,
) -> Report:
    """Palettize a model into the smallest artifact found that has a quality.

    If none has it, the best that was measured is written, and the report's evaluation says what it
    misses. The model's own outputs are computed once, and no tensor twice with the same spec.

    Raises:
        BadInput: the model cannot be run on the inputs, or an output cannot be written.
    """
    outputs = [Output(path) for path in (out, report) if path is not None]
    check_outputs(
        outputs, model=request.model, inputs=request.inputs, sensitivities=request.sensitivities
    )
    with ExitStack() as stack:
        artifact, *reports = [stack.enter_context(output) for output in outputs]
        store = stack.enter_context(store_in(artifact))
        search = _Search(request, store, artifact.folder / "outputs", advance)
        best = search.run(measured)
        check_fits(artifact, best.job.plan)
        done = search.palettize(JOB, best.job, best.allocation, best.evaluation)
        publish_job(store, artifact, reports, done)
    return done


class _Best(NamedTuple):
    """The choice that a search ends with."""

    job: JobPlan
    allocation: Allocation
    evaluation: Evaluation


class _Search:
    """Artifacts of one model, measured one after the other."""

    def __init__(
        self, request: QualityRequest, store: Storage, outputs: Path, advance: Advance
    ) -> None:
        self._request, self._store, self._advance = request, store, advance
        self._files = LocalFiles.of(request.model, request.sensitivities, request.second_moments)
        self._goals, self._limits = quality_goals(request.quality), read_settings().limits
        calibration = request.calibration
        self._samples = read_calibration(calibration).sample_sha256 if calibration else ()
        self._outputs = self._dense_outputs(outputs)

    def run(self, on_measured: Measured) -> _Best:
        """Measure choices until the search has ended; return the best one."""
        allocator, quality = self._request.allocator, self._request.quality
        measured: list[MeasuredSize] = []
        evaluations: dict[int, Evaluation] = {}
        with stdout_to_stderr():
            curve = allocator.curve()
        while (proposal := _proposed(allocator, curve, quality, measured)) is not None:
            prefix = f"trials/{len(measured)}"
            self.palettize(prefix, self._with_moments(proposal.job))
            evaluation = self._evaluate(prefix)
            self._store.delete_folder(prefix)
            size = measured_size(proposal.limit_bytes, proposal.allocation, quality, evaluation)
            measured.append(size)
            evaluations[size.size_bytes] = evaluation
            on_measured(size)
        best = best_measured(measured, quality)
        with stdout_to_stderr():
            allocation, job = measured_allocation(allocator, best, measured)
        return _Best(self._with_moments(job), allocation, evaluations[best.size_bytes])

    def palettize(
        self,
        prefix: str,
        job: JobPlan,
        allocation: Allocation | None = None,
        evaluation: Evaluation | None = None,
    ) -> Report:
        """Put an artifact together in a folder; parts of other choices are used again."""
        document = JobRequest(
            config=job.config,
            checkpoint=job.checkpoint,
            plan=job.plan,
            allocation=allocation,
            evaluation=evaluation,
        )
        tasks = with_shared_parts(self._files.tasks(job, self._store), PARTS)
        return palettize(self._store, prefix, document, tasks, self._files.model, self._advance)

    def _with_moments(self, job: JobPlan) -> JobPlan:
        moments = self._files.moments
        if moments is None:
            return job
        plan = apply_second_moments(job.plan, moments)
        return replace(job, plan=plan, second_moments=moments)

    def _dense_outputs(self, path: Path) -> Callable[[Path], None] | None:
        """Compute the model's own outputs; return None if they are too large to be stored."""

        def store(file: BinaryIO) -> None:
            with path.open("wb") as stored:
                shutil.copyfileobj(file, stored)

        model, inputs = self._files.model, self._request.inputs
        outputs = dense_outputs(model, inputs, self._limits, store, goals=self._goals)
        return partial(_copy, path) if outputs.is_stored else None

    def _evaluate(self, prefix: str) -> Evaluation:
        files = self._store.list(f"{prefix}/artifact")
        shards = sorted(path for path in files if not path.endswith(".json"))
        return evaluate(
            self._files.model,
            open_artifact(self._store, shards, self._limits),
            self._request.inputs,
            self._limits,
            goals=self._goals,
            calibrated=self._samples,
            outputs=self._outputs,
        )


def _proposed(
    allocator: Allocator,
    curve: Sequence[CurvePoint],
    quality: Quality,
    measured: list[MeasuredSize],
) -> Proposal | None:
    with stdout_to_stderr():
        return propose(allocator, curve, quality, measured)


def _copy(file: Path, to: Path) -> None:
    shutil.copyfile(file, to)
