"""Calibration of a model in an object store: request, saved sums and result in one folder of it.

The sums are copied to the store from time to time, so that any process can resume the calibration.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from palettery.app.calibration.calibrate import (
    CALIBRATION_FILE,
    PROGRESS_FILE,
    SAVE_INTERVAL_FACTOR,
    SECOND_MOMENTS,
    SENSITIVITIES,
    STATE_PREFIX,
    calibrate_in,
)
from palettery.app.calibration.tensor_matching import (
    matched_names,
    matched_second_moments,
    write_sensitivities,
)
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.errors import BadInput, NotFound, ObjectMissing, SandboxCrashed
from palettery.app.inference.model_files import CONFIG, Advance, copy_object
from palettery.app.sandbox import open_regular, working_folder
from palettery.app.settings import Limits
from palettery.app.storage.base import CHUNK_BYTES, Storage
from palettery.app.storage.file_digest import FileDigest
from palettery.app.storage.stored_files import StoredFiles
from palettery.app.storage.verified_reader import store_digests
from palettery.schemas.base import Schema
from palettery.schemas.calibration import Calibration, CalibrationOptions, CalibrationSummary
from palettery.schemas.checkpoint import Checkpoint, StoredFile

REQUEST, SUMMARY, SMOOTHED = "request.json", "summary.json", "smoothed.safetensors"
"""Names in the folder; the last has the smoothed sensitivities, which jobs use."""
RESULT_FILES = (SENSITIVITIES, SECOND_MOMENTS, CALIBRATION_FILE, SMOOTHED)
MAX_LISTED = 1_000
"""Maximum number of outputs, weights and warnings in a summary, and of characters of a warning."""
STATE_FILES = (SENSITIVITIES, SECOND_MOMENTS, PROGRESS_FILE)
"""Files of a state folder; the last marks it as complete."""


class StoredRequest(Schema):
    """The request of a calibration, as stored in its folder."""

    model: tuple[StoredFile, ...]
    """Files of the model."""
    checkpoint: Checkpoint
    """Its headers."""
    inputs: tuple[StoredFile, ...]
    """Files of inputs, in order."""
    options: CalibrationOptions


def write_request(store: Storage, prefix: str, request: StoredRequest) -> int:
    """Store the request of a calibration; return its size in bytes."""
    document = request.model_dump_json().encode()
    store.write(f"{prefix}/{REQUEST}", document)
    return len(document)


def read_request(store: Storage, prefix: str) -> StoredRequest:
    """Return the request of a calibration."""
    return StoredRequest.model_validate_json(bytes(store.read(f"{prefix}/{REQUEST}")))


def calibration_path(prefix: str, name: str) -> str:
    """Return the path of a file of a calibration's result."""
    return f"{prefix}/calibration/{name}"


def read_result(store: Storage, prefix: str) -> tuple[Calibration, CalibrationSummary]:
    """Return the result and the summary of a calibration that has succeeded.

    Raises:
        ObjectMissing: it was deleted, or has not succeeded.
    """
    summary = CalibrationSummary.model_validate_json(bytes(store.read(f"{prefix}/{SUMMARY}")))
    path = calibration_path(prefix, CALIBRATION_FILE)
    return Calibration.model_validate_json(bytes(store.read(path))), summary


def match_result(
    store: Storage, prefix: str, model: Checkpoint, limits: Limits
) -> tuple[Checkpoint, Checkpoint]:
    """Return sensitivities and second moments under the names of a model of the same weights.

    Raises:
        NotFound: the calibration was deleted.
        InvalidSensitivities: see `matched_names`.
    """
    try:
        calibration, summary = read_result(store, prefix)
        request = read_request(store, prefix)
        sensitivities, moments = (
            read_checkpoint(store, [_result_file(store, prefix, summary, *files)], limits)
            for files in ((SMOOTHED, SENSITIVITIES), (SECOND_MOMENTS, SECOND_MOMENTS))
        )
    except ObjectMissing as error:
        raise NotFound("the calibration was deleted; calibrate the model again") from error
    by_name = {tensor.name: tensor for tensor in sensitivities.tensors}
    is_same = _model_digests(request.checkpoint) == _model_digests(model)
    names = matched_names(calibration, store, model, is_same=is_same)
    tensors = (
        by_name[source_name].model_copy(update={"name": name, "aliases": ()})
        for name, source_name in names.items()
        if source_name in by_name
    )
    matched = sensitivities.model_copy(update={"tensors": tuple(tensors), "modules": (), "ops": ()})
    return matched, matched_second_moments(calibration, names, moments)


def _result_file(
    store: Storage, prefix: str, summary: CalibrationSummary, file: str, name: str
) -> StoredFile:
    """Return a file of the result, which has another name in the checkpoint of it."""
    path = calibration_path(prefix, file)
    return StoredFile(
        name=name,
        path=path,
        size_bytes=store.size_bytes(path),
        sha256=summary.files_sha256[file],
    )


def _model_digests(model: Checkpoint) -> set[str | None]:
    return {file.sha256 for file in model.files if file.name != CONFIG}


def copy_result_file(store: Storage, result: Checkpoint, folder: str) -> Checkpoint:
    """Copy the file of `match_result` to another folder: the calibration may be deleted.

    Raises:
        NotFound: it was deleted.
    """
    (file,) = result.files
    path = f"{folder}/{file.name}"
    try:
        store.copy(file.path, path)
    except ObjectMissing as error:
        raise NotFound("the calibration was deleted; calibrate the model again") from error
    return result.model_copy(update={"files": (file.model_copy(update={"path": path}),)})


def calibrate_stored(
    store: Storage,
    prefix: str,
    limits: Limits,
    check_cancelled: Callable[[], None],
    advance: Advance,
) -> CalibrationSummary:
    """Run the calibration of a folder of the store, resuming from the last sums saved there.

    Raises:
        BadInput: the model cannot be run, or the inputs do not fit it.
        PaletteryError: see `palettery.app.sandbox.run`, and the errors of `check_cancelled`.
    """
    with suppress(ObjectMissing):
        return CalibrationSummary.model_validate_json(bytes(store.read(f"{prefix}/{SUMMARY}")))
    request = read_request(store, prefix)
    with working_folder() as folder:
        result_folder, work = folder / "result", folder / "work"
        result_folder.mkdir()
        work.mkdir()
        state = _SavedSums(store, f"{prefix}/parts", work)
        state.restore()

        def check_and_save() -> None:
            check_cancelled()
            state.save()

        calibration = calibrate_in(
            work,
            StoredFiles(store, request.model),
            request.checkpoint,
            StoredFiles(store, request.inputs),
            request.options,
            limits,
            result_folder,
            advance,
            check_and_save,
        )
        return _publish(store, prefix, calibration, result_folder)


def saved_batches(store: Storage, prefix: str) -> int:
    """Return the number of batches that the last sums saved in a calibration's folder include."""
    return max(_complete_states(store, f"{prefix}/parts"), default=0)


class _SavedSums:
    """The last saved sums of a calibration, in its working folder and in the store."""

    def __init__(self, store: Storage, prefix: str, folder: Path) -> None:
        self._store, self._prefix, self._folder = store, prefix, folder
        self._saved_batches, self._next_save_s = 0, 0.0

    def restore(self) -> None:
        """Copy the last sums from the store into the folder, if there are any."""
        self._saved_batches = max(_complete_states(self._store, self._prefix), default=0)
        if not self._saved_batches:
            return
        name = f"{STATE_PREFIX}{self._saved_batches}"
        (self._folder / name).mkdir()
        for file in STATE_FILES:
            path = f"{self._prefix}/{name}/{file}"
            copy_object(self._store, path, self._folder / name / file, lambda: None)

    def save(self) -> None:
        """Copy new sums into the store, unless the last copy is too recent."""
        started = time.monotonic()
        if started < self._next_save_s:
            return
        number = max(
            _state_numbers(path.name for path in self._folder.glob(f"{STATE_PREFIX}*")), default=0
        )
        if number <= self._saved_batches:
            return
        state = self._folder / f"{STATE_PREFIX}{number}"
        with ExitStack() as stack:
            try:
                files = [stack.enter_context(open_regular(state / name)) for name in STATE_FILES]
            except FileNotFoundError:  # a newer one has replaced it
                return
            for name, file in zip(STATE_FILES, files, strict=True):
                self._store.write(f"{self._prefix}/{state.name}/{name}", _read_chunks(file))
        for other in _complete_states(self._store, self._prefix) - {number}:
            self._store.delete_folder(f"{self._prefix}/{STATE_PREFIX}{other}")
        self._saved_batches, ended = number, time.monotonic()
        self._next_save_s = ended + SAVE_INTERVAL_FACTOR * (ended - started)


def _complete_states(store: Storage, prefix: str) -> set[int]:
    """Return the numbers of batches of the complete states in a folder of the store."""
    paths = (path.removeprefix(f"{prefix}/").split("/") for path in store.list(prefix))
    return {*_state_numbers(path[0] for path in paths if path[1:] == [PROGRESS_FILE])}


def _state_numbers(names: Iterator[str]) -> Iterator[int]:
    for name in names:
        number = name.removeprefix(STATE_PREFIX)
        if number != name and number.isdecimal():
            yield int(number)


def _publish(
    store: Storage, prefix: str, calibration: Calibration, folder: Path
) -> CalibrationSummary:
    """Store the files of a calibration, its summary last."""
    same_names = {tensor.name: tensor.name for tensor in calibration.tensors}
    try:
        write_sensitivities(folder, calibration, same_names, folder / SMOOTHED)
    except (BadInput, TypeError, ValueError) as error:
        raise SandboxCrashed("what the model's process wrote cannot be read") from error
    digests, size_bytes = {}, 0
    for name in RESULT_FILES:
        digest = FileDigest()
        with (folder / name).open("rb") as file:
            store.write(calibration_path(prefix, name), _hash_chunks(_read_chunks(file), digest))
        store_digests(store, digest, prefix)
        digests[name] = digest.hexdigest()
        size_bytes += digest.size_bytes
    summary = CalibrationSummary(
        samples=calibration.samples,
        outputs=dict(islice(calibration.outputs.items(), MAX_LISTED)),
        tensors=len(calibration.tensors),
        unreached=calibration.unreached[:MAX_LISTED],
        warnings=tuple(text[:MAX_LISTED] for text in calibration.warnings[:MAX_LISTED]),
        files_sha256=digests,
        size_bytes=size_bytes,
    )
    store.write(f"{prefix}/{SUMMARY}", summary.model_dump_json().encode())
    return summary


def _read_chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _hash_chunks(chunks: Iterator[bytes], digest: FileDigest) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
