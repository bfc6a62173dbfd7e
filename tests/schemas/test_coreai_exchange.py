"""Configs, dumps, presets and chains of builders move between coreai-opt 0.3 and us."""

import copy
import json

import pytest
import torch

from palettery.schemas.config import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    QuantizationSpec,
    w4,
    w6,
    w8,
)

coreai = pytest.importorskip("coreai_opt.palettization")
Peer = coreai.KMeansPalettizerConfig

pytestmark = pytest.mark.filterwarnings("ignore")

KEY = "kmeans_palettization_config"
LINEAR = "torch.nn.modules.linear.Linear"


def same(ours, theirs):
    """Whether the peer reads from our dump what it holds; idle activation fields aside."""
    there = Peer.from_dict(ours.to_dict())
    return silent(there.to_dict()) == silent(theirs.to_dict())


def silent(dumped):
    if not isinstance(dumped, dict):
        return dumped
    idle = ("_input_spec", "_output_spec")
    return {key: silent(value) for key, value in dumped.items() if not key.endswith(idle)}


@pytest.mark.parametrize("name", ["w4", "w6", "w8"])
def test_presets_are_the_peers(name):
    ours = {"w4": w4, "w6": w6, "w8": w8}[name]
    theirs = getattr(Peer.presets, name)
    assert same(ours(), theirs())
    module = getattr(ModuleKMeansPalettizerConfig.presets, name)()
    their_module = getattr(coreai.ModuleKMeansPalettizerConfig.presets, name)()
    as_rule = KMeansPalettizerConfig().set_module_name("a", module)
    their_rule = Peer().set_module_name("a", their_module)
    assert same(as_rule, their_rule)
    if name != "w8":
        chosen = {"axis": 1, "group_size": 8}
        ours_chosen = getattr(KMeansPalettizerConfig.presets, name)(**chosen)
        assert same(ours_chosen, theirs(**chosen))


def test_builders_build_the_same():
    def build(config, module):
        return (
            config.set_module_name("head", None)
            .set_module_type(LINEAR, module)
            .only_for([torch.nn.Linear, "encoder.*", "head"])
            .without("encoder.0")
            .set_module_name("head", module)
        )

    ours = build(w4(), ModuleKMeansPalettizerConfig.presets.w8())
    theirs = build(Peer.presets.w4(), coreai.ModuleKMeansPalettizerConfig.presets.w8())
    assert same(ours, theirs)
    assert list(ours.module_name_configs) == list(theirs.module_name_configs)
    assert list(ours.module_type_configs) == [LINEAR]


def as_text(dump):
    return json.loads(json.dumps(dump, default=str))


@pytest.mark.parametrize("write", [copy.copy, as_text])
def test_a_dump_of_the_peer_loads_here_as_it_is_and_with_its_objects_as_text(write):
    lut = {
        "dtype": "float8_e4m3",
        "scale_dtype": "float8_e8m0",
        "qparam_calculator_cls": "moving_average",
    }
    document = {KEY: {"global_config": {"op_state_spec": {"*": {"lut_qspec": lut}}}}}
    theirs = Peer.from_dict(copy.deepcopy(document)).set_module_name("a.*", None)
    config = KMeansPalettizerConfig.from_dict(write(theirs.to_dict()))
    assert config.global_config.op_state_spec["*"].lut_qspec == QuantizationSpec(**lut)
    assert same(config, theirs)


def test_yaml_written_here_is_read_there(tmp_path):
    config = w6().set_module_name("z.*", None).set_module_name("a.*", w8().global_config)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    theirs = Peer.from_yaml(path)
    assert same(config, theirs)
    assert list(theirs.module_name_configs) == ["z.*", "a.*"]
