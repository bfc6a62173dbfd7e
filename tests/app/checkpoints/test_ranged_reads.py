"""Many small ranges, read with few requests."""

from dataclasses import dataclass, field

import pytest

from palettery.app.checkpoints.ranged_reads import GAP_BYTES, WINDOW_BYTES, FileRange, read_ranges
from palettery.app.storage.folder import Folder
from palettery.app.storage.open import open_storage


@dataclass(frozen=True)
class CountingFolder(Folder):
    """A folder that records the sizes of its reads."""

    sizes: list = field(default_factory=list)

    def read(self, path, offset=0, size_bytes=None):
        data = super().read(path, offset, size_bytes)
        self.sizes.append(len(data))
        return data


@pytest.mark.parametrize(
    ("offsets", "requests"),
    [
        ([], 0),
        ([3], 1),
        ([0, 4, GAP_BYTES], 1),
        ([0, GAP_BYTES + 1], 2),
        (range(0, WINDOW_BYTES + 2 * GAP_BYTES, GAP_BYTES), 2),
    ],
)
def test_near_ranges_share_a_request(tmp_path, offsets, requests):
    content = bytes(n * 7 % 251 for n in range(WINDOW_BYTES + 4 * GAP_BYTES))
    (tmp_path / "file").write_bytes(content)
    folder = open_storage(tmp_path.as_uri())
    store = CountingFolder(folder.url, folder.root)
    ranges = [FileRange(offset, 4) for offset in offsets]
    contents = list(read_ranges(store, "file", ranges))
    assert contents == [content[offset : offset + 4] for offset in offsets]
    assert len(store.sizes) == requests
    assert max(store.sizes, default=0) <= WINDOW_BYTES + 4
