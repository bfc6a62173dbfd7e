"""Plans of targets: at once where the model's scores are stored, else by a job that computes them.

The scores of a large model take minutes, which no request should wait for. A job is durable,
takes its turn, shows its progress and can be cancelled, so `POST /v1/plans` starts one, of the kind
`scores`, and refers to it; the same request gets its plan after that.
"""

import asyncio
from dataclasses import replace

from palettery.app.allocation.measured_quality import check_measurable
from palettery.app.errors import BadInput
from palettery.app.http.caller import Caller
from palettery.app.jobs.preparation import JobSpec
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.submission import JobSubmitter
from palettery.app.jobs.targets import NO_CURVE, NO_SCORES, plan_target, scores_sha256
from palettery.app.sandbox.document_pool import LARGE_BYTES, DocumentClient, DocumentPool
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.app.storage.spooled_content import Content
from palettery.schemas.jobs import Job


class TargetPlanner:
    """Plans jobs that have a target."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobRepository,
        store: Storage,
        documents: DocumentPool,
        submitter: JobSubmitter,
    ) -> None:
        self._settings, self._jobs, self._store = settings, jobs, store
        self._documents, self._submitter = documents, submitter

    async def plan(self, spec: JobSpec, caller: Caller, client: DocumentClient) -> Content | Job:
        """Return the plan as JSON of `PlannedJob`, or the job that computes the scores for it.

        Raises:
            BadInput: the target is a quality, or the model was sent with the request; or see
                `plan_target`.
            OverQuota: the caller has too many jobs.
        """
        if spec.options.target is not None:
            check_measurable(spec.options.target)
        if spec.model.model_id is None:
            raise BadInput(
                "a plan with a target needs scores, which are stored with a model: upload it "
                "(POST /v1/uploads), and send its model_id in JSON"
            )
        planned = await self._planned(spec, caller, client, computes_curve=False)
        if planned == NO_CURVE:
            planned = await self._planned(spec, caller, client, computes_curve=True)
        return planned if planned != NO_SCORES else await self._scores_job(spec, caller, client)

    async def _planned(
        self, spec: JobSpec, caller: Caller, client: DocumentClient, *, computes_curve: bool
    ) -> Content:
        return await self._documents.document(
            client,
            max(spec.size_bytes, LARGE_BYTES) if computes_curve else spec.size_bytes,
            plan_target,
            spec,
            self._store.url,
            self._settings.limits,
            caller.owner,
            computes_curve=computes_curve,
        )

    async def _scores_job(self, spec: JobSpec, caller: Caller, client: DocumentClient) -> Job:
        """Return the job that computes the scores: the active one, or a new one."""
        digest = await self._documents.run(
            client,
            spec.size_bytes,
            scores_sha256,
            spec,
            self._store.url,
            self._settings.limits,
            caller.owner,
        )
        running = await asyncio.to_thread(self._jobs.active_scores_job, caller.owner, digest)
        if running is not None:
            return running
        options = spec.options.model_copy(
            update={"webhook_url": None, "deadline_s": None, "evaluate": None}
        )

        async def look_up() -> JobSpec:
            return replace(spec, options=options, inputs=None, kind="scores")

        submitted = await self._submitter.submit(look_up, caller, None, client)
        return submitted.job
