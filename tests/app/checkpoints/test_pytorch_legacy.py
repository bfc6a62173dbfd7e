"""Checkpoints of torch before 1.6, compared with torch byte for byte, and forged ones."""

import io
import pickle
import struct
from collections import OrderedDict
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.attacks import legacy, number, state_dict, storage, text
from benchmarks.attacks import tensor as pickled_tensor
from palettery.app.checkpoints import pytorch_legacy
from palettery.app.checkpoints.file_formats import detect_format
from palettery.app.errors import BadInput, InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits
from tests.app.checkpoints.test_pytorch_zip import DTYPES, random_bytes, same
from tests.forged import Call, saved


def old(thing, **how):
    """Return the bytes that torch.save wrote before version 1.6."""
    return saved(thing, _use_new_zipfile_serialization=False, **how)


@pytest.fixture
def tensors_of(read):
    """Return a function from a file's bytes to its tensors by name."""

    def tensors(content, **limits):
        checkpoint = read({"m.pt": content}, Limits(**limits))
        assert checkpoint.format == "pytorch_legacy"
        return {tensor.name: tensor for tensor in checkpoint.tensors}

    return tensors


@pytest.fixture
def checked(tensors_of):
    """Return a function that saves an object, reads it and compares its tensors."""

    def check(thing, state=None, **how):
        content = old(thing, **how)
        loaded = torch.load(io.BytesIO(content), weights_only=True)
        tensors = tensors_of(content)
        names = [name for one in tensors.values() for name in (one.name, *one.aliases)]
        state = thing if state is None else state
        assert sorted(names) == sorted(state)
        for name, stored in tensors.items():
            data = content[stored.offset : stored.offset + stored.size_bytes]
            assert same(stored, data, state[name]), name
            assert loaded is not None
        return tensors

    return check


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_is_read(tensors_of, protocol):
    state = {str(dtype): random_bytes(dtype, 3, 4) for dtype in DTYPES}
    content = old(state, pickle_protocol=protocol)
    tensors = tensors_of(content)
    assert len(tensors) == len(DTYPES)
    for name, stored in tensors.items():
        data = content[stored.offset : stored.offset + stored.size_bytes]
        assert same(stored, data, state[name]), name


def test_a_module_is_read_in_its_order(checked):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LSTM(4, 2), nn.Linear(2, 2))
    state = module.state_dict()
    assert list(checked(state)) == list(state)
    checked(dict(module.named_parameters()))
    checked(module.state_dict(keep_vars=True))


def test_views_and_shared_storages_are_read(checked):
    base = torch.randn(6, 8)
    views = {"whole": base, "turned": base.t(), "rows": base[2:4], "steps": base[1::2, ::3]}
    tensors = checked({**views, "tied": base, "scalar": torch.tensor(7), "none": torch.zeros(0, 4)})
    assert tensors["whole"].aliases == ("tied",)
    assert tensors["rows"].offset - tensors["whole"].offset == 64
    assert tensors["turned"].strides == (1, 8)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module"])
def test_a_training_checkpoint_gives_its_state_dict(checked, key):
    module = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    rest = {"epoch": 3, "loss": torch.tensor(0.1), "optimizer": optimizer.state_dict()}
    checked({key: module.state_dict(), **rest}, module.state_dict())


def test_shards_are_merged(read):
    one, two = old({"a.weight": torch.ones(2, 2)}), old({"b.weight": torch.ones(2, 2)})
    checkpoint = read({"m-00001-of-00002.bin": one, "m-00002-of-00002.bin": two})
    assert [(tensor.name, tensor.file) for tensor in checkpoint.tensors] == [
        ("a.weight", 0),
        ("b.weight", 1),
    ]
    mixed = read({"1.bin": one, "2.bin": saved({"b.weight": torch.ones(2, 2)})})
    assert len(mixed.tensors) == 2


def test_bytes_are_little_endian_whatever_machine_wrote_them(tensors_of):
    """`THPStorage_writeFileRaw` swaps them; torch ignores the byte order flag."""
    content = old({"w": torch.arange(4)})
    assert content.count(b"little_endianq\2\x88") == 1
    big = content.replace(b"little_endianq\2\x88", b"little_endianq\2\x89")
    assert (torch.load(io.BytesIO(big), weights_only=True)["w"] == torch.arange(4)).all()
    assert tensors_of(big) == tensors_of(content)


def test_pickles_longer_than_the_first_read_are_read(tensors_of, monkeypatch):
    monkeypatch.setattr(pytorch_legacy, "FIRST_BYTES", 16)
    content = old({f"layer.{n}": torch.full((2,), n) for n in range(100)})
    tensors = tensors_of(content)
    assert len(tensors) == 100
    for n in range(100):
        at = tensors[f"layer.{n}"].offset
        assert struct.unpack_from("<2q", content, at) == (n, n)


def test_a_part_of_a_storage_is_read_as_torch_does(tensors_of):
    """PyTorch before 0.4 pickled a slice of a storage as its root, offset and length."""
    part = storage("0", 6).replace(b"NtQ", text("view") + b"K\2K\3\x87tQ")
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + part + b"K\1K\2\x85K\1\x85\x89}tR"
    content = legacy(state_dict(("w", tensor)), "0", numel=6)
    content = content[:-24] + struct.pack("<6f", *range(6))
    assert torch.load(io.BytesIO(content), weights_only=True)["w"].tolist() == [3.0, 4.0]
    at = tensors_of(content)["w"].offset
    assert struct.unpack_from("<2f", content, at) == (3.0, 4.0)


def test_names_of_python_2_and_storages_of_gpus_are_read(tensors_of):
    entry = pickled_tensor("0", b"K\1\x85", b"K\1\x85").replace(b"ctorch\n", b"ctorch.cuda\n")
    body = b"}(U\6caf\xc3\xa9w" + entry.replace(text("cpu"), b"U\6cuda:0") + b"u"
    content = legacy(body, "0")
    loaded = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    assert list(loaded) == list(tensors_of(content)) == ["caféw"]


class Canary:
    def __reduce__(self):
        return exec, ("raise SystemExit",)


REFUSED = {
    "a module": (nn.Linear(1, 1), r"pickled torch\.nn\.modules\.linear\.Linear"),
    "a module in a dict": ({"model": nn.Linear(1, 1)}, r"linear\.Linear"),
    "a canary": ({"w": torch.ones(1), "x": Canary()}, r"pickled __builtin__\.exec"),
    "a canary in the optimizer": ({"model": {"w": torch.ones(1)}, "opt": [Canary()]}, "pickled"),
    "a tensor": (torch.ones(1), "a single tensor"),
    "sparse": ({"w": torch.eye(3).to_sparse()}, r"'w' is a sparse tensor; call \.to_dense\(\)"),
    "complex128": ({"w": torch.ones(1, dtype=torch.complex128)}, "dtype complex128; allowed are"),
    "no tensors": ({"epoch": 1}, "no tensors in it"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_things_are_refused_with_a_way_out(tensors_of, kind):
    thing, message = REFUSED[kind]
    with pytest.raises(UnsupportedFormat, match=message):
        tensors_of(old(thing))


SOUND = old(OrderedDict(a=torch.arange(3), b=torch.ones(2)))
KEYS = SOUND[SOUND.rindex(b"\x80\x02") :]


def with_keys(*keys):
    """Return the valid file with other keys of its storages."""
    pickled = pickle.dumps([*keys], 2)
    end = KEYS.index(b".") + 1
    return SOUND[: -len(KEYS)] + pickled + KEYS[end:]


def key_of(place):
    return pickle.loads(KEYS)[place]  # noqa: S301 - our own


ONE = ("w", pickled_tensor("0", b"K\1\x85", b"K\1\x85"))
HUGE = ("w", pickled_tensor("0", b"K\1\x85", b"K\1\x85", 1 << 60))
LIES = {
    "bytes behind": (SOUND + b"\0", "has bytes after its end"),
    "two files in one": (SOUND + SOUND, "has bytes after its end"),
    "bytes missing": (SOUND[:-1], "is truncated: its storages end at byte"),
    "no storages": (SOUND[: -len(KEYS) + KEYS.index(b".") + 1], "is truncated"),
    "a count of elements that lies": (
        SOUND.replace(struct.pack("<q", 3), struct.pack("<q", 4)),
        "has 4 elements, and must have 3",
    ),
    "a negative count": (
        SOUND.replace(struct.pack("<q", 3), struct.pack("<q", -3)),
        "18,446,744,073,709,551,613 elements",
    ),
    "a key that no tensor uses": (with_keys(key_of(0), key_of(1), "9"), "names '9' twice, or no"),
    "a key twice": (with_keys(key_of(0), key_of(0)), "twice, or no tensor"),
    "a key that is missing": (with_keys(key_of(0)), "has bytes after"),
    "a key that is a number": (with_keys(0), "names '0' twice, or no tensor"),
    "keys that are no list": (SOUND[: -len(KEYS)] + b"\x80\x02N.", "no list of keys"),
    "a storage of 2**60 elements": (legacy(state_dict(HUGE), "0"), "is truncated: its storages"),
    "no key for a storage": (legacy(state_dict(ONE)), "lies in the storage '0', which the"),
    "a tensor behind its storage": (
        legacy(state_dict(("w", pickled_tensor("0", b"K\2\x85", b"K\1\x85"))), "0"),
        "ends at byte 8 of a storage of 4",
    ),
    "a storage of two sizes": (
        legacy(state_dict(ONE, ("v", storage("0", 2))), "0"),
        "two sizes",
    ),
    "elements that share bytes": (
        legacy(state_dict(("w", pickled_tensor("0", b"J\0\0\0\1\x85", b"K\0\x85"))), "0"),
        "share bytes",
    ),
    "another magic number later": (
        SOUND[:15] + b"\x80\x02" + number(7) + b"." + SOUND[21:],
        "not of version 1001",
    ),
    "a text that never ends": (SOUND[:21] + b"\x80\x02X\xff\xff\xff\x7f" + bytes(90), "too early"),
    "pickles alone": (SOUND[:21], "too early"),
}


@pytest.mark.parametrize("kind", LIES)
def test_inconsistent_files_are_rejected(tensors_of, kind):
    content, message = LIES[kind]
    with pytest.raises(BadInput, match=message) as caught:
        tensors_of(content)
    assert isinstance(caught.value, InvalidModel) or kind == "another magic number later"
    assert len(caught.value.detail) < 500


def test_the_tests_own_files_are_sound(tensors_of):
    assert tensors_of(SOUND).keys() == {"a", "b"}
    assert tensors_of(with_keys(key_of(0), key_of(1))) == tensors_of(SOUND)
    assert tensors_of(legacy(state_dict(ONE), "0"))["w"].size_bytes == 4


def test_limits_hold(tensors_of):
    with pytest.raises(
        TooLarge, match=r"pickles take over 100 bytes.*PALETTERY_LIMIT_HEADER_BYTES"
    ):
        tensors_of(SOUND, header_bytes=100)
    with pytest.raises(TooLarge, match=r"2 tensors; 1 are allowed \(PALETTERY_LIMIT_TENSORS\)"):
        tensors_of(SOUND, tensors=1)
    base = torch.ones(20_000)
    with pytest.raises(TooLarge, match="8 times"):
        tensors_of(old({f"w{n}": base[n : n + 18_000] for n in range(20)}))


def test_truncation_at_every_byte_is_reported(read):
    for size in range(len(SOUND)):
        with pytest.raises(BadInput):
            read({"m.pt": SOUND[:size]})


@settings(max_examples=200)
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
def test_damage_is_reported_or_harmless(flips, tmp_path_factory):
    from palettery.app.checkpoints.pytorch_legacy import read_pytorch_legacy
    from palettery.app.storage.open import open_storage
    from palettery.schemas.checkpoint import StoredFile

    content = bytearray(SOUND)
    for at, byte in flips:
        content[at % len(content)] = byte
    folder = tmp_path_factory.getbasetemp()
    (folder / "damaged").write_bytes(content)
    with suppress(BadInput):
        store = open_storage(folder.as_uri())
        file = StoredFile(name="m.pt", path="damaged", size_bytes=len(content))
        read_pytorch_legacy(store, file, 0, Limits(), print)


def test_legacy_files_are_distinguished_from_other_pickles():
    assert detect_format(SOUND[:512], "m.pt") == "legacy"
    assert detect_format(old({"a": 1}, pickle_protocol=4)[:512], "m.pt") == "legacy"
    for other in (pickle.dumps({"a": 1}), pickle.dumps(Call(print, 1), 2)):
        with pytest.raises(UnsupportedFormat, match=r"not a checkpoint of torch.save"):
            detect_format(other, "m.pt")
