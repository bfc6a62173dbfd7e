"""Files and parts of an upload that are stored already."""

from collections.abc import Collection, Mapping, Sequence

from palettery.app.errors import FileGone, InvalidUpload
from palettery.app.files.repository import FileLocation, FileRepository
from palettery.app.models.repository import ModelRepository
from palettery.app.storage.base import Storage
from palettery.app.uploads.parts import parts_folder, parts_of
from palettery.app.uploads.repository import UploadRepository
from palettery.app.uploads.stored_upload import StoredUpload
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.problem import InvalidField
from palettery.schemas.uploads import FileToSend


def owned_files(
    models: ModelRepository, store: Storage, owner: str, digests: Collection[str]
) -> dict[str, FileLocation]:
    """Return digest -> location of those of these files that the owner has and the store contains.

    Files of other owners are left out, so that an answer does not reveal them.
    """
    owned = models.owned_files(owner, digests)
    return {sha256: file for sha256, file in owned.items() if store.exists(file.path)}


def check_sizes(files: Sequence[FileToSend], owned: Mapping[str, FileLocation]) -> None:
    """Check the announced sizes of the files that the owner already has.

    Raises:
        InvalidUpload: lists those with other sizes.
    """
    errors = [
        InvalidField(
            pointer=f"/files/{number}/size_bytes",
            detail=f"{file.name} was announced with {file.size_bytes:,} bytes, and the file with "
            f"its SHA-256 has {owned[file.sha256].size_bytes:,}",
        )
        for number, file in enumerate(files)
        if file.sha256 in owned and file.size_bytes != owned[file.sha256].size_bytes
    ]
    if errors:
        raise InvalidUpload.about(f"{errors[0].detail}; announce the right size", errors)


def file_locations(
    files: FileRepository, store: Storage, sent: Sequence[StoredFile], new_paths: Collection[str]
) -> dict[str, FileLocation]:
    """Return digest -> location of each file; a file that is stored already keeps its location.

    Raises:
        FileGone: a file that was stored before is stored no longer.
    """
    stored_paths = files.find([file.sha256 or "" for file in sent])
    locations = {}
    for file in sent:
        sha256, path = file.sha256 or "", file.path
        has_row = sha256 in stored_paths
        if path in new_paths and has_row and not store.exists(stored_paths[sha256]):
            files.relocate(sha256, path)  # the stored one is missing in the store
        elif has_row:
            path = stored_paths[sha256]
        elif path not in new_paths:
            raise FileGone(f"the stored file {sha256} was removed meanwhile; send it again")
        locations[sha256] = FileLocation(sha256, path, file.size_bytes, has_row)
    return locations


def received_parts(
    uploads: UploadRepository, store: Storage, upload: StoredUpload
) -> Collection[int]:
    """Return the numbers of the received parts.

    If the store supports presigned URLs, rows are ignored: parts sent to such URLs have none, so
    every part counts whose object has the right size.
    """
    if not store.supports_presigned_urls:
        return set(uploads.part_digests(upload.id))
    sizes = {part.path: part.size_bytes for part in store.list_objects(parts_folder(upload.id))}
    return {
        part.number
        for part in parts_of(upload.files, upload.part_size_bytes)
        if sizes.get(f"{parts_folder(upload.id)}/{part.number}") == part.size_bytes
    }


def counted_bytes(upload: StoredUpload, owned: Collection[str], received: Collection[int]) -> int:
    """Return the bytes that count toward the quota: of files not owned, or with received parts."""
    parts = parts_of(upload.files, upload.part_size_bytes)
    partly_received = {part.file for part in parts if part.number in received}
    return sum(
        file.size_bytes
        for number, file in enumerate(upload.files)
        if number in partly_received or file.sha256 not in owned
    )
