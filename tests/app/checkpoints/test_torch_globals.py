"""The same objects are accepted as by torch.load with `weights_only`, in both formats."""

import io
import warnings
from collections import Counter, OrderedDict

import pytest
import torch
from torch import _weights_only_unpickler, nn

from palettery.app.checkpoints.torch_globals import GLOBALS
from palettery.app.errors import UnsupportedFormat
from tests.forged import saved

W = torch.arange(6.0).reshape(2, 3)


def attributed():
    parameter = nn.Parameter(W.clone())
    parameter.note = {"shape": torch.Size([2, 3]), "more": {1, 2}}
    return parameter


def metadata():
    state = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict()
    assert state._metadata
    return state


def optimizer():
    module = nn.Linear(3, 2)
    made = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    made.step()
    return {"state_dict": module.state_dict(), "epoch": 3, "optimizer": made.state_dict()}


LOADED = {
    "a Counter": {"w": W, "x": Counter("abba")},
    "a Counter of numbers": {"w": W, "x": Counter([1, 1, 2])},
    "a set": {"w": W, "x": {1, "a", None}},
    "sets in lists": {"w": W, "x": [[{1}, {2}], ({3},)]},
    "bytes": {"w": W, "x": b"\x00\xff" * 200},
    "a bytearray": {"w": W, "x": bytearray(b"abc")},
    "a complex number": {"w": W, "x": [1j, complex(2, 3)]},
    "a torch.Size": {"w": W, "x": torch.Size([1, 2])},
    "devices": {"w": W, "x": [torch.device("cpu"), torch.device("cuda", 3), torch.device("meta")]},
    "dtypes": {"w": W, "x": [torch.float16, torch.uint16, torch.int4, torch.complex32]},
    "a layout": {"w": W, "x": torch.strided},
    "a quantization scheme": {"w": W, "x": torch.per_tensor_affine},
    "numbers for keys": {"w": W, 1: 2, -5: 3, 2**80: 4, 1.5: 5, False: 6, None: 7},
    "tuples for keys": {"w": W, ("a", 1): 2, ((1, 2), 3): 4},
    "bytes for keys": {"w": W, b"a": 1},
    "huge numbers": {"w": W, "x": [2**2000, -(2**2000), 1e300, float("inf"), float("nan")]},
    "shared lists": {"w": W, "x": [shared := [1, 2], shared, {"y": shared}]},
    "an OrderedDict": OrderedDict(w=W, x=OrderedDict(y=1)),
    "an OrderedDict of pairs": OrderedDict([("w", W), ("x", [])]),
    "parameters": {"w": nn.Parameter(W), "v": nn.Parameter(W.clone(), requires_grad=False)},
    "a parameter with attributes": {"w": attributed()},
    "a buffer": {"w": nn.Buffer(W)},
    "a scalar and nothing": {"w": torch.tensor(1.5), "v": torch.zeros(0, 3)},
    "64 axes": {"w": torch.ones([1] * 64)},
    "ties and views": {"w": W, "tied": W, "turned": W.t(), "row": W[1:]},
    "a state dict with metadata": metadata(),
    "a training checkpoint": optimizer(),
    "a state dict of a Counter": Counter({"w": 1}) | {"v": W},
}
REFUSED = {
    "a sparse tensor": {"w": W.to_sparse()},
    "a tensor on the meta device": {"w": W.to("meta")},
    "conjugated or negated lazily": {"w": torch.ones(2, dtype=torch.complex64).conj()},
    "a single tensor": W,
    "a single list": [W],
    "names must be strings": {0: W},
    "no tensors in it or in a dict under": {"net": {"encoder": {"w": W}}},
    "that holds tensors": {"w": W, "x": {"y": W}},
    "share bytes": {"w": W[:1].expand(5, 3)},
    "dtype complex128": {"w": W.to(torch.complex128)},
}


def both_formats(thing):
    with warnings.catch_warnings(action="ignore"):
        contents = [saved(thing, _use_new_zipfile_serialization=new) for new in (True, False)]
    return [(content, torch.load(io.BytesIO(content), weights_only=True)) for content in contents]


@pytest.mark.parametrize("kind", LOADED)
def test_what_torch_loads_is_loaded_with_the_same_values(read, kind):
    for content, loaded in both_formats(LOADED[kind]):
        state = loaded.get("state_dict", loaded)
        expected = {key: value for key, value in state.items() if torch.is_tensor(value)}
        checkpoint = read({"m.pt": content})
        stored = {name: one for one in checkpoint.tensors for name in (one.name, *one.aliases)}
        assert stored.keys() == expected.keys()
        for name, one in stored.items():
            assert one.shape == tuple(expected[name].shape)
            data = bytearray(content[one.offset : one.offset + one.size_bytes])
            dtype = expected[name].dtype
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.zeros(0, dtype=dtype)
            if one.strides is not None:
                flat = flat.as_strided(one.shape, one.strides)
            assert torch.equal(flat.reshape(one.shape), expected[name].detach())


@pytest.mark.parametrize("message", REFUSED)
def test_what_torch_loads_and_this_does_not_is_named(read, message):
    for content, _ in both_formats(REFUSED[message]):
        with pytest.raises(Exception, match=message) as caught:
            read({"m.pt": content})
        assert "run code" not in str(caught.value)


def test_no_name_that_torch_allows_is_said_to_run_code():
    names = _weights_only_unpickler._get_allowed_globals().keys()
    assert names
    assert names - GLOBALS.keys() == set()


def test_a_storage_beside_tensors_is_left_alone(read):
    content = saved({"w": W, "x": torch.ones(3).untyped_storage()})
    assert [tensor.name for tensor in read({"m.pt": content}).tensors] == ["w"]


def test_names_that_torch_refuses_are_refused(read):
    for thing in (print, nn.Linear, torch.add, io.BytesIO):
        content = saved({"w": W, "x": thing})
        with pytest.raises(Exception, match="weights_only"):
            torch.load(io.BytesIO(content), weights_only=True)
        with pytest.raises(UnsupportedFormat, match="loading it would run code"):
            read({"m.pt": content})
