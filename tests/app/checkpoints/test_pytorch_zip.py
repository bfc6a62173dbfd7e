"""State dicts of torch.save, compared with torch byte for byte, and forged archives."""

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from palettery.app.artifacts.dtypes import NUMPY
from palettery.app.checkpoints.dense import array_view
from palettery.app.checkpoints.pytorch_zip import detect_archive, read_pytorch_zip
from palettery.app.checkpoints.zip_members import ZipMember
from palettery.app.errors import BadInput, InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredFile
from tests.forged import archived, lying, saved

DTYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
}


@pytest.fixture
def tensors_of(tmp_path):
    """Return a function from a file's bytes to its tensors by name."""

    def read(content, **limits):
        (tmp_path / "file").write_bytes(content)
        store = open_storage(tmp_path.as_uri())
        file = StoredFile(name="m.pt", path="file", size_bytes=len(content))
        tensors = read_pytorch_zip(store, file, 3, Limits(**limits), print)
        assert all(tensor.file == 3 for tensor in tensors)
        return {tensor.name: tensor for tensor in tensors}

    return read


@pytest.fixture
def checked(tensors_of):
    """Return a function that saves an object, reads it and compares its tensors."""

    def check(thing, state=None, **how):
        content = saved(thing, **how)
        tensors = tensors_of(content)
        names = [name for one in tensors.values() for name in (one.name, *one.aliases)]
        state = thing if state is None else state
        assert sorted(names) == sorted(state)
        for name, stored in tensors.items():
            data = content[stored.offset : stored.offset + stored.size_bytes]
            assert same(stored, data, state[name]), name
        return tensors

    return check


def raw(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(stored, data, tensor):
    width = tensor.element_size()
    flat = np.frombuffer(data, f"V{width}")
    if stored.strides is not None:
        steps = tuple(width * stride for stride in stored.strides)
        flat = np.lib.stride_tricks.as_strided(flat, stored.shape, steps)
    return (
        stored.shape == tuple(tensor.shape)
        and stored.dtype == DTYPES[tensor.dtype]
        and flat.tobytes() == raw(tensor)
    )


def random_bytes(dtype, *shape):
    width = torch.empty((), dtype=dtype).element_size()
    top = 2 if dtype == torch.bool else 256
    return torch.randint(0, top, (*shape[:-1], shape[-1] * width), dtype=torch.uint8).view(dtype)


@pytest.mark.parametrize("protocol", [2, 4])
def test_every_dtype_is_read(checked, protocol):
    state = {str(dtype): random_bytes(dtype, 3, 4) for dtype in DTYPES}
    assert len(checked(state, pickle_protocol=protocol)) == len(DTYPES)


def test_a_module_is_read_in_its_order(checked):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LSTM(4, 2), nn.Linear(2, 2))
    state = module.state_dict()
    assert state._metadata
    assert list(checked(state)) == list(state)


def test_a_state_dict_of_parameters_is_read(checked):
    checked(dict(nn.Linear(3, 2).named_parameters()))
    checked(nn.Linear(3, 2).state_dict(keep_vars=True))


def test_views_keep_their_strides_and_take_no_more_than_they_span(checked):
    base = torch.randn(6, 8)
    views = {
        "whole": base,
        "transposed": base.t(),
        "rows": base[2:4],
        "columns": base[:, 2:5],
        "steps": base[1::2, ::3],
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "one row": base[3:4, ::2],
        "one": base[3, 4],
    }
    tensors = checked(views)
    assert tensors["whole"].strides is tensors["rows"].strides is tensors["one"].strides is None
    assert tensors["transposed"].strides == (1, 8)
    assert tensors["columns"].size_bytes == 4 * (5 * 8 + 3)
    assert tensors["one row"].strides == (1, 2)
    q, k, v = torch.randn(9, 4).chunk(3)
    fused = checked({"q": q, "k": k, "v": v})
    assert fused["k"].offset - fused["q"].offset == 48


def test_the_stride_of_an_axis_of_length_one_means_nothing(checked):
    odd = torch.randn(6).as_strided((1, 6, 1), (0, 1, 77))
    assert checked({"w": odd, "expanded": torch.ones(1, 1).expand(1, 1)})["w"].strides is None


def test_empty_and_scalar_tensors_are_read(checked):
    tensors = checked(
        {"none": torch.zeros(0, 4), "also": torch.zeros(4, 0).t(), "scalar": torch.tensor(7)}
    )
    assert tensors["none"].size_bytes == 0
    assert tensors["scalar"].shape == ()


def test_weights_load_as_the_compression_does_it(tensors_of, tmp_path):
    weight = torch.randn(5, 7)
    tensors = tensors_of(saved({"w": weight.t(), "part": weight[1:3, 2:6]}))
    for name, expected in (("w", weight.t()), ("part", weight[1:3, 2:6])):
        stored = tensors[name]
        data = open_storage(tmp_path.as_uri()).read("file", stored.offset, stored.size_bytes)
        loaded = array_view(data, NUMPY[stored.dtype], stored.shape, stored.strides)
        assert np.array_equal(loaded, expected.numpy())


def test_tied_tensors_are_one_with_aliases(checked):
    weight = torch.randn(3, 3)
    tensors = checked(
        {"embed": weight, "head": weight, "turned": weight.t(), "copy": weight.clone()}
    )
    assert tensors["embed"].aliases == ("head",)
    assert tensors.keys() == {"embed", "turned", "copy"}


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module"])
def test_a_training_checkpoint_gives_its_state_dict(checked, key):
    module = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    rest = {"epoch": 3, "loss": torch.tensor(0.1), "optimizer": optimizer.state_dict()}
    checked({key: module.state_dict(), **rest}, module.state_dict())


def test_plain_values_beside_tensors_are_ignored(checked):
    weight = torch.ones(2)
    checked(
        {"w": weight, "epoch": 3, "args": {"lr": [1.0]}, "model": "vit", 5: None}, {"w": weight}
    )


def test_other_devices_are_only_labels(tensors_of):
    content = saved({"w": torch.ones(2)}, pickle_protocol=2)
    assert tensors_of(content.replace(b"X\3\0\0\0cpu", b"X\3\0\0\0mps"))["w"].shape == (2,)


class Canary:
    def __reduce__(self):
        return Path.touch, (Path("canary"),)


def quantized(scales=None):
    with warnings.catch_warnings(action="ignore"):
        if scales is None:
            return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        zeros = torch.zeros(2, dtype=torch.long)
        return torch.quantize_per_channel(torch.ones(2, 2), scales, zeros, 0, torch.qint8)


def sparse_rows():
    with warnings.catch_warnings(action="ignore"):
        return torch.eye(3).to_sparse_csr()


def nested():
    with warnings.catch_warnings(action="ignore"):
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


REFUSED = {
    "a module": (nn.Linear(1, 1), r"pickled torch\.nn\.modules\.linear\.Linear"),
    "a module in a dict": ({"model": nn.Linear(1, 1)}, r"linear\.Linear"),
    "a canary": ({"w": torch.ones(1), "x": Canary()}, "pickled"),
    "a canary in the optimizer": ({"model": {"w": torch.ones(1)}, "opt": [Canary()]}, "pickled"),
    "a tensor": (torch.ones(1), "a single tensor"),
    "a list": ([torch.ones(1)], "a single list"),
    "no tensors": ({"epoch": 1}, "no tensors in it"),
    "nothing": ({}, "no tensors in it"),
    "two levels": ({"model": {"encoder": {"w": torch.ones(1)}}}, "no tensors in it"),
    "two state dicts": ({"model": {"w": torch.ones(1)}, "module": {"w": torch.ones(1)}}, "both"),
    "tensors in an extra": (
        {"w": torch.ones(1), "x": [{"y": torch.ones(1)}]},
        "'x'.*holds tensors",
    ),
    "a numbered tensor": ({0: torch.ones(1)}, "under '0', but names must be strings"),
    "a tensor under a tuple": ({(0, 1): torch.ones(1)}, "under 'a tuple'"),
    "a tensor in a set": ({"w": torch.ones(1), "x": {torch.ones(1)}}, "that holds tensors"),
    "complex128": ({"w": torch.ones(1, dtype=torch.complex128)}, "dtype complex128; allowed are"),
    "bits": ({"w": torch.empty(4, dtype=torch.bits8)}, "dtype bits8"),
    "float4": ({"w": torch.empty(4, dtype=torch.float4_e2m1fn_x2)}, "dtype float4"),
    "sparse": ({"w": torch.eye(3).to_sparse()}, r"'w' is a sparse tensor; call \.to_dense\(\)"),
    "sparse rows": ({"w": sparse_rows()}, "a sparse tensor; call"),
    "quantized": ({"w": quantized()}, r"'w' is a quantized tensor.*\.dequantize\(\)"),
    "quantized by channel": ({"w": quantized(torch.ones(2))}, "a quantized tensor"),
    "conjugated": ({"w": torch.ones(2, dtype=torch.complex64).conj()}, r"\.resolve_conj\(\)"),
    "negated": ({"w": torch.ones(2, dtype=torch.complex64).conj().imag}, r"\.resolve_neg\(\)"),
    "meta": ({"w": torch.ones(2, device="meta")}, "on the meta device, which has no values"),
    "nested": ({"w": nested()}, r"nested tensor.*\.unbind\(\)"),
    "numpy's numbers": ({"w": torch.ones(1), "loss": np.float64(1)}, "numbers of numpy's"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_things_are_refused_with_a_way_out(tensors_of, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    thing, message = REFUSED[kind]
    with pytest.raises(UnsupportedFormat, match=message):
        tensors_of(saved(thing))
    assert not (tmp_path / "canary").exists()


SHARED = {
    "expanded": torch.ones(1, 4).expand(1_000_000, 4),
    "2**40 elements of one": torch.ones(1).expand(2**20, 2**20),
    "unfolded": torch.ones(10).unfold(0, 4, 1),
}


@pytest.mark.parametrize("kind", SHARED)
def test_elements_that_share_bytes_are_refused(tensors_of, kind):
    with pytest.raises(InvalidModel, match="share bytes"):
        tensors_of(saved({"w": SHARED[kind]}))


def test_views_that_add_up_to_much_more_than_the_file_are_refused(tensors_of):
    base = torch.ones(1_000, 10)
    views = {f"w{n}": base[n : n + 900] for n in range(20)}
    with pytest.raises(TooLarge, match="8 times"):
        tensors_of(saved(views))


def test_names_and_counts_are_checked(tensors_of):
    with pytest.raises(InvalidModel, match="control characters"):
        tensors_of(saved({"a\nb": torch.ones(1)}))
    with pytest.raises(InvalidModel, match="without a name"):
        tensors_of(saved({"": torch.ones(1)}))
    assert tensors_of(saved({"../../x": torch.ones(1)}))
    with pytest.raises(TooLarge, match="3 tensors; 2"):
        tensors_of(saved({name: torch.ones(1) for name in "abc"}), tensors=2)


def test_the_tests_own_archives_are_sound(tensors_of):
    tensors = tensors_of(lying((6, 1, (2, 2), (2, 1)), (6, 0, (2,), (5,))))
    assert [one.size_bytes for one in tensors.values()] == [16, 24]
    assert tensors_of(lying((6, 0, (6,), (1,)), members=[("data/0", bytes(24))]))


LIES = {
    "behind the end": ((6, 3, (2, 2), (2, 1)), "ends at byte 28 of a storage of 24"),
    "far behind the end": ((6, 2**62, (1,), (1,)), r"more than 2\*\*60"),
    "absurdly far behind the end": ((6, 2**80, (1,), (1,)), "whole number from 0"),
    "strides behind the end": ((6, 0, (2,), (6,)), "ends at byte 28"),
    "huge strides": ((6, 0, (2,), (2**62,)), "ends at byte more than"),
    "absurd strides": ((6, 0, (2,), (2**70,)), "whole number from 0"),
    "2**40 elements": ((6, 0, (2**40,), (1,)), "ends at byte 4,398,046,511,104"),
    "an absurd shape": ((6, 0, (2**62, 2**62), (2**62, 1)), r"\[huge, huge\] ends"),
    "a storage too long": ((7, 0, (7,), (1,)), "should have 28 bytes and has 24"),
    "a huge storage": ((2**62, 0, (1,), (1,)), r"more than 2\*\*60 bytes and has 24"),
    "an absurd storage": ((2**200, 0, (1,), (1,)), "whole number from 0"),
    "behind its own storage": ((2, 0, (6,), (1,)), "of a storage of 8"),
    "too few strides": ((6, 0, (2, 2), (1,)), "2 axes and 1 strides"),
    "a stride of nothing": ((6, 0, (2**40,), (0,)), "share bytes"),
    "overlapping rows": ((6, 0, (2, 3), (2, 1)), "share bytes"),
    "the same stride twice": ((6, 0, (2, 2), (1, 1)), "share bytes"),
    "a negative offset": ((6, -1, (1,), (1,)), "whole number from 0"),
    "a negative length": ((6, 0, (-1,), (1,)), "whole number from 0"),
    "a negative stride": ((6, 0, (2,), (-1,)), "whole number from 0"),
    "a negative storage": ((-6, 0, (1,), (1,)), "whole number from 0"),
    "a fraction": ((6, 0, (1.0,), (1,)), "whole number from 0"),
    "65 axes": ((6, 0, (1,) * 65, (1,) * 65), "65 axes"),
}


@pytest.mark.parametrize("lie", LIES)
def test_tensors_must_lie_in_their_storage(tensors_of, lie):
    tensor, message = LIES[lie]
    with pytest.raises(InvalidModel, match=message) as caught:
        tensors_of(lying(tensor))
    assert len(caught.value.detail) < 500


def test_members_must_be_there_and_right(tensors_of):
    one = (6, 0, (6,), (1,))
    with pytest.raises(InvalidModel, match=r"storage '0', which the archive lacks"):
        tensors_of(lying(one, members=[("data/1", bytes(24))]))
    with pytest.raises(UnsupportedFormat, match="big-endian"):
        tensors_of(lying(one, members=[("data/0", bytes(24)), ("byteorder", b"big")]))
    with pytest.raises(InvalidModel, match="byteorder is b'pdp'"):
        tensors_of(lying(one, members=[("data/0", bytes(24)), ("byteorder", b"pdp")]))
    with pytest.raises(InvalidModel, match="byteorder has 17 bytes"):
        tensors_of(lying(one, members=[("data/0", bytes(24)), ("byteorder", bytes(17))]))
    with pytest.raises(TooLarge, match=r"'m/data\.pkl'"):
        tensors_of(archived(("data.pkl", bytes(5_000))), header_bytes=4_000)
    with pytest.raises(UnsupportedFormat, match="compressed"):
        tensors_of(archived(("data.pkl", bytes(9)), compression=zipfile.ZIP_DEFLATED))
    for content in (archived(("x/data.pkl", b"")), archived(("model.json", b"{}"))):
        with pytest.raises(UnsupportedFormat, match="but not of PyTorch"):
            tensors_of(content)


def test_a_real_archive_cut_anywhere_is_reported(tensors_of):
    content = saved({"w": torch.ones(2)})
    for size in range(0, len(content), 7):
        with pytest.raises(BadInput):
            tensors_of(content[:size])


def names(*inner):
    return {f"m/{name}": ZipMember(f"m/{name}", 0, 0) for name in inner}


def test_archives_are_recognized_by_their_members():
    assert detect_archive(names("data.pkl", "data/0", "version")) == "state_dict"
    assert detect_archive(names("models/model.json", "archive_format", "data/weights/0")) == "pt2"
    assert detect_archive(names("data.pkl", "constants.pkl")) == "torchscript"
    assert detect_archive(names("data.pkl", "code/__torch__.py")) == "torchscript"
    old = "serialized_exported_program.json"
    for members in (names(old), {old: ZipMember(old, 0, 0)}):
        with pytest.raises(UnsupportedFormat, match=r"again with .* of torch 2\.13"):
            detect_archive(members)


@pytest.mark.parametrize("inner", ["code/x.py", "constants.pkl"])
def test_torchscript_and_exported_programs_are_not_read_as_state_dicts(tensors_of, inner):
    with pytest.raises(UnsupportedFormat, match="TorchScript"):
        tensors_of(archived(("data.pkl", b""), (inner, b"")))
    with pytest.raises(InvalidModel, match="send it alone"):
        tensors_of(archived(("models/model.json", b"{}"), ("archive_format", b"pt2")))
