"""Translation of obstore's errors into those of this package."""

import re
from urllib.parse import urlsplit

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from palettery.app.errors import ObjectMissing, StorageFailed, StorageFull, Unavailable

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""URL scheme -> environment variables of the credentials."""
STATUS = re.compile(r"status code: (\d{3})")
CODE = re.compile(r"<Code>(\w{1,64})</Code>")
TRANSIENT_STATUS = (408, 429)
FULL_CODES = ("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull")
NO_BUCKET_CODES = ("NoSuchBucket", "ContainerNotFound")
REFUSED_CODES = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
METADATA_SERVICE = "169.254."
"""Address of the clouds' metadata service, the fallback source of credentials."""
MAX_CHARACTERS = 200


def is_transient(error: BaseError | OSError) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(error, OSError | PermissionDeniedError | UnauthenticatedError):
        return False
    text = str(error)
    if METADATA_SERVICE in text or "builder error" in text:
        return False
    status = STATUS.search(text)
    return status is None or int(status[1]) >= 500 or int(status[1]) in TRANSIENT_STATUS


def translate(error: BaseError | OSError, path: str, url: str) -> Unavailable:
    """Return the `PaletteryError` for an obstore error, with advice and without secrets."""
    text = str(error)
    code, status = CODE.search(text), STATUS.search(text)
    name = code[1] if code else ""
    if name in NO_BUCKET_CODES:
        return StorageFailed(
            f"there is no bucket {urlsplit(url).netloc!r}; create it, or correct the storage URL"
        )
    if isinstance(error, FileNotFoundError):
        return ObjectMissing(f"nothing is stored at {path}")
    if status and status[1] == "416":
        return ObjectMissing(f"{path} ends before the range begins")
    if (status and status[1] == "507") or name in FULL_CODES:
        return StorageFull("the store is full; free some space, then retry")
    if _is_refusal(error, text, name):
        variables = CREDENTIALS[urlsplit(url).scheme]
        return StorageFailed(
            f"the store refused access{f' ({name})' if name else ''}: check {variables} in the "
            f"environment of this process, and their permissions"
        )
    if "builder error" in text:
        return StorageFailed(
            "the store's endpoint is not https; set AWS_ALLOW_HTTP=true to permit that"
        )
    return StorageFailed(f"the store failed at {path}: {_summary(text, name)}")


def _is_refusal(error: BaseError | OSError, text: str, name: str) -> bool:
    return (
        isinstance(error, PermissionDeniedError | UnauthenticatedError)
        or name in REFUSED_CODES
        or METADATA_SERVICE in text
    )


def _summary(text: str, name: str) -> str:
    """Return the error in one line, without addresses."""
    line = " ".join(text.split("Debug source", 1)[0].split("<", 1)[0].split())
    line = re.sub(r"https?://\S+ ?", "", line)[:MAX_CHARACTERS].rstrip(" :")
    return f"{line} ({name})" if name else line
