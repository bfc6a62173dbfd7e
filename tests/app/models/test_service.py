"""Models are parsed once, and leave nothing behind."""

import hashlib
import json

import pytest
from safetensors.numpy import save

from palettery.app.errors import BadInput, InvalidModel, NotFound
from palettery.app.models import stored_contents as index
from palettery.app.models.response import PIECE_BYTES
from palettery.app.models.service import model_id
from tests.app.stored_job import draws


def test_the_id_is_that_of_names_and_digests_in_any_order():
    a, b = ("ä.safetensors", "0" * 64), ("b", "1" * 64)
    text = '[["b","' + "1" * 64 + '"],["ä.safetensors","' + "0" * 64 + '"]]'
    assert json.loads(text) == [list(b), list(a)]
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert model_id([a, b]) == model_id([b, a]) == expected
    assert model_id([a]) != model_id([b])


def test_response_has_tensors_and_modules(world):
    summary = world.add(b=save(draws(one=(4, 8))), a=save(draws(two=(2, 2, 3, 3))))
    model = world.response("a", summary.id)
    assert [file.name for file in model.files] == ["a.safetensors", "b.safetensors"]
    assert (model.name, model.tensors_total) == ("a.safetensors", 2)
    assert model.size_bytes == sum(file.size_bytes for file in model.files)
    two, one = model.tensors
    assert (one.name, one.file, one.dtype) == ("one.weight", "b.safetensors", "F32")
    assert (one.shape, one.size_bytes) == ((4, 8), 128)
    assert (two.module, two.module_type, two.type_source) == (
        "two",
        "torch.nn.modules.conv.Conv2d",
        "inferred",
    )
    assert [module.name for module in model.modules] == ["", "two", "one"]
    (listed,) = world.models.page("a", 1, None).items
    assert listed.model_dump() == summary.model_dump(exclude={"files"})


def test_files_are_parsed_once(world):
    id_ = world.add().id
    first = world.checkpoint("a", id_)
    for path in world.store.list("uploads"):
        world.store.delete(path)
    assert world.checkpoint("a", id_) == first


@pytest.mark.parametrize("how", ["newer reader", "gone"])
def test_files_are_parsed_again_after_an_upgrade(world, monkeypatch, how):
    id_ = world.add().id
    first = world.checkpoint("a", id_)
    if how == "gone":
        world.store.delete_folder("models")
    else:
        monkeypatch.setattr(index, "READER_VERSION", index.READER_VERSION + 1)
        assert not world.store.exists(index.index_path(id_))
    assert world.checkpoint("a", id_) == first
    assert world.store.exists(index.index_path(id_))


@pytest.mark.parametrize("gone", ["the contents", "all that was read"])
def test_missing_contents_are_written_on_request(world, gone):
    id_ = world.add(b=save(draws(one=(4, 8))), a=save(draws(two=(2, 2, 3, 3)))).id
    first, stored = world.response("a", id_), world.store.list("models")
    assert len(stored) == 2
    if gone == "the contents":
        world.store.delete(index.contents_path(id_))
        for path in world.store.list("uploads"):
            world.store.delete(path)  # the files need not be read again
    else:
        world.store.delete_folder("models")
    assert world.response("a", id_) == first
    assert sorted(world.store.list("models")) == sorted(stored)
    world.models.delete("a", id_)
    assert world.store.list("") == []


def test_contents_are_those_of_the_checkpoint(world):
    """More of them than are sent at once."""
    tensors = draws(**{f"part{number}": (2, 2) for number in range(6_000)})
    id_ = world.add(m=save(tensors)).id
    assert world.store.size_bytes(index.contents_path(id_)) > PIECE_BYTES
    model, checkpoint = world.response("a", id_), world.checkpoint("a", id_)
    assert model.modules == checkpoint.modules
    assert model.warnings == checkpoint.warnings
    assert [(one.name, one.shape, one.size_bytes) for one in model.tensors] == [
        (one.name, one.shape, one.size_bytes) for one in checkpoint.tensors
    ]
    assert {one.name for one in model.tensors} == set(tensors)


def test_a_checkpoint_has_its_files_where_they_are_now(world):
    id_ = world.add().id
    (file,) = world.checkpoint("a", id_).files
    world.files.relocate(file.sha256, "uploads/elsewhere")
    (moved,) = world.checkpoint("a", id_).files
    assert moved == file.model_copy(update={"path": "uploads/elsewhere"})


def test_invalid_files_store_nothing(world):
    with pytest.raises(InvalidModel):
        world.add(m=b"not a model at all")
    assert world.store.list("models") == []
    assert world.models.page("a", 10, None).items == ()


def refuse(_):
    raise NotFound("the upload was removed meanwhile")


def test_a_model_that_could_not_be_added_leaves_nothing(world):
    with pytest.raises(NotFound, match="removed meanwhile"):
        world.add(in_transaction=refuse)
    assert world.store.list("models") == []


def test_what_another_owner_has_of_a_model_stays_when_one_cannot_add_it(world):
    id_ = world.add("b").id
    with pytest.raises(NotFound):
        world.add("a", in_transaction=refuse)
    paths = {index.index_path(id_), index.contents_path(id_)}
    assert set(world.store.list("models")) == paths


def test_what_somebody_reads_of_a_model_stays_when_another_cannot_add_it(world):
    """Whose row may come at any moment; if it never does, the sweep finds what is left."""
    file = world.put("m.safetensors", save(draws(x=(4, 8))))
    path = index.index_path(model_id([(file.name, file.sha256)]))
    world.store.write(path, b"{}")
    with pytest.raises(NotFound):
        world.add("a", in_transaction=refuse)
    assert path in world.store.list("models")


def test_a_deleted_model_leaves_nothing_that_nobody_needs(world):
    id_ = world.add("a").id
    world.add("b")
    world.models.delete("a", id_)
    with pytest.raises(NotFound):
        world.models.delete("a", id_)
    assert world.checkpoint("b", id_)
    world.models.delete("b", id_)
    assert world.store.list("") == []
    assert list(world.files.paths()) == []


def test_pages(world):
    ids = {world.add(m=save(draws(seed, x=(2, 2)))).id for seed in range(5)}
    seen, cursor = [], None
    while True:
        page = world.models.page("a", 2, cursor)
        seen += [model.id for model in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert len(seen) == 5
    assert set(seen) == ids


@pytest.mark.parametrize("cursor", ["", "x", "é", "e30=", "WzEsMl0=", "bnVsbA==", "W" * 400])
def test_invalid_cursor(world, cursor):
    with pytest.raises(BadInput, match="the cursor is not valid; start again without it"):
        world.models.page("a", 10, cursor)
