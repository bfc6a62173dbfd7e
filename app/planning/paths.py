"""Paths in a config: as the plan writes them, and as JSON pointers."""

import json
from functools import lru_cache


@lru_cache(maxsize=1024)
def format_path(*parts: str) -> str:
    """Return a path in the config: `keyed("a", "b", "c", "d")` is `a["b"].c["d"]`."""
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return ".".join(f"{field}[{json.dumps(key, ensure_ascii=False)}]" for field, key in pairs)


def json_pointer(*parts: str) -> str:
    """Return a JSON pointer into the config. Source: RFC 6901."""
    return "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in parts)
