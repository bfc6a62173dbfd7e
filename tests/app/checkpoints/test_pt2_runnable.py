"""Graphs as they may be handed to torch: sound ones compute the same, hostile ones are refused."""

import io
import json
import zipfile

import pytest
import torch
from torch import nn

from app.checkpoints.pt2_runnable import read_runnable
from app.errors import BadInput, UnsupportedFormat
from app.settings import Limits
from app.storage import open_storage
from schemas.checkpoint import StoredFile
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
    """The members of a sound archive with a batch of any size, by name below its root."""
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
    """The archive with the graph as it was written anew, without sample inputs."""
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


def node(**said):
    def change(document):
        document["graph_module"]["graph"]["nodes"][1].update(said)

    return change


def argument(**said):
    return lambda document: document["graph_module"]["graph"]["nodes"][1]["inputs"][0].update(
        arg=said
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
    with pytest.raises((UnsupportedFormat, BadInput), match=r"cannot be handed to torch|models/"):
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
    "an operator with an attribute's name": node(target="torch.ops.aten.__and__.Tensor"),
    "guards": lambda document: document.update(guards_code=[HOSTILE]),
    "metadata": node(metadata={"source_fn_stack": f"x,{HOSTILE}", "custom": HOSTILE}),
}


@pytest.mark.parametrize("change", KEPT.values(), ids=KEPT)
def test_what_is_harmless_or_left_out_is_read(sound, read, change):
    document = read(changed(sound, GRAPH, change)).program.document()
    assert "__import__" not in document
    assert "cuda" not in document
