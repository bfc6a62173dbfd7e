"""Pickles of state dicts, and hostile pickles, none of which may run code."""

import argparse
import io
import pickle
import pickletools
import struct
import zipfile
from collections import Counter, OrderedDict
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palettery.app.checkpoints import pickle_machine, torch_globals
from palettery.app.checkpoints.restricted_pickle import read_pickle
from palettery.app.checkpoints.torch_records import StorageRef, TensorRef, TorchDtype
from palettery.app.errors import BadInput, InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits


def pickled(thing, **how):
    """Return the `data.pkl` that torch writes."""
    buffer = io.BytesIO()
    torch.save(thing, buffer, **how)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def load(data, **limits):
    return read_pickle(data, Limits(**limits), name="file")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_is_read_whatever_the_protocol(protocol):
    state = torch.nn.Linear(3, 2).state_dict()
    assert hasattr(state, "_metadata")
    assert load(pickled(state, pickle_protocol=protocol)) == {
        "weight": TensorRef(StorageRef("float32", "0", "cpu", 6), "float32", 0, (2, 3), (3, 1)),
        "bias": TensorRef(StorageRef("float32", "1", "cpu", 2), "float32", 0, (2,), (1,)),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_is_read_as_it_is(protocol):
    shared = [1]
    plain = {
        "epoch": 3,
        "rate": 1e-4,
        "numbers": [0, 255, 256, 65_536, -1, 2**31, -(2**70), True, False, None],
        "text": "ü" * 300,
        "bytes": bytes(range(256)) * 2,
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "nested": {"empty": {}, "list": [], "ordered": OrderedDict(a=1)},
        "shared": [shared, shared],
    }
    value = load(pickled(plain, pickle_protocol=protocol))
    assert value == plain
    assert value["shared"][0] is value["shared"][1]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_loads_beside_tensors_is_read_too(protocol):
    plain = {
        "Counter": Counter("abba"),
        "empty Counter": Counter(),
        "set": {1},
        "empty set": set(),
        "bytearray": bytearray(b"ab"),
        "complex": 1 + 2j,
        "ordered": OrderedDict([("a", OrderedDict())]),
    }
    value = load(pickled(plain, pickle_protocol=protocol))
    assert value == {
        **{"Counter": {"a": 2, "b": 2}, "empty Counter": {}, "set": [1], "empty set": []},
        **{"bytearray": b"ab", "complex": 1 + 2j, "ordered": {"a": {}}},
    }


def test_keys_of_any_kind_are_read_and_are_no_text():
    keys = [0, 2**70, -1, 1.5, None, True, b"a", ("a", 1), frozenset]
    value = load(pickled(dict.fromkeys(keys[:-1], 1) | {"0": 2}))
    assert [str(key) for key in value] == [
        *("0", str(2**70), "-1", "1.5", "None", "True", "a bytes", "a tuple", "0")
    ]
    assert [type(key) is str for key in value] == [False] * 8 + [True]


def test_torch_values_are_read_as_records():
    attributed = torch.nn.Parameter(torch.ones(2))
    attributed.note = "mine"
    things = {
        "dtype": torch.bfloat16,
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda:1"),
        "buffer": torch.nn.Buffer(torch.ones(2)),
        "attributed": attributed,
    }
    value = load(pickled(things))
    assert value["dtype"] == TorchDtype("bfloat16")
    assert value["size"] == (2, 3)
    assert value["device"] == "cuda:1"
    assert value["buffer"].shape == value["attributed"].shape == (2,)


def test_a_pickle_that_holds_itself_is_read():
    endless = {"inner": []}
    endless["inner"].append(endless)
    value = load(pickled(endless))
    assert value["inner"][0] is value


class Canary:
    """An object that creates a file when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("canary"),)


class ByState:
    def __setstate__(self, state):
        Path("canary").touch()

    def __getstate__(self):
        return {"a": 1}


HOSTILE = {
    "itself": Canary(),
    "a value": {"w": torch.ones(1), "x": Canary()},
    "a key": {(1, Canary()): 1},
    "deep in a list": {"x": [[[(1, [Canary()])]]]},
    "by __setstate__": {"x": ByState()},
    "an attribute of a parameter": torch.nn.Parameter(torch.ones(1)),
    "a metadata attribute": OrderedDict(),
    "an exec": None,
    "behind a valid state dict": None,
}
HOSTILE["an attribute of a parameter"].note = Canary()
HOSTILE["a metadata attribute"]._metadata = Canary()


def hostile(kind):
    if kind == "an exec":
        return b"\x80\x02c__builtin__\nexec\nX\x1e\0\0\0open('canary', 'w').write('x') \x85R."
    if kind == "behind a valid state dict":
        return pickled({"w": torch.ones(1)}) + pickle.dumps(Canary())
    return pickled(HOSTILE[kind])


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_code_runs(kind, tmp_path, monkeypatch):
    data = hostile(kind)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput):
        load(data)
    assert not (tmp_path / "canary").exists()


def test_the_canaries_sing_when_loaded_for_real(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Canary()))  # noqa: S301 - that it is unsafe is what is shown
    assert (tmp_path / "canary").exists()


NAMED = {
    "torch.nn.modules.linear.Linear": torch.nn.Linear(1, 1),
    "argparse.Namespace": {"w": torch.ones(1), "args": argparse.Namespace(lr=1)},
    "numpy": {"loss": np.float64(1)},
    "functools.partial": {"x": partial(print)},
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_refused_is_named_with_a_way_out(name):
    with pytest.raises(UnsupportedFormat, match=name) as caught:
        load(pickled(NAMED[name]))
    assert "save model.state_dict() instead" in caught.value.detail


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\6tQ"
OPCODES = {
    "EXT1": b"\x82\1.",
    "EXT2": b"\x83\1\0.",
    "EXT4": b"\x84\1\0\0\0.",
    "NEWOBJ_EX": ORDERED + b")}\x92.",
    "OBJ": b"(" + ORDERED + b"o.",
    "LONG4": b"\x8b\2\0\0\0\1\1.",
    "INT": b"I1\n.",
    "PERSID": b"P0\n.",
    "FROZENSET": b"(\x91.",
    "NEXT_BUFFER": b"\x97.",
    "DUP": b"N2.",
    "PUT": b"Np0\n.",
    "DICT": b"(d.",
    "os.system": b"(S'true'\nios\nsystem\n.",
}


@pytest.mark.parametrize("opcode", OPCODES)
def test_opcodes_that_no_state_dict_needs_are_refused(opcode):
    with pytest.raises(UnsupportedFormat, match=opcode if opcode != "os.system" else "STRING"):
        load(b"\x80\x02" + OPCODES[opcode])


def test_an_instance_opcode_is_refused_by_the_name_it_carries():
    with pytest.raises(UnsupportedFormat, match=r"pickled os\.system"):
        load(b"\x80\x02(X\4\0\0\0trueios\nsystem\n.")


@pytest.mark.parametrize(
    "module", [b"os\\\nsystem", b"os\tsystem\nx", b"a" * 5_000 + b"\nb", b"torch\n__class__"]
)
def test_odd_names_are_shortened(module):
    with pytest.raises(BadInput) as caught:
        load(b"\x80\x02c" + module + b"\n.")
    assert len(caught.value.detail) < 500
    assert caught.value.detail.isprintable()


SIZES = b"K\2K\3\x86K\3K\1\x86"
BROKEN = {
    "nothing": b"",
    "no end": b"\x80\x02N",
    "two values": b"\x80\x02NN.",
    "no value": b"\x80\x02.",
    "a mark left": b"\x80\x02(N.",
    "bytes behind": b"\x80\x02N.N",
    "no such memo": b"\x80\x02h\5.",
    "a memo of nothing": b"\x80\x02q\0.",
    "a tuple of too few": b"\x80\x02N\x86.",
    "a tuple without a mark": b"\x80\x02Nt.",
    "a pop of nothing": b"\x80\x020.",
    "items of a list": b"\x80\x02]NNs.",
    "items of a class": b"\x80\x02" + ORDERED + b"NNs.",
    "an odd count of items": b"\x80\x02}(NNNu.",
    "append to a dict": b"\x80\x02}Na.",
    "append to nothing": b"\x80\x02Na.",
    "a call of text": b"\x80\x02X\1\0\0\0a)R.",
    "a call of a dtype": b"\x80\x02ctorch\nfloat32\n)R.",
    "a call of a result": b"\x80\x02" + ORDERED + b")R)R.",
    "a call with a list": b"\x80\x02" + ORDERED + b"]R.",
    "state of a function": b"\x80\x02" + TENSOR + b"}b.",
    "state of a class": b"\x80\x02ctorch\nFloatStorage\n}b.",
    "state of a storage": b"\x80\x02" + STORAGE + b"}b.",
    "state of a list": b"\x80\x02]}b.",
    "an ordered dict of numbers": b"\x80\x02" + ORDERED + b"]K\1a\x85R.",
    "an ordered dict of too much": b"\x80\x02" + ORDERED + b"NN\x86R.",
    "a tensor of nothing": b"\x80\x02" + TENSOR + b")R.",
    "a tensor of text": b"\x80\x02" + TENSOR + b"(X\1\0\0\0aK\0" + SIZES + b"\x89NtR.",
    "a tensor below zero": b"\x80\x02"
    + TENSOR
    + b"("
    + STORAGE
    + b"J\xff\xff\xff\xff"
    + SIZES
    + b"\x89NtR.",
    "a negative length": b"\x80\x02"
    + TENSOR
    + b"("
    + STORAGE
    + b"K\0J\xff\xff\xff\xff\x85K\1\x85"
    + b"\x89NtR.",
    "a length true": b"\x80\x02" + TENSOR + b"(" + STORAGE + b"K\0\x88\x85K\1\x85\x89NtR.",
    "a tensor of 65 axes": b"\x80\x02"
    + TENSOR
    + b"("
    + STORAGE
    + b"K\0("
    + b"K\1" * 65
    + b"t)"
    + b"\x89NtR.",
    "a tensor of metadata": b"\x80\x02" + TENSOR + b"(" + STORAGE + b"K\0" + SIZES + b"\x89NNNtR.",
    "an object of a list": ORDERED + b"]\x81.",
    "an object of arguments": ORDERED + b"]\x85\x81.",
    "a Counter of a list": b"\x80\x02ccollections\nCounter\n]\x85R.",
    "a set of a number": b"\x80\x02c__builtin__\nset\nK\1\x85R.",
    "a complex of text": b"\x80\x02c__builtin__\ncomplex\nX\1\0\0\0a\x85R.",
    "a device of 2**70": b"\x80\x02ctorch\ndevice\nX\4\0\0\0cuda\x8a\x09"
    + bytes(8)
    + b"\x40\x86R.",
    "a part of a storage out of it": b"\x80\x02"
    + STORAGE.replace(b"K\6t", b"K\6X\1\0\0\0vK\4K\3\x87t")
    + b".",
    "a storage of two sizes": b"\x80\x02" + STORAGE + STORAGE.replace(b"K\6", b"K\7") + b"\x86.",
    "a parameter of nothing": b"\x80\x02ctorch._utils\n_rebuild_parameter\nN\x88N\x87R.",
    "a storage that is text": b"\x80\x02X\1\0\0\0aQ.",
    "a storage without a type": b"\x80\x02"
    + STORAGE.replace(b"ctorch\nFloatStorage\n", b"N")
    + b".",
    "a storage of true elements": b"\x80\x02" + STORAGE.replace(b"K\6", b"\x88") + b".",
    "bytes that are no latin1": b"\x80\x02c_codecs\nencode\nX\3\0\0\0\xe2\x82\xacX\6\0\0\0latin1"
    + b"\x86R.",
    "another codec": b"\x80\x02c_codecs\nencode\nX\1\0\0\0aX\3\0\0\0zip\x86R.",
    "a class named by numbers": b"\x80\x04K\1K\2\x93.",
    "a text longer than the pickle": b"\x80\x02X\xff\xff\xff\x7fa.",
    "a text of 2**63 bytes": b"\x80\x04\x8d" + b"\xff" * 8 + b"a.",
    "a text that is no UTF-8": b"\x80\x02X\1\0\0\0\xff.",
    "an opcode that is none": b"\x80\x02\xff.",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_damaged_pickles_are_reported(kind):
    with pytest.raises(BadInput) as caught:
        load(BROKEN[kind])
    assert len(caught.value.detail) < 500
    assert isinstance(caught.value, InvalidModel) or kind == "a parameter of nothing"


def test_the_pieces_of_the_broken_pickles_are_sound():
    stored = StorageRef("float32", "0", "cpu", 6)
    assert load(b"\x80\x02" + STORAGE + b".") == stored
    whole = b"\x80\x02" + TENSOR + b"(" + STORAGE + b"K\0" + SIZES + b"\x89NtR."
    assert load(whole) == TensorRef(stored, "float32", 0, (2, 3), (3, 1))


def test_deep_nesting_is_read_without_recursion():
    depth = 200_000
    value = load(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    assert isinstance(value, list)
    value = load(b"\x80\x02N" + b"\x85" * depth + b".")
    assert isinstance(value, tuple)


def test_a_billion_laughs_stay_small():
    lines = b"".join(b"]q%c(" % (n + 1) + b"h%c" % n * 9 + b"e" for n in range(60))
    value = load(b"\x80\x02]q\0" + b"0" + lines.replace(b"e", b"e0", 59) + b".")
    assert len(value) == 9


def test_tuples_that_share_tuples_are_never_hashed():
    (key,) = load(b"\x80\x02}N\x85" + b"q\0h\0\x86" * 200 + b"Ns.")
    assert str(key) == "a tuple"


def test_calls_read_no_more_than_was_written():
    """A pickle of 58 KB could expand to gigabytes, by repeated calls with the same arguments."""
    pairs = b"](" + b"K\0K\1\x86" * 9_000 + b"e\x85"
    for calls, refused in ((5, False), (6, True)):
        data = b"\x80\x02" + ORDERED + b"q\0" + b"0" + pairs + b"q\x010" + b"h\0h\1R0" * calls
        with pytest.raises(TooLarge, match="one for each byte") if refused else nullcontext():
            load(data + b"N.")


def test_limits_hold(monkeypatch):
    with pytest.raises(TooLarge, match="11 bytes; 10"):
        load(b"\x80\x02" + b"N" * 8 + b".", header_bytes=10)
    monkeypatch.setattr(pickle_machine, "SPARE_OPCODES", 800)
    assert load(b"\x80\x02(" + b"N" * 996 + b"t.", tensors=10)
    with pytest.raises(TooLarge, match=r"1,000 opcodes; 800 .* 20 for each .*LIMIT_TENSORS"):
        load(b"\x80\x02(" + b"N" * 998 + b"t.", tensors=10)


def test_stand_ins_are_the_same_after_any_pickle():
    before = dict(torch_globals.GLOBALS)
    state = b"}X\5\0\0\0buildNs"
    for name in before:
        module, _, last = name.rpartition(".")
        for attack in (state + b"b.", b"N" + state + b"\x86b."):
            with pytest.raises(InvalidModel):
                load(f"\x80\x02c{module}\n{last}\n".encode("latin1") + attack)
    assert before == torch_globals.GLOBALS
    assert load(pickled({"w": torch.ones(1)}))["w"].shape == (1,)


WHOLE = pickled(torch.nn.Linear(3, 2).state_dict())


def test_truncation_at_every_byte_is_reported():
    for size in range(len(WHOLE)):
        with pytest.raises(BadInput):
            load(WHOLE[:size])


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(max_examples=300)
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
def test_damage_is_reported_or_harmless(flips):
    content = bytearray(WHOLE)
    for at, byte in flips:
        content[at % len(content)] = byte
    with suppress(BadInput):
        load(bytes(content))


CODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
PIECES = [*CODES, TENSOR, ORDERED, STORAGE, SIZES, b"K\1", struct.pack("<I", 1), b"h\0", b"q\0"]


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(max_examples=500)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=40))
def test_any_program_of_opcodes_is_reported_or_harmless(pieces):
    with suppress(BadInput):
        load(b"\x80\x02" + b"".join(pieces) + b".")
