"""Model files that cost a naive reader far more than their bytes, of any size, and honest ones.

Each function gives a file of about so many bytes; tests count the steps that reading it takes, and
`benchmarks.parsers` the seconds. No file needs more than 64 bytes for what it attacks to be there.
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
"""Whole numbers this far apart have the same hash."""


def text(value: str) -> bytes:
    """A text in a pickle."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """A whole number in a pickle."""
    if 0 <= value < 256:
        return b"K%c" % value
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a%c" % len(data) + data


def put(at: int) -> bytes:
    """Remembers the top of the stack."""
    return b"r" + struct.pack("<I", at)


def get(at: int) -> bytes:
    """Pushes what was remembered."""
    return b"j" + struct.pack("<I", at)


def storage(key: str, numel: int) -> bytes:
    """A reference to a storage of float32."""
    called = text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(numel)
    return b"(" + called + b"NtQ"


def tensor(key: str, shape: bytes, strides: bytes, numel: int = 1) -> bytes:
    """A tensor, its shape and strides given as pickled tuples."""
    return _TENSOR + b"(" + storage(key, numel) + b"K\0" + shape + strides + b"\x89}tR"


def legacy(body: bytes, *keys: str, numel: int = 1) -> bytes:
    """A legacy checkpoint: this is what was saved, and the storages that it refers to."""
    pickles = [number(MAGIC), number(1001), b"}", body, b"](" + b"".join(map(text, keys)) + b"e"]
    stored = struct.pack("<q", numel) + bytes(4 * numel)
    return b"".join(b"\x80\x02" + pickle + b"." for pickle in pickles) + stored * len(keys)


def state_dict(*items: tuple[str, bytes]) -> bytes:
    """A pickled dict."""
    return b"}(" + b"".join(text(key) + value for key, value in items) + b"u"


ONE = ("w", tensor("0", b"K\1\x85", b"K\1\x85"))
"""A tensor, for a state dict that is one."""


def among(values: bytes) -> bytes:
    """A state dict of one tensor, and of these values."""
    return legacy(state_dict(ONE, ("x", values)), "0")


def honest_legacy(size: int) -> bytes:
    """As torch writes it, which remembers what it writes again."""
    first = [text("storage"), b"ctorch\nFloatStorage\n", text("cpu"), _TENSOR, _ORDERED]
    items = [value + put(at) + b"0" for at, value in enumerate(first)]
    keys: list[str] = []
    items.append(get(4) + b")R" + put(5) + b"(")
    at, taken = count(6), 0
    while taken < size:
        keys.append(f"94082243{len(keys):06}")
        name = f"model.layers.{len(keys) // 4}.self_attn.{'qkvo'[len(keys) % 4]}_proj.weight"
        items += [text(name) + put(next(at)), get(3), b"(("]
        items += [get(0), get(1), text(keys[-1]) + put(next(at)), get(2), b"K\1Nt"]
        items += [put(next(at)), b"QK\0K\1K\1\x86", put(next(at)), b"K\1K\1\x86", put(next(at))]
        items += [b"\x89", get(4), b")R", put(next(at)), b"t", put(next(at)), b"R", put(next(at))]
        taken += sum(map(len, items[-20:])) + 30
    return legacy(b"".join(items) + b"u", *keys)


def _repeated(piece: bytes, size: int) -> bytes:
    return piece * (size // len(piece))


def shared_lists(size: int) -> bytes:
    """Lists of lists, all of them in every value of the state dict."""
    lists = b"](" + _repeated(b"]", size // 2) + b"e" + put(0) + b"0"
    items = [(f"{n:06}", get(0)) for n in range(size // 32)]
    return legacy(lists + state_dict(ONE, *items), "0")


def called_again(arguments: bytes, function: bytes) -> Build:
    """A function is called again and again with arguments that were made once."""

    def build(size: int) -> bytes:
        made = _repeated(arguments, size // 2)
        if arguments == b"a":
            made = text(made.decode()) + text("latin1") + b"\x86"
        elif arguments == b"K\1":
            made = b"(" + made[:128] + b"t\x85"
        else:
            made = b"](" + made + b"e\x85"
        calls = _repeated(b"h\1h\2R", size // 2)
        return among(function + b"q\x010" + made + b"q\x020](" + calls + b"e")

    return build


def wide_tensors(size: int) -> bytes:
    """Tensors of 64 axes, whose shape was made once, behind as many bytes as that takes."""
    made = (
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
    return legacy(made + state_dict(*items), "0")


def metadata_again(size: int) -> bytes:
    """Tensors that share a large dict of metadata."""
    made = state_dict(*((f"{n:06}", b"\x89") for n in range(size // 24))) + b"q\x010"
    made += storage("0", 1) + b"q\x020" + _TENSOR + b"q\x030)q\x040"
    entry = b"h\3(h\2K\0h\4h\4\x89}h\1tR"
    items = [(f"{n:06}", entry) for n in range(size // 2 // (len(entry) + 11))]
    return legacy(made + state_dict(*items), "0")


def one_tensor_many_names(size: int) -> bytes:
    """One tensor under as many short names as there is room for, each in a module of its own."""
    made = ONE[1] + b"q\x010"
    return legacy(made + state_dict(*((f"{n:x}.w", b"h\1") for n in range(size // 13))), "0")


def colliding_shapes(size: int) -> bytes:
    """Tensors without elements, whose shapes all have the same hash."""
    shapes = ((f"{n:06}", number(5 + n * _COLLISION)) for n in range(size // 140))
    items = [(key, tensor("0", b"K\0" + axis + b"\x86", b"K\1K\1\x86")) for key, axis in shapes]
    return legacy(state_dict(*items), "0")


def _chain(bits: int) -> tuple[int, list[int]]:
    """A number, and numbers that fill the places in which a dict of 2**bits looks for it.

    Source: `lookdict` in CPython's `Objects/dictobject.c`; a small whole number is its own hash.
    """
    wanted = (1 << bits) + 7
    at, perturb, filled = wanted, wanted, dict.fromkeys([wanted & ((1 << bits) - 1)])
    while len(filled) < (1 << bits) * 5 // 8:
        perturb >>= 5
        at = (5 * at + perturb + 1) & ((1 << bits) - 1)
        filled[at] = None
    return wanted, [*filled]


def colliding_keys(size: int) -> bytes:
    """A dict of numbers, searched through from one end to the other for each further one."""
    wanted, filled = _chain(max((size // 16).bit_length(), 4))
    numbers = b"}(" + b"".join(number(n) + b"N" for n in filled) + b"u"
    return among(numbers + _repeated(number(wanted) + b"Ns", size // 2))


def far_memo(size: int) -> bytes:
    """Numbers of what is remembered, searched through in the same way."""
    wanted, filled = _chain(max((size // 16).bit_length(), 4))
    puts = b"".join(map(put, [*filled, wanted]))
    return among(b"N" + puts + _repeated(get(wanted) + b"0", size // 2))


def equal_keys(size: int) -> bytes:
    """Two long texts, equal and not the same, in turn the key of a dict."""
    long = text("a" * (size // 4))
    made = long + b"q\x010" + long + b"q\x020"
    return among(made + b"}" + _repeated(b"h\1Nsh\2Ns", size // 2))


def opcodes(piece: bytes, end: bytes = b"") -> Build:
    """The same few opcodes again and again."""
    return lambda size: among(b"](" + _repeated(piece, size) + b"e" + end)


def _fitting(text_of: Callable[[int], str], size: int) -> list[str]:
    """As many texts as there is room for."""
    found, taken = [], 0
    for n in count():
        found.append(text_of(n))
        taken += len(found[-1]) + 2
        if taken >= size:
            return found
    raise AssertionError  # pragma: no cover - `count` has no end


def safetensors(entries: list[str], data_bytes: int = 0) -> bytes:
    """A safetensors file with these members of its header."""
    header = ("{" + ",".join(entries) + "}").encode()
    return len(header).to_bytes(8, "little") + header + bytes(data_bytes)


def _entry(name: str, begin: int = 0, end: int = 0, shape: str = "0") -> str:
    offsets = f'"data_offsets":[{begin},{end}]'
    return f'"{name}":{{"dtype":"F32","shape":[{shape}],{offsets}}}'


def honest_safetensors(size: int) -> bytes:
    """Tensors of one number each."""

    def entry(n: int) -> str:
        name = f"model.layers.{n // 4}.self_attn.{'qkvo'[n % 4]}_proj.weight"
        return _entry(name, 4 * n, 4 * n + 4, "1,1")

    entries = _fitting(entry, size)
    return safetensors(entries, 4 * len(entries))


def empty_tensors(name: str, shape: str = "0") -> Build:
    """Tensors without elements, of such names: `{n}` is a number."""
    return lambda size: safetensors(_fitting(lambda n: _entry(name.format(n=n), shape=shape), size))


def unknown_keys(piece: str) -> Build:
    """A member that no reader needs, made of the same piece again and again."""

    def build(size: int) -> bytes:
        inner = ",".join([piece] * (size // (len(piece) + 1)))
        return safetensors([f'{_entry("x")[:-1]},"y":[{inner}]}}'])

    return build


def metadata(size: int) -> bytes:
    """As many short texts as there is room for."""
    texts = _fitting(lambda n: f'"{n:x}":""', size)
    return safetensors([f'"__metadata__":{{{",".join(texts)}}}', _entry("x")])


def archive(members: Mapping[str, bytes]) -> bytes:
    """A zip archive as PyTorch writes it."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(f"m/{name}"), content)
    return buffer.getvalue()


def honest_zip(size: int) -> bytes:
    """A state dict of a single tensor among members that are not read."""
    body = b"\x80\x02" + state_dict(ONE).replace(b"K\1NtQ", b"K\1tQ") + b"."
    rest = {f"data/{n}": bytes(4) for n in range(size // 118)}
    return archive({"data.pkl": body, **rest})


def extra_fields(size: int) -> bytes:
    """Members with as many fields beside their names as there is room for."""
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
    """Members with names of many parts."""
    body = b"\x80\x02" + state_dict(ONE).replace(b"K\1NtQ", b"K\1tQ") + b"."
    rest = {f"data/{n}" + "/a" * 1_000: b"" for n in range(size // 4_100)}
    return archive({"data.pkl": body, "data/0": bytes(4), **rest})


def index(entries: list[str], rest: str = "") -> bytes:
    """An index of shards."""
    return f'{{"weight_map":{{{",".join(entries)}}}{rest}}}'.encode()


def honest_index(size: int) -> bytes:
    """Tensors in a single shard."""
    return index(_fitting(lambda n: f'"model.layers.{n}.self_attn.q_proj.weight":"model"', size))


def many_shards(size: int) -> bytes:
    """Each tensor in a shard of its own, in many folders."""
    return index(_fitting(lambda n: f'"{n}":"a/b/../{n}"', size))


def other_members(piece: str) -> Build:
    """An index with much beside it."""

    def build(size: int) -> bytes:
        inner = ",".join([piece] * (size // (len(piece) + 1)))
        return index(['"w":"model"'], f',"metadata":[{inner}]')

    return build


LEGACY: Mapping[str, Build] = {
    "shared lists": shared_lists,
    "OrderedDict called again": called_again(b"K\0K\1\x86", _ORDERED),
    "encode called again": called_again(b"a", _ENCODE),
    "Size called again": called_again(b"K\1", _SIZE),
    "set called again": called_again(b"N", b"c__builtin__\nset\n"),
    "tensors of 64 axes": wide_tensors,
    "metadata of all tensors": metadata_again,
    "one tensor of many names": one_tensor_many_names,
    "shapes of the same hash": colliding_shapes,
    "numbers that collide as keys": colliding_keys,
    "numbers that collide in the memo": far_memo,
    "long keys, equal and not the same": equal_keys,
    "lists": opcodes(b"]"),
    "dicts": opcodes(b"}"),
    "tuples in each other": lambda size: among(b"N" + b"\x85" * size),
    "marks": lambda size: among(b"(" * size + b"N"),
    "numbers": opcodes(b"K\1"),
    "short texts": lambda size: among(
        b"](" + b"".join(b"\x8c\x03%03x" % (n % 4096) for n in range(size // 5)) + b"e"
    ),
    "None pushed and popped": opcodes(b"N0"),
    "storages": lambda size: among(
        b"](" + storage("0", 1).replace(b"tQ", b"tq\1Q") + _repeated(b"h\1Q", size) + b"e"
    ),
    "names": lambda size: among(b"](" + _ORDERED + b"0" + _repeated(_SIZE, size) + b"e"),
}
"""What a legacy checkpoint attacks -> its build."""

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
"""What a safetensors header attacks -> its build."""

ZIP: Mapping[str, Build] = {"extra fields": extra_fields, "names of many parts": long_names}
"""What a zip directory attacks -> its build."""

INDEX: Mapping[str, Build] = {
    "a shard for each tensor": many_shards,
    "empty objects": other_members("{}"),
    "zeros": other_members("0"),
    "long numbers": other_members("9" * 4_000),
}
"""What an index of shards attacks -> its build."""


def graph(nodes: list[str], weights: str = "") -> bytes:
    """A `.pt2` with these nodes."""
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
    """A node of a graph."""
    said = f'"nn_module_stack":"{stack}","torch_fn":"linear_1;builtin_function_or_method.linear"'
    target = '"target":"torch.ops.aten.linear.default"'
    return f'{{{target},"inputs":[{inputs}],"outputs":[],"metadata":{{{said}}}{rest}}}'


def argument(value: str) -> str:
    """An argument of a node."""
    return f'{{"name":"a","arg":{value},"kind":1}}'


def honest_graph(size: int) -> bytes:
    """Linear layers, with the metadata that torch writes."""

    def one(n: int) -> str:
        inputs = ",".join(
            argument(f'{{"as_tensor":{{"name":"{name}_{n}"}}}}') for name in ("x", "w", "b")
        )
        stack = f",,Model;layers.{n},layers.{n},torch.nn.modules.linear.Linear"
        trace = ',"stack_trace":"File \\"model.py\\", line 10, in forward"'
        return node(inputs, stack).replace("}}", f"{trace}}}}}") if not n else node(inputs, stack)

    return graph(_fitting(one, size))


def graphs_and_operands(size: int) -> bytes:
    """A node with many graphs, and many operands for each."""
    inner = argument('{"as_graph":{"name":"g","graph":{"nodes":[],"inputs":[]}}}')
    operand = argument('{"as_tensor":{"name":"x"}}')
    inputs = [inner] * (size // 2 // len(inner)) + [operand] * (size // 2 // len(operand))
    return graph([node(",".join(inputs))])


def keys_twice(size: int) -> bytes:
    """An object with very many keys, the last of them twice."""
    keys = _fitting(lambda n: f'"{n:x}":0', size)
    return graph(["{" + ",".join([*keys, keys[-1]]) + "}"])


def weights_of_one(size: int) -> bytes:
    """A weights config in which the last key is there twice."""
    keys = _fitting(lambda n: f'"{n:x}":0', size)
    return graph([], "," + ",".join([*keys, keys[-1]]))


def brackets(size: int) -> bytes:
    """Names of modules that are hard to cut at commas."""
    return graph(_fitting(lambda _: node(stack=",," + "[," * 1_000 + "],]" * 1_000), size))


def many_entries(size: int) -> bytes:
    """Names of modules in one text."""
    return graph(_fitting(lambda n: node(stack=";".join([f"{n},a.b,c"] * 500)), size))


def graph_of(piece: str) -> Build:
    """A node with a field that no reader needs, made of the same piece again and again."""

    def build(size: int) -> bytes:
        inner = ",".join([piece] * (size // (len(piece) + 1)))
        return graph([node(rest=f',"x":[{inner}]')])

    return build


GRAPH: Mapping[str, Build] = {
    "graphs and operands": graphs_and_operands,
    "a key twice": keys_twice,
    "a weight twice": weights_of_one,
    "brackets": brackets,
    "many modules of a node": many_entries,
    "empty objects": graph_of("{}"),
    "zeros": graph_of("0"),
    "graphs in each other": lambda size: graph([node("[" * size)]),
}
"""What the graph of a `.pt2` attacks -> its build."""
