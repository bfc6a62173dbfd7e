"""Errors that users see, and the HTTP status of each.

PaletteryError
├── BadInput                 the request is not valid
│   ├── InvalidConfig        the config is not valid; one entry per field
│   ├── UnknownPreset
│   ├── StrictViolation      `strict` is set, and the config cannot be applied completely
│   ├── InvalidWebhook       the URL is malformed, or its address is not allowed
│   ├── InvalidUpload        the multipart form is malformed
│   ├── InvalidModel         the model file is damaged or malformed
│   ├── InvalidSensitivities they do not match the model, or have invalid values
│   ├── UnsupportedFormat    the file format is not supported; names an alternative
│   ├── UnsupportedMediaType the endpoint does not accept the Content-Type
│   │   └── UnsupportedContentEncoding  the body is compressed
│   ├── InvalidArtifact      not a Palettery artifact, or damaged
│   ├── Inexpressible        the export format cannot represent a tensor; names the tensors
│   ├── ExtraMissing         the export format needs packages that are not installed
│   └── TooLarge             over a limit; names it
├── Unauthenticated          the API key is missing or invalid
├── Forbidden                the key lacks the scope
├── OverQuota                the owner's quota is exceeded
├── TooManyStreams           too many event streams are open, of the owner or in total
├── NotFound                 no such job, model, upload, artifact, schema
├── UploadExpired            the upload expired; its parts were deleted
├── Conflict                 the current state does not allow the request
│   ├── IdempotencyConflict  the Idempotency-Key was used with another request
│   └── PartsMissing         parts of the upload are missing; names them
├── RequestTimeout           the client sent its request too slowly
├── Cancelled                the job was cancelled while it ran
├── DeadlineExceeded         the job did not end before its deadline
├── QualityNotReached        the artifact's outputs lack the required quality; it is kept
├── UploadDamaged            a stored file has a wrong checksum
├── OutOfMemory              a task needs more memory than a worker has
├── WorkerDied               a task crashed several workers
├── SandboxCrashed           a sandboxed process crashed; names the signal, if any
├── SandboxTimeout           a sandboxed process exceeded its timeout
├── SandboxMissing           the sandbox is required, and this machine has none
└── Unavailable              something that the service needs is unavailable
    ├── StorageFull          no space is left
    ├── StorageFailed        the object store failed
    ├── DatabaseFailed       unreachable, locked or out of space; a retry may help
    ├── WorkersLost          the workers' scheduler is unreachable
    ├── FileGone             a stored file was deleted or replaced during the request
    └── ObjectMissing        an object is missing from the store
"""

from collections.abc import Sequence
from typing import ClassVar, Self

from palettery.schemas.problem import InvalidField, Problem


class PaletteryError(Exception):
    """Base class of all errors with a message for users."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, errors: Sequence[InvalidField] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors[:MAX_LISTED])

    @classmethod
    def about(cls, detail: str, errors: Sequence[InvalidField]) -> Self:
        """Return an error that lists the first `MAX_LISTED` of many problems."""
        more = len(errors) - MAX_LISTED
        counted = f"{detail}; {more:,} more are not listed" if more > 0 else detail
        return cls(counted, errors[:MAX_LISTED])

    def __reduce__(self) -> tuple[type["PaletteryError"], tuple[str, tuple[InvalidField, ...]]]:
        return type(self), (self.detail, self.errors)  # so that errors cross process boundaries


class BadInput(PaletteryError):
    """The request is not valid."""

    code = "bad_input"
    title = "The request is not valid"


class InvalidConfig(BadInput):
    """The config is not valid; one entry per field."""

    code = "invalid_config"
    title = "The config is not valid"

    @classmethod
    def of(cls, faults: Sequence[InvalidField]) -> Self:
        """Return the error of a config with these invalid fields."""
        fields = "field is" if len(faults) == 1 else "fields are"
        return cls(f"the config is not valid: {len(faults)} {fields} wrong", faults)


class UnknownPreset(BadInput):
    """No preset has this name."""

    code = "unknown_preset"
    title = "There is no such preset"


class StrictViolation(BadInput):
    """`strict` is set, and a config key matches nothing or does not fit a tensor."""

    code = "strict_violation"
    title = "The config cannot be applied completely"


class InvalidWebhook(BadInput):
    """The webhook URL is malformed, or its address is not allowed."""

    code = "invalid_webhook"
    title = "The webhook URL is not allowed"


class InvalidUpload(BadInput):
    """The uploaded form or body is malformed."""

    code = "invalid_upload"
    title = "The upload is not valid"


class InvalidModel(BadInput):
    """The model file is damaged or malformed."""

    code = "invalid_model"
    title = "The model file cannot be read"


class InvalidSensitivities(BadInput):
    """The sensitivities do not match the model, or have invalid values."""

    code = "invalid_sensitivities"
    title = "The sensitivities are not valid"


class UnsupportedFormat(BadInput):
    """The file format is not supported."""

    code = "unsupported_format"
    title = "The file format is not supported"


class UnsupportedMediaType(BadInput):
    """The endpoint does not accept this Content-Type."""

    code = "unsupported_media_type"
    title = "The Content-Type is not supported"


class UnsupportedContentEncoding(UnsupportedMediaType):
    """The body has a Content-Encoding, such as gzip."""

    code = "unsupported_content_encoding"
    title = "The Content-Encoding is not supported"


class InvalidArtifact(BadInput):
    """The file is not a valid artifact."""

    code = "invalid_artifact"
    title = "The file is not a valid Palettery artifact"


class Inexpressible(BadInput):
    """The requested export format cannot represent the palettized model."""

    code = "inexpressible"
    title = "The export format cannot represent this model"


class ExtraMissing(BadInput):
    """The export format needs packages that are not installed."""

    code = "extra_missing"
    title = "Packages for the export format are not installed"


class TooLarge(BadInput):
    """The request is over a limit."""

    code = "too_large"
    title = "The request is over a limit"


class Unauthenticated(PaletteryError):
    """The API key is missing or invalid."""

    code = "unauthenticated"
    title = "A valid API key is required"


class Forbidden(PaletteryError):
    """The API key lacks the required scope."""

    code = "forbidden"
    title = "The API key lacks the required scope"


class OverQuota(PaletteryError):
    """The request exceeds the owner's quota."""

    code = "over_quota"
    title = "The owner's quota is exceeded"


class TooManyStreams(PaletteryError):
    """The limit of open event streams is reached."""

    code = "too_many_streams"
    title = "Too many event streams are open"


class NotFound(PaletteryError):
    """The resource does not exist."""

    code = "not_found"
    title = "Not found"


class UploadExpired(PaletteryError):
    """The upload was not completed before it expired."""

    code = "upload_expired"
    title = "The upload has expired"


class Conflict(PaletteryError):
    """The current state does not allow the request."""

    code = "conflict"
    title = "The current state does not allow the request"


class RequestTimeout(PaletteryError):
    """The client sent its request too slowly."""

    code = "request_timeout"
    title = "The request was sent too slowly"


class IdempotencyConflict(Conflict):
    """The Idempotency-Key was used with another request."""

    code = "idempotency_conflict"
    title = "The Idempotency-Key was used with another request"


class PartsMissing(Conflict):
    """Parts of the upload are missing; one entry per part."""

    code = "parts_missing"
    title = "Parts of the upload are missing"


class Cancelled(PaletteryError):
    """The job was cancelled."""

    code = "cancelled"
    title = "The job was cancelled"


class DeadlineExceeded(PaletteryError):
    """The job did not end before its deadline."""

    code = "deadline_exceeded"
    title = "The job's deadline has passed"


class QualityNotReached(PaletteryError):
    """The artifact's outputs do not have the quality that the job requires."""

    code = "quality_not_reached"
    title = "The required quality was not reached"


class UploadDamaged(PaletteryError):
    """A stored file no longer has the checksum of the upload."""

    code = "upload_damaged"
    title = "A stored file is damaged"


class OutOfMemory(PaletteryError):
    """A task needs more memory than a worker has."""

    code = "out_of_memory"
    title = "A worker ran out of memory"


class WorkerDied(PaletteryError):
    """A task crashed several workers, one after the other."""

    code = "worker_died"
    title = "The workers crashed"


class SandboxCrashed(PaletteryError):
    """The sandboxed process of a user's model ended without a result."""

    code = "sandbox_crashed"
    title = "The process that ran the model crashed"


class SandboxTimeout(PaletteryError):
    """The sandboxed process of a user's model exceeded its timeout."""

    code = "sandbox_timeout"
    title = "The process that ran the model timed out"


class SandboxMissing(PaletteryError):
    """A user's model would run without isolation from network and files."""

    code = "sandbox_missing"
    title = "This machine has no sandbox for users' models"


class Unavailable(PaletteryError):
    """Something that the service needs is unavailable."""

    code = "unavailable"
    title = "The service is temporarily unavailable"


class StorageFull(Unavailable):
    """The object store has no space left."""

    code = "storage_full"
    title = "The object store is full"


class StorageFailed(Unavailable):
    """An operation of the object store failed."""

    code = "storage_failed"
    title = "The object store failed"


class WorkersLost(Unavailable):
    """The workers' scheduler is unreachable."""

    code = "workers_lost"
    title = "The workers cannot be reached"


class DatabaseFailed(Unavailable):
    """An operation of the database failed."""

    code = "database_failed"
    title = "The database failed"


class FileGone(Unavailable):
    """A stored file was deleted or replaced during the request; a retry may help."""

    code = "file_gone"
    title = "A stored file was deleted during the request"


class ObjectMissing(Unavailable):
    """An object is missing from the store."""

    code = "object_missing"
    title = "A stored file is missing"


STATUS: dict[str, int] = {
    "internal": 500,
    "bad_input": 422,
    "invalid_config": 422,
    "unknown_preset": 422,
    "strict_violation": 422,
    "invalid_webhook": 422,
    "invalid_upload": 422,
    "invalid_model": 422,
    "invalid_sensitivities": 422,
    "unsupported_format": 415,
    "unsupported_media_type": 415,
    "unsupported_content_encoding": 415,
    "invalid_artifact": 422,
    "inexpressible": 422,
    "extra_missing": 422,
    "too_large": 413,
    "unauthenticated": 401,
    "forbidden": 403,
    "over_quota": 429,
    "too_many_streams": 429,
    "not_found": 404,
    "upload_expired": 410,
    "conflict": 409,
    "idempotency_conflict": 409,
    "parts_missing": 409,
    "request_timeout": 408,
    "cancelled": 409,
    "deadline_exceeded": 504,
    "quality_not_reached": 422,
    "upload_damaged": 500,
    "out_of_memory": 500,
    "worker_died": 500,
    "sandbox_crashed": 500,
    "sandbox_timeout": 500,
    "sandbox_missing": 501,
    "unavailable": 503,
    "storage_full": 507,
    "storage_failed": 503,
    "workers_lost": 503,
    "database_failed": 503,
    "file_gone": 503,
    "object_missing": 503,
}
"""HTTP status of each code."""


def _with_subclasses(root: type[PaletteryError]) -> list[type[PaletteryError]]:
    children = root.__subclasses__()
    return [root, *(kind for child in children for kind in _with_subclasses(child))]


MAX_LISTED = 1_000
"""Most entries in the `errors` of one problem; its detail tells how many more there are."""

ERRORS: dict[str, type[PaletteryError]] = {
    kind.code: kind for kind in _with_subclasses(PaletteryError)
}
"""Error class of each code."""


def problem(error: PaletteryError, instance: str | None = None) -> Problem:
    """Return an error in the form of RFC 9457."""
    return Problem(
        type=f"urn:palettery:problem:{error.code}",
        title=error.title,
        status=STATUS[error.code],
        code=error.code,
        detail=error.detail,
        instance=instance,
        errors=error.errors,
    )
