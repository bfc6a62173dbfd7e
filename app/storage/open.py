"""Opening of object stores by URL: a local folder, S3, GCS or Azure."""

from functools import cache
from urllib.parse import urlsplit

from palettery.app.errors import BadInput
from palettery.app.storage.base import Storage
from palettery.app.storage.bucket import open_bucket
from palettery.app.storage.bucket_errors import CREDENTIALS
from palettery.app.storage.folder import open_folder


def open_storage(url: str) -> Storage:
    """Open the store of a URL: `file:///folder` (created when missing), `s3://bucket/prefix`, etc.

    Credentials come from the environment, under the names each cloud's own tools use.
    Source: https://developmentseed.org/obstore/latest/api/store/.

    Raises:
        BadInput: the URL has an unknown scheme, or no location.
    """
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return open_folder(url)
    if scheme in CREDENTIALS:
        return open_bucket(url)
    allowed = ", ".join(f"{scheme}://" for scheme in ("file", *CREDENTIALS))
    raise BadInput(
        f"the storage URL starts with {scheme or url[:64]!r}; it must be one of {allowed}"
    )


@cache
def shared_storage(url: str) -> Storage:
    """Return the store of a URL, opened once in this process, so that connections are reused."""
    return open_storage(url)
