"""Random config documents, about half of them broken, and what they mean."""

import copy
import math
import random

from palettery.schemas.config import QuantizationSpec

KEY = "kmeans_palettization_config"
LINEAR = "torch.nn.modules.linear.Linear"


class Documents:
    """Config documents, about half of them broken in some place."""

    def __init__(self, seed):
        self.random = random.Random(seed)  # noqa: S311 - not for secrets

    def document(self):
        while True:
            made = {KEY: self.config()}
            if self.random.random() < 0.5:
                self.breaks(made[KEY])
            if not differs_on_purpose(made):
                return made

    def breaks(self, config):
        """Replace, remove or misspell one thing."""
        somewhere = [*places(config)] or [(config, "x")]
        around, key = self.random.choice(somewhere)
        kind = self.random.choice(["replace", "replace", "remove", "misspell", "move"])
        if kind == "replace":
            around[key] = copy.deepcopy(self.random.choice(ODD))
        elif kind == "move":
            other, at = self.random.choice(somewhere)
            around[key] = copy.deepcopy(other.get(at) if isinstance(other, dict) else other[at])
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
        if self.often() if vectors else self.random.random() < 0.05:
            made["vector_kmeans_config"] = self.some(self.vector_kmeans)
        return made

    def vector_kmeans(self):
        choice, made = self.random.choice, {}
        if self.often():
            made["n_init"] = choice([1, 5, 12, "3", 2.0, True])
        if self.seldom():
            made["n_local_trials"] = choice([None, 1, 2, "4"])
        if self.seldom():
            made["max_iter"] = choice([1, 300, "20"])
        if self.seldom():
            made["tol"] = choice([0, 1e-4, "1e-3", 2, float("inf"), True])
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
        if self.seldom():
            shares = [None, 0, 0.5, 1, "0.25", True, 1e-9, -0.0]
            made["sparsity_detection_threshold"] = self.random.choice(shares)
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


ODD = [None, True, False, 0, 1, -1, 0.5, 2.5, 4.0, "4", "0.5", "x", "", "inf", "nan", "None"]
ODD += [float("nan"), float("inf"), -float("inf"), [], {}, [1], [None, None], {"a": 1}, {"*": None}]
ODD += [{"type": "default"}, {"cluster_dim": 2}, {"weight": {"cluster_dim": 2}}, {"1": None}]
"""What may stand in the wrong place."""


def places(data):
    """Every (mapping or list, key) of a document."""
    keys = data.keys() if isinstance(data, dict) else range(len(data))
    for key in [*keys]:
        yield data, key
        if isinstance(data[key], dict | list):
            yield from places(data[key])


def meaning(dumped):
    """A dump without the activation fields, which say nothing in more than one way."""
    if not isinstance(dumped, dict):
        return dumped
    idle = ("_input_spec", "_output_spec")
    return {key: meaning(value) for key, value in dumped.items() if not key.endswith(idle)}


def differs_on_purpose(document):
    """Whether a document has what docs/compatibility.md lists."""
    luts = {*QuantizationSpec.model_fields, "n_bits", "quant_min"}
    for around, key in places(document):
        value = around[key]
        if not isinstance(value, dict):
            differs = (key == "axis" and isinstance(value, str)) or (
                key == "float_range"
                and isinstance(value, list)
                and any(isinstance(end, float) and not math.isfinite(end) for end in value)
            )
        elif key == "lut_qspec":
            granularity = value.get("granularity")
            untyped = isinstance(granularity, dict) and "type" not in granularity
            differs = bool(value.keys() - luts) or untyped
        elif key == "pat_schedule":
            differs = bool(value.keys() - {"enable_fake_palettize"})
        else:
            idle = "module_input_spec", "module_output_spec"
            differs = (key == "training_strategy_spec" and not value) or (
                key == "global_config" and any(value.get(field) for field in idle)
            )
        if differs:
            return True
    return False
