"""Containers of inputs and outputs: Python's own, and no class that torch would import."""

import json

import pytest
from torch.utils import _pytree as pytree

from palettery.app.checkpoints.pt2_pytrees import MAX_DEPTH, check_pytree


@pytest.mark.parametrize("tree", [(1, 2), [1, (2,)], {"a": 1, "b": [2]}, ((), {})])
def test_trees_that_torch_wrote_mean_the_same(tree):
    written = pytree.treespec_dumps(pytree.tree_structure(tree))
    assert pytree.treespec_loads(check_pytree(written)) == pytree.treespec_loads(written)


def of(kind, context=None, children=()):
    node = {"type": kind, "context": context, "children_spec": [*children]}
    return json.dumps([1, node])


def nested(depth):
    node = {"type": None, "context": None, "children_spec": []}
    for _ in range(depth):
        node = {"type": "builtins.tuple", "context": "null", "children_spec": [node]}
    return json.dumps([1, node])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a pytree"),
        ("[" * 100_000, "not a pytree"),
        ("3", "not a pytree"),
        ("[2, {}]", "version 2"),
        ("[1, []]", "not a pytree"),
        (of("os.system"), "in a 'os.system'"),
        (of(["builtins.tuple"]), "use tuples and dicts"),
        (of(None, "1"), "not a pytree"),
        (nested(MAX_DEPTH), "not a pytree"),
    ],
)
def test_anything_else_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        check_pytree(text)


def test_deep_trees_are_allowed_to_a_depth():
    assert check_pytree(nested(MAX_DEPTH - 1))
