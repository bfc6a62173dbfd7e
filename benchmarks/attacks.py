"""Hostile model files that exhaust a naive reader, of any size, and honest files to compare with.

Each builder returns a file of about `size` bytes; tests count the steps of reading it, and
`benchmarks.parsers` measures the seconds.
"""

import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from itertools import count

from palettery.app.checkpoints.pytorch_legacy import MAGIC

Build = Callable[[int], bytes]

_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
_ORDERED = b"ccollections\nOrderedDict\n"
_ENCODE = b"c_codecs\nencode\n"
_SIZE = b"ctorch\nSize\n"
_COLLISION = (1 << 61) - 1
"""Integers this far apart have the same hash."""


def text(value: str) -> bytes:
    """Return a pickled text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """Return a pickled integer."""
    if 0 <= value < 256:
        return b"K%c" % value
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a%c" % len(data) + data


def put(at: int) -> bytes:
    """Return the opcode that stores the top of the stack in the memo."""
    return b"r" + struct.pack("<I", at)


def get(at: int) -> bytes:
    """Return the opcode that pushes an entry of the memo."""
    return b"j" + struct.pack("<I", at)


def storage(key: str, numel: int) -> bytes:
    """Return a pickled reference to a storage of float32."""
    fields = text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(numel)
    return b"(" + fields + b"NtQ"


def tensor(key: str, shape: bytes, strides: bytes, numel: int = 1) -> bytes:
    """Return a pickled tensor; shape and strides are pickled tuples."""
    return _TENSOR + b"(" + storage(key, numel) + b"K\0" + shape + strides + b"\x89}tR"


def legacy(body: bytes, *keys: str, numel: int = 1) -> bytes:
    """Return a legacy checkpoint of a pickled object and its storages."""
    pickles = [number(MAGIC), number(1001), b"}", body, b"](" + b"".join(map(text, keys)) + b"e"]
    stored = struct.pack("<q", numel) + bytes(4 * numel)
    return b"".join(b"\x80\x02" + pickle + b"." for pickle in pickles) + stored * len(keys)


def state_dict(*items: tuple[str, bytes]) -> bytes:
    """Return a pickled dict."""
    return b"}(" + b"".join(text(key) + value for key, value in items) + b"u"


ONE = ("w", tensor("0", b"K\1\x85", b"K\1\x85"))
"""A tensor, without which no file is a state dict."""


def with_values(values: bytes) -> bytes:
    """Return a legacy checkpoint of one tensor and these pickled values."""
    return legacy(state_dict(ONE, ("x", values)), "0")


def honest_legacy(size: int) -> bytes:
    """Return a legacy checkpoint as torch writes it, with repeated objects in the memo."""
    first = [text("storage"), b"ctorch\nFloatStorage\n", text("cpu"), _TENSOR, _ORDERED]
    items = [value + put(at) + b"0" for at, value in enumerate(first)]
    keys: list[str] = []
    items.append(get(4) + b")R" + put(5) + b"(")
    at, used = count(6), 0
    while used < size:
        keys.append(f"94082243{len(keys):06}")
        name = f"model.layers.{len(keys) // 4}.self_attn.{'qkvo'[len(keys) % 4]}_proj.weight"
        items += [text(name) + put(next(at)), get(3), b"(("]
        items += [get(0), get(1), text(keys[-1]) + put(next(at)), get(2), b"K\1Nt"]
        items += [put(next(at)), b"QK\0K\1K\1\x86", put(next(at)), b"K\1K\1\x86", put(next(at))]
        items += [b"\x89", get(4), b")R", put(next(at)), b"t", put(next(at)), b"R", put(next(at))]
        used += sum(map(len, items[-20:])) + 30
    return legacy(b"".join(items) + b"u", *keys)


def _repeated(piece: bytes, size: int) -> bytes:
    return piece * (size // len(piece))


def shared_lists(size: int) -> bytes:
    """Nested lists, shared by all values of the state dict."""
    lists = b"](" + _repeated(b"]", size // 2) + b"e" + put(0) + b"0"
    items = [(f"{n:06}", get(0)) for n in range(size // 32)]
    return legacy(lists + state_dict(ONE, *items), "0")


def repeated_call(arguments: bytes, function: bytes) -> Build:
    """Repeated calls of a function with the same arguments."""

    def build(size: int) -> bytes:
        pickled = _repeated(arguments, size // 2)
        if arguments == b"a":
            pickled = text(pickled.decode()) + text("latin1") + b"\x86"
        elif arguments == b"K\1":
            pickled = b"(" + pickled[:128] + b"t\x85"
        else:
            pickled = b"](" + pickled + b"e\x85"
        calls = _repeated(b"h\1h\2R", size // 2)
        return with_values(function + b"q\x010" + pickled + b"q\x020](" + calls + b"e")

    return build


def wide_tensors(size: int) -> bytes:
    """Tensors of 64 axes that share one shape, behind a long text that makes the file large."""
    prefix = (
        text("a" * (size * 9 // 10))
        + b"0("
        + b"K\1" * 64
        + b"tq\x010"
        + storage("0", 1)
        + b"q\x020"
        + _TENSOR
        + b"q\x030"
    )
    entry = b"h\3(h\2K\0h\1h\1\x89}tR"
    items = [(f"{n:06}", entry) for n in range(size * 9 // 10 // 140)]
    return legacy(prefix + state_dict(*items), "0")


def shared_metadata(size: int) -> bytes:
    """Tensors that share a large dict of metadata."""
    prefix = state_dict(*((f"{n:06}", b"\x89") for n in range(size // 24))) + b"q\x010"
    prefix += storage("0", 1) + b"q\x020" + _TENSOR + b"q\x030)q\x040"
    entry = b"h\3(h\2K\0h\4h\4\x89}h\1tR"
    items = [(f"{n:06}", entry) for n in range(size // 2 // (len(entry) + 11))]
    return legacy(prefix + state_dict(*items), "0")


def one_tensor_many_names(size: int) -> bytes:
    """One tensor under as many short names as fit, each in a module of its own."""
    prefix = ONE[1] + b"q\x010"
    return legacy(prefix + state_dict(*((f"{n:x}.w", b"h\1") for n in range(size // 13))), "0")


def colliding_shapes(size: int) -> bytes:
    """Tensors without elements, whose shapes all have the same hash."""
    shapes = ((f"{n:06}", number(5 + n * _COLLISION)) for n in range(size // 140))
    items = [(key, tensor("0", b"K\0" + axis + b"\x86", b"K\1K\1\x86")) for key, axis in shapes]
    return legacy(state_dict(*items), "0")


def _chain(bits: int) -> tuple[int, list[int]]:
    """Return a number, and numbers that fill all slots a dict of 2**bits probes for it.

    Source: `lookdict` in CPython's `Objects/dictobject.c`; a small integer is its own hash.
    """
    missing = (1 << bits) + 7
    slot, perturb, slots = missing, missing, dict.fromkeys([missing & ((1 << bits) - 1)])
    while len(slots) < (1 << bits) * 5 // 8:
        perturb >>= 5
        slot = (5 * slot + perturb + 1) & ((1 << bits) - 1)
        slots[slot] = None
    return missing, [*slots]


def colliding_keys(size: int) -> bytes:
    """A dict whose keys collide, so that each lookup probes all of them."""
    missing, slots = _chain(max((size // 16).bit_length(), 4))
    numbers = b"}(" + b"".join(number(n) + b"N" for n in slots) + b"u"
    return with_values(numbers + _repeated(number(missing) + b"Ns", size // 2))


def far_memo(size: int) -> bytes:
    """Memo indices that collide, so that each lookup probes all of them."""
    missing, slots = _chain(max((size // 16).bit_length(), 4))
    puts = b"".join(map(put, [*slots, missing]))
    return with_values(b"N" + puts + _repeated(get(missing) + b"0", size // 2))


def equal_keys(size: int) -> bytes:
    """Two equal long texts, distinct objects, in turn the key of a dict."""
    long = text("a" * (size // 4))
    prefix = long + b"q\x010" + long + b"q\x020"
    return with_values(prefix + b"}" + _repeated(b"h\1Nsh\2Ns", size // 2))


def opcodes(piece: bytes, end: bytes = b"") -> Build:
    """The same few opcodes, repeated."""
    return lambda size: with_values(b"](" + _repeated(piece, size) + b"e" + end)


def _texts(text_of: Callable[[int], str], size: int) -> list[str]:
    """Return as many texts as fit into `size` bytes."""
    texts, used = [], 0
    for n in count():
        texts.append(text_of(n))
        used += len(texts[-1]) + 2
        if used >= size:
            return texts
    raise AssertionError  # pragma: no cover - `count` has no end


def safetensors(entries: list[str], data_bytes: int = 0) -> bytes:
    """Return a safetensors file with these header entries."""
    header = ("{" + ",".join(entries) + "}").encode()
    return len(header).to_bytes(8, "little") + header + bytes(data_bytes)


def _entry(name: str, begin: int = 0, end: int = 0, shape: str = "0") -> str:
    offsets = f'"data_offsets":[{begin},{end}]'
    return f'"{name}":{{"dtype":"F32","shape":[{shape}],{offsets}}}'


def honest_safetensors(size: int) -> bytes:
    """Return a safetensors file of tensors with one element each."""

    def entry(n: int) -> str:
        name = f"model.layers.{n // 4}.self_attn.{'qkvo'[n % 4]}_proj.weight"
        return _entry(name, 4 * n, 4 * n + 4, "1,1")

    entries = _texts(entry, size)
    return safetensors(entries, 4 * len(entries))


def empty_tensors(name: str, shape: str = "0") -> Build:
    """Tensors without elements; `{n}` in the name is a running number."""
    return lambda size: safetensors(_texts(lambda n: _entry(name.format(n=n), shape=shape), size))


def unknown_keys(piece: str) -> Build:
    """A header entry that no reader needs, of one piece repeated."""

    def build(size: int) -> bytes:
        inner = ",".join([piece] * (size // (len(piece) + 1)))
        return safetensors([f'{_entry("x")[:-1]},"y":[{inner}]}}'])

    return build


def metadata(size: int) -> bytes:
    """As many short metadata texts as fit."""
    texts = _texts(lambda n: f'"{n:x}":""', size)
    return safetensors([f'"__metadata__":{{{",".join(texts)}}}', _entry("x")])


def archive(members: Mapping[str, bytes]) -> bytes:
    """Return a zip archive as PyTorch writes it."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(f"m/{name}"), content)
    return buffer.getvalue()


def honest_zip(size: int) -> bytes:
    """A state dict of a single tensor with_values members that are not read."""
    body = b"\x80\x02" + state_dict(ONE).replace(b"K\1NtQ", b"K\1tQ") + b"."
    rest = {f"data/{n}": bytes(4) for n in range(size // 118)}
    return archive({"data.pkl": body, **rest})


def extra_fields(size: int) -> bytes:
    """Members with as many extra fields as fit."""
    buffer = BytesIO()
    body = b"\x80\x02" + state_dict(ONE).replace(b"K\1NtQ", b"K\1tQ") + b"."
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(zipfile.ZipInfo("m/data.pkl"), body)
        file.writestr(zipfile.ZipInfo("m/data/0"), bytes(4))
        for n in range(size // 4_100):
            info = zipfile.ZipInfo(f"m/data/x{n}")
            info.extra = b"\xaa\xaa\0\0" * 500
            file.writestr(info, b"")
    return buffer.getvalue()


def long_names(size: int) -> bytes:
    """Members with long paths."""
    body = b"\x80\x02" + state_dict(ONE).replace(b"K\1NtQ", b"K\1tQ") + b"."
    rest = {f"data/{n}" + "/a" * 1_000: b"" for n in range(size // 4_100)}
    return archive({"data.pkl": body, "data/0": bytes(4), **rest})


def index(entries: list[str], rest: str = "") -> bytes:
    """Return an index of shards."""
    return f'{{"weight_map":{{{",".join(entries)}}}{rest}}}'.encode()


def honest_index(size: int) -> bytes:
    """Return an index of tensors in a single shard."""
    return index(_texts(lambda n: f'"model.layers.{n}.self_attn.q_proj.weight":"model"', size))


def many_shards(size: int) -> bytes:
    """Each tensor in a shard of its own, in many folders."""
    return index(_texts(lambda n: f'"{n}":"a/b/../{n}"', size))


def other_members(piece: str) -> Build:
    """An index with a large entry that no reader needs, of one piece repeated."""

    def build(size: int) -> bytes:
        inner = ",".join([piece] * (size // (len(piece) + 1)))
        return index(['"w":"model"'], f',"metadata":[{inner}]')

    return build


LEGACY: Mapping[str, Build] = {
    "shared lists": shared_lists,
    "OrderedDict called again": repeated_call(b"K\0K\1\x86", _ORDERED),
    "encode called again": repeated_call(b"a", _ENCODE),
    "Size called again": repeated_call(b"K\1", _SIZE),
    "set called again": repeated_call(b"N", b"c__builtin__\nset\n"),
    "tensors of 64 axes": wide_tensors,
    "metadata of all tensors": shared_metadata,
    "one tensor of many names": one_tensor_many_names,
    "shapes of the same hash": colliding_shapes,
    "numbers that collide as keys": colliding_keys,
    "numbers that collide in the memo": far_memo,
    "long keys, equal and not the same": equal_keys,
    "lists": opcodes(b"]"),
    "dicts": opcodes(b"}"),
    "tuples in each other": lambda size: with_values(b"N" + b"\x85" * size),
    "marks": lambda size: with_values(b"(" * size + b"N"),
    "numbers": opcodes(b"K\1"),
    "short texts": lambda size: with_values(
        b"](" + b"".join(b"\x8c\x03%03x" % (n % 4096) for n in range(size // 5)) + b"e"
    ),
    "None pushed and popped": opcodes(b"N0"),
    "storages": lambda size: with_values(
        b"](" + storage("0", 1).replace(b"tQ", b"tq\1Q") + _repeated(b"h\1Q", size) + b"e"
    ),
    "names": lambda size: with_values(b"](" + _ORDERED + b"0" + _repeated(_SIZE, size) + b"e"),
}
"""Attack by a legacy checkpoint -> builder."""

SAFETENSORS: Mapping[str, Build] = {
    "deep names": empty_tensors("{n}" + ".a" * 200),
    "names of two parts": empty_tensors("{n:x}.w"),
    "names in modules of their own": empty_tensors("{n:x}.a.b.c.w"),
    "64 axes": empty_tensors("{n:x}", "0" + ",9223372036854775807" * 63),
    "escaped names": empty_tensors("{n:x}" + "\\u0061" * 40),
    "empty objects": unknown_keys("{}"),
    "empty lists": unknown_keys("[]"),
    "objects in each other": unknown_keys('{"a":{"a":{}}}'),
    "zeros": unknown_keys("0"),
    "long numbers": unknown_keys("9" * 4_000),
    "short texts": unknown_keys('"a"'),
    "metadata": metadata,
}
"""Attack by a safetensors header -> builder."""

ZIP: Mapping[str, Build] = {"extra fields": extra_fields, "names of many parts": long_names}
"""Attack by a zip directory -> builder."""

INDEX: Mapping[str, Build] = {
    "a shard for each tensor": many_shards,
    "empty objects": other_members("{}"),
    "zeros": other_members("0"),
    "long numbers": other_members("9" * 4_000),
}
"""Attack by an index of shards -> builder."""


def graph(nodes: list[str], weights: str = "") -> bytes:
    """Return a `.pt2` with these nodes."""
    module = {
        "signature": {"input_specs": []},
        "module_call_graph": [],
        "graph": {"nodes": ["@"]},
    }
    document = json.dumps({"schema_version": {"major": 8}, "graph_module": module})
    meta = (
        '{"dtype":7,"layout":7,"sizes":[{"as_int":1}],"strides":[{"as_int":1}],'
        '"storage_offset":{"as_int":0}}'
    )
    weight = f'{{"path_name":"weight_0","use_pickle":false,"tensor_meta":{meta}}}'
    return archive(
        {
            "archive_format": b"pt2",
            "byteorder": b"little",
            "models/model.json": document.replace('"@"', ",".join(nodes)).encode(),
            "data/weights/model_weights_config.json": (
                f'{{"config":{{"w":{weight}{weights}}}}}'.encode()
            ),
            "data/weights/weight_0": bytes(4),
        }
    )


def node(inputs: str = "", stack: str = "", rest: str = "") -> str:
    """Return a node of a graph."""
    metadata = (
        f'"nn_module_stack":"{stack}","torch_fn":"linear_1;builtin_function_or_method.linear"'
    )
    target = '"target":"torch.ops.aten.linear.default"'
    return f'{{{target},"inputs":[{inputs}],"outputs":[],"metadata":{{{metadata}}}{rest}}}'


def argument(value: str) -> str:
    """Return an argument of a node."""
    return f'{{"name":"a","arg":{value},"kind":1}}'


def honest_graph(size: int) -> bytes:
    """Return a graph of Linear layers, with the metadata that torch writes."""

    def one(n: int) -> str:
        inputs = ",".join(
            argument(f'{{"as_tensor":{{"name":"{name}_{n}"}}}}') for name in ("x", "w", "b")
        )
        stack = f",,Model;layers.{n},layers.{n},torch.nn.modules.linear.Linear"
        trace = ',"stack_trace":"File \\"model.py\\", line 10, in forward"'
        return node(inputs, stack).replace("}}", f"{trace}}}}}") if not n else node(inputs, stack)

    return graph(_texts(one, size))


def graphs_and_operands(size: int) -> bytes:
    """A node with many subgraphs, and many operands for each."""
    inner = argument('{"as_graph":{"name":"g","graph":{"nodes":[],"inputs":[]}}}')
    operand = argument('{"as_tensor":{"name":"x"}}')
    inputs = [inner] * (size // 2 // len(inner)) + [operand] * (size // 2 // len(operand))
    return graph([node(",".join(inputs))])


def repeated_key(size: int) -> bytes:
    """An object with very many keys, the last one twice."""
    keys = _texts(lambda n: f'"{n:x}":0', size)
    return graph(["{" + ",".join([*keys, keys[-1]]) + "}"])


def repeated_weight(size: int) -> bytes:
    """A weights config with very many keys, the last one twice."""
    keys = _texts(lambda n: f'"{n:x}":0', size)
    return graph([], "," + ",".join([*keys, keys[-1]]))


def brackets(size: int) -> bytes:
    """Module names that are hard to split at commas."""
    return graph(_texts(lambda _: node(stack=",," + "[," * 1_000 + "],]" * 1_000), size))


def many_entries(size: int) -> bytes:
    """Many modules in one text."""
    return graph(_texts(lambda n: node(stack=";".join([f"{n},a.b,c"] * 500)), size))


def graph_of(piece: str) -> Build:
    """A node with a field that no reader needs, of one piece repeated."""

    def build(size: int) -> bytes:
        inner = ",".join([piece] * (size // (len(piece) + 1)))
        return graph([node(rest=f',"x":[{inner}]')])

    return build


GRAPH: Mapping[str, Build] = {
    "graphs and operands": graphs_and_operands,
    "a key twice": repeated_key,
    "a weight twice": repeated_weight,
    "brackets": brackets,
    "many modules of a node": many_entries,
    "empty objects": graph_of("{}"),
    "zeros": graph_of("0"),
    "graphs in each other": lambda size: graph([node("[" * size)]),
}
"""Attack by the graph of a `.pt2` -> builder."""
