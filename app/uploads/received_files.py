"""What is here already of the files of an upload."""

from collections.abc import Collection, Mapping, Sequence

from palettery.app.errors import FileGone, InvalidUpload
from palettery.app.files.repository import FileLocation, FileRepository
from palettery.app.models.repository import ModelRepository
from palettery.app.storage.base import Storage
from palettery.app.uploads.parts import parts_folder, parts_of
from palettery.app.uploads.repository import UploadRepository, UploadSession
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.problem import InvalidField
from palettery.schemas.uploads import FileToSend


def owned_files(
    models: ModelRepository, store: Storage, owner: str, digests: Collection[str]
) -> dict[str, FileLocation]:
    """Those of these files that the owner has; of what others have nothing is told.

    A file that somebody removed behind our back must be sent again, whatever its row says.
    """
    owned = models.owned(owner, digests)
    return {sha256: file for sha256, file in owned.items() if store.exists(file.path)}


def check_sizes(files: Sequence[FileToSend], owned: Mapping[str, FileLocation]) -> None:
    """Have files that the owner has announced with the sizes that they have.

    Raises:
        InvalidUpload: names those that have others.
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


def kept_once(
    files: FileRepository, store: Storage, sent: Sequence[StoredFile], brought: Collection[str]
) -> dict[str, FileLocation]:
    """Digest -> where its bytes are kept: where they were before, or where they were brought.

    Raises:
        FileGone: a file that nobody brought is kept no longer.
    """
    known = files.find([file.sha256 or "" for file in sent])
    kept = {}
    for file in sent:
        sha256, path = file.sha256 or "", file.path
        is_known = sha256 in known
        if path in brought and is_known and not store.exists(known[sha256]):
            files.relocate(sha256, path)  # somebody removed it behind our back
        elif is_known:
            path = known[sha256]
        elif path not in brought:
            raise FileGone(f"the stored file {sha256} was removed meanwhile; send it again")
        kept[sha256] = FileLocation(sha256, path, file.size_bytes, is_known)
    return kept


def received_parts(
    sessions: UploadRepository, store: Storage, session: UploadSession
) -> Collection[int]:
    """Numbers of the parts that have come in.

    What was sent to the store itself has no row; such an object counts if its size is right.
    """
    received = set(sessions.received(session.id))
    if not store.supports_presigned_urls:
        return received
    lying = {found.path: found.size_bytes for found in store.listed(parts_folder(session.id))}
    return {
        part.number
        for part in parts_of(session.files, session.part_size_bytes)
        if lying.get(f"{parts_folder(session.id)}/{part.number}") == part.size_bytes
    }


def held_bytes(session: UploadSession, owned: Collection[str], received: Collection[int]) -> int:
    """Bytes of the files of an upload that the owner has not, or that parts have come in of."""
    parts = parts_of(session.files, session.part_size_bytes)
    begun = {part.file for part in parts if part.number in received}
    return sum(
        file.size_bytes
        for number, file in enumerate(session.files)
        if number in begun or file.sha256 not in owned
    )
