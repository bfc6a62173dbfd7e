"""The same documents are valid in coreai-opt 0.3, bar what docs/compatibility.md lists."""

import copy
import json
import random

import pytest

from palettery.schemas.config import KMeansPalettizerConfig, QuantizationSpec, parse_config

Peer = pytest.importorskip("coreai_opt.palettization").KMeansPalettizerConfig

pytestmark = pytest.mark.filterwarnings("ignore")

KEY = "kmeans_palettization_config"
LINEAR = "torch.nn.modules.linear.Linear"


def peer_of(config):
    return Peer.from_dict(config.to_dict())


def meaning(dumped):
    """A dump without the activation fields, which say nothing in more than one way."""
    if not isinstance(dumped, dict):
        return dumped
    idle = ("_input_spec", "_output_spec")
    return {key: meaning(value) for key, value in dumped.items() if not key.endswith(idle)}


def loaded(load, document):
    """What a document loads as; None when it is refused."""
    try:
        return load(copy.deepcopy(document))
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError):
        return None


@pytest.mark.parametrize("documents", [400, pytest.param(2000, marks=pytest.mark.heavy)])
def test_the_same_documents_are_accepted_and_mean_the_same(documents):
    made = Documents(seed=7)
    accepted = 0
    for _ in range(documents):
        document = made.document()
        ours = loaded(KMeansPalettizerConfig.from_dict, document)
        theirs = loaded(Peer.from_dict, document)
        assert (ours is None) == (theirs is None), document
        if ours is not None:
            accepted += 1
            assert meaning(peer_of(ours).to_dict()) == meaning(theirs.to_dict()), document
            assert parse_config(json.dumps(document)) == ours
            assert meaning(
                peer_of(KMeansPalettizerConfig.from_dict(theirs.to_dict())).to_dict()
            ) == (meaning(theirs.to_dict()))
    assert 0.3 < accepted / documents < 0.7, "both kinds must be well represented"


def spec(**fields):
    return {KEY: {"global_config": {"op_state_spec": {"weight": fields}}}}


def global_config(**fields):
    return {KEY: {"global_config": fields}}


REFUSED_HERE = [
    spec(lut_qspec={"qschem": "asymmetric"}),
    spec(lut_qspec={"float_range": [float("nan"), None]}),
    spec(lut_qspec={"float_range": [None, float("inf")]}),
    spec(granularity={"type": "per_grouped_channel", "group_size": 2**63}),
    spec(granularity={"type": "per_grouped_channel", "group_size": 4, "axis": "1"}),
    global_config(pat_schedule={"enable_fake_palettise": 3}),
]
REFUSED_THERE = [
    spec(lut_qspec={"dtype": "torch.int8"}),
    spec(lut_qspec={"scale_dtype": None, "granularity": {}}),
    spec(training_strategy_spec={}),
    global_config(module_input_spec={"*": None}),
]


@pytest.mark.parametrize(
    ("document", "here"),
    [(document, False) for document in REFUSED_HERE]
    + [(document, True) for document in REFUSED_THERE],
)
def test_intended_differences(document, here):
    """As listed in docs/compatibility.md."""
    assert (loaded(KMeansPalettizerConfig.from_dict, document) is not None) == here
    assert (loaded(Peer.from_dict, document) is not None) != here


class Documents:
    """Config documents, about half of them broken in some place."""

    def __init__(self, seed):
        self.random = random.Random(seed)  # noqa: S311 - not for secrets

    def document(self):
        while True:
            made = {KEY: self.config()}
            if self.random.random() < 0.5:
                self.breaks(made[KEY])
            if not differs_on_purpose(made[KEY]):
                return made

    def breaks(self, config):
        """Replace, remove or misspell one thing."""
        around, key = self.random.choice([*places(config)] or [(config, "x")])
        kind = self.random.choice(["replace", "replace", "remove", "misspell"])
        if kind == "replace":
            around[key] = copy.deepcopy(self.random.choice(ODD))
        elif isinstance(around, dict):
            value = around.pop(key, None)
            if kind == "misspell":
                around[f"{key}_"] = value

    def config(self):
        config = {}
        if self.often():
            config["global_config"] = self.some(lambda: self.module(is_global=True))
        if self.often():
            keys = [LINEAR, "torch.nn.modules.conv.Conv2d", "torch.nn.Linear"]
            config["module_type_configs"] = self.mapping(keys, self.module)
        if self.often():
            config["module_name_configs"] = self.mapping(["encoder.*", "head", "a"], self.module)
        return config

    def module(self, is_global=False):
        made = {}
        if self.often():
            made["op_state_spec"] = self.some(self.specs)
        if self.seldom():
            made["op_type_config"] = self.some(lambda: self.mapping(["linear", "conv2d"], self.op))
        if self.seldom():
            made["op_name_config"] = self.some(lambda: self.mapping([".*", "a.linear"], self.op))
        if self.seldom() and not is_global:
            made["module_state_spec"] = self.some(self.specs)
        vectors = any(self.is_vector(spec) for spec in (made.get("op_state_spec") or {}).values())
        if vectors or self.often():
            made["enable_fast_kmeans_mode"] = not vectors and self.random.random() < 0.5
        if self.seldom():
            made["rounding_precision"] = self.random.choice([1, 4, 6, "3", 2.0])
        if self.seldom():
            made["op_input_spec"] = self.random.choice([None, {}, {"*": None}])
        if self.seldom():
            made["pat_schedule"] = self.random.choice([None, {}, {"enable_fake_palettize": 3}])
        return made

    @staticmethod
    def is_vector(spec):
        return spec is not None and int(spec.get("cluster_dim", 1)) > 1

    def op(self):
        return {"op_state_spec": self.some(self.specs)} if self.often() else {}

    def specs(self):
        return self.mapping(["weight", "*", "bias", "in_proj_weight"], self.spec)

    def spec(self):
        made = {}
        if self.often():
            made["n_bits"] = self.random.choice([1, 2, 3, 4, 6, 8])
        if self.often():
            made["granularity"] = self.random.choice(
                [
                    {"type": "per_tensor"},
                    {"type": "per_tensor", "axis": None},
                    {"type": "per_grouped_channel", "group_size": 16},
                    {"type": "per_grouped_channel", "group_size": 4, "axis": 1},
                    {"type": "per_grouped_channel", "group_size": 4, "axis": None},
                ]
            )
        if self.seldom():
            made["cluster_dim"] = self.random.choice([1, 2, 4, "2"])
        if self.seldom():
            made["enable_per_channel_scale"] = self.random.choice([True, False, "yes", 0])
        if self.seldom():
            made["lut_qspec"] = self.some(self.lut)
        if self.seldom():
            made["training_strategy_spec"] = {"type": "default"}
        return made

    def lut(self):
        choice = self.random.choice
        made = {"dtype": choice(["int8", "uint8", "float8_e4m3fn", "float8_e4m3", "float8_e5m2"])}
        if self.often():
            made["qscheme"] = choice(["symmetric", "asymmetric", "symmetric_with_clipping"])
        if self.seldom():
            made["float_range"] = choice([[None, None], [-1, 1], [None, 2.0], [1, 2], [-1.0, 0]])
        if self.seldom():
            made["scale_dtype"] = choice([None, "float8_e8m0fnu", "float8_e8m0", "float32"])
        if self.seldom():
            calculators = ["default", "static", "dynamic", "moving_average", "global_minmax"]
            made["qparam_calculator_cls"] = choice(calculators)
        if self.seldom():
            made |= {"n_bits": 8, "quant_min": -128, "qformulation": choice(["zp", "minval"])}
        if self.seldom():
            made["granularity"] = choice([{"type": "per_tensor"}, {"type": "per_channel"}])
        return made

    def mapping(self, keys, value):
        chosen = self.random.sample(keys, self.random.randint(0, 2))
        return {key: self.some(value) for key in chosen}

    def some(self, value):
        return None if self.random.random() < 0.1 else value()

    def often(self):
        return self.random.random() < 0.6

    def seldom(self):
        return self.random.random() < 0.2


ODD = [None, True, 0, 1, -1, 2.5, 4.0, "4", "x", "", [], {}, [1], {"a": 1}, {"*": None}]
"""What may stand in the wrong place."""


def places(data):
    """Every (mapping or list, key) of a document."""
    keys = data.keys() if isinstance(data, dict) else range(len(data))
    for key in [*keys]:
        yield data, key
        if isinstance(data[key], dict | list):
            yield from places(data[key])


def differs_on_purpose(config):
    """Whether a document has what `test_intended_differences` is about."""
    luts = {*QuantizationSpec.model_fields, "n_bits", "quant_min"}
    for around, key in places(config):
        value = around[key]
        if not isinstance(value, dict):
            differs = key == "axis" and isinstance(value, str | bool | float)
        elif key == "lut_qspec":
            differs = bool(value.keys() - luts) or value.get("granularity") == {}
        elif key == "pat_schedule":
            differs = bool(value.keys() - {"enable_fake_palettize"})
        else:
            differs = key == "training_strategy_spec" and not value
        if differs:
            return True
    return False
