"""References to storages as a pickle has them."""

import pytest

from palettery.app.checkpoints.torch_records import (
    MalformedPickleError,
    NonTextKey,
    StorageRef,
    StorageType,
    parse_count,
    parse_storage,
)

FLOAT = StorageType("float32")


def test_storage_and_a_part_of_it():
    whole, part = parse_storage(("storage", FLOAT, "0", "cpu", 10))
    assert whole is part
    assert whole == StorageRef("float32", "0", "cpu", 10)
    assert whole.size_bytes() == 40
    whole, part = parse_storage(("storage", FLOAT, "0", "cpu", 10, ("v", 2, 3)))
    assert part == StorageRef("float32", "0", "cpu", 5, 2)
    assert StorageRef(None, "0", "cpu", 7).size_bytes() == 7


@pytest.mark.parametrize(
    "reference",
    [
        None,
        ("storage", FLOAT, "0", "cpu"),
        ("module", FLOAT, "0", "cpu", 10),
        ("storage", "FloatStorage", "0", "cpu", 10),
        ("storage", FLOAT, 0, "cpu", 10),
        ("storage", FLOAT, "0", "cpu", -1),
        ("storage", FLOAT, "0", "cpu", 10, ("v", 8, 3)),
        ("storage", FLOAT, "0", "cpu", 10, ("v", 8)),
    ],
)
def test_other_references_are_damage(reference):
    with pytest.raises(MalformedPickleError):
        parse_storage(reference)


def test_counts_are_whole_numbers():
    assert [parse_count(0), parse_count(2**63 - 1)] == [0, 2**63 - 1]
    for value in (-1, 2**63, True, 1.0, "1", None):
        with pytest.raises(MalformedPickleError, match="whole number"):
            parse_count(value)


def test_keys_that_are_no_text_are_shown_and_never_equal():
    assert [str(NonTextKey(key)) for key in (1, 1.5, None, b"a")] == ["1", "1.5", "None", "a bytes"]
    assert NonTextKey(1) != NonTextKey(1)
