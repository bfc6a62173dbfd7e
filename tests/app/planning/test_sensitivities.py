"""Sensitivities: each meets the tensor it means, or is refused with its name."""

import pytest

from palettery.app.errors import InvalidSensitivities
from palettery.app.planning.resolve import resolve
from palettery.app.planning.sensitivities import apply_sensitivities, match_sensitivities
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import Checkpoint, Module, Op, StoredFile, StoredTensor
from palettery.schemas.config import KMeansPalettizerConfig

LINEAR = "torch.nn.modules.linear.Linear"


def stored(*named, **message):
    return tuple(
        StoredTensor(name=name, file=0, offset=8 * place, size_bytes=8, **{**DENSE, **message})
        for place, name in enumerate(named)
    )


DENSE = {"dtype": "F32", "shape": (4, 6)}


def checkpoint(tensors, sha256=None):
    return Checkpoint(
        format="safetensors",
        files=(StoredFile(name="s.pt", path="in/s", size_bytes=99, sha256=sha256),),
        tensors=tensors,
        modules=(Module(name="", type=None, type_source="inferred"),),
        ops=(),
    )


@pytest.fixture
def model():
    """Two linears, the first tied to a head, and a bias that is kept."""
    first, second = stored("enc.0.weight", "enc.1.weight")
    (bias,) = stored("enc.0.bias", shape=(4,))
    first = first.model_copy(update={"aliases": ("head.weight",)})
    names = ("", "enc", "enc.0", "enc.1")
    return checkpoint((first, second, bias)).model_copy(
        update={
            "modules": tuple(
                Module(name=n, type=LINEAR if "." in n else None, type_source="inferred")
                for n in names
            ),
            "ops": tuple(
                Op(name=f"{n}.linear", type="linear", module=n, states={"weight": f"{n}.weight"})
                for n in names[2:]
            ),
        }
    )


def matched(model, tensors):
    return {
        tensor.name: (tensor.offset, tensor.aliases)
        for tensor in match_sensitivities(checkpoint(tensors), model).tensors
    }


def faults(model, tensors):
    with pytest.raises(InvalidSensitivities) as caught:
        match_sensitivities(checkpoint(tensors), model)
    return {field.pointer: field.detail for field in caught.value.errors}


def test_names_are_those_of_the_model_or_of_coreai_opt(model):
    result = matched(model, stored("enc.0.weight", "enc.1.parametrizations.weight.original"))
    assert result == {"enc.0.weight": (0, ()), "enc.1.weight": (8, ())}


def test_parameter_of_the_root(model):
    model = checkpoint(stored("weight"))
    assert matched(model, stored("parametrizations.weight.original")) == {"weight": (0, ())}


def test_model_saved_with_such_names_is_met_by_them():
    name = "a.parametrizations.weight.original"
    assert matched(checkpoint(stored(name)), stored(name)) == {name: (0, ())}


def test_tied_tensor_is_met_under_any_of_its_names(model):
    assert matched(model, stored("head.weight")) == {"enc.0.weight": (0, ())}


def test_bytes_that_two_tensors_share_serve_both(model):
    (both,) = stored("enc.0.weight")
    both = both.model_copy(update={"aliases": ("enc.1.weight", "head.weight")})
    assert matched(model, (both,)) == {"enc.0.weight": (0, ()), "enc.1.weight": (0, ())}


def test_unknown_name_comes_with_the_closest(model):
    faults_by_pointer = faults(model, stored("enc.0.wieght", "enc.1.weight", "zzz"))
    none = "the model has no tensor of this name"
    assert faults_by_pointer.keys() == {"/sensitivities/enc.0.wieght", "/sensitivities/zzz"}
    assert faults_by_pointer["/sensitivities/enc.0.wieght"].startswith(
        f"{none}; did you mean enc.0.weight or "
    )
    assert faults_by_pointer["/sensitivities/zzz"] == none


def test_shape_and_dtype_are_the_weights(model):
    faults_by_pointer = faults(model, stored("enc.0.weight", shape=(6, 4)))
    assert faults_by_pointer == {
        "/sensitivities/enc.0.weight": "it has the shape [6, 4], the tensor [4, 6]"
    }
    faults_by_pointer = faults(model, stored("enc.0.weight", dtype="I64"))
    assert "dtype I64; F16, BF16, F32, F64 are" in faults_by_pointer["/sensitivities/enc.0.weight"]


@pytest.mark.parametrize(
    "second", ["enc.0.parametrizations.weight.original", "head.weight"], ids=["renamed", "tied"]
)
def test_two_for_one_tensor(model, second):
    faults_by_pointer = faults(model, stored("enc.0.weight", second))
    assert list(faults_by_pointer) == [f"/sensitivities/{second}"]
    assert "the same tensor as enc.0.weight" in faults_by_pointer[f"/sensitivities/{second}"]


def test_plan_warns_of_what_has_none_and_of_what_is_kept(model):
    plan = resolve(KMeansPalettizerConfig.model_validate({"global_config": {}}), model, Limits())
    given = checkpoint((*stored("enc.1.weight"), *stored("enc.0.bias", shape=(4,))), "ab" * 32)
    weighed = apply_sensitivities(plan, match_sensitivities(given, model))
    assert {tensor.name for tensor in weighed.tensors if tensor.weighted} == {"enc.1.weight"}
    *_, lacking, unused = weighed.warnings
    assert lacking.endswith("count alike: enc.0.weight")
    assert unused.endswith("are kept: enc.0.bias")
    assert weighed.sensitivities_sha256 == {"s.pt": "ab" * 32}
    everything = apply_sensitivities(
        plan, match_sensitivities(checkpoint(stored("enc.0.weight", "enc.1.weight")), model)
    )
    assert everything.warnings == plan.warnings
