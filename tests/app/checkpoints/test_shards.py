"""Which files of an upload make up the model."""

import json

import pytest

from palettery.app.checkpoints.shards import ShardIndex, check_index, read_index, select_files
from palettery.app.errors import InvalidModel, TooLarge
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import StoredFile, StoredTensor


def files(*names):
    return [StoredFile(name=name, path=name, size_bytes=1) for name in names]


def select(names, *indexes):
    return select_files(files(*names), range(len(names)), indexes)


def index(*shards, name="a.index.json"):
    return ShardIndex(name, {f"t{number}": shard for number, shard in enumerate(shards)})


def test_index_is_read_and_other_json_is_none():
    text = json.dumps({"metadata": {"x": [1]}, "weight_map": {"a": "1", "b": "2"}})
    assert read_index(text, "i", Limits()) == ShardIndex("i", {"a": "1", "b": "2"})
    assert read_index("{}", "i", Limits()) is None
    with pytest.raises(InvalidModel, match="names no tensor"):
        read_index('{"weight_map": {}}', "i", Limits())
    with pytest.raises(TooLarge, match="over 1 tensors"):
        read_index(text, "i", Limits(tensors=1))


def test_files_without_an_index_are_all_taken():
    chosen = select(["a", "b"])
    assert ([*chosen.files], chosen.index, chosen.warnings) == ([0, 1], None, ())


@pytest.mark.parametrize("first", [0, 1])
def test_numbered_shards_are_complete(first):
    names = [f"m-{n:05d}-of-00003.bin" for n in range(first, first + 3)]
    assert select(names).warnings == ()
    with pytest.raises(InvalidModel, match=f"2 of the 3 shards .* lacks number {first + 1}:"):
        select([names[0], names[2]])
    (warning,) = select([*names, "other.bin"]).warnings
    assert "are read as one model" in warning


def test_index_chooses_and_the_others_are_named():
    chosen = select(["x/1.st", "x/2.st", "3.st"], index("1.st", "x/2.st", "1.st"))
    assert (chosen.files, chosen.shards) == ([0, 1], {"1.st": 0, "x/2.st": 1})
    assert chosen.warnings == ("ignored, because a.index.json does not name it: 3.st",)


@pytest.mark.parametrize("shard", ["2.st", "../1.st", "/1.st", "x/../1.st", ""])
def test_shard_that_the_upload_lacks(shard):
    with pytest.raises(InvalidModel, match="which the upload lacks"):
        select(["1.st"], index("1.st", shard))


def test_of_several_indexes_the_complete_one_counts():
    fitting, other = index("1.st"), index("2.st", name="b.index.json")
    chosen = select(["1.st"], other, fitting)
    assert chosen.index is fitting
    assert "b.index.json" in chosen.warnings[0]
    with pytest.raises(InvalidModel, match="more than one index"):
        select(["1.st", "2.st"], other, fitting)


def test_tensors_must_be_where_the_index_says():
    names = ["1.st", "2.st"]
    chosen = select(names, index("1.st", "2.st"))
    tensors = [
        StoredTensor(name=f"t{n}", dtype="F32", shape=(1,), file=file, offset=0, size_bytes=4)
        for n, file in enumerate((0, 1))
    ]
    check_index(chosen, files(*names), tensors)
    with pytest.raises(InvalidModel, match=r"'t1' is in 2\.st, but it is not"):
        check_index(chosen, files(*names), tensors[:1])
