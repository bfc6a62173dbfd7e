"""Choices for a model: sizes to the byte, what stays, what is alike, and what cannot be."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from palettery.app.allocation.allocate import Allocator
from palettery.app.allocation.candidates import find_candidates
from palettery.app.allocation.scoring import score_model
from palettery.app.checkpoints.local_files import stored_files
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.cli import offline
from palettery.app.errors import BadInput, InvalidConfig, InvalidSensitivities
from palettery.app.planning.job_plan import plan_checkpoint
from palettery.app.planning.sensitivities import match_sensitivities
from palettery.app.settings import read_settings
from palettery.schemas.config import PRESETS, KMeansPalettizerConfig
from palettery.schemas.config.granularity import PerGroupedChannelGranularity
from palettery.schemas.targets import Choices, Target

FAST_OFF = {"enable_fast_kmeans_mode": False}
EXACT = {"module_type_configs": {"torch.nn.modules.linear.Linear": FAST_OFF}}


def arrays():
    """Three layers with projections of different spread, biases and norms; and an embedding."""
    rng, found = np.random.default_rng(0), {}
    for layer in range(3):
        for name, shape in {"q": (64, 64), "k": (64, 64), "up": (128, 64)}.items():
            spread = 0.02 * (layer + 1)
            found[f"layers.{layer}.{name}.weight"] = rng.normal(0, spread, shape)
            found[f"layers.{layer}.{name}.bias"] = np.zeros(shape[0])
        found[f"layers.{layer}.norm.weight"] = np.ones(64)
    found["embeddings.word_embeddings.weight"] = rng.standard_t(4, (501, 64))
    return {name: array.astype(np.float32) for name, array in found.items()}


class Model:
    """A model in a file, its sensitivities, and choices for it."""

    def __init__(self, folder, tensors, sensitivities=None):
        self.path, self.beside = folder / "m.safetensors", None
        save_file(tensors, self.path)
        if sensitivities is not None:
            self.beside = folder / "s.safetensors"
            save_file(sensitivities, self.beside)
        self.limits = read_settings().limits
        self.stored = stored_files([self.path], digests=True)
        self.checkpoint = read_checkpoint(self.stored.storage, self.stored.files, self.limits)

    def allocator(self, config=None, **choices):
        config = KMeansPalettizerConfig.model_validate(config or {})
        candidates = find_candidates(config, self.checkpoint, Choices(**choices), self.limits)
        matched, weighting = None, None
        if self.beside is not None:
            files = stored_files([self.beside], digests=True)
            uploaded = read_checkpoint(files.storage, files.files, self.limits)
            matched, weighting = match_sensitivities(uploaded, self.checkpoint), files.storage
        scores = score_model(
            candidates, self.checkpoint, self.stored.storage, matched, weighting, lambda *_: None
        )
        return Allocator(candidates, self.checkpoint, matched, scores, self.limits)

    def bits(self, config=None, target=100_000, **choices):
        """Tensor name -> bits of the choice, 0 for those that are kept."""
        found, job = self.allocator(config, **choices).allocate(Target(size_bytes=target))
        planned = {tensor.name: tensor.spec for tensor in job.plan.tensors}
        for tensor in found.tensors:
            assert planned[tensor.name] == tensor.spec
        return {name: spec.n_bits if spec else 0 for name, spec in planned.items()}


@pytest.fixture
def model(tmp_path):
    return Model(tmp_path, arrays())


@pytest.mark.parametrize(
    ("target", "is_near"), [(30_000, True), (64_000, False), (99_999, True), (150_000, False)]
)
def test_the_artifact_has_the_size_that_was_promised(model, tmp_path, target, is_near):
    found, _ = model.allocator().allocate(Target(size_bytes=target))
    assert found.size_bytes <= target
    if is_near:
        assert found.size_bytes >= 0.995 * target
        assert len(found.notes) == 1
    else:
        assert "the smallest change that lowers the error adds" in found.notes[1]
        added = int(found.notes[1].split("error adds ")[1].split(" bytes")[0].replace(",", ""))
        assert added > target - found.size_bytes
    out = tmp_path / "out.safetensors"
    report = offline.compress([model.path], found.config, out, lambda *_: None)
    assert out.stat().st_size == found.size_bytes
    errors = {tensor.name: tensor for tensor in report.tensors}
    for tensor in found.tensors:
        measured = errors[tensor.name]
        assert tensor.size_bytes == measured.size_after_bytes
        if tensor.spec is not None:
            relative = 10 ** (-measured.snr_db / 10)
            assert tensor.error == pytest.approx(relative, rel=1e-9)
    assert found.error == pytest.approx(sum(tensor.error for tensor in found.tensors))
    assert found.gap <= 1e-6
    assert not found.weighted
    assert "guess" in found.notes[0]
    assert "give sensitivities" in found.notes[0]


def test_sensitivities_decide_and_are_no_guess(tmp_path):
    tensors = arrays()
    weights = {name: np.ones_like(array) for name, array in tensors.items() if array.ndim > 1}
    weights["layers.0.q.weight"] *= 1e4
    model = Model(tmp_path, tensors, weights)
    found, _ = model.allocator().allocate(Target(size_bytes=64_000))
    by_name = {tensor.name: tensor for tensor in found.tensors}
    assert found.weighted
    assert found.notes == ()
    most, other = by_name["layers.0.q.weight"], by_name["layers.0.k.weight"]
    assert most.spec is None or most.spec.n_bits > other.spec.n_bits
    del weights["layers.1.k.weight"]
    lacking = Model(tmp_path, tensors, weights)
    with pytest.raises(InvalidSensitivities, match=r"1 of the tensors .*layers\.1\.k\.weight"):
        lacking.allocator()


def test_rules_and_nulls_of_the_config_stay(model):
    spec = {"n_bits": 8, "granularity": {"type": "per_tensor"}}
    config = {
        "module_name_configs": {
            r"layers\.0\..*": {"op_state_spec": {"weight": spec}},
            r"layers\.1\..*": None,
        }
    }
    bits = model.bits(config, target=125_000)
    assert {bits[f"layers.0.{name}.weight"] for name in ("q", "k", "up")} == {8}
    assert {bits[f"layers.1.{name}.weight"] for name in ("q", "k", "up")} == {0}
    assert bits["embeddings.word_embeddings.weight"] in (2, 3, 4)


def test_a_tensor_that_may_be_sparse_counts_with_its_largest_size(tmp_path):
    tensors = arrays()
    tensors["layers.0.q.weight"][:40] = 0
    tensors["layers.0.k.weight"][:40] = 0
    sparse = {"n_bits": 4, "sparsity_detection_threshold": 0.5}
    vectors = {**sparse, "cluster_dim": 2}
    config = {
        "module_name_configs": {
            "layers[.]0[.]q": {"op_state_spec": {"weight": sparse}},
            "layers[.]0[.]k": {
                "op_state_spec": {"weight": vectors},
                "enable_fast_kmeans_mode": False,
                "vector_kmeans_config": {"max_iter": 7},
            },
        }
    }
    model = Model(tmp_path, tensors)
    found, job = model.allocator(config).allocate(Target(size_bytes=64_000))
    planned = {tensor.name: tensor for tensor in job.plan.tensors}
    assert planned["layers.0.q.weight"].spec.sparsity_detection_threshold == 0.5
    assert planned["layers.0.k.weight"].clustering.vector_kmeans.max_iter == 7
    out = tmp_path / "out.safetensors"
    report = offline.compress([model.path], found.config, out, lambda *_: None)
    after = {tensor.name: tensor.size_after_bytes for tensor in report.tensors}
    spared = sum(
        planned[name].predicted_bytes - after[name]
        for name in ("layers.0.q.weight", "layers.0.k.weight")
    )
    assert spared > 0
    assert out.stat().st_size <= found.size_bytes - spared <= out.stat().st_size + 64
    assert found.size_bytes <= 64_000


def test_rules_without_specs_only_set_fast_mode(model):
    found, job = model.allocator(EXACT).allocate(Target(size_bytes=64_000))
    rounding = {
        tensor.name: tensor.clustering.rounding_precision for tensor in job.plan.palettized()
    }
    assert rounding.pop("embeddings.word_embeddings.weight") == 4
    assert set(rounding.values()) == {None}
    again = KMeansPalettizerConfig.from_json(found.config.to_json())
    plan = plan_checkpoint(again, model.checkpoint, None, model.limits, strict=True).plan
    assert [tensor.spec for tensor in plan.tensors] == [t.spec for t in job.plan.tensors]


def test_alike_tensors_get_one_spec(model):
    bits = model.bits(same=(("q", "k"),), target=64_000)
    for layer in range(3):
        assert bits[f"layers.{layer}.q.weight"] == bits[f"layers.{layer}.k.weight"] > 0
    one = {"op_state_spec": {"weight": {"n_bits": 2}}}
    bits = model.bits({"module_name_configs": {r"layers\.2\.q": one}}, same=(("q", "k"),))
    assert bits["layers.2.k.weight"] == 2


def test_alike_tensors_without_a_common_spec(model):
    with pytest.raises(
        BadInput, match=r"layers\.0\.\w\.weight, layers\.0\.\w\.weight must be alike"
    ):
        model.bits(same=(("q", "k"),), max_bits={r"layers\.\d\.q": 2}, min_bits={r".*\.k": 3})


def test_bits_by_pattern_and_choices(model):
    limits = {"min_bits": {r".*embeddings": 6}, "max_bits": {r".*\.up": 2}}
    bits = model.bits(target=64_000, **limits)
    assert bits["embeddings.word_embeddings.weight"] in (0, 6, 8)
    assert {bits[f"layers.{layer}.up.weight"] for layer in range(3)} <= {1, 2}
    assert set(model.bits(n_bits=(2, 4), keep=False, target=90_000).values()) <= {0, 2, 4}
    assert 3 not in model.bits(target=50_000, formats=("coreai",)).values()
    with pytest.raises(InvalidConfig):
        model.bits(min_bits={"(": 4})


def test_bounds_that_exclude_each_other(model):
    with pytest.raises(
        BadInput, match=r"layers\.1\.up at least 6 bits by min_bits and at most 4 by max_bits"
    ):
        model.bits(min_bits={r".*\.up": 6}, max_bits={r"layers\.1\.up": 4})


def test_patterns_of_choices_that_match_nothing_are_told(model):
    allocator = model.allocator(
        min_bits={r".*\.up": 2, "up": 2}, max_bits={"nothing": 8}, same=(("q", "kk"),)
    )
    found, _ = allocator.allocate(Target(size_bytes=64_000))
    assert found.notes[:3] == (
        "min_bits 'up' matches no module's whole name",
        "max_bits 'nothing' matches no module's whole name",
        "same 'kk' matches no module that may be chosen",
    )


def test_groups_go_along_the_axis_that_they_divide(model):
    groups = PerGroupedChannelGranularity(type="per_grouped_channel", group_size=16)
    found, _ = model.allocator(granularities=(groups,), keep=False).allocate(
        Target(size_bytes=64_000)
    )
    axes = {tensor.name: tensor.spec.granularity.axis for tensor in found.tensors}
    assert axes.pop("embeddings.word_embeddings.weight") == 1  # 501 rows
    assert set(axes.values()) == {0}


def test_tied_tensors_are_stored_and_chosen_once(tmp_path):
    import torch

    weight = torch.randn(64, 32)
    torch.save(
        {"embed.weight": weight, "head.weight": weight, "a.weight": torch.randn(64, 64)},
        tmp_path / "m.pt",
    )
    limits, files = read_settings().limits, stored_files([tmp_path / "m.pt"], digests=True)
    checkpoint = read_checkpoint(files.storage, files.files, limits)
    candidates = find_candidates(KMeansPalettizerConfig(), checkpoint, Choices(), limits)
    scores = score_model(candidates, checkpoint, files.storage, None, None, lambda *_: None)
    found, job = Allocator(candidates, checkpoint, None, scores, limits).allocate(
        Target(size_bytes=6_000)
    )
    assert {tensor.name for tensor in found.tensors} == {"embed.weight", "a.weight"}
    assert [tensor.aliases for tensor in job.plan.tensors if tensor.aliases] == [("head.weight",)]


def test_a_tensor_that_is_not_finite_is_kept(tmp_path):
    tensors = arrays()
    tensors["layers.1.q.weight"][3, 4] = np.nan
    bits = Model(tmp_path, tensors).bits(target=80_000)
    assert bits["layers.1.q.weight"] == 0
    assert bits["layers.1.k.weight"] > 0


def test_a_target_of_an_error_is_as_small_as_it_allows(model):
    allocator = model.allocator()
    found, _ = allocator.allocate(Target(error=0.1))
    assert found.error <= 0.1
    smaller, _ = allocator.allocate(Target(size_bytes=found.size_bytes - 200))
    assert smaller.error > 0.1
    with pytest.raises(BadInput, match=r"error of at most 1e-09; the least .* is"):
        model.allocator(keep=False).allocate(Target(error=1e-9))


def test_a_size_that_nothing_reaches(model):
    with pytest.raises(BadInput) as caught:
        model.allocator().allocate(Target(size_bytes=5_000))
    message = caught.value.detail
    assert message.startswith("the target is 5,000 bytes; the least that these choices reach is ")
    least = int(message.split("reach is ")[1].split(" bytes")[0].replace(",", ""))
    assert "3,840 are tensors that it may not change" in message
    found, _ = model.allocator().allocate(Target(size_bytes=least))
    assert least - 1_500 < found.size_bytes <= least


def test_a_size_that_is_more_than_needed(model):
    found, _ = model.allocator(keep=False).allocate(Target(size_bytes=10**6))
    assert "every tensor has the best of its choices already" in found.notes[1]
    found, _ = model.allocator().allocate(Target(size_bytes=10**6))
    assert (found.error, {tensor.spec for tensor in found.tensors}) == (0.0, {None})


def test_a_config_that_sets_everything(model):
    with pytest.raises(BadInput, match="the config sets all 10 weights"):
        model.bits(json.loads(PRESETS["small"]().model_dump_json()))


def test_a_model_without_weights_to_choose(tmp_path):
    model = Model(tmp_path, {"norm.weight": np.ones(8, np.float32)})
    with pytest.raises(BadInput, match="no weight of a Linear"):
        model.bits()


def test_the_curve_falls_and_its_points_are_reached(model):
    allocator = model.allocator(n_bits=(1, 2, 4, 8))
    curve = allocator.curve()
    sizes, errors = ([getattr(each, key) for each in curve] for key in ("size_bytes", "error"))
    assert sizes == sorted(set(sizes))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0
    assert len(curve) > 30
    assert all(each.exact for each in curve)
    for point in curve[5::20]:
        found, _ = allocator.allocate(Target(size_bytes=point.size_bytes))
        assert found.error <= point.error * (1 + 1e-6)
