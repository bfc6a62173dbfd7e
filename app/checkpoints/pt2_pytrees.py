"""Allow list for pytrees: the containers of a model's inputs and outputs.

They are JSON of `torch.utils._pytree`. torch imports the classes that they name, so only Python's
own containers are allowed.
"""

import json
from typing import Any

CONTAINERS = frozenset(
    ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
)
"""Classes that inputs and outputs may consist of."""
MAX_DEPTH = 64
"""Maximum nesting."""


def check_pytree(text: str) -> str:
    """Return a pytree, rebuilt from its checked parts.

    Raises:
        ValueError: invalid, or with containers that are not allowed.
    """
    try:
        version, tree = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("not a pytree of inputs or outputs") from error
    if version != 1:
        raise ValueError(f"a pytree of version {str(version)[:20]}; only version 1 is supported")
    return json.dumps([1, _check_tree(tree, MAX_DEPTH)])


def _check_tree(tree: Any, depth: int) -> dict[str, object]:
    if not depth or not isinstance(tree, dict):
        raise ValueError("not a pytree of inputs or outputs")
    kind, context = tree.get("type"), tree.get("context")
    children = tree.get("children_spec")
    if not isinstance(children, list) or (kind is None and (children or context is not None)):
        raise ValueError("not a pytree of inputs or outputs")
    if kind is not None and (not isinstance(kind, str) or kind not in CONTAINERS):
        raise ValueError(f"inputs or outputs are in a {str(kind)[:80]!r}; use tuples and dicts")
    return {
        "type": kind,
        "context": _check_context(context),
        "children_spec": [_check_tree(child, depth - 1) for child in children],
    }


def _check_context(text: object) -> object:
    """Return the checked keys of a dict, as JSON in a string."""
    if text is None:
        return None
    try:
        keys = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise ValueError("a pytree whose keys are not JSON") from error
    are_keys = keys is None or (
        isinstance(keys, list) and all(isinstance(key, str | int | bool) for key in keys)
    )
    if not isinstance(text, str) or not are_keys:
        raise ValueError("a pytree with a context that is not a list of keys")
    return json.dumps(keys)
