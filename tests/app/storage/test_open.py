"""Stores by their URL."""

import pytest

from palettery.app.errors import BadInput
from palettery.app.storage.folder import Folder
from palettery.app.storage.open import open_storage, shared_storage


def test_folder_is_made_and_opened_once(tmp_path):
    url = (tmp_path / "new").as_uri()
    assert isinstance(open_storage(url), Folder)
    assert (tmp_path / "new").is_dir()
    assert shared_storage(url) is shared_storage(url)


@pytest.mark.parametrize("url", ["ftp://host/a", "no url", ""])
def test_other_urls_are_refused_with_those_allowed(url):
    with pytest.raises(BadInput, match=r"must be one of file://, .*s3://"):
        open_storage(url)
