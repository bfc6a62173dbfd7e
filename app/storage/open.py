"""Open an object store: a local folder, S3, GCS or Azure behind one URL."""

from functools import cache
from urllib.parse import urlsplit

from palettery.app.errors import BadInput
from palettery.app.storage.base import Storage
from palettery.app.storage.bucket import open_bucket
from palettery.app.storage.failures import CREDENTIALS
from palettery.app.storage.folder import open_folder


def open_storage(url: str) -> Storage:
    """The store behind a URL: `file:///folder` (made when absent), `s3://bucket/prefix`, and so on.

    Credentials come from the environment, under the names each cloud's own tools use.
    Source: https://developmentseed.org/obstore/latest/api/store/.

    Raises:
        BadInput: there is no such kind of store, or the URL does not say where it is.
    """
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return open_folder(url)
    if scheme in CREDENTIALS:
        return open_bucket(url)
    allowed = ", ".join(f"{known}://" for known in ("file", *CREDENTIALS))
    raise BadInput(
        f"the storage URL starts with {scheme or url[:64]!r}; it must be one of {allowed}"
    )


@cache
def shared_storage(url: str) -> Storage:
    """The store behind a URL, opened once in this process, with its connections kept."""
    return open_storage(url)
