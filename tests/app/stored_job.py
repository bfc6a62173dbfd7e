"""A job as the service keeps it: its upload and its folder in a store, with no server around."""

import hashlib

import numpy as np
from safetensors.numpy import save

from palettery.app.compression.job_folder import (
    job_folder,
    read_report,
    read_tasks,
    stop_path,
    write_job,
)
from palettery.app.compression.perform_task import perform
from palettery.app.planning.job_plan import plan_job
from palettery.app.planning.tasks import cut_tasks
from palettery.app.settings import Limits
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.tasks import FinishTask, JobRequest, JobTask


def config_of(**spec):
    """One spec for every weight."""
    return KMeansPalettizerConfig.model_validate(
        {"global_config": {"op_state_spec": {"weight": spec}, "enable_fast_kmeans_mode": False}}
    )


def grouped(group_size, axis=0):
    return {"type": "per_grouped_channel", "group_size": group_size, "axis": axis}


def draws(seed=0, **shapes):
    """A weight for each name, of its shape."""
    rng = np.random.default_rng(seed)
    return {f"{name}.weight": rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def uploaded(store, name, arrays):
    """A safetensors file in the store, under the digest of its bytes."""
    data = save(arrays)
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"uploads/{sha256}"
    store.write(path, data)
    return StoredFiles(
        store, [StoredFile(name=name, path=path, size_bytes=len(data), sha256=sha256)]
    )


class StoredJob:
    """A job whose folder holds what `Jobs.submit` puts there."""

    def __init__(
        self, store, job_id, arrays, config, *, sensitivities=None, task_bytes=1 << 20, digests=True
    ):
        self.store, self.prefix = store, job_folder(job_id)
        beside = uploaded(store, "s.safetensors", sensitivities) if sensitivities else None
        model = uploaded(store, "m.safetensors", arrays)
        self.intake = plan_job(config, model, beside, Limits(), strict=False)
        self.request = JobRequest(
            config=config, checkpoint=self.intake.checkpoint, plan=self.intake.plan
        )
        tasks = cut_tasks(
            self.intake.plan,
            self.intake.checkpoint,
            source_url=store.url,
            store_url=store.url,
            parts_prefix=f"{self.prefix}/parts",
            task_bytes=task_bytes,
            digests=digests,
            sensitivities=self.intake.sensitivities,
        )
        write_job(store, self.prefix, self.request, tasks)

    @property
    def stop(self):
        return stop_path(self.prefix, 0)

    def tasks(self):
        return read_tasks(self.store, self.prefix)

    def task(self, kind=JobTask, **more):
        return kind(store_url=self.store.url, prefix=self.prefix, cancel_path=self.stop, **more)

    def palettize(self):
        for task in self.tasks():
            perform(task)
        return self

    def finish(self):
        return perform(self.task(FinishTask))

    def report(self):
        return read_report(self.store, self.prefix)

    def artifact(self):
        """The files of its artifact: name -> bytes."""
        folder = f"{self.prefix}/artifact"
        return {
            path.removeprefix(f"{folder}/"): bytes(self.store.read(path))
            for path in self.store.list(folder)
        }
