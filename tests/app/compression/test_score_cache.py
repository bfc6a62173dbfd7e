"""Scores in the store: computed once for the same bytes, sensitivities, choices and owner."""

import numpy as np
import pytest

from palettery.app.compression.perform_task import perform
from palettery.app.compression.score_cache import read_scores
from palettery.app.storage.open import open_storage
from palettery.schemas.config import PalettizationSpec
from palettery.schemas.plan import Clustering
from palettery.schemas.tasks import ScoreTask, StoredRows, TensorToScore

WEIGHTS = np.random.default_rng(3).normal(size=(32, 16)).astype("f4")
IMPORTANCE = np.random.default_rng(4).gamma(0.5, size=(32, 16)).astype("f4")
CLUSTERING = Clustering(axis=0, group_size=None, rounding_precision=None)


def rows(path: str) -> StoredRows:
    return StoredRows(dtype="F32", shape=(32, 16), path=path, offset=0, size_bytes=2048)


class Scored:
    """A store with two tensors of equal bytes, a third one, and sensitivities."""

    def __init__(self, folder) -> None:
        self.store = open_storage(folder.as_uri())
        for name in ("a", "b"):
            self.store.write(name, WEIGHTS.tobytes())
        self.store.write("c", (WEIGHTS + 1).tobytes())
        self.store.write("s", IMPORTANCE.tobytes())

    def path(
        self, name="a", n_bits=(2, 4), weighting=None, owner="o", clustering=CLUSTERING
    ) -> str:
        tensor = TensorToScore(
            **dict(rows(name)),
            name=name,
            sensitivity=weighting and rows(weighting),
            specs=tuple((PalettizationSpec(n_bits=bits), clustering) for bits in n_bits),
        )
        task = ScoreTask(
            store_url=self.store.url, prefix="jobs/1", cancel_path="no", owner=owner,
            tensors=(tensor,),
        )  # fmt: skip
        (path,) = perform(task)
        return path

    def errors(self, path: str) -> dict[int, float]:
        return {each.spec.n_bits: each.error for each in read_scores(self.store, path).choices}

    def forge(self, path: str) -> None:
        """Put an error that no kernel computes in the place of each."""
        scores = read_scores(self.store, path)
        forged = tuple(each.model_copy(update={"error": 77.0}) for each in scores.choices)
        new = scores.model_copy(update={"choices": forged})
        self.store.write(path, new.model_dump_json().encode())


@pytest.fixture
def scored(tmp_path):
    return Scored(tmp_path)


def test_scores_are_those_of_the_kernel(scored):
    errors = scored.errors(scored.path(n_bits=(1, 8)))
    assert errors[8] < errors[1] / 100
    ends = [WEIGHTS[WEIGHTS > 0].mean(), WEIGHTS[WEIGHTS <= 0].mean()]
    near = np.where(np.mean(ends) < WEIGHTS, *ends)
    assert 1 <= ((WEIGHTS - near) ** 2).sum() / errors[1] < 1.1


def test_no_kernel_runs_for_equal_bytes_of_any_tensor(scored):
    path = scored.path("a")
    scored.forge(path)
    assert scored.path("b") == path
    assert scored.errors(path) == {2: 77.0, 4: 77.0}


def test_only_the_choices_that_lack_are_computed(scored):
    path = scored.path(n_bits=(2,))
    scored.forge(path)
    assert scored.path(n_bits=(2, 4)) == path
    errors = scored.errors(path)
    assert errors[2] == 77.0
    assert 0 < errors[4] < 77.0


def test_whatever_else_differs_has_scores_of_its_own(scored):
    fast = CLUSTERING.model_copy(update={"rounding_precision": 4})
    paths = [
        scored.path(),
        scored.path("c"),
        scored.path(weighting="s"),
        scored.path(owner="somebody else"),
        scored.path(clustering=fast),
    ]
    assert len(set(paths)) == 5
    plain, weighted = (scored.errors(paths[at]) for at in (0, 2))
    assert plain != weighted


def test_values_that_are_not_finite_have_a_reason(scored):
    scored.store.write("a", np.full((32, 16), np.nan, "f4").tobytes())
    scores = read_scores(scored.store, scored.path())
    assert "are not finite" in (scores.reason or "")


def test_damaged_scores_are_computed_anew(scored):
    path = scored.path()
    before = scored.errors(path)
    scored.store.write(path, b"{")
    assert scored.errors(scored.path()) == before
