"""Labels: one printable line."""

import pytest

from palettery.schemas.labels import MAX_LABEL_CHARACTERS, check_label


@pytest.mark.parametrize("label", ["a", "モデル [bold]", "x" * MAX_LABEL_CHARACTERS])
def test_labels(label):
    assert check_label(label) == label


@pytest.mark.parametrize(
    "label", ["", " ", "a\nb", "\x00", "\u202eevil", "x" * (MAX_LABEL_CHARACTERS + 1)]
)
def test_labels_that_are_none(label):
    with pytest.raises(ValueError, match="one line of 1 to 100 printable characters"):
        check_label(label)
