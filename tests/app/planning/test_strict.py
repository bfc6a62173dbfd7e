"""Strict mode: errors for every unmatched key and every incompatible tensor, with pointers."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.errors import MAX_LISTED, StrictViolation
from palettery.app.planning.resolve import resolve
from palettery.app.planning.strict import check_strict
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.config import KMeansPalettizerConfig

ARRAYS = {
    "a.weight": np.ones((8, 6), np.float32),
    "a.bias": np.ones(8, np.float32),
    "clash.weight": np.ones((4, 8), np.float32),
    "clash.weight.lut": np.zeros(3, np.int32),
    "one.weight": np.ones((1, 1), np.float32),
    "whole.weight": np.ones((8, 4), np.int8),
    "norm.weight": np.ones(8, np.float32),
    "steps": np.array(3, np.int64),
}
LINEAR = "torch.nn.modules.linear.Linear"


@pytest.fixture
def plan(tmp_path):
    """A function: config as a dict -> its plan for these arrays."""

    def build(document, arrays=ARRAYS):
        save_file(arrays, tmp_path / "m.safetensors")
        size = (tmp_path / "m.safetensors").stat().st_size
        file = StoredFile(name="m", path="m.safetensors", size_bytes=size)
        checkpoint = read_checkpoint(open_storage(tmp_path.as_uri()), [file], Limits())
        config = KMeansPalettizerConfig.model_validate(document)
        return resolve(config, checkpoint, Limits())

    return build


def violation(plan):
    with pytest.raises(StrictViolation) as caught:
        check_strict(plan)
    return caught.value


def incompatible(plan):
    return {tensor.name for tensor in plan.tensors if tensor.incompatible}


def grouped(size):
    return {"n_bits": 4, "granularity": {"type": "per_grouped_channel", "group_size": size}}


def by_name(name, spec, field="op_state_spec", key="weight"):
    return {"global_config": None, "module_name_configs": {name: {field: {key: spec}}}}


def test_what_all_fits_passes(plan):
    result = plan(by_name("a", {"n_bits": 4}))
    assert incompatible(result) == set()
    check_strict(result)


def test_tensor_that_no_rule_asks_for_is_no_fault(plan):
    result = plan({"global_config": {"op_state_spec": {"*": {"n_bits": 2}}}})
    kept = {tensor.name for tensor in result.tensors if tensor.action == "keep"}
    assert {"norm.weight", "steps", "whole.weight"} <= kept
    assert incompatible(result) == {"clash.weight"}  # the star asks for what can be palettized


def test_rule_that_switches_off_is_no_fault(plan):
    check_strict(plan(by_name("a", None)))


@pytest.mark.parametrize(
    ("name", "spec", "reason"),
    [
        ("a", grouped(3), "group_size 3 does not divide axis 0 of length 8"),
        ("a", {"n_bits": 4, "cluster_dim": 3}, "cluster_dim 3 does not divide axis 0 of length 8"),
        ("clash", {"n_bits": 4}, "the model's own clash.weight.lut"),
        ("whole", {"n_bits": 4}, "I8 cannot be palettized"),
        ("one", {"n_bits": 4}, "no more than one value"),
    ],
)
def test_tensor_that_a_rule_wants_and_that_does_not_fit(plan, name, spec, reason):
    document = by_name(name, spec)
    document["module_name_configs"][name]["enable_fast_kmeans_mode"] = False
    result = plan(document)
    assert incompatible(result) == {f"{name}.weight"}
    error = violation(result)
    assert "0 config keys match nothing, and 1 tensor cannot" in error.detail
    (field,) = error.errors
    assert field.pointer == f"/module_name_configs/{name}/op_state_spec/weight"
    assert field.detail.startswith(f"{name}.weight [")
    assert reason in field.detail


def test_scalar_that_a_module_state_spec_names(plan):
    document = by_name("", {"n_bits": 4}, "module_state_spec", "steps")
    document["module_name_configs"][""]["op_state_spec"] = None
    (field,) = violation(plan(document)).errors
    assert field.pointer == "/module_name_configs//module_state_spec/steps"
    assert "I64 cannot be palettized" in field.detail


def test_keys_that_match_nothing_come_with_what_would(plan):
    error = violation(
        plan(
            {
                "global_config": None,
                "module_type_configs": {"torch.nn.Linear": {}},
                "module_name_configs": {'no"/~such': {}},
            }
        )
    )
    assert "2 config keys match nothing, and 0 tensors" in error.detail
    results = {field.pointer: field.detail for field in error.errors}
    assert results.keys() == {
        "/module_type_configs/torch.nn.Linear",
        '/module_name_configs/no"~1~0such',
    }
    assert f"did you mean {LINEAR}?" in results["/module_type_configs/torch.nn.Linear"]


def test_inner_keys_have_their_place_too(plan):
    inner = {"op_type_config": {"aten.linear.default": {"op_state_spec": {"weight": {}}}}}
    error = violation(plan({"global_config": None, "module_name_configs": {"a": inner}}))
    pointer = "/module_name_configs/a/op_type_config/aten.linear.default"
    assert {pointer: "did you mean linear?"}.items() <= {
        field.pointer: field.detail[field.detail.find("did") :] for field in error.errors
    }.items()


def test_a_thousand_are_listed_and_the_rest_counted(plan):
    count = MAX_LISTED + 234
    rows = range(3, 3 + 2 * count, 2)
    arrays = {f"l{number}.weight": np.ones((number, 1), np.float32) for number in rows}
    error = violation(plan({"global_config": {"op_state_spec": {"*": grouped(2)}}}, arrays))
    assert len(error.errors) == MAX_LISTED
    assert error.detail.startswith("strict: 0 config keys match nothing, and 1,234 tensors")
    assert error.detail.endswith("234 more are not listed")


def test_alike_tensors_share_one_entry(plan):
    arrays = {f"l{number}.weight": np.ones((3, 2), np.float32) for number in range(37)}
    arrays["other.weight"] = np.ones((5, 2), np.float32)
    error = violation(plan({"global_config": {"op_state_spec": {"*": grouped(2)}}}, arrays))
    alike, other = (field.detail for field in error.errors)
    assert alike.startswith(
        "l0.weight [3, 2], l1.weight [3, 2], l10.weight [3, 2] and 34 more cannot take this: "
    )
    assert other.startswith("other.weight [5, 2] cannot take this: ")
    assert "38 tensors cannot take" in error.detail
