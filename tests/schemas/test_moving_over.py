"""Python written for coreai-opt runs here with only its imports changed, and means the same."""

import re
import textwrap

import pytest
import torch

import palettery

Peer = pytest.importorskip("coreai_opt.palettization").KMeansPalettizerConfig

pytestmark = pytest.mark.filterwarnings("ignore")

IMPORTS = """
from torch import nn
from coreai_opt.palettization import (
    KMeansPalettizerConfig, ModuleKMeansPalettizerConfig, PalettizationSpec
)
from coreai_opt.palettization.config import (
    OpKMeansPalettizerConfig, PATSchedule, VectorKMeansConfig
)
from coreai_opt.palettization.spec import (
    DefaultTrainingSpec,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
    default_weight_palettization_spec,
)
from coreai_opt.quantization import QuantizationSpec
from coreai_opt.quantization.spec import QuantizationFormulation, QuantizationScheme
"""
IDIOMS = {
    "a builder as a statement": """
        config = KMeansPalettizerConfig.presets.w4()
        config.set_module_type(nn.Linear, ModuleKMeansPalettizerConfig.presets.w8())
    """,
    "builders in a chain": """
        config = (
            KMeansPalettizerConfig.presets.w6(axis=1, group_size=8)
            .set_module_type(nn.Linear, ModuleKMeansPalettizerConfig.presets.w8())
            .set_module_name("lm_head", None)
        )
    """,
    "every builder as a statement": """
        config = KMeansPalettizerConfig()
        config.set_global(ModuleKMeansPalettizerConfig.presets.w6())
        config.only_for(nn.Linear, "encoder.*")
        config.set_module_name("decoder.0", ModuleKMeansPalettizerConfig())
        config.without([nn.Conv2d, "encoder.0"])
        config.without()
    """,
    "builders on another name for the config": """
        config = KMeansPalettizerConfig.presets.w4()
        same = config.without("head")
        same.set_global(None)
    """,
    "a rule for some targets, changed for one": """
        config = KMeansPalettizerConfig.presets.w4().only_for("a", "b")
        config.module_name_configs["a"].rounding_precision = 6
    """,
    "fields assigned": """
        config = KMeansPalettizerConfig()
        config.global_config.enable_fast_kmeans_mode = False
        config.global_config.op_state_spec = {"weight": PalettizationSpec(n_bits=2)}
        config.module_name_configs["head"] = ModuleKMeansPalettizerConfig.presets.w8()
        config.module_type_configs = {nn.Conv2d: None}
    """,
    "the defaults spelled out": """
        spec = default_weight_palettization_spec()
        states = {"weight": spec, "in_proj_weight": spec}
        module = ModuleKMeansPalettizerConfig(op_state_spec=states)
        assert KMeansPalettizerConfig() == KMeansPalettizerConfig(global_config=module)
        assert OpKMeansPalettizerConfig() == OpKMeansPalettizerConfig(op_state_spec=states)
        config = KMeansPalettizerConfig(global_config=module)
    """,
    "classes as keys": """
        config = KMeansPalettizerConfig(
            module_type_configs={nn.Linear: ModuleKMeansPalettizerConfig(), nn.Conv1d: None},
            module_name_configs={"layer1": None},
        )
    """,
    "granularities, and quantized tables": """
        grouped = PalettizationSpec(
            n_bits=2, granularity=PerGroupedChannelGranularity(axis=0, group_size=32),
            enable_per_channel_scale=True, training_strategy_spec=DefaultTrainingSpec(),
        )
        whole = PalettizationSpec(granularity=PerTensorGranularity(), lut_qspec=QuantizationSpec(
            dtype=torch.int8, qscheme=QuantizationScheme.SYMMETRIC,
            qformulation=QuantizationFormulation.ZP,
        ))
        floats = PalettizationSpec(lut_qspec=QuantizationSpec(
            dtype=torch.float8_e4m3fn, scale_dtype=torch.float8_e8m0fnu
        ))
        assert whole.lut_qspec.qscheme == QuantizationScheme.SYMMETRIC
        config = KMeansPalettizerConfig().set_global(ModuleKMeansPalettizerConfig(
            op_state_spec={"weight": grouped},
            op_type_config={"linear": OpKMeansPalettizerConfig(op_state_spec={"*": whole})},
            op_name_config={"fc.linear": OpKMeansPalettizerConfig(op_state_spec={"*": floats})},
        ))
    """,
    "vectors and sparse weights": """
        spec = PalettizationSpec(cluster_dim=2, sparsity_detection_threshold=0.5)
        config = KMeansPalettizerConfig().set_module_name("a", ModuleKMeansPalettizerConfig(
            op_state_spec={"weight": spec}, enable_fast_kmeans_mode=False,
            vector_kmeans_config=VectorKMeansConfig(n_local_trials=1, n_init=12, max_iter=100),
        ))
    """,
    "a training schedule": """
        config = KMeansPalettizerConfig(module_name_configs={
            "a": ModuleKMeansPalettizerConfig(pat_schedule=PATSchedule(enable_fake_palettize=500))
        })
    """,
    "there and back": """
        config = KMeansPalettizerConfig.from_dict(KMeansPalettizerConfig.presets.w4().to_dict())
        config.set_module_name("a", None)
        config = KMeansPalettizerConfig.from_dict(config.to_dict())
    """,
    "a refused builder": """
        config = KMeansPalettizerConfig()
        for wrong in (lambda: config.only_for(), lambda: config.set_module_type("Linear", None)):
            try:
                wrong()
            except ValueError:
                continue
            raise AssertionError
        try:
            config.without(3)
        except TypeError:
            config.without("a")
    """,
}


def run(code):
    names = {"torch": torch}
    exec(compile(code, "<idiom>", "exec"), names)  # noqa: S102 - the code is above
    return names["config"]


def meaning(dumped):
    """A dump without the activation fields, which say nothing in more than one way."""
    if not isinstance(dumped, dict):
        return dumped
    idle = ("_input_spec", "_output_spec")
    return {key: meaning(value) for key, value in dumped.items() if not key.endswith(idle)}


@pytest.mark.parametrize("idiom", IDIOMS)
def test_idioms_mean_the_same(idiom):
    code = IMPORTS + textwrap.dedent(IDIOMS[idiom])
    ours = run(re.sub(r"from coreai_opt\S*", "from palettery", code))
    theirs = run(code)
    assert isinstance(ours, palettery.KMeansPalettizerConfig)
    assert meaning(Peer.from_dict(ours.to_dict()).to_dict()) == meaning(theirs.to_dict())


@pytest.mark.parametrize("name", ["KMeansPalettizer", "ExportBackend", "TrainingStrategySpec"])
def test_a_name_that_means_nothing_here_says_why(name):
    with pytest.raises(ImportError, match=f"palettery has no {name}: "):
        exec(f"from palettery import {name}")  # noqa: S102
    with pytest.raises(ImportError, match=f"palettery has no {name}: "):
        getattr(palettery, name)
    assert not hasattr(palettery, "NoSuchName")
