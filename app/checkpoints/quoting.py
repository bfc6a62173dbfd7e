"""Untrusted names and values as short, printable text for messages."""

from collections.abc import Sequence


def quote_text(text: str) -> str:
    """Return a text in quotes, with control characters escaped, truncated if long."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def quote_json(value: object) -> str:
    """Return a short description of a JSON value, however large or deep it is."""
    if isinstance(value, dict):
        keys = ", ".join(quote_text(str(key)) for key in [*value][:3])
        return f"an object of {keys or 'nothing'}"
    return "a list" if isinstance(value, list) else quote_text(str(value)[:100])


def format_shape(shape: Sequence[int]) -> str:
    """Return a shape as text, however large its numbers are."""
    return f"[{', '.join(str(n) if n < 1 << 62 else 'huge' for n in shape[:8])}]"
