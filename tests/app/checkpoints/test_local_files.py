"""Links: a file keeps its own name and folder, and its target is read."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch

from palettery.app.artifacts import load, load_into
from palettery.app.checkpoints import local_files
from palettery.app.checkpoints.local_files import stored_files
from palettery.app.errors import BadInput

NAME = "model.safetensors"


def weights(seed):
    return {"a.weight": np.random.default_rng(seed).normal(size=(8, 8)).astype(np.float32)}


def beside_another(tmp_path):
    """The name of the link is that of another file in the target's folder."""
    runs, release = tmp_path / "runs", tmp_path / "release"
    runs.mkdir()
    release.mkdir()
    save_file(weights(0), runs / NAME)
    save_file(weights(1), runs / "step900.safetensors")
    (release / NAME).symlink_to("../runs/step900.safetensors")
    return release / NAME


def hub_cache(tmp_path):
    """The layout of huggingface_hub: snapshots/<revision>/<name> -> ../../blobs/<digest>."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "r"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file(weights(1), blobs / "9f8e")
    (snapshot / NAME).symlink_to("../../blobs/9f8e")
    return snapshot / NAME


def link_to_a_link(tmp_path):
    path = beside_another(tmp_path)
    (tmp_path / "latest.safetensors").symlink_to(path.relative_to(tmp_path))
    return tmp_path / "latest.safetensors"


def absolute(tmp_path):
    path = beside_another(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / NAME).symlink_to(path.absolute())
    return elsewhere / NAME


def in_a_linked_folder(tmp_path):
    path = beside_another(tmp_path)
    (tmp_path / "current").symlink_to(path.parent.name)
    return tmp_path / "current" / NAME


def above_a_linked_folder(tmp_path):
    """`..` after a link is the parent of its target, not of the link."""
    path = beside_another(tmp_path)
    inner = path.parent / "inner"
    inner.mkdir()
    (tmp_path / "in").symlink_to(inner)
    save_file(weights(0), tmp_path / NAME)
    return tmp_path / "in" / ".." / NAME


def odd_name(tmp_path):
    """Names that would end or change a URL."""
    path = beside_another(tmp_path)
    odd = path.with_name("a?b#c%2Fd é\n.safetensors")
    path.rename(odd)
    return odd


LAYOUTS = [
    beside_another,
    hub_cache,
    link_to_a_link,
    absolute,
    in_a_linked_folder,
    above_a_linked_folder,
    odd_name,
]


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__)
def linked(request, tmp_path):
    return request.param(tmp_path)


def test_what_a_link_leads_to_is_compressed(palettery, linked, tmp_path):
    out = tmp_path / "out.safetensors"
    code, _, output = palettery("compress", linked, "--preset", "w8", "-o", out)
    assert code == 0, output
    np.testing.assert_allclose(load(out)["a.weight"].numpy(), weights(1)["a.weight"], atol=0.02)


def test_a_model_is_known_by_the_name_it_was_given_by(palettery, linked, tmp_path):
    out = tmp_path / "out.safetensors"
    assert palettery("compress", linked, "--preset", "w8", "-o", out)[0] == 0
    with safe_open(out, "numpy") as artifact:
        metadata = json.loads(artifact.metadata()["palettery"])
    assert list(metadata["source_sha256"]) == [linked.name]


def test_sensitivities_may_be_links(palettery, linked, tmp_path):
    """The wrong ones would be named other than the model's tensors."""
    model = tmp_path / "plain.safetensors"
    save_file(weights(2), model)
    code, output, error = palettery(
        "plan", model, "--preset", "w4", "--sensitivities", linked, "--json"
    )
    assert code == 0, error
    assert list(json.loads(output)["sensitivities_sha256"]) == [linked.name]


@pytest.fixture
def linked_artifact(palettery, tmp_path):
    """A link to an artifact; another artifact in the target's folder has the link's name."""
    runs = tmp_path / "artifacts"
    runs.mkdir()
    for seed, name in enumerate((NAME, "best.safetensors")):
        save_file(weights(seed), tmp_path / "m.safetensors")
        code = palettery(
            "compress", tmp_path / "m.safetensors", "--preset", "w8", "-o", runs / name
        )
        assert code[0] == 0, code
    (tmp_path / NAME).symlink_to("artifacts/best.safetensors")
    return tmp_path / NAME


def test_an_artifact_may_be_a_link(palettery, linked_artifact, tmp_path):
    import torch

    whole = weights(1)["a.weight"]
    np.testing.assert_allclose(load(linked_artifact)["a.weight"].numpy(), whole, atol=0.02)
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(8, 8, bias=False)})
    load_into(module, linked_artifact)
    np.testing.assert_allclose(module["a"].weight.detach().numpy(), whole, atol=0.02)
    assert palettery("decompress", linked_artifact, "-o", tmp_path / "dense")[0] == 0
    np.testing.assert_allclose(load_file(tmp_path / "dense")["a.weight"], whole, atol=0.02)
    assert load_torch(tmp_path / "dense").keys() == {"a.weight"}
    code, output, _ = palettery("inspect", linked_artifact, "--json")
    assert (code, json.loads(output)["palettized"][0]["name"]) == (0, "a.weight")


def test_shards_and_index_may_be_links_into_several_folders(palettery, tmp_path):
    snapshot = tmp_path / "snapshots" / "r"
    snapshot.mkdir(parents=True)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for number, name in enumerate(names):
        blob = tmp_path / f"disk{number}" / "blob"
        blob.parent.mkdir()
        save_file({f"{number}.weight": weights(number)["a.weight"]}, blob)
        (snapshot / name).symlink_to(blob)
    index = {"weight_map": {f"{number}.weight": name for number, name in enumerate(names)}}
    (tmp_path / "blob").write_text(json.dumps(index))
    (snapshot / "model.safetensors.index.json").symlink_to("../../blob")
    for paths in ([snapshot], sorted(snapshot.iterdir())):
        code, output, error = palettery("plan", *paths, "--preset", "w4", "--json")
        assert code == 0, error
        assert {each["name"] for each in json.loads(output)["tensors"]} == {"0.weight", "1.weight"}


def test_one_folder_may_have_two_names(palettery, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for number in range(2):
        save_file({f"{number}.weight": weights(0)["a.weight"]}, folder / f"{number}.safetensors")
    (tmp_path / "same").symlink_to("model")
    paths = [folder / "0.safetensors", tmp_path / "same" / "1.safetensors"]
    assert palettery("plan", *paths, "--preset", "w4")[0] == 0


def test_files_of_several_folders_are_refused_with_a_way_out(palettery, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file({f"{name}.weight": weights(0)["a.weight"]}, tmp_path / name / NAME)
    paths = [tmp_path / "a" / NAME, tmp_path / "b" / NAME]
    code, _, output = palettery("plan", *paths, "--preset", "w4")
    assert (code, output.count("\n")) == (2, 1)
    assert f"{tmp_path / 'a'}, {tmp_path / 'b'}; make a folder of links" in output


def broken(path):
    path.symlink_to("gone")
    return "there is no file .* a link to gone"


def loop(path):
    path.symlink_to(path.name)
    return "cannot read .* a link to .*Too many levels"


def loop_of_two(path):
    path.symlink_to("other")
    path.with_name("other").symlink_to(path.name)
    return "cannot read .* a link to other: Too many levels"


def pipe(path):
    os.mkfifo(path)
    return "is a pipe, not a regular file"


def link_to_a_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")
    return "is a pipe, not a regular file"


def device(path):
    path.symlink_to(os.devnull)
    return "is a character device, not a regular file"


def not_there(path):
    return f"there is no file {path}"


@pytest.mark.parametrize(
    "make", [broken, loop, loop_of_two, pipe, link_to_a_pipe, device, not_there]
)
@pytest.mark.parametrize("words", [["plan", "--preset", "w4"], ["inspect"], ["upload"]])
def test_what_is_no_file_is_one_line(palettery, tmp_path, make, words):
    path = tmp_path / NAME
    expected = make(path)
    command, *options = words
    code, out, error = palettery(command, path, *options)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert re.search(expected, error), error


@pytest.mark.parametrize("make", [broken, loop, pipe, device])
def test_what_is_no_file_in_a_folder_is_named(palettery, tmp_path, make):
    save_file(weights(0), tmp_path / "a.safetensors")
    make(tmp_path / NAME)
    code, _, output = palettery("plan", tmp_path, "--preset", "w4")
    assert (code, output.count("\n")) == (2, 1)
    assert str(tmp_path / NAME) in output


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000 + "y"])
def test_names_that_are_too_long_are_one_line(palettery, tmp_path, name):
    code, _, output = palettery("plan", tmp_path / name, "--preset", "w4")
    assert (code, output.count("\n")) == (2, 1)
    assert "File name too long" in output


def test_a_name_that_is_not_utf8_is_one_line(palettery, tmp_path):
    path = tmp_path / os.fsdecode(b"m\xff.safetensors")
    save_file(weights(0), tmp_path / "m.safetensors")
    shutil.move(tmp_path / "m.safetensors", path)
    code, _, output = palettery("plan", path, "--preset", "w4")
    assert (code, output.count("\n")) == (2, 1)
    assert "is not UTF-8; rename the file, or pass a link to it" in output


def test_a_folder_whose_name_is_not_utf8_can_be_read(tmp_path):
    folder = tmp_path / os.fsdecode(b"m\xff")
    folder.mkdir()
    save_file(weights(0), tmp_path / NAME)
    shutil.move(tmp_path / NAME, folder / NAME)
    upload = stored_files([folder / NAME], digests=False)
    assert upload.storage.size_bytes(NAME) == (folder / NAME).stat().st_size


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, unprivileged):
    save_file(weights(0), tmp_path / NAME)
    (tmp_path / NAME).chmod(0)
    with unprivileged(tmp_path), pytest.raises(BadInput, match="permission denied"):
        stored_files([tmp_path / NAME], digests=False)


def test_a_file_is_hashed_again_only_if_it_changed(tmp_path):
    save_file(weights(0), tmp_path / NAME)
    local_files._cached_sha256.cache_clear()
    first, second = (stored_files([tmp_path / NAME], digests=True).files for _ in range(2))
    assert first == second
    assert local_files._cached_sha256.cache_info().misses == 1
    save_file(weights(1), tmp_path / NAME)
    assert stored_files([tmp_path / NAME], digests=True).files[0].sha256 != first[0].sha256
