"""Tags of representations, which tell whether a copy is still right.

Source: RFC 9110, section 13.1.2.
"""


def lists(header: str, etag: str) -> bool:
    """Whether an If-None-Match header names the tag, compared weakly as it asks for."""
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags
