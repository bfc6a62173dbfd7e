"""The plan reports what export formats cannot express, before any work."""

import pytest

from palettery.app.artifacts.export.formats import FORMATS
from palettery.app.errors import ExtraMissing, Inexpressible, UnsupportedFormat
from palettery.app.planning.exports import check_expressible, export_sources, plan_exports
from palettery.app.storage.open import open_storage
from palettery.schemas.artifact import PalettizedWeight
from palettery.schemas.checkpoint import Checkpoint, Module
from tests.app.stored_job import StoredJob, config_of, draws

JOB_ID = "01890a5d-ac96-774b-bcce-000000000001"


@pytest.fixture
def plan_of(tmp_path):
    """A function of a spec: the plan of two matrices."""

    def planned(**spec):
        store = open_storage(tmp_path.as_uri())
        return StoredJob(store, JOB_ID, draws(a=(8, 6), b=(4, 4)), config_of(**spec)).intake.plan

    return planned


def test_a_plan_tells_what_each_form_lacks(plan_of):
    plan = plan_exports(plan_of(n_bits=2, cluster_dim=2), ["torchao", "dense", "torchao"])
    lack = "palettes of vectors (cluster_dim is 2)"
    assert [(each.format, each.inexpressible) for each in plan.exports] == [
        ("torchao", {"a.weight": lack, "b.weight": lack}),
        ("dense", {}),
    ]
    with pytest.raises(Inexpressible, match="torchao cannot express 2 tensors") as excinfo:
        check_expressible(plan)
    assert [error.pointer for error in excinfo.value.errors] == [
        "/tensors/a.weight",
        "/tensors/b.weight",
    ]


def test_what_can_be_expressed_is_no_matter(plan_of):
    bare = plan_of(n_bits=2)
    plan = plan_exports(bare, ["dense", "torchao"])
    check_expressible(plan)
    assert [each.inexpressible for each in plan.exports] == [{}, {}]
    assert "exports" not in bare.model_dump()
    assert plan_exports(bare, []) == bare


def test_a_form_that_cannot_be_made_here_is_refused_at_once(plan_of, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ExtraMissing, match="torchao needs torchao, which is not installed here"):
        plan_exports(plan_of(n_bits=2), ["dense", "torchao"])


@pytest.mark.parametrize(
    ("dtype", "feature"),
    [("F32", None), ("F16", None), ("BF16", "bfloat16"), ("F64", "float64")],
)
def test_dtypes_that_onnxruntime_computes_in(dtype, feature):
    weight = PalettizedWeight(n_bits=3, cluster_dim=2, shape=(8, 6), dtype=dtype, stored=12)
    assert FORMATS["onnx"].unsupported_feature(weight, True) == feature


def test_a_folder_of_transformers_needs_a_config_of_these_weights(plan_of):
    with pytest.raises(UnsupportedFormat, match=r"needs the model's config\.json"):
        plan_exports(plan_of(n_bits=2), ["transformers"], ["graph"])
    assert plan_exports(plan_of(n_bits=2), ["transformers"], ["config"]).exports


def test_sources_of_a_checkpoint():
    module = Module(name="", type="transformers.BertModel", type_source="hf_config")
    bare = Checkpoint(format="safetensors", files=(), tensors=(), modules=(), ops=())
    assert [*export_sources(bare)] == []
    assert [*export_sources(bare.model_copy(update={"modules": (module,)}))] == ["config"]
    assert [*export_sources(bare.model_copy(update={"format": "pt2"}))] == ["graph"]
