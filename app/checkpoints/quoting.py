"""Untrusted names and values as short, printable text for messages."""

import json
from collections.abc import Sequence


def quote_text(text: str) -> str:
    """Return a text in quotes, with control characters escaped, cut to 80 characters."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def quote_json(value: object) -> str:
    """Return a short description of a JSON value, however large or deep it is."""
    if isinstance(value, dict):
        keys = ", ".join(quote_text(str(key)) for key in [*value][:3])
        return f"an object of {keys or 'nothing'}"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = quote_text(str(value)[:100])
    return text if isinstance(value, str) else text.strip("'")


def format_shape(shape: Sequence[int]) -> str:
    """Return the first 8 lengths of a shape as text, however large they are."""
    lengths = [str(length) if length < 1 << 62 else "huge" for length in shape[:8]]
    return f"[{', '.join([*lengths, '...'] if len(shape) > 8 else lengths)}]"
