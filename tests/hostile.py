"""Uploads of strangers who mean harm, each built by a function of the canary's path.

The canary is a file that every pickle here makes when it is loaded.
"""

import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import torch

from benchmarks import attacks
from tests.forged import (
    Call,
    archived,
    changed,
    constant,
    export,
    ints,
    lying,
    safetensors_bytes,
    saved,
    sparse,
    tarred,
    tensor,
    weight,
    zipped,
)

Files = Mapping[str, bytes]
"""File name -> content."""

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
ENTRY = json.dumps(tensor()).encode()


@dataclass(frozen=True)
class Refused:
    """An upload, and what its refusal says."""

    files: Callable[[Path], Files]
    code: str
    said: str
    """A pattern."""


def bomb(canary: Path) -> object:
    """What makes the canary when it is unpickled, by a shell."""
    return Call(os.system, f"touch '{canary}'")


def pickled_bomb(canary: Path, protocol: int = 2) -> bytes:
    return pickle.dumps(bomb(canary), protocol)


def one(content: bytes, name: str = "model.safetensors") -> Callable[[Path], Files]:
    return lambda _: {name: content}


def late(content: Callable[[], bytes], name: str = "model.safetensors") -> Callable[[Path], Files]:
    """One file that takes long to build, or much memory."""
    return lambda _: {name: content()}


def header(text: bytes, size: int = 8) -> Callable[[Path], Files]:
    return one(safetensors_bytes(text, bytes(size)))


def tensors(size: int, **ranges: tuple[int, int]) -> Callable[[Path], Files]:
    said = {name: tensor(begin, end) for name, (begin, end) in ranges.items()}
    return one(safetensors_bytes(said, bytes(size)))


def index(**weight_map: str) -> Callable[[Path], Files]:
    """A sound shard with an index that is not."""
    shard = safetensors_bytes({"a": tensor()}, bytes(8))
    said = json.dumps({"weight_map": weight_map}).encode()
    return lambda _: {"1.safetensors": shard, "model.safetensors.index.json": said}


def stored(thing: Callable[[Path], object], **how: object) -> Callable[[Path], Files]:
    """What torch.save makes of a thing with a bomb in it."""
    return lambda canary: {"model.pt": saved(thing(canary), **how)}


def old(thing: Callable[[Path], object]) -> Callable[[Path], Files]:
    """What torch.save made of it before version 1.6."""
    return stored(thing, _use_new_zipfile_serialization=False)


@cache
def sound_legacy() -> bytes:
    return saved({"w": torch.ones(4, 4)}, _use_new_zipfile_serialization=False)


def lie(*said: object) -> Callable[[Path], Files]:
    return lambda _: {"model.pt": lying(said)}


def module_with_bomb(canary: Path) -> object:
    module = torch.nn.Linear(2, 2)
    module.note = bomb(canary)
    return module


def torchscript(bad: str) -> Callable[[Path], Files]:
    """A TorchScript archive, with a bomb for one of its pickles."""

    def build(canary: Path) -> Files:
        names = ("data.pkl", "constants.pkl", "code/__torch__.py", "code/__torch__.py.debug_pkl")
        bombed = [(name, pickled_bomb(canary) if name == bad else b"") for name in names]
        return {"model.pt": archived(*bombed)}

    return build


@cache
def sound_pt2() -> Files:
    """The members of what torch exports, by name below its root."""
    torch.manual_seed(0)
    with zipfile.ZipFile(BytesIO(export(torch.nn.Linear(4, 4), torch.ones(1, 4)))) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def pt2(
    *changes: tuple[str, Callable[[dict], object]], bombs: tuple[str, ...] = ()
) -> Callable[[Path], Files]:
    """An export with changes of its JSON members, and bombs for other members."""

    def build(canary: Path) -> Files:
        members = dict(sound_pt2())
        for member, change in changes:
            members = changed(members, member, change)
        members |= dict.fromkeys(bombs, pickled_bomb(canary))
        return {"model.pt2": archived(*members.items())}

    return build


def pt2_with(member: str, content: bytes) -> Callable[[Path], Files]:
    return lambda _: {"model.pt2": archived(*{**sound_pt2(), member: content}.items())}


def lying_weight(**said: object) -> Callable[[Path], Files]:
    return pt2((WEIGHTS, weight("weight", **said)))


def symbol(canary: Path) -> dict:
    """A size that makes the canary when it is evaluated."""
    return {"as_expr": {"expr_str": f"__import__('os').system('touch {canary}')", "hint": None}}


def symbolic_sizes(canary: Path) -> Files:
    return lying_weight(sizes=[symbol(canary), symbol(canary)])(canary)


def symbolic_graph(canary: Path) -> Files:
    """Expressions where they may stand: nothing reads them."""

    def change(said: dict) -> None:
        said["guards_code"] = [symbol(canary)["as_expr"]["expr_str"]]
        graph = said["graph_module"]["graph"]
        graph["sym_int_values"] = {"s0": symbol(canary)}
        for value in graph["tensor_values"].values():
            value["sizes"] = [symbol(canary) for _ in value["sizes"]]

    return pt2((GRAPH, change))(canary)


def take_custom_object(said: dict) -> None:
    held = {"name": "obj", "class_fqn": "__torch__.Evil"}
    taken = {"custom_obj": {"arg": held, "custom_obj_name": "evil"}}
    said["graph_module"]["signature"]["input_specs"].append(taken)


def many_members(_: Path) -> Files:
    with tempfile.NamedTemporaryFile() as file:
        sparse(Path(file.name), [0] * 250_065)
        return {"model.pt": Path(file.name).read_bytes()}


def deflated(_: Path) -> Files:
    bytes_of_zeros = (("m/data.pkl", bytes(128 << 20)),)
    return {"model.pt": zipped(bytes_of_zeros, compression=zipfile.ZIP_DEFLATED)}


def old_pt2(canary: Path) -> Files:
    members = (
        ("serialized_exported_program.json", b"{}"),
        ("serialized_state_dict.pt", pickled_bomb(canary)),
    )
    return {"model.pt2": zipped(members)}


W = torch.ones(4, 4)
SAME_BYTES = torch.ones(1).expand(2**20, 2**20)
BASE = torch.ones(20_000)
VIEWS = {f"w{n}": BASE[n : n + 18_000] for n in range(20)}

REFUSED: Mapping[str, Refused] = {
    # safetensors
    "ranges that overlap": Refused(
        tensors(12, a=(0, 8), b=(4, 12)), "invalid_model", "'b' overlaps that of 'a'"
    ),
    "a range behind the end": Refused(tensors(8, a=(4, 12)), "invalid_model", "hole"),
    "storage shorter than its tensor": Refused(tensors(7, a=(0, 8)), "invalid_model", "truncated"),
    "a tensor twice": Refused(
        header(b'{"x":%b,"x":%b}' % (ENTRY, ENTRY)), "invalid_model", "'x' twice"
    ),
    "a header of 100 MB": Refused(
        late(lambda: (100 << 20).to_bytes(8, "little") + b"{" + bytes((100 << 20) - 1)),
        "too_large",
        "header of 104,857,600 bytes; 67,108,864 are allowed",
    ),
    "a header of 2**63 bytes": Refused(
        one((1 << 63).to_bytes(8, "little") + b"{}"), "too_large", "9,223,372,036,854,775,808"
    ),
    "a header of 60 MB without an end": Refused(
        late(lambda: safetensors_bytes(b'{"' + b"a" * (60 << 20), bytes(8))),
        "invalid_model",
        "an invalid string",
    ),
    "a name of 1 MB": Refused(
        header(b'{"%b":%b}' % (b"n" * (1 << 20), ENTRY)), "invalid_model", "1,048,576 characters"
    ),
    "a deep header": Refused(header(b'{"x":' + b'{"a":' * 9**6), "invalid_model", "too deep"),
    "a header of deep lists": Refused(
        header(b'{"x":{"shape":' + b"[" * 6000 + b"]" * 6000 + b"}}"), "invalid_model", "too deep"
    ),
    "a length of 400 digits": Refused(
        header(b'{"x":%b}' % ENTRY.replace(b"[2]", b"[1%b]" % (b"0" * 400))),
        "invalid_model",
        r"whole numbers from 0 to 2\*\*63",
    ),
    "a length of 100,000 digits": Refused(
        header(b'{"x":%b}' % ENTRY.replace(b"[2]", b"[1%b]" % (b"0" * 100_000))),
        "invalid_model",
        "valid JSON",
    ),
    "lengths that multiply to none": Refused(
        header(b'{"x":%b}' % ENTRY.replace(b"[2]", b"[0,9%b]" % (b"9" * 30)), 0),
        "invalid_model",
        "whole numbers from 0",
    ),
    "a header of 5,000,000 values": Refused(
        late(lambda: safetensors_bytes(b'{"x":[%b0]}' % (b"0," * 5_000_000), bytes(8))),
        "too_large",
        "LIMIT_TENSORS",
    ),
    "names of 500 parts": Refused(
        late(lambda: attacks.empty_tensors("{n}" + ".a" * 490)(2 << 20)),
        "too_large",
        "shorter paths",
    ),
    # index.json
    "an index that points above": Refused(index(a="../../etc/passwd"), "invalid_model", "lacks"),
    "an index of an absolute path": Refused(index(a="/etc/passwd"), "invalid_model", "lacks"),
    "an index of a path out and in": Refused(
        index(a="x/../1.safetensors"), "invalid_model", "lacks"
    ),
    "an index of 200,000 shards": Refused(
        lambda _: {
            "1.safetensors": safetensors_bytes({"a": tensor()}, bytes(8)),
            "i.json": attacks.many_shards(4 << 20),
        },
        "invalid_model",
        "which the upload lacks",
    ),
    "a shard of a million": Refused(
        one(safetensors_bytes({"a": tensor()}, bytes(8)), "x-00001-of-999999.safetensors"),
        "invalid_model",
        "1 of the 999,999 shards",
    ),
    "an index of deep JSON": Refused(
        one(b'{"weight_map":' + b'{"a":' * 100_000, "a.index.json"),
        "invalid_model",
        "instead of a string",
    ),
    "deep JSON": Refused(one(b"[" * 10**6), "unsupported_format", "neither an index"),
    # Zip archives and what their tensors say
    "deflated members": Refused(deflated, "unsupported_format", "'m/data.pkl' is compressed"),
    "a member above the root": Refused(
        one(zipped([("m/data.pkl", b""), ("m/../../x", b"")])), "invalid_model", "plain paths"
    ),
    "an absolute member": Refused(
        one(zipped([("/etc/passwd", b"x")])), "invalid_model", "plain paths"
    ),
    "a member twice": Refused(
        one(zipped([("m/data.pkl", b"1"), ("m/data.pkl", b"2")])), "invalid_model", "twice"
    ),
    "250,065 members": Refused(
        many_members, "too_large", "250,065 members; 64 are allowed, and one for each tensor"
    ),
    "strides of 0": Refused(lie(6, 0, (2**40,), (0,)), "invalid_model", "share bytes"),
    "2**40 elements in one": Refused(
        stored(lambda _: {"w": SAME_BYTES}), "invalid_model", "share bytes"
    ),
    "strides behind the end": Refused(lie(6, 0, (2,), (6,)), "invalid_model", "ends at byte 28"),
    "huge strides": Refused(lie(6, 0, (2,), (2**62,)), "invalid_model", "ends at byte more than"),
    "absurd strides": Refused(lie(6, 0, (2,), (2**70,)), "invalid_model", "whole number from 0"),
    "a storage said too long": Refused(
        lie(2**50, 0, (2**50,), (1,)), "invalid_model", "should have .* and has 24"
    ),
    "views that multiply": Refused(stored(lambda _: VIEWS), "too_large", "8 times the file's size"),
    # Pickles
    "a pickle in data.pkl": Refused(
        lambda canary: {"model.pt": archived(("data.pkl", pickled_bomb(canary)))},
        "unsupported_format",
        "pickled posix.system: loading it would run code",
    ),
    "a pickle beside tensors": Refused(
        stored(lambda canary: {"w": W, "x": bomb(canary)}), "unsupported_format", "posix.system"
    ),
    "a pickle in the optimizer": Refused(
        stored(lambda canary: {"model": {"w": W}, "optimizer": [bomb(canary)]}),
        "unsupported_format",
        "posix.system",
    ),
    "a legacy .pt": Refused(
        old(lambda canary: {"w": W, "x": bomb(canary)}),
        "unsupported_format",
        "pickled posix.system: loading it would run code",
    ),
    "a legacy module": Refused(
        old(module_with_bomb), "unsupported_format", r"pickled torch\.nn\.modules\.linear"
    ),
    "a legacy .pt, a bomb for its machine": Refused(
        lambda canary: {"model.pt": sound_legacy()[:21] + pickled_bomb(canary)},
        "unsupported_format",
        "posix.system",
    ),
    "a legacy .pt, a bomb for its keys": Refused(
        lambda canary: {
            "model.pt": sound_legacy()[: sound_legacy().rindex(b"\x80\x02")] + pickled_bomb(canary)
        },
        "unsupported_format",
        "posix.system",
    ),
    "a legacy .pt cut short": Refused(
        one(sound_legacy()[:-8], "model.pt"), "invalid_model", "is truncated"
    ),
    "a legacy .pt with a tail": Refused(
        one(sound_legacy() + bytes(8), "model.pt"), "invalid_model", "bytes after its end"
    ),
    "a legacy storage of 2**60 elements": Refused(
        one(
            attacks.legacy(
                attacks.state_dict(
                    ("w", attacks.tensor("0", b"K\1\x85", b"K\1\x85", numel=1 << 60))
                ),
                "0",
            ),
            "model.pt",
        ),
        "invalid_model",
        "is truncated",
    ),
    "a legacy text of 2**32 bytes": Refused(
        one(sound_legacy()[:21] + b"\x80\x02X\xff\xff\xff\xff", "model.pt"),
        "invalid_model",
        "too early",
    ),
    "a legacy pickle of 70 MB": Refused(
        late(lambda: sound_legacy()[:21] + b"\x80\x02" + b"]0" * (35 << 20), "model.pt"),
        "too_large",
        "over 5,010,000 opcodes.*LIMIT_TENSORS",
    ),
    "a tar archive of PyTorch 0.1": Refused(
        one(tarred("pickle", b"x"), "model.pt"), "unsupported_format", "before 0.2"
    ),
    "a call again and again": Refused(
        late(lambda: attacks.LEGACY["OrderedDict called again"](1 << 20), "model.pt"),
        "too_large",
        "one for each byte",
    ),
    "bytes made again and again": Refused(
        late(lambda: attacks.LEGACY["encode called again"](1 << 20), "model.pt"),
        "too_large",
        "one for each byte",
    ),
    "a tensor of 80,000 names": Refused(
        late(lambda: attacks.one_tensor_many_names(1 << 20), "model.pt"),
        "too_large",
        "save each tensor once",
    ),
    "memo numbers that collide": Refused(
        late(lambda: attacks.far_memo(1 << 20), "model.pt"), "invalid_model", "a number in its memo"
    ),
    "shapes that collide": Refused(
        late(lambda: attacks.colliding_shapes(1 << 20), "model.pt"),
        "invalid_model",
        "whole number from 0",
    ),
    "1,000,000 marks": Refused(
        late(lambda: attacks.LEGACY["marks"](1 << 20), "model.pt"), "invalid_model", "damaged"
    ),
    "a bare pickle": Refused(
        lambda canary: {"model.pt": pickled_bomb(canary, 4)}, "unsupported_format", "never opened"
    ),
    "a pickle of protocol 0": Refused(
        lambda canary: {"model.pt": pickled_bomb(canary, 0)}, "unsupported_format", "never opened"
    ),
    "a pickled module": Refused(
        stored(module_with_bomb), "unsupported_format", r"pickled torch\.nn\.modules\.linear"
    ),
    **{
        f"TorchScript, {name}": Refused(torchscript(name), "unsupported_format", "TorchScript")
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py.debug_pkl")
    },
    # .pt2
    "pt2, a pickled weight": Refused(
        pt2((WEIGHTS, weight("weight", use_pickle=True)), bombs=("data/weights/weight_0",)),
        "unsupported_format",
        "'weight' is stored as a pickle",
    ),
    "pt2, pickled weights": Refused(
        pt2(bombs=("data/weights/model.pt",)),
        "unsupported_format",
        "a pickle in the format of torch 2.8",
    ),
    "pt2, pickled constants": Refused(
        pt2(bombs=("data/constants/model.pt",)),
        "unsupported_format",
        "a pickle in the format of torch 2.8",
    ),
    "pt2, a pickled constant": Refused(
        pt2((CONSTANTS, constant("tensor_9", use_pickle=True)), bombs=("data/constants/tensor_9",)),
        "unsupported_format",
        "constant 'c' is an object stored as a pickle",
    ),
    "pt2, an opaque constant": Refused(
        pt2(
            (CONSTANTS, constant("opaque_obj_0", use_pickle=True)),
            bombs=("data/constants/opaque_obj_0",),
        ),
        "unsupported_format",
        "constant 'c' is an object stored as a pickle",
    ),
    "pt2, a custom object": Refused(
        pt2(
            (CONSTANTS, constant("custom_obj_0", use_pickle=False)),
            bombs=("data/constants/custom_obj_0",),
        ),
        "unsupported_format",
        "constant 'c' is an object stored as a pickle",
    ),
    "pt2, a custom object in the graph": Refused(
        pt2((GRAPH, take_custom_object)), "unsupported_format", "custom object"
    ),
    "pt2 of an old torch": Refused(
        old_pt2, "unsupported_format", "an old PyTorch, with pickled weights"
    ),
    "pt2, symbolic sizes": Refused(symbolic_sizes, "invalid_model", "symbolic expression"),
    "pt2, strides of 0": Refused(
        lying_weight(sizes=ints(1 << 40, 1), strides=ints(0, 1)), "invalid_model", "share bytes"
    ),
    "pt2, strides behind the end": Refused(
        lying_weight(strides=ints(1 << 62, 1)), "invalid_model", "exceeds the 64 bytes"
    ),
    "pt2, a weight outside": Refused(
        lying_weight(path_name="../../etc/passwd"), "invalid_model", "must be a member"
    ),
    "pt2, a deep graph": Refused(pt2_with(GRAPH, b"[" * 10**6), "invalid_model", "too deep"),
    "pt2, a weight twice": Refused(
        pt2_with(WEIGHTS, b'{"config": {"w": {}, "w": {}}}'), "invalid_model", "'w' occurs twice"
    ),
    "pt2, 5,000,000 values": Refused(
        lambda canary: pt2_with(GRAPH, b"[%b0]" % (b"0," * 5_000_000))(canary),
        "too_large",
        "16 for each tensor",
    ),
    "pt2, 100,000 keys and one twice": Refused(
        late(lambda: attacks.repeated_key(1 << 20), "model.pt2"), "invalid_model", "occurs twice"
    ),
    "pt2, a name of 60,000 characters": Refused(
        lambda _: {
            "model.pt2": archived(
                *(
                    (name.replace("/model", "/" + "m" * 60_000), held)
                    for name, held in sound_pt2().items()
                )
            )
        },
        "unsupported_format",
        "a zip archive, but not of PyTorch",
    ),
    # Other
    "ONNX": Refused(one(b"\x08\x08\x12\x07pytorch\x1a\x052.0.0"), "unsupported_format", "ONNX"),
}

INPUTS: Mapping[str, Callable[[Path], bytes]] = {
    "a pickle": lambda canary: saved({"input": bomb(canary)}),
    "a range behind the end": lambda _: safetensors_bytes({"input": tensor(4, 12)}, bytes(8)),
    "a header of 2**63 bytes": lambda _: (1 << 63).to_bytes(8, "little"),
    "a huge shape": lambda _: safetensors_bytes(
        {"input": tensor(0, 8, shape=(1 << 62, 4))}, bytes(8)
    ),
    "nothing": lambda _: b"",
}
"""Files that are no inputs of a model."""

NAMES = ("../../x", "/etc/passwd", "..\\..\\x", "x/../../../y", "~/x", "%2e%2e/x", "$(touch x)")
OTHER_DTYPES = (
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int64, torch.uint8, torch.bool),
    torch.complex64,
)


def oddly_named(_: Path) -> Files:
    return {"model.pt": saved({name: torch.randn(8, 8) for name in NAMES})}


def not_floats(_: Path) -> Files:
    return {"model.pt": saved({str(kind): torch.ones(8, 8).to(kind) for kind in OTHER_DTYPES})}


def attacked(attack: str) -> Callable[[Path], Files]:
    """A legacy checkpoint with much beside its tensor, which nothing should look at for long."""
    return late(lambda: attacks.LEGACY[attack](1 << 20), "model.pt")


ACCEPTED: Mapping[str, Callable[[Path], Files]] = {
    "a legacy .pt of a big-endian machine": lambda _: {
        "model.pt": sound_legacy().replace(b"little_endianq\2\x88", b"little_endianq\2\x89")
    },
    "lists in every value": attacked("shared lists"),
    "numbers that collide as keys": attacked("numbers that collide as keys"),
    "long keys that are equal": attacked("long keys, equal and not the same"),
    "names that are paths": oddly_named,
    "dtypes that are no floats": not_floats,
    "pt2, pickled sample inputs": pt2(bombs=("data/sample_inputs/model.pt",)),
    "pt2, a symbolic graph": symbolic_graph,
}
"""What looks bad and is harmless, for nothing of it is ever opened or used as a path."""
