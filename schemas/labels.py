"""Labels: what people call their jobs and models."""

from typing import Annotated

from pydantic import AfterValidator, Field

MOST_LABEL_CHARACTERS = 100


def check_label(label: str) -> str:
    """Check that a label is a line of text.

    Raises:
        ValueError: says what it is and what it may be.
    """
    if len(label) > MOST_LABEL_CHARACTERS or not label.isprintable() or not label.strip():
        raise ValueError(
            f"{label[:40]!r} is no label; send one line of 1 to {MOST_LABEL_CHARACTERS} "
            "printable characters"
        )
    return label


Label = Annotated[
    str,
    AfterValidator(check_label),  # which says more than a limit of pydantic's
    Field(json_schema_extra={"minLength": 1, "maxLength": MOST_LABEL_CHARACTERS}),
]
