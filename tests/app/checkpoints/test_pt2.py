"""Exports of torch, compared with the live model, and forged archives."""

import io
import json
import pathlib
import pickle
import random
import warnings
import zipfile
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from palettery.app.artifacts.dtypes import NUMPY
from palettery.app.checkpoints import json_scanner
from palettery.app.checkpoints.pt2 import read_pt2
from palettery.app.checkpoints.pt2_graph import MAX_DEPTH
from palettery.app.errors import BadInput, InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredFile
from tests.forged import changed, constant, export, ints, weight

MUTANTS = 100
GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)
        )
        self.again = self.layers[1].linear1
        self.conv = nn.Conv2d(2, 4, 3, padding=1).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.randn(16)[3:11])
        self.unused = nn.Linear(3, 2)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.ones(8), persistent=False)
        self.offset = torch.arange(8.0)

    def forward(self, tokens):
        x = self.embed(tokens) * self.mask + self.offset
        for layer in self.layers:
            x = layer(x)
        x = self.norm(self.conv(x.reshape(1, 2, 4, 8))).mean(1) * self.scale
        return self.head(x), self.again(x)


class Numbers(nn.Module):
    """A buffer of every dtype that has a safetensors name."""

    DTYPES = (
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
        *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
    )

    def __init__(self):
        super().__init__()
        for dtype in self.DTYPES:
            name = str(dtype).replace("torch.", "a_")
            self.register_buffer(name, torch.tensor([1, 0, 1]).to(dtype))
        self.register_buffer("none", torch.zeros(0, 3))
        self.register_buffer("nothing", torch.zeros(0, 3))
        self.register_buffer("one", torch.tensor(7))

    def forward(self, x):
        return x + self.a_float32


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def sound(small):
    """Return the members of a valid archive, by name below its root."""
    tokens = torch.zeros(1, 8, dtype=torch.long)
    with zipfile.ZipFile(io.BytesIO(export(small, tokens))) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def read(tmp_path):
    """Return a function from an archive's bytes, or its members, to its Checkpoint."""

    def read_bytes(content, method=zipfile.ZIP_STORED, **limits):
        path = tmp_path / "model.pt2"
        if isinstance(content, dict):
            with zipfile.ZipFile(path, "w", method) as archive:
                for name, data in content.items():
                    archive.writestr(f"model/{name}", data)
        else:
            path.write_bytes(content)
        file = StoredFile(name="model.pt2", path="model.pt2", size_bytes=path.stat().st_size)
        return read_pt2(open_storage(tmp_path.as_uri()), file, Limits(**limits))

    return read_bytes


def load(tmp_path, tensor):
    """Return a tensor's elements, from its byte range."""
    content = (tmp_path / "model.pt2").read_bytes()
    data = content[tensor.offset : tensor.offset + tensor.size_bytes]
    flat = np.frombuffer(data, NUMPY[tensor.dtype])
    if tensor.strides is None:
        return flat.reshape(tensor.shape)
    steps = [step * flat.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, steps)


# Sound archives


def test_tensors_are_those_of_the_state_dict(small, sound, read, tmp_path):
    checkpoint = read(sound)
    state = small.state_dict()
    assert {name for t in checkpoint.tensors for name in (t.name, *t.aliases)} == set(state)
    for tensor in checkpoint.tensors:
        live = state[tensor.name]
        assert tensor.shape == tuple(live.shape)
        np.testing.assert_array_equal(load(tmp_path, tensor), live.numpy())
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    assert tensors["conv.weight"].strides == (18, 1, 6, 2)
    assert tensors["embed.weight"].strides is None
    assert "mask" not in tensors


def test_tensors_come_in_the_order_of_the_live_model(small, sound, read):
    live = [
        f"{path}.{name}".removeprefix(".")
        for path, module in small.named_modules()
        for name, _ in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        )
    ]
    named = [tensor.name for tensor in read(sound).tensors]
    assert named == [name for name in live if name not in ("head.weight", "mask")]


def test_ties_and_shared_modules_are_aliases(sound, read):
    checkpoint = read(sound)
    tied = {tensor.name: tensor.aliases for tensor in checkpoint.tensors if tensor.aliases}
    assert tied == {
        "embed.weight": ("head.weight",),
        "layers.1.linear1.weight": ("again.weight",),
        "layers.1.linear1.bias": ("again.bias",),
    }
    shared = {module.name: module.aliases for module in checkpoint.modules if module.aliases}
    assert shared == {"layers.1.linear1": ("again",)}


def test_modules_are_those_of_the_live_model(small, sound, read):
    modules = read(sound).modules
    live = {
        path: f"{type(module).__module__}.{type(module).__qualname__}"
        for path, module in small.named_modules()
    }
    assert [module.name for module in modules] == list(live)
    unknown = {module.name for module in modules if module.type is None}
    inferred = {module.name for module in modules if module.type_source == "inferred"}
    assert unknown == {"unused"}
    assert inferred == {"layers", *(f"layers.{n}.self_attn.out_proj" for n in (0, 1))}
    assert {m.name: m.type for m in modules if m.type} == {
        path: kind for path, kind in live.items() if path != "unused"
    }


def test_ops_are_named_and_counted_by_module(sound, read):
    ops = {op.name: op for op in read(sound).ops}
    attention = ops["layers.0.self_attn.multi_head_attention_forward"]
    assert attention.type == "multi_head_attention_forward"
    assert attention.states == {
        "in_proj_weight": "layers.0.self_attn.in_proj_weight",
        "in_proj_bias": "layers.0.self_attn.in_proj_bias",
        "weight": "layers.0.self_attn.out_proj.weight",
        "bias": "layers.0.self_attn.out_proj.bias",
    }
    assert ops["head.linear"].states == {"weight": "embed.weight"}
    assert ops["embed.embedding"].states == {"weight": "embed.weight"}
    assert ops["conv.conv2d"].module == "conv"
    assert ops["mul_1"].states == {"scale": "scale"}
    assert sum("layers.1.linear1" in name for name in ops) == 1  # its second pass adds none


def test_ways_of_exporting_give_the_same_ops(read):
    model, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.zeros(1, 3, 8)
    plain = read(export(model, x))
    exported = torch.export.export(model, (x,))
    assert read(export(model, x, strict=True)).ops == plain.ops
    assert read(export(exported.module(), x)).ops == plain.ops
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(exported.run_decompositions(), buffer)
    assert read(buffer.getvalue()).ops == plain.ops


def test_every_dtype_is_read(read):
    tensors = {tensor.name: tensor for tensor in read(export(Numbers(), torch.zeros(3))).tensors}
    assert len({tensor.dtype for tensor in tensors.values()}) == len(Numbers.DTYPES)
    for name, tensor in tensors.items():
        live = getattr(Numbers(), name)
        assert tensor.size_bytes == live.nbytes
        assert tensor.aliases == ()
    assert tensors["a_bfloat16"].dtype == "BF16"
    assert tensors["a_float8_e4m3fn"].dtype == "F8_E4M3"


def test_weights_that_share_a_storage_are_ranges_of_it(read, tmp_path):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.whole = nn.Parameter(torch.arange(12.0).reshape(3, 4))
            self.row = nn.Parameter(self.whole.detach()[1])
            self.turned = nn.Parameter(self.whole.detach().t())

        def forward(self, x):
            return x @ self.whole + self.row + (x @ self.turned.t())

    tensors = {tensor.name: tensor for tensor in read(export(Views(), torch.zeros(2, 3))).tensors}
    assert tensors["row"].offset == tensors["whole"].offset + 16
    assert tensors["turned"].strides == (1, 4)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(load(tmp_path, tensor), getattr(Views(), name).detach())


def test_dynamic_shapes_do_not_matter(read):
    dim = torch.export.Dim("batch")
    content = export(nn.Linear(4, 2), torch.zeros(3, 4), dynamic_shapes=({0: dim},))
    assert [op.name for op in read(content).ops] == ["linear"]


def test_unknown_fields_are_let_be(sound, read):
    content = changed(
        sound, GRAPH, lambda document: document.update(new={"a": [1, {"b": float("nan")}]})
    )
    content = changed(content, WEIGHTS, weight("scale", new=1))
    assert read({**content, "extra/note": b"hello"}).ops == read(sound).ops


# Pickles


@pytest.fixture
def canary(tmp_path):
    """Return a file that a pickle creates when it is loaded, and the pickle."""
    path = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return pathlib.Path.touch, (path,)

    bomb = pickle.dumps(Bomb())
    pickle.loads(bomb)  # noqa: S301 - our own, to show that it goes off
    assert path.exists()
    path.unlink()
    yield bomb
    assert not path.exists()


def pickled_weight(sound, bomb):
    return {
        **changed(sound, WEIGHTS, weight("scale", use_pickle=True)),
        "data/weights/weight_0": bomb,
    }


HOSTILE_PICKLES = {
    "weight": pickled_weight,
    "legacy weights": lambda sound, bomb: {**sound, "data/weights/model.pt": bomb},
    "legacy constants": lambda sound, bomb: {**sound, "data/constants/model.pt": bomb},
    "tensor constant": lambda sound, bomb: {
        **changed(sound, CONSTANTS, constant("tensor_9", use_pickle=True)),
        "data/constants/tensor_9": bomb,
    },
    "opaque constant": lambda sound, bomb: {
        **changed(sound, CONSTANTS, constant("opaque_obj_0", use_pickle=True)),
        "data/constants/opaque_obj_0": bomb,
    },
    "custom object": lambda sound, bomb: {
        **changed(sound, CONSTANTS, constant("custom_obj_0", use_pickle=False)),
        "data/constants/custom_obj_0": bomb,
    },
}


@pytest.mark.parametrize("place", HOSTILE_PICKLES)
def test_pickles_are_refused_by_name_and_never_opened(place, sound, read, canary):
    with pytest.raises(UnsupportedFormat, match=r"pickle.*never opened.*export"):
        read(HOSTILE_PICKLES[place](sound, canary))


def test_sample_inputs_are_never_opened(sound, read, canary):
    assert read({**sound, "data/sample_inputs/model.pt": canary}).ops == read(sound).ops


def test_archives_of_older_versions_are_refused(sound, read, canary, tmp_path):
    old = {"serialized_exported_program.json": b"{}", "serialized_state_dict.pt": canary}
    path = tmp_path / "old.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in old.items():
            archive.writestr(name, data)
    with pytest.raises(UnsupportedFormat, match=r"torch 2\.7 and older"):
        read(path.read_bytes())
    for version in (7, 9):
        newer = changed(
            sound, GRAPH, lambda document, v=version: document["schema_version"].update(major=v)
        )
        with pytest.raises(UnsupportedFormat, match=rf"schema version '{version}'.*2\.13"):
            read(newer)


# Expressions


def test_expressions_are_never_evaluated(sound, read, tmp_path):
    path = tmp_path / "canary"
    code = f"__import__('pathlib').Path({str(path)!r}).touch()"
    symbol = {"as_expr": {"expr_str": code, "hint": {"as_int": 8}}}
    for key in ("sizes", "strides"):
        with pytest.raises(InvalidModel, match=r"'scale' has .* symbolic expression.*never eval"):
            read(changed(sound, WEIGHTS, weight("scale", **{key: [symbol]})))
    with pytest.raises(InvalidModel, match="storage_offset with a symbolic expression"):
        read(changed(sound, WEIGHTS, weight("scale", storage_offset=symbol)))

    def everywhere(document):
        document["guards_code"] = [code]
        document["range_constraints"] = {code: {"min_val": 0, "max_val": 1}}
        graph = document["graph_module"]["graph"]
        graph["sym_int_values"] = {"s0": symbol}
        for value in graph["tensor_values"].values():
            value["sizes"] = [symbol for _ in value["sizes"]]

    assert read(changed(sound, GRAPH, everywhere)).ops == read(sound).ops
    assert not path.exists()


# Inconsistent weights


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"path_name": "../weights/weight_0"}, "must be a member"),
        ({"path_name": "weight_0/../weight_1"}, "must be a member"),
        ({"path_name": "/weight_0"}, "must be a member"),
        ({"path_name": "weight_999"}, "must be a member"),
        ({"path_name": "model_weights_config.json"}, "must be a member"),
        ({"path_name": 3}, "'path_name' must be a string"),
        ({"use_pickle": None}, "'use_pickle' must be true or false"),
        ({"sizes": ints(1 << 40), "strides": ints(0)}, "share bytes"),
        ({"sizes": ints(4, 4), "strides": ints(1, 1)}, "share bytes"),
        ({"sizes": ints(2), "strides": ints(1 << 62)}, "exceeds the 64 bytes"),
        ({"sizes": ints(17)}, "exceeds the 64 bytes"),
        ({"sizes": ints(10**4000)}, "plain whole numbers"),
        ({"storage_offset": {"as_int": 9}}, "exceeds the 64 bytes"),
        ({"storage_offset": {"as_int": -1}}, "storage_offset with no number"),
        ({"sizes": ints(-8)}, "sizes with no number"),
        ({"sizes": ints(True)}, "sizes with no number"),
        ({"sizes": ints(8.0)}, "sizes with no number"),
        ({"sizes": [8]}, "sizes with no number"),
        ({"sizes": ints(2, 4)}, "2 sizes and 1 strides"),
        ({"sizes": ints(*[1] * 65), "strides": ints(*[1] * 65)}, "65 sizes"),
        ({"sizes": None}, "'sizes' must be a list"),
        ({"tensor_meta": None}, "'tensor_meta' must be an object"),
        ({"dtype": "F32"}, "'dtype' must be a whole number"),
    ],
)
def test_inconsistent_weights_are_rejected(meta, message, sound, read):
    with pytest.raises(InvalidModel, match=rf"'scale'.*{message}.*export the model again"):
        read(changed(sound, WEIGHTS, weight("scale", **meta)))


@pytest.mark.parametrize("meta", [{"dtype": 9}, {"dtype": 10**30}, {"layout": 1}])
def test_weights_that_cannot_be_stored_are_refused(meta, sound, read):
    with pytest.raises(UnsupportedFormat, match=r"'scale'.*(convert|make it dense)"):
        read(changed(sound, WEIGHTS, weight("scale", **meta)))


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        (GRAPH, b"[" * 100_000, "nested too deep"),
        (GRAPH, b'{"a":' * 100_000, "nested too deep"),
        (GRAPH, b'{"a": 1, "a": 2}', "'a' occurs twice"),
        (WEIGHTS, b'{"config": {"w": {}, "w": {}}}', "'w' occurs twice"),
        (CONSTANTS, b'{"config": {}, "config": {}}', "'config' occurs twice"),
        (GRAPH, b"[]", "must be a JSON object"),
        (GRAPH, b"\xff{}", "not valid JSON"),
        (GRAPH, b'{"n": ' + b"1" * 10_000 + b"}", "not valid JSON"),
        (GRAPH, b"{}", "'schema_version' must be an object"),
        (WEIGHTS, b"{}", "'config' must be an object"),
        (WEIGHTS, b'{"config": {}}', "holds no weights"),
        (WEIGHTS, b'{"config": {"w": 1}}', "'path_name' must be a string"),
        (WEIGHTS, b'{"config": {"": {}}}', "without a name"),
        (CONSTANTS, b'{"config": {"c": []}}', "'path_name' must be a string"),
    ],
)
def test_invalid_json_is_rejected(member, content, message, sound, read):
    with pytest.raises(InvalidModel, match=message):
        read({**sound, member: content})


def _node(**fields):
    return lambda graph: graph["graph_module"]["graph"]["nodes"][0].update(fields)


def _metadata(**fields):
    return lambda graph: graph["graph_module"]["graph"]["nodes"][0]["metadata"].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.update(graph_module=[]), "'graph_module' must be an object"),
        (lambda document: document["graph_module"].update(signature=None), "'signature' must be"),
        (lambda document: document["graph_module"].update(module_call_graph={}), "must be a list"),
        (
            lambda document: document["graph_module"]["module_call_graph"].append({"fqn": 1}),
            "'fqn'",
        ),
        (
            lambda document: document["graph_module"]["module_call_graph"].append(
                {"fqn": "a" * 9_999}
            ),
            "a",
        ),
        (lambda document: document["graph_module"]["graph"].update(nodes=[7]), "node 0: 'inputs'"),
        (_node(inputs=[{"arg": {}}]), "node 0: an argument must be of one kind"),
        (_node(inputs=[{"arg": {"as_graph": 1}}]), "node 0: 'as_graph'|node 0: 'graph'"),
        (_metadata(nn_module_stack="a,b"), "node 0: 'a,b' in 'nn_module_stack'"),
        (_metadata(nn_module_stack=[]), "'nn_module_stack' must be a string"),
        (_metadata(torch_fn=3), "'torch_fn' must be a string"),
    ],
)
def test_invalid_graphs_are_rejected(change, message, sound, read):
    with pytest.raises(InvalidModel, match=message):
        read(changed(sound, GRAPH, change))


def test_custom_objects_are_refused(sound, read):
    custom = {"as_custom_obj": {"name": "obj", "class_fqn": "__torch__.Evil"}}
    taken = {"custom_obj": {"arg": custom["as_custom_obj"], "custom_obj_name": "evil"}}

    def sign(document):
        document["graph_module"]["signature"]["input_specs"].append(taken)

    for change in (sign, _node(inputs=[{"name": "x", "arg": custom, "kind": 1}])):
        with pytest.raises(UnsupportedFormat, match="custom object"):
            read(changed(sound, GRAPH, change))


def test_archives_with_parts_missing_are_refused(sound, read):
    for member in (GRAPH, WEIGHTS, "archive_format", "byteorder"):
        left = {name: data for name, data in sound.items() if name != member}
        with pytest.raises(BadInput, match=r"export|send one model"):
            read(left)
    for mark, value in {
        "byteorder": b"big",
        "archive_version": b"7",
        "archive_format": b"x",
    }.items():
        with pytest.raises(UnsupportedFormat, match=f"'{mark}' is"):
            read({**sound, mark: value})
    with pytest.raises(UnsupportedFormat, match="2 models"):
        read({**sound, "models/other.json": b"{}"})


def test_compressed_members_are_refused(sound, read):
    with pytest.raises(UnsupportedFormat, match="compressed"):
        read(sound, method=zipfile.ZIP_DEFLATED)


def test_limits_hold(sound, read, monkeypatch):
    with pytest.raises(TooLarge, match="tensors"):
        read(sound, tensors=3)
    with pytest.raises(TooLarge, match="bytes"):
        read(sound, header_bytes=20_000)
    monkeypatch.setattr(json_scanner, "SPARE_VALUES", 100)
    with pytest.raises(
        TooLarge, match=r"JSON values; 100 are allowed, and 16 for each.*of which 50"
    ):
        read(sound, tensors=50)


def test_graphs_within_graphs_are_read_to_a_depth(sound, read):
    for depth, refused in ((MAX_DEPTH, False), (MAX_DEPTH + 1, True)):

        def nest(document, depth=depth):
            graph = {"nodes": [], "inputs": []}
            for _ in range(depth):
                argument = {"name": "a", "arg": {"as_graph": {"name": "g", "graph": graph}}}
                graph = {"nodes": [{"inputs": [argument]}], "inputs": []}
            document["graph_module"]["graph"]["nodes"] += graph["nodes"]

        content = changed(sound, "models/model.json", nest)
        with pytest.raises(InvalidModel, match="deep") if refused else nullcontext():
            read(content)


def test_a_model_has_a_short_name(sound, read):
    long = {name.replace("/model", "/" + "m" * 200): content for name, content in sound.items()}
    with pytest.raises(InvalidModel, match="a name of 200 characters; 100 are allowed"):
        read(long)


def test_many_views_of_one_storage_are_refused(sound, read):
    """A mebibyte must not become a terabyte of artifact."""
    entry = json.loads(sound[WEIGHTS])["config"]["embed.weight"]
    heavy = {**sound, f"data/weights/{entry['path_name']}": bytes(1 << 20)}

    def views(length):
        def change(config):
            for number in range(20):
                sizes = {"sizes": ints(length(number)), "strides": ints(1)}
                view = {**entry, "tensor_meta": {**entry["tensor_meta"], **sizes}}
                config["config"][f"view{number}"] = view

        return changed(heavy, WEIGHTS, change)

    same = {t.name: t for t in read(views(lambda _: 1 << 18)).tensors}
    assert len(same["view0"].aliases) == 19  # one tensor under twenty names costs nothing
    with pytest.raises(TooLarge, match="8 times the file's size"):
        read(views(lambda number: (1 << 18) - number))


# Anything else


def _locations(container, locations):
    """Return every (container, key) of a JSON document."""
    pairs = container.items() if isinstance(container, dict) else enumerate(container)
    for key, value in pairs:
        locations.append((container, key))
        if isinstance(value, dict | list):
            _locations(value, locations)
    return locations


@pytest.mark.parametrize("member", [GRAPH, WEIGHTS])
def test_random_damage_is_refused_or_read_and_never_an_accident(member, sound, read):
    rng = random.Random(5)  # noqa: S311 - no secret is made of it
    values = [None, True, -1, 0, 3, 1 << 70, 1.5, "", ".", "a.b", "a;b,c@1,d", "é\n", [], {}, [{}]]
    refused = 0
    for _ in range(MUTANTS):
        document = json.loads(sound[member])
        for container, key in rng.sample(_locations(document, []), k=rng.choice([1, 1, 3])):
            container[key] = rng.choice(values)
        try:
            read({**sound, member: json.dumps(document).encode()})
        except BadInput:
            refused += 1
    assert refused > MUTANTS // 10
