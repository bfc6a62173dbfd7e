"""What plans warn of, and the ways out that their reasons name."""

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.planning.resolve import resolve
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.config.presets import PRESETS

LINEAR, CONV = "torch.nn.modules.linear.Linear", "torch.nn.modules.conv.Conv2d"
EMBEDDING = "torch.nn.modules.sparse.Embedding"
GROUPED = {"type": "per_grouped_channel", "group_size": 16}


@pytest.fixture
def plan(tmp_path):
    """A function: (config, shapes of weights by name) -> the plan."""

    def build(document, **shapes):
        arrays = {f"{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
        save_file(arrays, tmp_path / "m.safetensors")
        size = (tmp_path / "m.safetensors").stat().st_size
        file = StoredFile(name="m", path="m.safetensors", size_bytes=size)
        checkpoint = read_checkpoint(open_storage(tmp_path.as_uri()), [file], Limits())
        return resolve(KMeansPalettizerConfig.model_validate(document), checkpoint, Limits())

    return build


def specs(**spec):
    return {"op_state_spec": {"weight": spec}}


def warning(plan, text):
    return [each for each in plan.warnings if text in each]


@pytest.mark.parametrize(
    "document",
    [
        {"global_config": None},
        {"global_config": specs(granularity={**GROUPED, "group_size": 7})},
        {"global_config": {"op_state_spec": {"bias": {}}}},
    ],
)
def test_a_config_that_palettizes_nothing(plan, document):
    assert warning(plan(document, fc=(64, 32)), "palettizes nothing")
    assert not warning(plan({}, fc=(64, 32)), "palettizes nothing")


def test_a_tensor_that_becomes_larger(plan):
    planned = plan({"global_config": specs(n_bits=8)}, body=(512, 512), two=(4, 4))
    (text,) = warning(planned, "more bytes")
    assert text.startswith("1 tensor takes more bytes")
    assert "two.weight of shape [4, 4] goes from 64 to 1,040 bytes (520 bits a weight)" in text
    assert not warning(plan({}, body=(512, 512)), "more bytes")


def test_the_tensor_that_grows_most_is_named(plan):
    grouped = {**GROUPED, "group_size": 1}
    document = {"global_config": specs(n_bits=8, granularity=grouped)}
    (text,) = warning(plan(document, head=(8, 64), body=(64, 128), wide=(2, 4000)), "more bytes")
    assert text.startswith("2 tensors take more bytes")
    assert "body.weight of shape [64, 128] goes from 32,768 to 73,728 bytes (72 bits" in text


def test_embeddings_that_are_most_of_a_model(plan):
    planned = plan({}, word_embeddings=(5000, 64), fc=(64, 64))
    reasons = {tensor.name: tensor.reason for tensor in planned.tensors}
    assert "module_state_spec" in reasons["word_embeddings.weight"]
    (text,) = warning(planned, "embedding")
    assert "1 embedding is kept, 1.3 MB (99% of the model)" in text
    rule = {EMBEDDING: {"module_state_spec": {"weight": {"n_bits": 4}}}}
    assert f"{EMBEDDING}: {{module_state_spec: {{weight: {{n_bits: 4}}}}}}" in text
    named = plan({"module_type_configs": rule}, word_embeddings=(5000, 64), fc=(64, 64))
    saved = planned.predicted_size_bytes - named.predicted_size_bytes
    assert f"would save {saved / 1e6:,.1f} MB" in text
    assert not warning(named, "embedding")


@pytest.mark.parametrize(
    ("document", "n_bits", "kept"),
    [
        ({}, 4, {}),
        ({"global_config": specs(n_bits=6)}, 6, {}),
        ({"global_config": {"op_state_spec": {"*": {"n_bits": 2}}}}, 2, {}),
        (
            {"global_config": specs(n_bits=8) | {"enable_fast_kmeans_mode": False}},
            8,
            {"enable_fast_kmeans_mode": False},
        ),
        (
            {"module_type_configs": {EMBEDDING: {"rounding_precision": 3}}},
            4,
            {"rounding_precision": 3},
        ),
    ],
)
def test_the_rule_that_includes_embeddings_does(plan, document, n_bits, kept):
    shapes = {"word_embeddings": (5000, 64), "fc": (64, 64)}
    planned = plan(document, **shapes)
    left_out = planned.left_out_embeddings
    assert left_out.tensors == ("word_embeddings.weight",)
    assert left_out.size_bytes == 5000 * 64 * 4
    assert left_out.warning in planned.warnings
    of_type = {**kept, "module_state_spec": {"weight": {"n_bits": n_bits}}}
    assert left_out.rule == {"module_type_configs": {EMBEDDING: of_type}}
    included = plan(document | left_out.rule, **shapes)
    assert included.left_out_embeddings is None
    by_name = {tensor.name: tensor for tensor in included.tensors}
    embedding = by_name["word_embeddings.weight"]
    assert (embedding.spec.n_bits, embedding.predicted_bytes) == (n_bits, left_out.predicted_bytes)
    before = {tensor.name: tensor for tensor in planned.tensors}
    assert by_name["fc.weight"] == before["fc.weight"]
    assert not warning(included, "replaces")


def test_embeddings_of_modules_that_the_config_names_are_left_to_it(plan):
    document = {"module_name_configs": {".*embeddings": specs(n_bits=2)}}
    planned = plan(document, word_embeddings=(5000, 64), fc=(64, 64))
    assert planned.left_out_embeddings is None
    assert "left_out_embeddings" not in planned.model_dump()


@pytest.mark.parametrize("off", [None, {"module_state_spec": {"weight": None}}])
def test_embeddings_that_the_user_has_named_or_that_are_small(plan, off):
    switched_off = plan({"module_type_configs": {EMBEDDING: off}}, embed=(5000, 64), fc=(64, 64))
    assert not warning(switched_off, "embedding")
    assert not warning(plan({}, embed=(4, 8), fc=(640, 640)), "embedding")


@pytest.mark.parametrize(
    ("shape", "spec", "ways"),
    [
        ((30522, 32), {"granularity": GROUPED}, "axis 1, per_tensor or group_size 6"),
        ((30522, 31), {"granularity": GROUPED}, "per_tensor or group_size 6"),
        ((7, 31), {"granularity": GROUPED}, "per_tensor or group_size 7"),
        ((31, 5), {"granularity": GROUPED}, "per_tensor"),
        ((32, 9), {"granularity": {**GROUPED, "axis": 1}}, "axis 0, per_tensor or group_size 9"),
        ((30, 9), {"granularity": GROUPED, "cluster_dim": 2}, "per_tensor or group_size 10"),
        ((33, 9), {"cluster_dim": 2}, "cluster_dim 1"),
        ((33, 9), {"cluster_dim": 4}, "cluster_dim 3"),
    ],
)
def test_a_misfit_names_what_fits_and_it_does(plan, shape, spec, ways):
    def planned(spec):
        document = {"global_config": {**specs(**spec), "enable_fast_kmeans_mode": False}}
        return plan(document, fc=shape).tensors[0]

    reason = planned(spec).reason
    assert reason.endswith(f": use {ways}")
    for way in re.split(r", | or ", ways):
        name, _, value = way.partition(" ")
        old = spec.get("granularity", {})
        fits = {
            "axis": {"granularity": {**old, "axis": int(value or 0)}},
            "group_size": {"granularity": {**old, "group_size": int(value or 1)}},
            "per_tensor": {"granularity": {"type": "per_tensor"}},
            "cluster_dim": {"cluster_dim": int(value or 1)},
        }[name]
        unless_vectors = {"cluster_dim": 1} if name == "per_tensor" else {}
        assert planned({**spec, **unless_vectors, **fits}).action == "palettize"


GENERAL = {
    **specs(n_bits=4, granularity=GROUPED),
    "enable_fast_kmeans_mode": False,
}


@pytest.mark.parametrize(
    ("specific", "left_out"),
    [
        (specs(n_bits=8), {"enable_fast_kmeans_mode: false", "granularity"}),
        ({**specs(n_bits=8), "enable_fast_kmeans_mode": False}, {"granularity"}),
        ({**GENERAL, **specs(n_bits=8, granularity=GROUPED)}, set()),
        ({"enable_fast_kmeans_mode": False}, {"granularity"}),
        (
            {"op_state_spec": {"*": {"n_bits": 8}}},
            {"enable_fast_kmeans_mode: false", "granularity"},
        ),
        ({"op_state_spec": {"weight": None}, "enable_fast_kmeans_mode": False}, set()),
        (None, set()),
    ],
)
@pytest.mark.parametrize(("level", "key"), [("name", "fc"), ("type", LINEAR)])
def test_a_rule_that_leaves_out_what_it_replaces(plan, specific, left_out, level, key):
    document = {"global_config": GENERAL, f"module_{level}_configs": {key: specific}}
    result = warning(
        plan(document, fc=(64, 32), conv=(16, 8, 3, 3)), "replaces global_config whole"
    )
    assert len(result) == bool(left_out)
    for text in result:
        listed = text.partition("leaves out ")[2].partition(" there; write")[0]
        assert {part.partition(":")[0] for part in left_out} == set(
            re.findall(r"(?:^|, )(\w+): ", re.sub(r"{.*?}", "", listed))
        )
        assert "enable_fast_kmeans_mode: false" in listed or "enable" not in str(left_out)


def test_a_name_is_compared_with_the_type_it_replaces_too(plan):
    document = {
        "global_config": GENERAL,
        "module_type_configs": {LINEAR: {**GENERAL, "rounding_precision": 6}},
        "module_name_configs": {"fc": {**GENERAL}},
    }
    (text,) = warning(plan(document, fc=(64, 32), conv=(16, 8, 3, 3)), "replaces")
    assert f'replaces module_type_configs["{LINEAR}"] whole' in text
    assert "rounding_precision: 6" in text


def test_complete_configs_and_those_that_match_nothing_replace_nothing(plan):
    whole = PRESETS["w4"]().model_dump(mode="json")["global_config"]
    document = {"global_config": whole, "module_name_configs": {"fc": whole, "none": {}}}
    document["module_type_configs"] = {CONV: {}}
    assert not warning(plan(document, fc=(64, 32)), "replaces")
    assert not warning(
        plan({"module_name_configs": {"fc": specs(n_bits=8)}}, fc=(64, 32)), "replaces"
    )
