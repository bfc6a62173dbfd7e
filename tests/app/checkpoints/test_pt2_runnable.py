"""Validation of graphs before torch runs them; valid ones still compute the same."""

import io
import json
import zipfile

import pytest
import torch
from torch import nn

from palettery.app.checkpoints.pt2_runnable import read_runnable
from palettery.app.errors import BadInput, UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredFile
from tests.forged import changed, export

GRAPH = "models/model.json"
HOSTILE = "__import__('os').system('touch /tmp/palettery-was-here')"


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        self.factor = torch.arange(8.0)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x))).mean((2, 3)) * self.factor
        both = torch.cat([y, y + 1], 0)[: x.shape[0]]
        return {"out": self.head(both), "more": (y, [both])}


@pytest.fixture(scope="module")
def sound():
    """Return the members of a valid archive with a dynamic batch size, by name below its root."""
    batch = torch.export.Dim("batch", min=2, max=64)
    model = Small().eval()
    data = export(model, torch.randn(4, 3, 8, 8), dynamic_shapes=({0: batch},))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def read(tmp_path):
    def read_members(members):
        path = tmp_path / "model.pt2"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members.items():
                archive.writestr(f"model/{name}", data)
        file = StoredFile(name="model.pt2", path="model.pt2", size_bytes=path.stat().st_size)
        return read_runnable(open_storage(tmp_path.as_uri()), file, Limits())

    return read_members


def rewritten(members, runnable):
    """Return the archive with the validated graph, without sample inputs."""
    return {
        **members,
        GRAPH: runnable.program.document().encode(),
        "data/sample_inputs/model.pt": b"",
    }


def loaded(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(f"model/{name}", data)
    buffer.seek(0)
    return torch.export.load(buffer)


def test_a_graph_written_anew_computes_the_same(sound, read):
    runnable = read(sound)
    assert [constant.name for constant in runnable.constants] == ["factor"]
    assert runnable.program.parameters() >= {"conv.weight", "head.bias"}
    there, here = loaded(sound), loaded(rewritten(sound, runnable))
    assert here.graph_signature == there.graph_signature
    assert [*map(str, here.range_constraints.values())] == [
        *map(str, there.range_constraints.values())
    ]
    for size in (2, 5):
        x = torch.randn(size, 3, 8, 8)
        ours, theirs = here.module()(x), there.module()(x)
        assert ours.keys() == theirs.keys()
        assert torch.equal(ours["out"], theirs["out"])
        assert torch.equal(ours["more"][1][0], theirs["more"][1][0])


def test_what_only_people_read_is_left_out(sound, read):
    document = json.loads(read(sound).program.document())
    assert all(node["metadata"] == {} for node in document["graph_module"]["graph"]["nodes"])
    assert document["guards_code"] == []
    assert [call["fqn"] for call in document["graph_module"]["module_call_graph"]] == [""]


def node(**fields):
    def change(document):
        document["graph_module"]["graph"]["nodes"][1].update(fields)

    return change


def argument(**fields):
    return lambda document: document["graph_module"]["graph"]["nodes"][1]["inputs"][0].update(
        arg=fields
    )


def size(text):
    def change(document):
        value = next(iter(document["graph_module"]["graph"]["tensor_values"].values()))
        value["sizes"][0] = {"as_expr": {"expr_str": text, "hint": None}}

    return change


def tree(spec):
    def change(document):
        document["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec

    return change


def leafless(kind, context="null"):
    return json.dumps([1, {"type": kind, "context": context, "children_spec": []}])


ATTACKS = {
    "a function of Python": node(target="torch.os.system"),
    "a function of the hub": node(target="torch.hub.load"),
    "an operator that opens files": node(target="torch.ops.aten.from_file.default"),
    "an operator without checks": node(target="torch.ops.aten._sparse_csr_tensor_unsafe.default"),
    "an attribute of operators": node(target="torch.ops.aten.__getattr__.x"),
    "an operator of a library": node(target="torch.ops.mine.run.default"),
    "an extension": node(target="#triton:run"),
    "a call by operator": node(target="_operator.call"),
    "an operator as argument": argument(as_operator="torch.os.system"),
    "an object as argument": argument(as_custom_obj={"name": "x", "class_fqn": "os.system"}),
    "two values as one": argument(as_int=1, as_none=True),
    "a path as argument": argument(as_string="../../etc/passwd"),
    "code for a size": size(HOSTILE),
    "an attribute for a size": size("s0.__class__"),
    "a name for a size": size("open"),
    "a power of powers": size("Pow(Symbol('s0'), Integer(10000000))"),
    "a lambda for a size": size("(lambda: 1)()"),
    "a power of a power": size("((9**16)**16)**16"),
    "a power of a sum of powers": size("(2 + 9**16)**16"),
    "a power in a call": size("Pow(Pow(Symbol('s0'), Integer(16)), Integer(16))"),
    "a number beyond 64 bits": argument(as_int=1 << 64),
    "such a number among others": argument(as_ints=[1, 1 << 64]),
    "such a number deeper": argument(as_int_lists=[[1 << 64]]),
    "too long a size": size("1+" * 1_000 + "1"),
    "a dict with a factory": tree(leafless("collections.defaultdict", '["os", "system"]')),
    "an enum in a tree": tree(
        leafless("builtins.dict", '[{"__enum__": true, "fqn": "os:system", "name": "x"}]')
    ),
    "a class in a tree": tree(leafless("my.Class")),
    "no tree": tree("[1"),
    "a number as tree": tree("5"),
    "nothing as tree": tree("null"),
    "a list as type": tree(leafless([])),
    "an object as type": tree(leafless({})),
    "keys without an end": tree(leafless("builtins.dict", "[" * 200_000)),
    "containers without an end": tree("[" * 200_000),
    "another schema": lambda document: document["schema_version"].update(major=9),
    "a field that nobody knows": lambda document: document.update(run_me="now"),
    "a name with a line break": node(name="a\nb"),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_names_code_is_refused(sound, read, attack):
    with pytest.raises((UnsupportedFormat, BadInput), match=r"cannot be passed to torch|models/"):
        read(changed(sound, GRAPH, attack))


KEPT = {
    "sizes that are computed": size(
        "Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(-1))"
    ),
    "sizes as older versions write them": size("2*s0 + Max(1, s1)//3"),
    "a device of its own": lambda document: [
        value["device"].update(type="cuda", index=7)
        for value in document["graph_module"]["graph"]["tensor_values"].values()
    ],
    "an operator with an attribute's name": node(
        target="torch.ops.aten.__and__.Tensor",
        inputs=[
            {"name": name, "arg": {"as_tensor": {"name": "x"}}, "kind": 1}
            for name in ("self", "other")
        ],
    ),
    "guards": lambda document: document.update(guards_code=[HOSTILE]),
    "metadata": node(metadata={"source_fn_stack": f"x,{HOSTILE}", "custom": HOSTILE}),
}


@pytest.mark.parametrize("change", KEPT.values(), ids=KEPT)
def test_what_is_harmless_or_left_out_is_read(sound, read, change):
    document = read(changed(sound, GRAPH, change)).program.document()
    assert "__import__" not in document
    assert "cuda" not in document


UNSAFE = (
    *("max_pool2d_with_indices_backward.default", "max_unpool2d.default", "as_strided.default"),
    *(
        "_fft_c2c.out",
        "_index_put_impl_.default",
        "_unsafe_index_put.default",
        "set_.source_Tensor",
    ),
    *("_embedding_bag_dense_backward.default", "embedding_renorm_.default", "resize_.default"),
    *("_segment_reduce_backward.default", "segment_reduce.default", "_foreach_add.Scalar"),
    *("_unsafe_masked_index.default", "_cdist_backward.default", "bincount.default"),
    *("ctc_loss.IntList", "_ctc_loss.default", "grid_sampler_2d_backward.default"),
    *("_cudnn_rnn.default", "quantize_per_tensor.default", "_nested_view_from_buffer.default"),
    *("_scaled_dot_product_flash_attention_for_cpu_backward.default", "unsafe_split.Tensor"),
    *(
        "_slow_conv2d_forward.default",
        "mkldnn_rnn_layer.default",
        "add.out",
        "_thnn_fused_lstm_cell.default",
    ),
    *("_standard_gamma.default", "no_such_operator.default", "gather.no_such_overload"),
)


@pytest.mark.parametrize("operator", UNSAFE)
def test_an_operator_beyond_the_list_is_refused_by_name(sound, read, operator):
    target = f"torch.ops.aten.{operator}"
    with pytest.raises(UnsupportedFormat) as raised:
        read(changed(sound, GRAPH, node(target=target)))
    message = raised.value.detail
    assert f"'{target}' (node 'conv2d')" in message
    assert "nothing of it was run" in message
    assert "export the model without it" in message
    assert "open an issue that names the operator" in message


def call(target, *, gives, **inputs):
    """Return a node in the form of an exported graph."""
    return {
        "target": target,
        "inputs": [{"name": name, "arg": arg, "kind": 1} for name, arg in inputs.items()],
        "outputs": [{"as_tensor": {"name": gives}}],
        "metadata": {},
    }


def with_node(made, at=1):
    """Return a change that inserts a node whose result has the shape of the input."""

    def change(document):
        graph = document["graph_module"]["graph"]
        graph["nodes"].insert(at, made)
        for output in made["outputs"]:
            graph["tensor_values"][output["as_tensor"]["name"]] = graph["tensor_values"]["x"]

    return change


X = {"as_tensor": {"name": "x"}}
POOL_BACKWARD = call(
    "torch.ops.aten.max_pool2d_with_indices_backward.default",
    gives="written_elsewhere",
    **dict.fromkeys(("grad_output", "self", "indices"), X),
    kernel_size={"as_ints": [2, 2]},
    stride={"as_ints": [2, 2]},
    padding={"as_ints": [0, 0]},
    dilation={"as_ints": [1, 1]},
    ceil_mode={"as_bool": False},
)
DEAD = {
    "a write to anywhere": POOL_BACKWARD,
    "an operator of the list": call("torch.ops.aten.relu.default", gives="unused", self=X),
    "wrong arguments": call("torch.ops.aten.relu.default", gives="unused", what=X),
    "a fast Fourier transform": call("torch.ops.aten._fft_c2c.default", gives="unused", self=X),
    "numbers without an end": {
        **call("_operator.pow", gives="unused", a={"as_int": 9}, b={"as_int": 1 << 60}),
        "outputs": [],
        "name": "unused",
    },
}


@pytest.mark.parametrize("dead", DEAD.values(), ids=DEAD)
def test_a_node_that_nothing_uses_is_left_out(sound, read, dead):
    runnable = read(changed(sound, GRAPH, with_node(dead)))
    document = json.loads(runnable.program.document())
    assert document == json.loads(read(sound).program.document())


def test_what_only_a_dead_node_uses_is_left_out_too(sound, read):
    first = call("torch.ops.aten.relu.default", gives="first", self=X)
    second = call(POOL_BACKWARD["target"], gives="second", self={"as_tensor": {"name": "first"}})
    members = changed(changed(sound, GRAPH, with_node(second)), GRAPH, with_node(first))
    document = read(members).program.document()
    assert '"first"' not in document
    assert '"second"' not in document


KEPT_OR_REFUSED = {
    "an operator that changes its input": call(
        "torch.ops.aten.set_.source_Tensor", gives="unused", self=X, source=X
    ),
    "one with a result to write to": call("torch.ops.aten.add.out", gives="unused", self=X),
    "one that changes statistics": call(
        "torch.ops.aten._batch_norm_with_update.default", gives="unused"
    ),
    "one of a library": call("torch.ops.mine.run.default", gives="unused", self=X),
    "a function of Python": call("torch.os.system", gives="unused"),
    "a change of an input": call("torch.ops.aten.relu_.default", gives="unused", self=X),
}


@pytest.mark.parametrize("used", KEPT_OR_REFUSED.values(), ids=KEPT_OR_REFUSED)
def test_a_node_that_may_do_more_than_compute_is_not_left_out(sound, read, used):
    with pytest.raises(UnsupportedFormat, match="nothing of it was run"):
        read(changed(sound, GRAPH, with_node(used)))


class InSubgraph(nn.Module):
    """Two operators without gradients, which lie in a graph that the graph calls."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            y, z = torch.relu(x), torch.tanh(self.head.weight)
        return self.head(y) @ z


@pytest.mark.parametrize("operator", ["relu", "tanh"], ids=["an input", "a parameter"])
def test_a_change_in_place_is_refused_in_a_subgraph_too(read, operator):
    data = export(InSubgraph().eval(), torch.randn(2, 4))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    read(members)
    before, after = (f"aten.{operator}{suffix}.default".encode() for suffix in ("", "_"))
    members[GRAPH] = members[GRAPH].replace(before, after)
    with pytest.raises(UnsupportedFormat, match="an input or a parameter to change in place"):
        read(members)


def softmax(**arguments):
    return node(
        target="torch.ops.aten.softmax.int", inputs=call("", gives="", **arguments)["inputs"]
    )


WRONG_ARGUMENTS = {
    "a number for a dtype": ({"self": X, "dim": {"as_int": 0}, "dtype": {"as_int": -1}}, "'dtype'"),
    "a flag for a dtype": (
        {"self": X, "dim": {"as_int": 0}, "dtype": {"as_bool": True}},
        "'dtype'",
    ),
    "none for a tensor": ({"self": {"as_none": True}, "dim": {"as_int": 0}}, "'self'"),
    "a text for a number": ({"self": X, "dim": {"as_string": "0"}}, "'dim'"),
    "several numbers for one": ({"self": X, "dim": {"as_ints": [0]}}, "'dim'"),
    "tensors for a tensor": (
        {"self": {"as_tensors": [{"name": "x"}]}, "dim": {"as_int": 0}},
        "'self'",
    ),
    "an unknown argument": ({"self": X, "dim": {"as_int": 0}, "what": {"as_int": 0}}, "'what'"),
    "an argument too few": ({"self": X}, "'dim'"),
}


@pytest.mark.parametrize(("inputs", "message"), WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_arguments_of_another_type_are_refused(sound, read, inputs, message):
    with pytest.raises(UnsupportedFormat, match=f"softmax.int.*{message}"):
        read(changed(sound, GRAPH, softmax(**inputs)))


def test_an_argument_that_occurs_twice_is_refused(sound, read):
    twice = [{"name": "self", "arg": X, "kind": 1}] * 2
    with pytest.raises(UnsupportedFormat, match="occurs twice"):
        read(changed(sound, GRAPH, node(target="torch.ops.aten.relu.default", inputs=twice)))


def number(target, *arguments):
    return {
        "target": target,
        "inputs": [{"name": "", "arg": argument, "kind": 1} for argument in arguments],
        "outputs": [{"as_sym_int": {"as_name": "n0"}}],
        "metadata": {},
    }


def squares(count):
    """Return nodes that square a size repeatedly; the result depends on it."""

    def change(document):
        graph = document["graph_module"]["graph"]
        last = {"as_int": 1 << 62}
        for step in range(count):
            made = number("_operator.mul", last, last)
            made["outputs"] = [{"as_sym_int": {"as_name": f"n{step}"}}]
            graph["nodes"].insert(step, made)
            last = {"as_sym_int": {"as_name": f"n{step}"}}
        use = call("torch.ops.aten.add.Tensor", gives="used", self=X, other=last)
        graph["nodes"].insert(count, use)
        graph["tensor_values"]["used"] = graph["tensor_values"]["x"]
        graph["nodes"][count + 1]["inputs"][0]["arg"] = {"as_tensor": {"name": "used"}}

    return change


def used(made):
    def change(document):
        squares(1)(document)
        document["graph_module"]["graph"]["nodes"][0] = made

    return change


NUMBERS = {
    "forty squares": squares(40),
    "a power of numbers": used(number("_operator.pow", {"as_int": 9}, {"as_int": 1 << 60})),
    "a power by a size": used(
        number("_operator.pow", {"as_int": 9}, {"as_sym_int": {"as_name": "sym_size_int"}})
    ),
    "a repeated text": used(number("_operator.mul", {"as_string": "a"}, {"as_int": 1 << 40})),
    "a format of a text": used(number("_operator.mod", {"as_string": "%99999999d"}, {"as_int": 1})),
    "a repeated list": used(number("_operator.mul", {"as_ints": [1]}, {"as_int": 1 << 40})),
}


@pytest.mark.parametrize("change", NUMBERS.values(), ids=NUMBERS)
def test_numbers_without_an_end_are_refused(sound, read, change):
    with pytest.raises(UnsupportedFormat, match="nothing of it was run"):
        read(changed(sound, GRAPH, change))


def test_a_few_products_of_sizes_are_read(sound, read):
    assert read(changed(sound, GRAPH, squares(5)))
