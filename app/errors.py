"""Every error the service tells a user, and the HTTP status of each.

PaletteryError
├── BadInput                 the request cannot be served as it is
│   ├── InvalidConfig        config does not validate; carries one entry per field
│   ├── UnknownPreset
│   ├── StrictViolation      strict, and not everything the config asks for can be done
│   ├── InvalidWebhook       no URL, or one that must not be called
│   ├── InvalidUpload        the form itself: parts missing, twice, or misnamed
│   ├── InvalidModel         not a model file that we read: truncated, lying, hostile
│   ├── InvalidSensitivities they do not fit the model, or hold values that they must not
│   ├── UnsupportedFormat    a model file of a kind that we refuse, with the way out
│   ├── UnsupportedMediaType the body is of a type that the endpoint does not read
│   │   └── UnsupportedContentEncoding the body is compressed
│   ├── InvalidArtifact      not one of our artifacts, or damaged
│   ├── Inexpressible        a format has no way to say what the config asks for; names the tensors
│   ├── ExtraMissing         the format needs packages that are not installed here
│   └── TooLarge             over a limit; names the limit
├── Unauthenticated          no key, or one that is not valid
├── Forbidden                the key has not the scope
├── OverQuota                the owner would have more than it may
├── TooManyStreams           too many event streams are open, the owner's or all together
├── NotFound                 no such job, model, upload, artifact, schema
├── UploadExpired            what was sent of it is removed
├── Conflict                 the job's state does not allow it
│   ├── IdempotencyConflict  the Idempotency-Key stands for another request
│   └── PartsMissing         not every part of the upload has come in; names them
├── RequestTimeout           the client sent its request too slowly
├── Cancelled                the job was cancelled while it ran
├── DeadlineExceeded         the job had not ended when its time was up
├── UploadDamaged            stored bytes are not those that came in
├── OutOfMemory              a task takes more memory than a worker has
├── WorkerDied               workers died of a task, one after the other
├── SandboxCrashed           the process that ran a model failed; names the signal, if it was one
├── SandboxTimeout           it took longer than it may
├── SandboxMissing           this machine has no sandbox, and the operator requires one
└── Unavailable
    ├── StorageFull
    ├── StorageFailed
    ├── DatabaseFailed       away, locked or out of space; another try may help
    ├── WorkersLost          the scheduler of the workers went away
    ├── FileGone             a stored file was removed or replaced while it was being counted on
    └── ObjectMissing        bytes that should lie in the store do not
"""

from collections.abc import Sequence
from typing import ClassVar, Self

from palettery.schemas.problem import InvalidField, Problem


class PaletteryError(Exception):
    """Root of every error with a message for the user."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(self, detail: str, errors: Sequence[InvalidField] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors[:MOST_LISTED])

    @classmethod
    def about(cls, detail: str, errors: Sequence[InvalidField]) -> Self:
        """An error about many things, of which the first `MOST_LISTED` are named."""
        more = len(errors) - MOST_LISTED
        counted = f"{detail}; {more:,} more are not listed" if more > 0 else detail
        return cls(counted, errors[:MOST_LISTED])

    def __reduce__(self) -> tuple[type["PaletteryError"], tuple[str, tuple[InvalidField, ...]]]:
        return type(self), (self.detail, self.errors)  # so that errors cross process boundaries


class BadInput(PaletteryError):
    """The request cannot be served as it is."""

    code = "bad_input"
    title = "The request cannot be served as it is"


class InvalidConfig(BadInput):
    """The config does not validate."""

    code = "invalid_config"
    title = "The config is not valid"

    @classmethod
    def of(cls, faults: Sequence[InvalidField]) -> Self:
        """The error of a config with these faults."""
        fields = "field is" if len(faults) == 1 else "fields are"
        return cls(f"the config is not valid: {len(faults)} {fields} wrong", faults)


class UnknownPreset(BadInput):
    """No preset has that name."""

    code = "unknown_preset"
    title = "There is no such preset"


class StrictViolation(BadInput):
    """Strict, and a key matches nothing or a tensor cannot take what a rule asks for."""

    code = "strict_violation"
    title = "Not everything that the config asks for can be done"


class InvalidWebhook(BadInput):
    """The webhook's URL is none, or one that must not be called."""

    code = "invalid_webhook"
    title = "The webhook cannot be called"


class InvalidUpload(BadInput):
    """The upload form is not as it must be."""

    code = "invalid_upload"
    title = "The upload is not as it must be"


class InvalidModel(BadInput):
    """The model file is damaged, or says something impossible."""

    code = "invalid_model"
    title = "The model file cannot be read"


class InvalidSensitivities(BadInput):
    """The sensitivities do not fit the model, or are not such numbers."""

    code = "invalid_sensitivities"
    title = "The sensitivities cannot be used"


class UnsupportedFormat(BadInput):
    """The file is of a kind that is not accepted."""

    code = "unsupported_format"
    title = "Files of this kind are not accepted"


class UnsupportedMediaType(BadInput):
    """The body is of a type that the endpoint does not read."""

    code = "unsupported_media_type"
    title = "Bodies of this type are not read here"


class UnsupportedContentEncoding(UnsupportedMediaType):
    """The body is compressed, or otherwise encoded."""

    code = "unsupported_content_encoding"
    title = "Encoded bodies are not read"


class InvalidArtifact(BadInput):
    """The file is not a sound artifact."""

    code = "invalid_artifact"
    title = "The file is not a sound Palettery artifact"


class Inexpressible(BadInput):
    """A format that was asked for has no way to say what the config asks for."""

    code = "inexpressible"
    title = "The format cannot express all of the model"


class ExtraMissing(BadInput):
    """A format needs packages that are not installed here."""

    code = "extra_missing"
    title = "The format needs packages that are not installed"


class TooLarge(BadInput):
    """Over a limit."""

    code = "too_large"
    title = "The upload is over a limit"


class Unauthenticated(PaletteryError):
    """There is no key in the request, or one that is not valid."""

    code = "unauthenticated"
    title = "The request needs a valid key"


class Forbidden(PaletteryError):
    """The key has not the scope that this needs."""

    code = "forbidden"
    title = "The key does not allow this"


class OverQuota(PaletteryError):
    """The owner would have more than it may."""

    code = "over_quota"
    title = "This is more than the owner may have"


class TooManyStreams(PaletteryError):
    """As many event streams are open as may be."""

    code = "too_many_streams"
    title = "Too many event streams are open"


class NotFound(PaletteryError):
    """There is no such thing."""

    code = "not_found"
    title = "There is no such thing"


class UploadExpired(PaletteryError):
    """The upload was not completed in time."""

    code = "upload_expired"
    title = "The upload has expired"


class Conflict(PaletteryError):
    """The state of things does not allow it."""

    code = "conflict"
    title = "The current state does not allow this"


class RequestTimeout(PaletteryError):
    """The client sent its request too slowly."""

    code = "request_timeout"
    title = "The request came in too slowly"


class IdempotencyConflict(Conflict):
    """The Idempotency-Key was sent with another request before."""

    code = "idempotency_conflict"
    title = "The Idempotency-Key stands for another request"


class PartsMissing(Conflict):
    """Not every part of the upload has come in; carries one entry per part."""

    code = "parts_missing"
    title = "Parts of the upload are missing"


class Cancelled(PaletteryError):
    """The job was cancelled."""

    code = "cancelled"
    title = "The job was cancelled"


class DeadlineExceeded(PaletteryError):
    """The job had not ended when its time was up."""

    code = "deadline_exceeded"
    title = "The job's time was up"


class UploadDamaged(PaletteryError):
    """Bytes that lie in the store are not those that came in."""

    code = "upload_damaged"
    title = "A stored file was damaged after it came in"


class OutOfMemory(PaletteryError):
    """A task takes more memory than a worker has."""

    code = "out_of_memory"
    title = "A worker ran out of memory"


class WorkerDied(PaletteryError):
    """Workers died of a task, one after the other."""

    code = "worker_died"
    title = "Workers died of this work"


class SandboxCrashed(PaletteryError):
    """The process that ran a stranger's model ended without a result."""

    code = "sandbox_crashed"
    title = "The process that ran the model failed"


class SandboxTimeout(PaletteryError):
    """The process that ran a stranger's model took longer than it may."""

    code = "sandbox_timeout"
    title = "The process that ran the model took too long"


class SandboxMissing(PaletteryError):
    """A stranger's model would run without protection of network or files."""

    code = "sandbox_missing"
    title = "This machine cannot run models of others safely"


class Unavailable(PaletteryError):
    """Something that the service needs is away."""

    code = "unavailable"
    title = "The service cannot do this right now"


class StorageFull(Unavailable):
    """No space is left."""

    code = "storage_full"
    title = "The store is full"


class StorageFailed(Unavailable):
    """The store did not do what it was asked."""

    code = "storage_failed"
    title = "The store failed"


class WorkersLost(Unavailable):
    """The scheduler of the workers went away."""

    code = "workers_lost"
    title = "The workers cannot be reached"


class DatabaseFailed(Unavailable):
    """The database did not do what it was asked."""

    code = "database_failed"
    title = "The database failed"


class FileGone(Unavailable):
    """A stored file was removed or replaced meanwhile; another try finds out how things stand."""

    code = "file_gone"
    title = "A stored file was removed meanwhile"


class ObjectMissing(Unavailable):
    """Bytes that should be in the store are not."""

    code = "object_missing"
    title = "Stored bytes are missing"


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


def _below(root: type[PaletteryError]) -> list[type[PaletteryError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in _below(child))]


MOST_LISTED = 1_000
"""Entries that an error about parts of an upload names; how many more there are, it says."""

ERRORS: dict[str, type[PaletteryError]] = {kind.code: kind for kind in _below(PaletteryError)}
"""Error class of each code."""


def problem(error: PaletteryError, instance: str | None = None) -> Problem:
    """The RFC 9457 form of an error."""
    return Problem(
        type=f"urn:palettery:problem:{error.code}",
        title=error.title,
        status=STATUS[error.code],
        code=error.code,
        detail=error.detail,
        instance=instance,
        errors=error.errors,
    )
