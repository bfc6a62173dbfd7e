"""Containers that the inputs and outputs of a model lie in, as JSON of `torch.utils._pytree`.

torch imports the classes that they name, so only those of Python are read.
"""

import json
from typing import Any

CONTAINERS = frozenset(
    ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
)
"""Containers that inputs and outputs may lie in."""
DEPTH = 64
"""Of containers in each other."""


def check_tree(text: str) -> str:
    """Refuse containers that would be made by code from elsewhere; the others are written anew."""
    try:
        version, tree = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("no description of inputs or outputs") from error
    if version != 1:
        raise ValueError(f"a description of inputs of version {str(version)[:20]}; 1 is read")
    return json.dumps([1, _tree(tree, DEPTH)])


def _tree(tree: Any, room: int) -> dict[str, object]:
    if not room or not isinstance(tree, dict):
        raise ValueError("no description of inputs or outputs")
    kind, context = tree.get("type"), tree.get("context")
    held = tree.get("children_spec")
    if not isinstance(held, list) or (kind is None and (held or context is not None)):
        raise ValueError("no description of inputs or outputs")
    if kind is not None and (not isinstance(kind, str) or kind not in CONTAINERS):
        raise ValueError(f"inputs or outputs lie in a {str(kind)[:80]!r}; use tuples and dicts")
    children = [_tree(child, room - 1) for child in held]
    return {"type": kind, "context": _context(context), "children_spec": children}


def _context(text: object) -> object:
    """The keys of a dict, as JSON in a text."""
    if text is None:
        return None
    try:
        keys = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise ValueError("a description of inputs or outputs whose keys are no JSON") from error
    is_plain = keys is None or (
        isinstance(keys, list) and all(isinstance(key, str | int | bool) for key in keys)
    )
    if not isinstance(text, str) or not is_plain:
        raise ValueError("a description of inputs or outputs with more than keys in it")
    return json.dumps(keys)
