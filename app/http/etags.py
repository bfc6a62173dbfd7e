"""ETags in conditional requests.

Source: RFC 9110, sections 8.8.3 and 13.1.
"""


def satisfies_if_match(header: str | None, etag: str) -> bool:
    """Return whether an If-Match header, if any, lists an ETag by strong comparison."""
    return header is None or header.strip() == "*" or etag in _tags(header)


def is_listed_in_if_none_match(header: str, etag: str) -> bool:
    """Return whether an If-None-Match header lists an ETag by weak comparison."""
    return header.strip() == "*" or etag in [tag.removeprefix("W/") for tag in _tags(header)]


def _tags(header: str) -> list[str]:
    return [tag.strip() for tag in header.split(",")]
