"""Tags of representations, which tell whether a copy is still right.

Source: RFC 9110, sections 8.8.3 and 13.1.
"""


def satisfies_if_match(header: str | None, etag: str) -> bool:
    """Whether an If-Match header, if there is one, names the tag, compared strongly.

    Where it does not, the answer is 412.
    """
    return header is None or header.strip() == "*" or etag in _tags(header)


def is_listed_in_if_none_match(header: str, etag: str) -> bool:
    """Whether an If-None-Match header names the tag, compared weakly as it asks for."""
    return header.strip() == "*" or etag in [tag.removeprefix("W/") for tag in _tags(header)]


def _tags(header: str) -> list[str]:
    return [tag.strip() for tag in header.split(",")]
