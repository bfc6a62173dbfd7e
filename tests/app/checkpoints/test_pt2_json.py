"""JSON members of an archive: what is parsed, what is left out, and what is refused."""

import math

import pytest

from palettery.app.checkpoints.pt2_json import field, parse
from palettery.app.errors import InvalidModel, TooLarge
from palettery.app.settings import Limits

LIMITS = Limits()


def test_numbers_of_torch_are_read():
    document = parse(b'{"a": NaN, "b": -Infinity, "c": [1, null]}', "the graph", LIMITS)
    assert math.isnan(document["a"])
    assert document == {"a": document["a"], "b": -math.inf, "c": [1, None]}


def test_what_is_not_needed_of_a_graph_is_left_out():
    text = b'{"n": {"stack_trace": "x", "name": "n"}, "t": {"sizes": [], "layout": 1, "dtype": 1}}'
    assert parse(text, "the graph", LIMITS, graph=True) == {"n": {"name": "n"}, "t": {}}
    assert parse(text, "the graph", LIMITS)["n"]["stack_trace"] == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "must be a JSON object"),
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
        (b'{"a":' * 100_000, "nested too deep"),
    ],
)
def test_documents_that_cannot_be(text, message):
    with pytest.raises(InvalidModel, match=f"the graph .*{message}"):
        parse(text, "the graph", LIMITS)


def test_values_are_limited():
    with pytest.raises(TooLarge, match="PALETTERY_LIMIT_TENSORS"):
        parse(b'{"a": [' + b"0," * 100_000 + b"0]}", "the graph", Limits(tensors=2))


def test_fields_have_exactly_their_type():
    parent = {"name": "a", "size": 1, "flag": True, "list": [], "object": {}}
    kinds = {"name": str, "size": int, "flag": bool, "list": list, "object": dict}
    for key, kind in kinds.items():
        assert field(parent, key, kind, "the graph") == parent[key]
    for key, kind, expected in (
        ("flag", int, "a whole number, got"),
        ("size", bool, "true or false, got"),
        ("other", str, "a string, got"),
        ("name", list, "a list, got"),
        ("list", dict, "an object, got"),
    ):
        with pytest.raises(InvalidModel, match=f"the graph: {key!r} must be {expected}"):
            field(parent, key, kind, "the graph")
    with pytest.raises(InvalidModel):
        field([], "name", str, "the graph")
