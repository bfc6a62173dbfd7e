"""Labels: names that users give to their jobs and models."""

from typing import Annotated

from pydantic import AfterValidator, Field

MAX_LABEL_CHARACTERS = 100


def check_label(label: str) -> str:
    """Check that a label is one line of text, and return it.

    Raises:
        ValueError: the label is empty, too long, or not printable.
    """
    if len(label) > MAX_LABEL_CHARACTERS or not label.isprintable() or not label.strip():
        raise ValueError(
            f"{label[:40]!r} is not a valid label; send one line of 1 to {MAX_LABEL_CHARACTERS} "
            "printable characters"
        )
    return label


Label = Annotated[
    str,
    AfterValidator(check_label),  # its message is clearer than that of a pydantic limit
    Field(json_schema_extra={"minLength": 1, "maxLength": MAX_LABEL_CHARACTERS}),
]
