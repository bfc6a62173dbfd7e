"""Files of a model and its inputs, in the folder of a sandbox that runs the model."""

import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from palettery.app.artifacts.export.sandbox_files import sandbox_bounds
from palettery.app.errors import BadInput, UnsupportedFormat
from palettery.app.sandbox import Bounds, open_regular
from palettery.app.settings import Sandbox
from palettery.app.storage.base import Storage
from palettery.app.storage.input_files import check_readable
from palettery.app.storage.stored_files import StoredFiles
from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import StoredFile

MODEL, INPUTS, PROGRESS = "model", "inputs", "progress"
"""Names in the sandbox's folder."""
LABELS = "labels"
"""Tensor of the expected classes, which is not passed to the model."""
CONFIG = "config.json"
"""Name of the description of a Hugging Face folder's model."""
Inputs = Sequence[Path] | StoredFiles
"""Safetensors files of a model's inputs, local or in a store."""
Advance = Callable[[int, int], None]
"""Progress callback, called with (samples that have run, all samples)."""
ACTIVATION_FACTOR = 64
"""Memory for activations, as a multiple of the size of the inputs."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # glibc ignores larger ones
}
"""Environment of a worker; the last two make glibc reuse the memory of large tensors."""


class ModelFiles(Schema):
    """A model and its inputs in a sandbox's folder."""

    files: tuple[StoredFile, ...]
    """Files of the model, with paths in the folder."""
    inputs: tuple[str, ...]
    """Names of the files of inputs, for messages."""
    inputs_bytes: int

    def imports(self) -> Sequence[str]:
        """Return what the worker imports before its memory is limited."""
        is_folder = any(file.name == CONFIG for file in self.files)
        return ["palettery.app.inference.transformers_model"] if is_folder else []


def missing_graph_error(name: str) -> UnsupportedFormat:
    """Return the error for a model of weights without a graph, which cannot be run."""
    return UnsupportedFormat(
        f"{name} holds weights without a graph, which cannot be run; send the .pt2 of the model "
        "(torch.export.save), or its Hugging Face folder, with its config.json"
    )


def input_names_error(expected: str, file: str, names: Collection[str]) -> BadInput:
    """Return the error for a file whose tensors are not named like the model's inputs."""
    return BadInput(
        f"the model's inputs are {expected}; {file} has {', '.join(names) or 'none'}: name its "
        "tensors like the inputs"
    )


def copy_model(
    model: StoredFiles, inputs: Inputs, folder: Path, check_cancelled: Callable[[], None]
) -> ModelFiles:
    """Copy a model and its inputs into a sandbox's folder.

    Raises:
        BadInput: a file cannot be read.
    """
    if not isinstance(inputs, StoredFiles):
        for path in inputs:
            check_readable(path)
    for name in (MODEL, INPUTS):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    files = []
    for number, file in enumerate(model.files):
        copy = f"{MODEL}/{number}"
        copy_object(model.storage, file.path, folder / copy, check_cancelled)
        files.append(file.model_copy(update={"path": copy}))
    names, size = _copy_inputs(inputs, folder, check_cancelled)
    return ModelFiles(files=tuple(files), inputs=names, inputs_bytes=size)


def copy_object(storage: Storage, path: str, to: Path, check_cancelled: Callable[[], None]) -> None:
    """Copy an object of a store to a file."""
    with to.open("wb") as file:
        for chunk in storage.chunks(path, 0, storage.size_bytes(path)):
            check_cancelled()
            file.write(chunk)


def _copy_inputs(
    inputs: Inputs, folder: Path, check_cancelled: Callable[[], None]
) -> tuple[tuple[str, ...], int]:
    """Copy the files of inputs; return their names for messages, and their size."""
    if isinstance(inputs, StoredFiles):
        for number, file in enumerate(inputs.files):
            copy_object(inputs.storage, file.path, folder / INPUTS / str(number), check_cancelled)
        size_bytes = sum(file.size_bytes for file in inputs.files)
        return tuple(file.name for file in inputs.files), size_bytes
    for number, path in enumerate(inputs):
        shutil.copyfile(path, folder / INPUTS / str(number))
    return tuple(map(str, inputs)), sum(path.stat().st_size for path in inputs)


def model_bounds(files: ModelFiles, dense_bytes: int, sandbox: Sandbox) -> Bounds:
    """Return the resource limits of a process that runs a model of this size."""
    return sandbox_bounds(dense_bytes, sandbox, ACTIVATION_FACTOR * files.inputs_bytes)


def write_progress(folder: Path, samples: int, total: int) -> None:
    """Write the number of samples that have run to a file that the parent process reads."""
    (folder / PROGRESS).write_text(f"{samples} {total}", "utf-8")


def report_progress(folder: Path, advance: Advance) -> None:
    """Call `advance` with the progress that a worker wrote."""
    with suppress(FileNotFoundError, ValueError), open_regular(folder / PROGRESS) as file:
        samples, total = file.read(100).split()
        advance(int(samples), int(total))
