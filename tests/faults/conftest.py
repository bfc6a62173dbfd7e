"""Services to break, of each kind, and a job that is slow enough to be met while it runs."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tests.integration.cluster import scaled
from tests.integration.embedded import serving
from tests.integration.service import PALETTERY, Service

TENSORS, SIDE = 12, 384
SLOW = {"n_bits": 8, "cluster_dim": 4}
TASKS = {"PALETTERY_TASK_BYTES": str(SIDE * SIDE * 4)}
"""One tensor each."""


@dataclass(frozen=True)
class Slow:
    """A job of many tasks that take about half a second each."""

    body: bytes
    config: str
    sha256: str
    """Of its artifact, from a run that nothing disturbed."""


@pytest.fixture(scope="session")
def config() -> str:
    spec = {"op_state_spec": {"weight": SLOW}, "enable_fast_kmeans_mode": False}
    return json.dumps({"kmeans_palettization_config": {"global_config": spec}})


def compressed(folder: Path, body: bytes, config: str) -> str:
    """Digest of the artifact that the command line makes."""
    (folder / "big.safetensors").write_bytes(body)
    (folder / "config.json").write_text(config)
    words = ["compress", "big.safetensors", "--config", "config.json", "-o", "artifact"]
    subprocess.run([PALETTERY, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return hashlib.sha256((folder / "artifact").read_bytes()).hexdigest()


def tensors(count: int, seed: int = 7) -> bytes:
    rng = np.random.default_rng(seed)
    return save(
        {
            f"layers.{number}.weight": rng.normal(size=(SIDE, SIDE)).astype(np.float32)
            for number in range(count)
        }
    )


@pytest.fixture(scope="session")
def slow(tmp_path_factory, config) -> Slow:
    body = tensors(TENSORS)
    return Slow(body, config, compressed(tmp_path_factory.mktemp("slow"), body, config))


@pytest.fixture(scope="session")
def little(tmp_path_factory, config) -> Slow:
    """A job that is done in one task, from its first tensor to its report."""
    body = tensors(3)
    return Slow(body, config, compressed(tmp_path_factory.mktemp("little"), body, config))


@pytest.fixture
def start(request, tmp_path) -> Callable[..., AbstractContextManager[Service]]:
    """A function of kind, workers and environment: a service of the test's own."""

    def run(kind: str, workers: int = 1, **environment: str) -> AbstractContextManager[Service]:
        if kind == "embedded":
            return serving(tmp_path / "data", workers, **TASKS, **environment)
        postgres, bucket = map(request.getfixturevalue, ("postgres", "object_store"))
        folder = tmp_path / "cluster"
        return scaled(folder, postgres, bucket, workers=workers, **TASKS, **environment)

    return run
