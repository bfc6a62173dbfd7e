"""Names of results: whatever decides a result changes them, and nothing else does."""

from itertools import combinations

import pytest

from palettery import kernels
from palettery.app.compression.result_keys import content_key, origin_key, recipe, request_sha256
from palettery.app.planning.job_plan import plan_job
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.config import PalettizationSpec, VectorKMeansConfig
from palettery.schemas.plan import Clustering
from palettery.schemas.tasks import StoredRows, TensorSlice
from tests.app.stored_job import config_of, draws, grouped, uploaded

SPEC = PalettizationSpec(n_bits=4)
CLUSTERING = Clustering(axis=0, group_size=None, rounding_precision=None)
WEIGHING = StoredRows(
    dtype="F16", shape=(8, 6), path="s", offset=10, size_bytes=96, file_sha256="b" * 64
)
MOMENT = StoredRows(
    dtype="F32", shape=(6, 6), path="h", offset=8, size_bytes=144, file_sha256="d" * 64
)
ITEM = TensorSlice(
    name="a.weight",
    dtype="F32",
    shape=(8, 6),
    path="m",
    offset=100,
    size_bytes=192,
    file_sha256="a" * 64,
    spec=SPEC,
    clustering=CLUSTERING,
    sensitivity=WEIGHING,
    second_moment=MOMENT,
)
OTHER_RECIPES = {
    "bits": {"spec": PalettizationSpec(n_bits=6)},
    "scale": {"spec": PalettizationSpec(n_bits=4, enable_per_channel_scale=True)},
    "axis": {"clustering": CLUSTERING.model_copy(update={"axis": 1})},
    "groups": {"clustering": CLUSTERING.model_copy(update={"group_size": 2})},
    "rounding": {"clustering": CLUSTERING.model_copy(update={"rounding_precision": 4})},
    "vector settings": {
        "clustering": CLUSTERING.model_copy(update={"vector_kmeans": VectorKMeansConfig(n_init=9)})
    },
    "sparsity": {"spec": PalettizationSpec(n_bits=4, sparsity_detection_threshold=0.5)},
    "dtype": {"dtype": "I32"},
    "shape": {"shape": (6, 8)},
    "strides": {"strides": (1, 8)},
    "threshold": {"spec": PalettizationSpec(n_bits=4, sparsity_detection_threshold=0)},
    "other rows of a tensor that may be sparse": {
        "whole": StoredRows(dtype="F32", shape=(16, 6), path="m", offset=100, size_bytes=384)
    },
    "no sensitivities": {"sensitivity": None},
    "no second moments": {"second_moment": None},
    "second moments of another shape": {
        "second_moment": MOMENT.model_copy(update={"shape": (2, 3, 6)})
    },
    "sensitivities' dtype": {"sensitivity": WEIGHING.model_copy(update={"dtype": "BF16"})},
    "sensitivities' strides": {"sensitivity": WEIGHING.model_copy(update={"strides": (1, 8)})},
}
ELSEWHERE = {
    "another file": {"file_sha256": "c" * 64},
    "another offset": {"offset": 104},
    "sensitivities in another file": {
        "sensitivity": WEIGHING.model_copy(update={"file_sha256": "c" * 64})
    },
    "second moments in another file": {
        "second_moment": MOMENT.model_copy(update={"file_sha256": "c" * 64})
    },
    "sensitivities at another offset": {"sensitivity": WEIGHING.model_copy(update={"offset": 12})},
}
SAME = {
    "another name": {"name": "b.weight"},
    "other rows": {"first_row": 8},
    "another path": {"path": "n", "sensitivity": WEIGHING.model_copy(update={"path": "t"})},
}


def changed(change):
    return ITEM.model_copy(update=change)


def test_recipes_differ_with_all_that_decides_a_result():
    results = [recipe(ITEM), *(recipe(changed(change)) for change in OTHER_RECIPES.values())]
    assert len(set(results)) == len(results)


def test_recipe_differs_with_the_kernels(monkeypatch):
    before = recipe(ITEM)
    monkeypatch.setattr(kernels, "fingerprint", lambda: "other kernels")
    assert recipe(ITEM) != before


@pytest.mark.parametrize("change", ELSEWHERE)
def test_same_bytes_elsewhere_are_the_same_content_of_another_origin(change):
    moved = changed(ELSEWHERE[change])
    assert recipe(moved) == recipe(ITEM)
    assert origin_key(recipe(moved), moved) != origin_key(recipe(ITEM), ITEM)


@pytest.mark.parametrize("change", SAME)
def test_names_and_paths_do_not_matter(change):
    other = changed(SAME[change])
    assert recipe(other) == recipe(ITEM)
    assert origin_key(recipe(other), other) == origin_key(recipe(ITEM), ITEM)


@pytest.mark.parametrize(
    "change",
    [
        {"file_sha256": None},
        {"sensitivity": WEIGHING.model_copy(update={"file_sha256": None})},
        {"second_moment": MOMENT.model_copy(update={"file_sha256": None})},
    ],
)
def test_file_without_a_digest_is_no_origin(change):
    assert origin_key(recipe(ITEM), changed(change)) is None


def test_keys_tell_recipes_and_contents_apart():
    pairs = [(first, second) for first in ("a" * 64, "b" * 64) for second in ("c" * 64, "d" * 64)]
    result = {content_key(*pair) for pair in pairs} | {origin_key(made, ITEM) for made, _ in pairs}
    assert len(result) == len(pairs) + 2
    assert {len(key) for key in result} == {64}


def test_requests_differ_with_all_that_decides_an_artifact(tmp_path, monkeypatch):
    store = open_storage(tmp_path.as_uri())
    model, other = (uploaded(store, "m", draws(seed, a=(8, 6))) for seed in (0, 1))
    beside, besides = (
        uploaded(store, "s", {"a.weight": abs(draws(seed, a=(8, 6))["a.weight"])})
        for seed in (2, 3)
    )
    w2, w4 = config_of(n_bits=2), config_of(n_bits=4, granularity=grouped(4))

    def digest(*arguments):
        return request_sha256(plan_job(*arguments, Limits(), strict=False))

    others = ((w4, model, None), (w2, other, None), (w2, model, beside), (w2, model, besides))
    results = [digest(w2, model, None), *(digest(*arguments) for arguments in others)]
    assert all(one != another for one, another in combinations(results, 2))
    assert digest(w2, model, None) == results[0]
    again = uploaded(open_storage((tmp_path / "again").as_uri()), "m", draws(0, a=(8, 6)))
    assert digest(w2, again, None) == results[0], "wherever the same file lies"
    monkeypatch.setattr(kernels, "fingerprint", lambda: "other kernels")
    assert digest(w2, model, None) != results[0]
