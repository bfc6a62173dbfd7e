"""Files of an upload that are stored already: their sizes must be right."""

import pytest

from palettery.app.errors import InvalidUpload
from palettery.app.files.repository import FileLocation
from palettery.app.uploads.received_files import check_sizes
from palettery.schemas.uploads import FileToSend

OWNED = {digest * 64: FileLocation(digest * 64, f"uploads/{digest}", 10) for digest in "ab"}


def test_other_sizes_are_all_named():
    sent = [
        FileToSend(name="one", size_bytes=10, sha256="a" * 64),
        FileToSend(name="two", size_bytes=1_234, sha256="b" * 64),
        FileToSend(name="new", size_bytes=1, sha256="c" * 64),
    ]
    check_sizes([sent[0], sent[2]], OWNED)
    with pytest.raises(
        InvalidUpload, match=r"two was announced with 1,234 bytes.* has 10"
    ) as error:
        check_sizes(sent, OWNED)
    assert [field.pointer for field in error.value.errors] == ["/files/1/size_bytes"]
