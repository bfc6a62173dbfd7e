"""Preparation of calibrations: all that can be refused before a model runs.

Arguments and results of these functions are pickled: the processes of `document_pool` run them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from palettery.app.calibration.calibrate import is_calibrated
from palettery.app.calibration.store_folder import StoredRequest, write_request
from palettery.app.checkpoints.dtypes import DTYPES
from palettery.app.checkpoints.pt2_runnable import read_runnable
from palettery.app.checkpoints.pt2_schema import TensorMeta
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.errors import BadInput, UnsupportedFormat
from palettery.app.inference.model_files import CONFIG, LABELS
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.open import shared_storage
from palettery.schemas.calibration import CalibrationOptions
from palettery.schemas.checkpoint import Checkpoint, StoredFile, StoredTensor

NAMES = {dtype.number: name for name, dtype in DTYPES.items() if dtype.number is not None}
"""Number of a dtype in a graph -> its name."""


@dataclass(frozen=True)
class CalibrationSpec:
    """A request whose model and inputs have been looked up."""

    model: tuple[StoredFile, ...]
    inputs: tuple[StoredFile, ...]
    options: CalibrationOptions

    def files(self) -> Sequence[StoredFile]:
        """Return all files that the calibration needs."""
        return [*self.model, *self.inputs]


@dataclass(frozen=True)
class PreparedCalibration:
    """A calibration whose request is in the store; only its rows are missing."""

    model_bytes: int
    """Size of the model's tensors."""
    stored_bytes: int
    """Expected size of all that it stores."""


def prepare(
    spec: CalibrationSpec, store_url: str, limits: Limits, prefix: str
) -> PreparedCalibration:
    """Check that a model can run and takes these inputs, as far as headers tell; store the request.

    Raises:
        BadInput: it cannot, or the inputs do not fit it.
    """
    store = shared_storage(store_url)
    weights = [file for file in spec.model if file.name != CONFIG]
    checkpoint = read_checkpoint(store, weights, limits)
    signature: Mapping[str, TensorMeta] | None = None
    if checkpoint.format == "pt2":
        signature = _signature(store, checkpoint.files[0], limits)
    elif len(weights) == len(spec.model):
        raise UnsupportedFormat(
            f"{spec.model[0].name} holds weights without a graph, which cannot be run; upload the "
            f".pt2 of the model (torch.export.save), or its files with their {CONFIG}"
        )
    for file in spec.inputs:
        _check_inputs(store, file, signature, limits)
    request = StoredRequest(
        model=spec.model, checkpoint=checkpoint, inputs=spec.inputs, options=spec.options
    )
    document_bytes = write_request(store, prefix, request)
    return PreparedCalibration(
        model_bytes=checkpoint.tensor_bytes(),
        stored_bytes=document_bytes + 2 * _sensitivities_bytes(checkpoint),
    )


def _sensitivities_bytes(checkpoint: Checkpoint) -> int:
    """Return the size of a float32 value for each value of each weight."""
    return sum(
        4 * tensor.size_bytes * 8 // DTYPES[tensor.dtype].bits
        for tensor in checkpoint.tensors
        if is_calibrated(tensor)
    )


def _signature(store: Storage, file: StoredFile, limits: Limits) -> Mapping[str, TensorMeta]:
    """Return the tensors that a `.pt2` takes."""
    runnable = read_runnable(store, file, limits)
    values = runnable.program.graph_module.graph.tensor_values
    return {name: values[name] for name in runnable.user_inputs() if name in values}


def _check_inputs(
    store: Storage, file: StoredFile, signature: Mapping[str, TensorMeta] | None, limits: Limits
) -> None:
    """Check a file of inputs, and against what a model takes, if that is known.

    Raises:
        BadInput: it is no safetensors file, or a tensor is not what the model takes.
    """
    inputs = read_checkpoint(store, [file], limits)
    if inputs.format != "safetensors":
        raise BadInput(
            f"the inputs {file.name} are a {inputs.format} file; upload a safetensors file with "
            "the model's inputs by name"
        )
    if signature is None:
        return
    tensors = {name: each for each in inputs.tensors for name in (each.name, *each.aliases)}
    tensors.pop(LABELS, None)
    if tensors.keys() != signature.keys():
        raise BadInput(
            f"the model's inputs are {', '.join(signature) or 'none'}; {file.name} has "
            f"{', '.join(tensors) or 'none'}: name its tensors like the inputs"
        )
    for fault in _faults(tensors, signature):
        raise BadInput(f"{fault}, in {file.name}")


def _faults(
    tensors: Mapping[str, StoredTensor], signature: Mapping[str, TensorMeta]
) -> Iterator[str]:
    for name, meta in signature.items():
        tensor, expected = tensors[name], NAMES.get(meta.dtype)
        if tensor.dtype != expected:
            yield f"{name} has the dtype {tensor.dtype}; the model takes {expected}: convert it"
        rank = len(meta.sizes)
        if len(tensor.shape) not in (rank, rank + 1):  # one more if it takes a single sample
            yield (
                f"{name} has the shape {list(tensor.shape)}; the model takes {rank} axes, with "
                "samples along the first axis"
            )
