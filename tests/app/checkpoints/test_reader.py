"""Uploads of one or many files, of every format."""

import io
import json
import pickle
import warnings
import zipfile

import pytest
import torch

from palettery.app.errors import BadInput, InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits
from tests.forged import saved, tarred


@pytest.fixture
def shard(safetensors_bytes, tensor):
    """Return a function from tensor names to the bytes of a safetensors file."""

    def build(*names):
        header = {name: tensor(8 * n, 8 * n + 8) for n, name in enumerate(names)}
        return safetensors_bytes(header, bytes(8 * len(names)))

    return build


def index(**weight_map):
    weight_map = {name.replace("__", "."): file for name, file in weight_map.items()}
    return json.dumps({"metadata": {"total_size": 16}, "weight_map": weight_map}).encode()


def of_files(checkpoint):
    """Return a checkpoint's warnings except those about module types."""
    return [
        warning for warning in checkpoint.warnings if "module types are inferred" not in warning
    ]


def test_the_name_of_a_file_says_nothing(read, shard):
    checkpoint = read({"model.pkl": shard("fc.weight")})
    assert [tensor.name for tensor in checkpoint.tensors] == ["fc.weight"]
    assert checkpoint.format == "safetensors"


def test_what_is_palettized_already_is_refused(read, safetensors_bytes, tensor):
    """Palettizing it again would keep the indices, but lose their lookup tables."""
    header = {"x.weight.indices": tensor(0, 8), "__metadata__": {"palettery": "{}"}}
    with pytest.raises(InvalidModel, match=r"m\.safetensors is already palettized.*decompress"):
        read({"m.safetensors": safetensors_bytes(header, bytes(8))})


def test_shards_are_merged_with_or_without_their_index(read, shard):
    shards = {"1.safetensors": shard("b.x", "a.x"), "2.safetensors": shard("c.x")}
    bare = read(shards)
    assert [(tensor.name, tensor.file) for tensor in bare.tensors] == [
        ("b.x", 0),
        ("a.x", 0),
        ("c.x", 1),
    ]
    content = index(b__x="1.safetensors", a__x="1.safetensors", c__x="2.safetensors")
    listed = read(shards | {"model.safetensors.index.json": content})
    assert listed.tensors == bare.tensors
    assert listed.modules == bare.modules


def test_a_hugging_face_config_is_set_aside(read, shard):
    config = json.dumps({"model_type": "bert", "id2label": {"0": {"deep": []}}}).encode()
    assert len(read({"config.json": config, "m": shard("fc.weight")}).tensors) == 1


INDEXES = {
    "a missing shard": (index(a="1.safetensors", b="2.safetensors"), "'2.safetensors'"),
    "a file outside": (index(a="../secret"), "'../secret'"),
    "an absolute path": (index(a="/etc/passwd"), "'/etc/passwd'"),
    "a tensor that its shard lacks": (index(a="1.safetensors", z="1.safetensors"), "'z'"),
    "a tensor twice": (b'{"weight_map":{"a":"1.safetensors","a":"1.safetensors"}}', "twice"),
    "a number for a shard": (b'{"weight_map":{"a":1}}', "instead of a string"),
    "no tensors": (b'{"weight_map":{}}', "names no tensor"),
    "a path out and in": (index(a="../1.safetensors"), r"'\.\./1\.safetensors'"),
    "another key twice": (b'{"metadata":{"a":1,"a":2},"weight_map":{"a":"1"}}', "'a' occurs twice"),
    "a member of deep lists": (b'{"x":%b,"weight_map":{}}' % (b"[" * 100_000), "nested too deep"),
    "deep nesting": (b'{"weight_map":' + b'{"a":' * 100_000, "instead of a string"),
    "a cut end": (index(a="1.safetensors")[:-2], "end of the text"),
}


@pytest.mark.parametrize("fault", INDEXES)
def test_an_index_must_fit_its_shards(read, shard, fault):
    content, message = INDEXES[fault]
    with pytest.raises(InvalidModel, match=message):
        read({"1.safetensors": shard("a"), "model.safetensors.index.json": content})


def test_two_indexes_are_refused(read, shard):
    content = index(a="1.safetensors")
    with pytest.raises(InvalidModel, match=r"more than one index \(x\.json, y\.json\)"):
        read({"1.safetensors": shard("a"), "x.json": content, "y.json": content})
    missing = index(a="2.safetensors")
    with pytest.raises(InvalidModel, match="more than one index"):
        read({"1.safetensors": shard("a"), "x.json": missing, "y.json": missing})


def test_an_index_whose_shards_were_not_sent_is_left_out_with_a_warning(read, shard):
    checkpoint = read(
        {
            "1.safetensors": shard("a"),
            "model.safetensors.index.json": index(a="1.safetensors"),
            "pytorch_model.bin.index.json": index(a="1.bin", b="2.bin"),
        }
    )
    assert [tensor.name for tensor in checkpoint.tensors] == ["a"]
    assert of_files(checkpoint) == [
        "ignored, because model.safetensors.index.json does not name it: "
        "pytorch_model.bin.index.json"
    ]


TWO = ("x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors")


def test_an_index_decides_which_files_are_the_model(read, shard):
    """A Mistral folder contains its weights twice, under two sets of names."""
    first, second = TWO
    files = {first: shard("a.w"), second: shard("b.w")}
    content = index(a__w=first, b__w=second)
    for other in ("consolidated.safetensors", "a.safetensors", "z-00001-of-00009.safetensors"):
        checkpoint = read({**files, other: shard("layers.w", "a.w"), "i.json": content})
        assert [tensor.name for tensor in checkpoint.tensors] == ["a.w", "b.w"]
        assert {checkpoint.files[tensor.file].name for tensor in checkpoint.tensors} == {
            first,
            second,
        }
        assert of_files(checkpoint) == [f"ignored, because i.json does not name it: {other}"]
    checkpoint = read(
        {**files, "i.json": content, "consolidated.00.pth": saved({"w": torch.ones(1)})}
    )
    assert checkpoint.format == "safetensors"
    assert "consolidated.00.pth" in checkpoint.warnings[0]


@pytest.mark.parametrize(
    "files", [("config.json", *TWO), (*TWO, "other.safetensors"), (TWO[0], TWO[1], TWO[0][1:])]
)
def test_numbered_shards_need_no_index(read, shard, files):
    content = {
        name: b'{"model_type":"x"}' if name == "config.json" else shard(f"{n}.w")
        for n, name in enumerate(files)
    }
    content.pop("config.json", None)
    if len(content) == 2:
        assert of_files(read(content)) == []
    elif "other.safetensors" in content:
        (warning,) = of_files(read(content))
        assert warning.startswith("x-…-of-2.safetensors, other.safetensors are read as one model")


MISSING = {
    "the last": (["x-00001-of-00002.safetensors"], "1 of the 2 shards .* lacks number 2:"),
    "the first": (["x-00002-of-00002.safetensors"], "lacks number 1:"),
    "from 0": (["x-00000-of-00003.bin", "x-00002-of-00003.bin"], "lacks number 1:"),
    "many": (["x-1-of-999999.st"], "lacks number 2, 3, 4, 5, 6 and more:"),
    "of one of two sets": ([*TWO, "y-00001-of-00002.safetensors"], r"shards y-…-of-2.* number 2:"),
    "beside another file": (["model.safetensors", TWO[0]], "lacks number 2"),
}


@pytest.mark.parametrize("kind", MISSING)
def test_numbered_shards_without_an_index_are_all_there(read, shard, kind):
    names, message = MISSING[kind]
    with pytest.raises(InvalidModel, match=message):
        read({name: shard(f"{n}.w") for n, name in enumerate(names)})
    with pytest.raises(InvalidModel, match="which the upload lacks"):
        read({names[0]: shard("a"), "i.json": index(a=names[0], b="y-00002-of-00002.safetensors")})


@pytest.mark.parametrize(
    "named",
    ["1.safetensors", "./1.safetensors", "transformer/1.safetensors", "a//b/./1.safetensors"],
)
def test_shards_are_matched_by_what_an_index_means(read, shard, named):
    assert read({"1.safetensors": shard("a"), "i.json": index(a=named)}).tensors


INDEX_TEXTS = {
    "a scalar": '{"dtype": "float16", "weight_map": {"a": "1"}}',
    "a number and null": '{"n": 1.5e3, "x": null, "weight_map": {"a": "1"}, "y": true}',
    "a nested object": '{"metadata": {"total_size": 8, "by": {"a": {"b": [1]}}}, '
    '"weight_map": {"a": "1"}}',
    "no metadata": '{"metadata": null, "weight_map": {"a": "1"}}',
    "a brace in a text": '{"metadata": {"note": "{ not } an [object"}, "weight_map": {"a": "1"}}',
    "a quote in a text": '{"metadata": "\\"}{", "weight_map": {"a": "1"}}',
    "a long text": '{"metadata": {"note": "%s"}, "weight_map": {"a": "1"}}' % ("x" * 20_000),
    "metadata behind": ' {"weight_map": {"a": "1"}, "metadata": {}}\n',
    "a byte order mark": '\ufeff{"weight_map": {"a": "1"}}',
    "an escaped name": '{"weight_map": {"\\u0061": "1"}}',
}


@pytest.mark.parametrize("kind", INDEX_TEXTS)
def test_an_index_is_read_as_json(read, shard, kind):
    assert read({"1": shard("a"), "i.json": INDEX_TEXTS[kind].encode()}).tensors


def test_a_config_that_speaks_of_a_weight_map_is_a_config(read, shard):
    config = {"model_type": "x", "quantization": {"weight_map": {"a": 1}}}
    checkpoint = read({"1": shard("fc.weight"), "config.json": json.dumps(config).encode()})
    assert "config.json was not used" in checkpoint.warnings[0]


def test_a_tensor_in_two_shards_is_refused(read, shard):
    with pytest.raises(InvalidModel, match=r"'a' lies in both 1\.safetensors and 2\.safetensors"):
        read({"1.safetensors": shard("a"), "2.safetensors": shard("a")})


def test_limits_hold_over_all_shards(read, shard):
    with pytest.raises(TooLarge, match="3 tensors"):
        read({"1": shard("a", "b"), "2": shard("c", "d")}, Limits(tensors=3))


def test_names_nested_without_end_are_refused(read, shard):
    with pytest.raises(TooLarge, match="modules"):
        read({"m": shard(*(f"{n}." + "a." * 400 + "w" for n in range(4)))}, Limits(tensors=100))


class Canary:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('canary').touch()",))


def zipped(name="x/data.pkl"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, pickle.dumps(Canary()))
    return buffer.getvalue()


REFUSED = {
    "a pickle": (pickle.dumps(Canary()), UnsupportedFormat, "save_file"),
    "a pickle of protocol 0": (pickle.dumps(Canary(), 0), UnsupportedFormat, "save_file"),
    "a dict of protocol 0": (pickle.dumps({"a": 1}, 0), UnsupportedFormat, "save_file"),
    "a list of protocol 0": (pickle.dumps([1], 0), UnsupportedFormat, "save_file"),
    "a pickle of PyTorch 0.1": (tarred("pickle", b"x"), UnsupportedFormat, "tar archive.*0.2"),
    "a legacy .pt of text": (
        saved({}, _use_new_zipfile_serialization=False, pickle_protocol=0),
        UnsupportedFormat,
        "only protocol 2 and later",
    ),
    "a file that macOS keeps": (b"\0\5\x16\7" + bytes(60), UnsupportedFormat, "without ._"),
    "a pickled module": (
        saved(torch.nn.Linear(1, 1)),
        UnsupportedFormat,
        "torch.nn.modules.linear",
    ),
    "a hostile zip": (zipped(), UnsupportedFormat, "builtins.exec"),
    "a zip of something else": (
        zipped("word/document.xml"),
        UnsupportedFormat,
        "but not of PyTorch",
    ),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(20), UnsupportedFormat, "unpack"),
    "bzip2": (b"BZh91AY&SY" + bytes(20), UnsupportedFormat, "bzip2.*unpack"),
    "xz": (b"\xfd7zXZ\x00\x00\x04" + bytes(20), UnsupportedFormat, "xz.*unpack"),
    "Zstandard": (b"\x28\xb5\x2f\xfd\x04\x58" + bytes(20), UnsupportedFormat, "Zstandard.*unpack"),
    "LZ4": (b"\x04\x22\x4d\x18" + bytes(20), UnsupportedFormat, "LZ4.*unpack"),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(20), UnsupportedFormat, "7-Zip.*unpack"),
    "RAR": (b"Rar!\x1a\x07\x01\x00" + bytes(20), UnsupportedFormat, "RAR.*unpack"),
    "ggml": (b"lmgg" + bytes(20), UnsupportedFormat, "GGML.*original"),
    "ggjt": (b"tjgg\x01\x00\x00\x00" + bytes(20), UnsupportedFormat, "GGML.*original"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(20), UnsupportedFormat, "TensorFlow Lite"),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(20), UnsupportedFormat, "original"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(20), UnsupportedFormat, "HDF5"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x052.0.0", UnsupportedFormat, "ONNX"),
    "a numpy file": (b"\x93NUMPY\x01\x00", UnsupportedFormat, "numpy"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", UnsupportedFormat, "web page"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", UnsupportedFormat, "lfs"),
    "a tokenizer": (b'{"version":"1.0","model":{}}', UnsupportedFormat, "weight_map"),
    "a JSON list": (b"[1, 2]", UnsupportedFormat, "weight_map"),
    "deep JSON": (b"[" * 100_000, UnsupportedFormat, "weight_map"),
    "an error in JSON": (
        b'{"error":"Access to model x/y is restricted."}',
        UnsupportedFormat,
        "restricted.*fetch the model file itself",
    ),
    "an error as text": (b"Entry not found", InvalidModel, "'Entry not found'.*fetch"),
    "an error of many lines": (
        "Accès refusé\r\n".encode() * 100,
        InvalidModel,
        r"'Accès refusé Accès .*\.\.\.'.*fetch",
    ),
    "a text cut in a character": (b"x" + "é".encode() * 300, InvalidModel, "'xéé.*fetch"),
    "a shard of zeros": (bytes(10_000), InvalidModel, "512 zero bytes.*fetch it again"),
    "a header with a BOM": (
        (5).to_bytes(8, "little") + b"\xef\xbb\xbf{}",
        InvalidModel,
        "ef bb bf instead of '{'",
    ),
    "a header behind a space": (
        (4).to_bytes(8, "little") + b" {} ",
        InvalidModel,
        "instead of '{'",
    ),
    "nothing": (b"", InvalidModel, "empty"),
    "one byte": (b"\x08", InvalidModel, "no known model format"),
    "noise": (bytes(range(200, 250)), InvalidModel, "c8 c9 ca"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_files_are_refused_with_a_way_out(read, shard, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    content, error, message = REFUSED[kind]
    with pytest.raises(error, match=message) as caught:
        read({"model.safetensors": content})
    assert caught.value.detail.startswith("model.safetensors ")
    with pytest.raises(BadInput):
        read({"good": shard("a"), "bad": content})
    assert not (tmp_path / "canary").exists()


def test_an_upload_without_tensors_is_refused(read, safetensors_bytes):
    with pytest.raises(InvalidModel, match="no tensors"):
        read({"m": safetensors_bytes({"__metadata__": {}})})
    with pytest.raises(BadInput, match="no file in the upload"):
        read({"config.json": b'{"model_type": "bert"}'})


def test_zip_shards_are_merged_with_or_without_their_index(read):
    one = {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
    tied = torch.ones(3, 2)
    shards = {
        "pytorch_model-00001-of-00002.bin": saved(one),
        "pytorch_model-00002-of-00002.bin": saved({"embed.weight": tied, "head.weight": tied}),
    }
    bare = read(shards)
    assert bare.format == "pytorch_zip"
    assert [(tensor.name, tensor.file) for tensor in bare.tensors] == [
        ("fc.weight", 0),
        ("fc.bias", 0),
        ("embed.weight", 1),
    ]
    assert bare.tensors[2].aliases == ("head.weight",)
    first, second = shards
    content = index(fc__weight=first, fc__bias=first, embed__weight=second, head__weight=second)
    listed = read(shards | {"pytorch_model.bin.index.json": content})
    assert listed.tensors == bare.tensors
    with pytest.raises(InvalidModel, match="but it is not"):
        read(shards | {"i.json": index(head__weight=first)})
    with pytest.raises(InvalidModel, match=r"'fc\.weight' lies in both"):
        read({"1.bin": saved(one), "2.bin": saved(one)})


def test_a_module_that_only_an_alias_names_is_a_module_with_its_op(read):
    tied = torch.ones(3, 2)
    checkpoint = read({"m.pt": saved({"embed.weight": tied, "head.weight": tied})})
    assert [module.name for module in checkpoint.modules] == ["", "embed", "head"]
    assert {op.name: op.states for op in checkpoint.ops} == {
        "head.linear": {"weight": "head.weight"}
    }


def test_formats_are_not_mixed(read, shard):
    with pytest.raises(InvalidModel, match=r"mixes safetensors \(a\) and zip archives \(b\)"):
        read({"b": saved({"w": torch.ones(1)}), "a": shard("x")})


def exported():
    buffer = io.BytesIO()
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.ones(1, 3),))
    torch.export.save(program, buffer)
    return buffer.getvalue()


def test_an_exported_program_is_recognized_from_its_content_and_comes_alone(read):
    checkpoint = read({"model.pt": exported()})
    assert checkpoint.format == "pt2"
    assert {tensor.name for tensor in checkpoint.tensors} == {"weight", "bias"}
    for other in ({"config.json": b'{"model_type": "x"}'}, {"m": saved({"w": torch.ones(1)})}):
        with pytest.raises(InvalidModel, match=r"send the \.pt2 alone"):
            read({"model.pt2": exported()} | other)


def test_torchscript_is_refused_as_what_it_is(read):
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    with pytest.raises(UnsupportedFormat, match="TorchScript"):
        read({"m.pt": buffer.getvalue()})
