"""The table of cases of the reference, on a checkpoint whose modules are inferred from names."""

import math

import pytest

from palettery.app.checkpoints.module_types import infer_modules
from palettery.app.checkpoints.op_types import derive_ops
from palettery.app.errors import InvalidConfig
from palettery.app.planning.resolve import resolve
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import Checkpoint, StoredFile, StoredTensor
from palettery.schemas.config import KMeansPalettizerConfig, w4

LINEAR = "torch.nn.modules.linear.Linear"
SHAPES = {
    "embed.weight": (32, 16),
    "encoder.0.attn.in_proj_weight": (48, 16),
    "encoder.0.attn.out_proj.weight": (16, 16),
    "encoder.0.attn.out_proj.bias": (16,),
    "encoder.0.fc.weight": (16, 16),
    "encoder.0.fc.bias": (16,),
    "encoder.1.fc.weight": (24, 16),
    "encoder.norm.weight": (16,),
    "up.weight": (16, 32, 2, 2),
    "up.bias": (32,),
    "odd.weight": (3, 5),
}
OTHERS = {"steps": ("I64", ()), "eight.weight": ("F8_E4M3", (8, 8)), "none.weight": ("F32", (0, 4))}


@pytest.fixture(scope="module")
def checkpoint():
    tensors_by_name = {name: ("F32", shape) for name, shape in SHAPES.items()} | OTHERS
    tensors = tuple(
        StoredTensor(
            name=name,
            dtype=dtype,
            shape=shape,
            file=0,
            offset=0,
            size_bytes=math.prod(shape) * {"I64": 8, "F8_E4M3": 1, "F32": 4}[dtype],
        )
        for name, (dtype, shape) in tensors_by_name.items()
    )
    modules = infer_modules(tensors, Limits())
    return Checkpoint(
        format="safetensors",
        files=(StoredFile(name="m", path="m", size_bytes=0),),
        tensors=tensors,
        modules=modules,
        ops=derive_ops(modules, tensors_by_name),
    )


@pytest.fixture
def plan(checkpoint):
    """A function: config as a dict -> its plan."""
    return lambda document: resolve(
        KMeansPalettizerConfig.model_validate(document), checkpoint, Limits()
    )


def bits(plan):
    return {tensor.name: tensor.spec.n_bits for tensor in plan.palettized()}


def rules(plan):
    return {tensor.name: tensor.rule for tensor in plan.tensors if tensor.rule}


def weights(n_bits):
    return {"op_state_spec": {"weight": {"n_bits": n_bits}}}


WEIGHTS = {
    "encoder.0.attn.out_proj.weight",
    "encoder.0.fc.weight",
    "encoder.1.fc.weight",
    "up.weight",
    "odd.weight",
}


def test_the_default_takes_weights_of_registered_ops(plan):
    assert bits(plan({})).keys() == WEIGHTS | {"encoder.0.attn.in_proj_weight"}
    assert set(rules(plan({})).values()) == {
        'global_config.op_state_spec["weight"]',
        'global_config.op_state_spec["in_proj_weight"]',
    }


def test_every_tensor_has_an_outcome_and_a_reason(plan, checkpoint):
    result = plan({"module_name_configs": {"odd": None, "up": {"op_state_spec": {}}}})
    assert [tensor.name for tensor in result.tensors] == [one.name for one in checkpoint.tensors]
    reasons = {tensor.name: tensor.reason for tensor in result.tensors if tensor.action == "keep"}
    assert all(reasons.values())
    assert "I64" in reasons["steps"]
    assert "F8_E4M3" in reasons["eight.weight"]
    assert reasons["none.weight"] == "it holds no more than one value"
    assert "only where a module_state_spec names them" in reasons["embed.weight"]
    assert "no registered op" in reasons["encoder.norm.weight"]
    assert reasons["encoder.0.fc.bias"] == "global_config has no spec for 'bias'"
    assert reasons["up.weight"] == "module_name_configs[\"up\"] has no spec for 'weight'"
    assert reasons["odd.weight"] == "the config switches it off"
    assert rules(result)["odd.weight"] == 'module_name_configs["odd"]'
    for tensor in result.tensors:
        assert (tensor.action == "palettize") == (tensor.spec is not None)
        assert (tensor.action == "palettize") == (tensor.clustering is not None)


def test_name_beats_type_beats_global_and_later_beats_earlier(plan):
    result = plan(
        {
            "global_config": weights(1),
            "module_type_configs": {LINEAR: weights(2)},
            "module_name_configs": {"encoder.*": weights(3), r"encoder\.0": weights(4)},
        }
    )
    assert bits(result) == {
        "up.weight": 1,
        "odd.weight": 2,
        "encoder.1.fc.weight": 3,
        "encoder.0.fc.weight": 4,
        "encoder.0.attn.out_proj.weight": 4,
    }
    assert (
        rules(result)["encoder.0.fc.weight"]
        == 'module_name_configs["encoder\\\\.0"].op_state_spec["weight"]'
    )


def test_attention_owns_its_projections(plan):
    off = {"encoder.0.attn.out_proj": None}
    assert bits(plan({"module_name_configs": off})) == bits(plan({}))
    state = {"op_state_spec": {}, "module_state_spec": {"weight": {"n_bits": 8}}}
    result = plan({"module_name_configs": {"encoder.0.attn.out_proj": state}})
    assert bits(result)["encoder.0.attn.out_proj.weight"] == 8
    by_type = {"multi_head_attention_forward": {"op_state_spec": {"*": {"n_bits": 2}}}}
    result = bits(plan({"global_config": {"op_type_config": by_type}}))
    owned = {name: result[name] for name in result if "attn" in name}
    assert owned == {name: 2 for name in SHAPES if "attn" in name}


def test_within_a_module_state_beats_op_name_beats_op_type_beats_default(plan):
    config = {
        **weights(1),
        "op_type_config": {"linear": weights(2)},
        "op_name_config": {".*": weights(6), r"encoder\..*\.linear": weights(3)},
    }
    state = {**config, "module_state_spec": {"weight": {"n_bits": 8}}}
    result = plan({"module_name_configs": {"encoder.*": config, r"encoder\.1\.fc": state}})
    assert bits(result)["encoder.0.fc.weight"] == 3
    assert bits(result)["encoder.0.attn.out_proj.weight"] == 6
    assert bits(result)["encoder.1.fc.weight"] == 8
    document = rules(result)
    assert document["encoder.1.fc.weight"].endswith('.module_state_spec["weight"]')
    assert document["encoder.0.attn.out_proj.weight"].endswith(
        '.op_name_config[".*"].op_state_spec["weight"]'
    )


def test_module_state_reaches_unregistered_ops_but_not_descendants(plan):
    state = {"module_state_spec": {"*": {"n_bits": 6}}}
    result = bits(plan({"module_name_configs": {"embed": state, r"encoder\.1": state}}))
    assert result["embed.weight"] == 6
    assert result["encoder.1.fc.weight"] == 4
    result = bits(plan({"global_config": None, "module_name_configs": {"encoder.norm": state}}))
    assert result == {"encoder.norm.weight": 6}


def test_none_disables_at_every_level(plan):
    off = {"weight": None, "*": {"n_bits": 2}}
    assert bits(plan({"global_config": None})) == {}
    assert bits(plan({"global_config": {"op_state_spec": None}})) == {}
    assert "odd.weight" not in bits(plan({"global_config": {"op_type_config": {"linear": None}}}))
    named = {"global_config": {"op_name_config": {r"odd\.linear": None}}}
    assert bits(plan(named)).keys() == bits(plan({})).keys() - {"odd.weight"}
    exact = bits(plan({"global_config": {"op_state_spec": off}}))
    assert exact.keys() & WEIGHTS == set()
    assert exact["encoder.0.fc.bias"] == 2
    state = {"module_state_spec": {"weight": None}}
    assert "odd.weight" not in bits(plan({"module_name_configs": {"odd": state}}))


def test_what_does_not_fit_is_kept_under_its_rule(plan):
    granularity = {"type": "per_grouped_channel", "group_size": 16}
    result = plan({"global_config": {"op_state_spec": {"weight": {"granularity": granularity}}}})
    kept = {tensor.name: tensor for tensor in result.tensors}["odd.weight"]
    assert (kept.action, kept.rule) == ("keep", 'global_config.op_state_spec["weight"]')
    assert kept.reason == (
        "group_size 16 does not divide axis 0 of length 3: use per_tensor or group_size 3"
    )
    assert "encoder.1.fc.weight" not in bits(result)
    up = {tensor.name: tensor for tensor in result.tensors}["up.weight"]
    assert (up.module_type, up.clustering.axis, up.groups) == (
        "torch.nn.modules.conv.ConvTranspose2d",
        1,
        2,
    )


def test_sizes_add_up(plan, checkpoint):
    result = plan({})
    assert result.size_before_bytes == checkpoint.tensor_bytes()
    assert result.predicted_size_bytes == sum(one.predicted_bytes for one in result.tensors)
    kept = [tensor for tensor in result.tensors if tensor.action == "keep"]
    assert all(tensor.predicted_bytes == tensor.size_bytes for tensor in kept)


def test_presets_match_whole_models_without_complaint(checkpoint):
    assert resolve(w4(), checkpoint, Limits()).unmatched == ()


def unmatched(plan):
    return {key.path: (key.reason, key.suggestions) for key in plan.unmatched}


def test_keys_that_match_nothing_are_told_with_what_would(plan):
    result = unmatched(
        plan(
            {
                "global_config": {
                    "op_state_spec": {"weight": {}, "wieght": {}},
                    "op_type_config": {"aten.linear.default": None, "Conv*": None, "conv1d": None},
                    "op_name_config": {r"encoder\.0\.fc": None},
                },
                "module_type_configs": {"torch.nn.Linear": None},
                "module_name_configs": {
                    "0.fc": None,
                    "encodr.1.fc": None,
                    "model.up": None,
                    "odd.weight": None,
                    "nothing like it": None,
                },
            }
        )
    )
    suggestions = {path: near for path, (_, near) in result.items()}
    assert suggestions == {
        'global_config.op_state_spec["wieght"]': ("weight",),
        'global_config.op_type_config["aten.linear.default"]': ("linear",),
        'global_config.op_type_config["Conv*"]': ("conv1d", "conv2d", "conv3d"),
        'global_config.op_type_config["conv1d"]': (),
        'global_config.op_name_config["encoder\\\\.0\\\\.fc"]': ("encoder.0.fc.linear",),
        'module_type_configs["torch.nn.Linear"]': (LINEAR,),
        'module_name_configs["0.fc"]': ("encoder.0.fc",),
        'module_name_configs["encodr.1.fc"]': ("encoder.1.fc", "encoder.0.fc", "encoder.1"),
        'module_name_configs["model.up"]': ("up",),
        'module_name_configs["odd.weight"]': ("odd",),
        'module_name_configs["nothing like it"]': (),
    }


def test_keys_that_others_overrule_are_told(plan):
    result = unmatched(
        plan(
            {
                "module_type_configs": {LINEAR: weights(2)},
                "module_name_configs": {"odd": weights(2), ".*": weights(3)},
            }
        )
    )
    assert result.keys() == {f'module_type_configs["{LINEAR}"]', 'module_name_configs["odd"]'}
    assert all("a later key" in reason for reason, _ in result.values())


def test_a_spec_out_of_reach_is_told(plan):
    result = unmatched(plan({"module_name_configs": {"embed": weights(2)}}))
    (reason,) = [reason for reason, _ in result.values()]
    assert "no registered op" in reason


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({"module_name_configs": {"a/(": None}}, "/module_name_configs/a~1("),
        ({"global_config": {"op_name_config": {"~[": None}}}, "/global_config/op_name_config/~0["),
    ],
)
def test_a_bad_pattern_is_told_before_anything_is_matched(plan, document, pointer):
    with pytest.raises(InvalidConfig) as caught:
        plan(document)
    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_a_hostile_op_name_pattern_is_stopped(checkpoint):
    config = KMeansPalettizerConfig.model_validate(
        {"global_config": {"op_name_config": {"(?:.|..)*[^a-z]": None}}}
    )
    with pytest.raises(InvalidConfig) as caught:
        resolve(config, checkpoint, Limits(regex_timeout_s=0.05))
    assert caught.value.errors[0].pointer == "/global_config/op_name_config/(?:.|..)*[^a-z]"
