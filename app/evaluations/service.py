"""Operations on evaluations behind the endpoints."""

import asyncio

from uuid_utils.compat import uuid7

from palettery.app.compression.job_folder import job_folder, report_path, samples_path
from palettery.app.errors import Conflict, NotFound
from palettery.app.evaluation.dense_outputs import outputs_key
from palettery.app.evaluations.repository import EvaluationRepository, NewEvaluation
from palettery.app.evaluations.requirements import check_job_evaluation
from palettery.app.execution.engine import Engine
from palettery.app.files.repository import FileLocation
from palettery.app.http.caller import Caller
from palettery.app.models.service import ModelService
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.evaluation import EvaluationOptions, JobEvaluation, JobEvaluations
from palettery.schemas.jobs import Job


class EvaluationService:
    """Queues evaluations of jobs that have an artifact, and returns them."""

    def __init__(
        self,
        limits: Limits,
        evaluations: EvaluationRepository,
        models: ModelService,
        store: Storage,
        engine: Engine,
        documents: DocumentPool,
    ) -> None:
        self._limits, self._evaluations, self._models = limits, evaluations, models
        self._store, self._engine, self._documents = store, engine, documents

    async def submit(
        self, client: DocumentClient, caller: Caller, job_id: str, options: EvaluationOptions
    ) -> JobEvaluation:
        """Queue an evaluation of a job's artifact.

        Raises:
            NotFound: there is no such job, or there are no such inputs.
            Conflict: the job has no artifact.
            BadInput: see `check_evaluation`.
            OverQuota: see `EvaluationRepository.add`.
        """
        job = await asyncio.to_thread(self._evaluations.job, caller.owner, job_id)
        if not job.has_artifact:
            raise Conflict(
                f"the job is {job.state} and has no artifact; it can be evaluated once it has"
            )
        inputs = await asyncio.to_thread(self._models.inputs, caller.owner, options.inputs())
        prefix = job_folder(job_id)
        size_bytes = await asyncio.to_thread(self._store.size_bytes, report_path(prefix))
        model = await self._documents.run(
            client,
            size_bytes,
            check_job_evaluation,
            self._store.url,
            prefix,
            inputs,
            self._limits,
        )
        new = NewEvaluation(
            id=str(uuid7()),
            inputs_id=options.inputs_id,
            inputs=inputs,
            at_least=options.at_least,
            outputs_key=outputs_key(model, inputs),
        )
        return await asyncio.to_thread(self._add, caller, job, new)

    def page(self, owner: str, job_id: str) -> JobEvaluations:
        """Return all evaluations of a job, newest first."""
        return JobEvaluations(items=tuple(self._evaluations.of_job(owner, job_id)))

    def get(self, owner: str, job_id: str, evaluation_id: str) -> JobEvaluation:
        """Return an evaluation of a job."""
        return self._evaluations.get(owner, job_id, evaluation_id)

    def samples(self, owner: str, job_id: str, evaluation_id: str) -> str:
        """Return the path in the store of the comparison of each sample.

        Raises:
            NotFound: there is no such job or evaluation, or the comparison was not stored.
            Conflict: the evaluation has not succeeded.
        """
        evaluation = self.get(owner, job_id, evaluation_id)
        if evaluation.state != "succeeded":
            raise Conflict(
                f"the evaluation is {evaluation.state}; its samples are compared once it has "
                "succeeded"
            )
        path = samples_path(job_folder(job_id), evaluation_id)
        if not self._store.exists(path):
            raise NotFound(
                "the comparison of each sample is not stored: there were too many samples, as the "
                "evaluation warns, or an older version ran it; evaluate again, on fewer samples"
            )
        return path

    def _add(self, caller: Caller, job: Job, new: NewEvaluation) -> JobEvaluation:
        locations = [_location(file) for file in new.inputs]
        enqueue = self._engine.enqueue_evaluation
        return self._evaluations.add(job, new, locations, caller.limits, enqueue)


def _location(file: StoredFile) -> FileLocation:
    assert file.sha256 is not None  # noqa: S101 - files of an upload have digests
    return FileLocation(file.sha256, file.path, file.size_bytes, has_row=True)
